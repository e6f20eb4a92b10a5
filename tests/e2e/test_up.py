"""`swarm up`, as a newcomer runs it: the whole story, its report, nothing left behind, nothing taken over."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.commands import Shell, shell

ROWS = [
    *(
        "alone:ada",
        "alone:ben",
        "alone:cleo",
        "alone_mean",
        "ensemble",
        "swarm_top1",
        "swarm_top2",
        "swarm_top4",
    ),
    *("fedavg", "fedavg_equal_compute", "root", "poe", "corrected", "swarm"),
    *("pooled_one_budget", "pooled_total_budget", "pooled_equal_macs", "pooled_cnn"),
    *("joined_new_class", "joined_old_classes"),
]
TOGETHER = ("swarm_top1", "swarm_top2", "swarm_top4", "root", "poe", "corrected", "swarm")
FIELDS = {"name", "accuracy", "train_flops", "inference_flops", "bytes_sent", "sync_rounds"}


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def finished() -> Iterator[tuple[Shell, dict[str, Any], str]]:
    """One run of `swarm up --json`: its shell, its report, and its progress."""
    with shell() as sh:
        done = sh.swarm("up", "--json", "--fedavg-rounds=2", "--steps=150", timeout_s=550)
        assert done.returncode == 0, done.stderr
        yield sh, json.loads(done.stdout), done.stderr


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["rows"]}


def test_the_report_has_every_row_with_every_figure(finished: tuple[Shell, dict[str, Any], str]) -> None:
    _, report, _ = finished
    assert set(report) == {"schema", "rows", "contribution_mb", "gate", "curves", "seconds"}
    assert report["schema"] == "swarm.report/1"
    assert [row["name"] for row in report["rows"]] == ROWS
    for row in report["rows"]:
        assert set(row) == FIELDS | {"standard_error", "note"}
        assert 0 <= row["accuracy"] <= 1
        assert all(math.isfinite(row[name]) and row[name] >= 0 for name in FIELDS - {"name"})
        assert row["train_flops"] > 0 and row["inference_flops"] > 0


def test_the_report_says_what_nodes_contributed_and_what_the_gate_serves(
    finished: tuple[Shell, dict[str, Any], str],
) -> None:
    _, report, _ = finished
    assert set(report["contribution_mb"]) == {"ada", "ben", "cleo"}
    assert all(0 < size <= 4 for size in report["contribution_mb"].values())
    gate = report["gate"]
    assert gate["kind"] == "analytic" and gate["serves"] and gate["reason"]
    assert gate["serves"] in rows_of(report)["swarm"]["note"]
    assert {each["name"] for each in gate["combinations"]} >= {
        "prototypes",
        "root",
        "gate",
        "poe",
        "corrected",
    }
    assert set(report["curves"]) == {"fedavg", "fedavg_equal_compute"}
    assert len(report["curves"]["fedavg"]) == 2
    assert sum(report["seconds"].values()) > 0


def test_the_swarm_beats_every_node_and_their_uniform_ensemble(
    finished: tuple[Shell, dict[str, Any], str],
) -> None:
    rows = rows_of(finished[1])
    best_alone = max(rows[name]["accuracy"] for name in ROWS if name.startswith("alone:"))
    for name in TOGETHER:
        error = math.hypot(rows[name]["standard_error"], rows["ensemble"]["standard_error"])
        assert rows[name]["accuracy"] > best_alone + 0.2
        assert rows[name]["accuracy"] > rows["ensemble"]["accuracy"] + error
        assert rows[name]["accuracy"] > rows["pooled_total_budget"]["accuracy"] - 0.08


def test_costs_are_what_they_should_be(finished: tuple[Shell, dict[str, Any], str]) -> None:
    rows = rows_of(finished[1])
    alone = [rows[name]["train_flops"] for name in ROWS if name.startswith("alone:")]
    experts, total = sum(alone), rows["swarm"]["train_flops"]
    assert rows["ensemble"]["train_flops"] == pytest.approx(experts)
    assert rows["swarm_top1"]["train_flops"] > experts, "a gate also costs features, sums and judges"
    assert rows["root"]["train_flops"] == pytest.approx(rows["swarm_top1"]["train_flops"] - experts)
    assert rows["corrected"]["train_flops"] == total > rows["swarm_top1"]["train_flops"]
    assert rows["fedavg_equal_compute"]["train_flops"] == pytest.approx(total, rel=0.03)
    # Pooled nets may end before their budget does, once they no longer learn.
    for name, budget in (
        ("pooled_one_budget", total / 3),
        ("pooled_total_budget", total),
        ("pooled_equal_macs", total),
        ("pooled_cnn", total),
    ):
        assert 0 < rows[name]["train_flops"] <= 1.03 * budget, name
    assert rows["fedavg"]["sync_rounds"] == 2 and rows["fedavg"]["bytes_sent"] > 0
    macs = rows["pooled_equal_macs"]["inference_flops"] / rows["swarm"]["inference_flops"]
    assert macs == pytest.approx(1, abs=0.05)
    assert rows["swarm_top1"]["inference_flops"] < rows["swarm_top4"]["inference_flops"]
    assert rows["alone_mean"]["bytes_sent"] == 0 < rows["swarm_top1"]["bytes_sent"]
    assert rows["joined_new_class"]["bytes_sent"] > rows["swarm"]["bytes_sent"]
    assert "raw data in one place" in rows["pooled_one_budget"]["note"]


def test_the_fourth_nodes_new_class_is_answered_and_the_others_lose_little(
    finished: tuple[Shell, dict[str, Any], str],
) -> None:
    rows = rows_of(finished[1])
    assert rows["joined_new_class"]["accuracy"] > 0.7
    assert "NOT answered" not in rows["joined_new_class"]["note"]
    assert "; borrows from " in rows["joined_new_class"]["note"]
    before, after = rows["swarm"], rows["joined_old_classes"]
    assert after["accuracy"] > before["accuracy"] - 2 * after["standard_error"], after["note"]
    assert "one standard error" in after["note"]


def test_progress_is_shown_and_nothing_stays_behind(finished: tuple[Shell, dict[str, Any], str]) -> None:
    sh, _, progress = finished
    for said in (
        "founding",
        "joined swarm demo as node ada",
        "no port opened",
        "with class 9, which nobody had",
    ):
        assert said in progress
    assert "Traceback" not in progress
    assert sh.wait_for_nothing() == []
    assert [path.name for path in sh.scratch.iterdir()] == []


def test_a_folder_that_holds_something_is_not_taken_over() -> None:
    with shell() as sh:
        folder = sh.scratch.with_name("taken")
        folder.mkdir()
        (folder / "something").write_text("mine")
        done = sh.swarm("up", "--keep", "--home", str(folder))
        assert done.returncode == 6 and "expected: an empty folder" in done.stderr
        assert (folder / "something").read_text() == "mine"
