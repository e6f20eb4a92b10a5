"""The trail of answers: what is in it, what never is, and what happens to it."""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from coordinator.answer_trail import AnswerTrail, read_trail
from swarm.domain.ids import ExpertId
from swarm.domain.inference import Answer

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC).timestamp()


def answer() -> Answer:
    return Answer(
        class_names=("secret-class", "other"),
        probabilities=np.array([[0.25, 0.75]], dtype=np.float32),
        gate_version=7,
        degraded=(True,),
        missing_experts=(ExpertId("ada.e1"),),
        combination="gate top-2",
    )


def test_a_line_says_who_was_answered_and_nothing_of_what_was_asked(tmp_path: Path) -> None:
    trail = AnswerTrail(tmp_path / "audit", clock=lambda: NOON)
    trail.answered("client/ada", "swarm", 1, 0.5, answer(), "answered")
    trail.answered("client/bob", "swarm", 9, 0.1, None, "exhausted")
    trail.write()
    path = tmp_path / "audit" / "2026-03-14.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "secret-class" not in text and "0.75" not in text
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["caller"] == "client/ada" and first["gate_version"] == 7 and first["degraded_rows"] == 1
    assert first["missing_experts"] == ["ada.e1"] and first["outcome"] == "answered"
    assert second["outcome"] == "exhausted" and second["rows"] == 9


def test_lines_are_found_by_caller_and_by_time(tmp_path: Path) -> None:
    now = NOON
    trail = AnswerTrail(tmp_path, clock=lambda: now)
    for hours in (0, 1, 20):
        now = NOON + hours * 3600
        trail.answered(f"client/c{hours}", "swarm", 1, 0.0, None, "answered")
        trail.write()
    (tmp_path / "2026-03-15.jsonl").open("a").write('{"at": "2026-03-15T08')
    assert [each["caller"] for each in read_trail(tmp_path)] == ["client/c0", "client/c1", "client/c20"]
    since = [each["caller"] for each in read_trail(tmp_path, since="2026-03-14T12:30:00")]
    assert since == ["client/c1", "client/c20"]
    assert [each["caller"] for each in read_trail(tmp_path, caller="c2")] == ["client/c20"]


def test_days_that_are_too_old_go_and_no_other_file_does(tmp_path: Path) -> None:
    for name in ("2026-02-01.jsonl", "2026-03-13.jsonl", "notes.txt"):
        (tmp_path / name).write_text("{}\n")
    AnswerTrail(tmp_path, keep_days=7, clock=lambda: NOON).write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-03-13.jsonl", "notes.txt"]


def test_what_a_disk_refuses_is_written_later_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.write_text("a file in its place")
    trail = AnswerTrail(folder, clock=lambda: NOON)
    for name in "ab":
        trail.answered(f"client/{name}", "swarm", 1, 0.0, None, "answered")
    trail.write()
    folder.unlink()
    trail.answered("client/c", "swarm", 1, 0.0, None, "answered")
    trail.write()
    assert [each["caller"] for each in read_trail(folder)] == ["client/a", "client/b", "client/c"]


def test_without_days_nothing_is_written(tmp_path: Path) -> None:
    trail = AnswerTrail(tmp_path / "audit", keep_days=0, clock=lambda: NOON)
    trail.answered("client/ada", "swarm", 1, 0.5, answer(), "answered")
    trail.write()
    assert not (tmp_path / "audit").exists()
