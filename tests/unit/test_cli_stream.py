"""`swarm train --watch`, `--stop` and `swarm stream report` as they are typed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from node.stream.ledger import LEDGER_FILE, Recorded, Skipped, StreamLedger, Stretch
from swarm.cli.app import build
from swarm.cli.checks import agent_checks
from swarm.cli.observing import describe_agent
from swarm.cli.output import run_guarded
from swarm.cli.stream import figure_of
from swarm.cli.training import HEADS, REMEMBERED, UPDATES, Throttle
from swarm.domain.agent import AgentState
from swarm.domain.inference import SocketBytes
from swarm.experts.updating.registry import STRATEGIES
from swarm.experts.updating.replay import Head, Selection
from tests.support.node_homes import member_home
from tests.unit.test_node_stream_ledger import TAKEN, recorded


def typed(*words: str) -> int:
    return run_guarded(build(), list(words))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found, _ = member_home(tmp_path)
    return found.root


def test_a_report_without_a_stream_says_how_to_begin_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("stream", "report", "--home", str(home)) == 5
    assert "swarm train --watch DIR" in capsys.readouterr().err


def test_a_report_shows_every_mega_batch_what_it_measures_and_what_was_skipped(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = StreamLedger(home / "state" / LEDGER_FILE)
    ledger.note_taken(TAKEN)
    ledger.note_recorded(recorded(1, (), 0.5))
    ledger.note_skipped(Skipped(file="/in/c.npz", signature="s", reason="no samples", at=1.0))
    assert typed("stream", "report", "--home", str(home)) == 0
    shown = capsys.readouterr().out
    for part in ("CER 0.5000", "validation", "waits", "skipped: /in/c.npz: no samples", "9 parameters"):
        assert part in shown
    assert typed("stream", "report", "--home", str(home), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "swarm.stream-report/1" and facts["waiting"] == [1]
    assert facts["cumulative_flops"] == 7 and facts["cumulative_flops_forward"] == 5
    figure = home / "stream.svg"
    assert typed("stream", "report", "--home", str(home), "--plot", str(figure)) == 0
    assert "<svg" in figure.read_text()


def test_errors_measured_on_different_data_are_neither_summed_up_nor_joined_by_a_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = StreamLedger(home / "state" / LEDGER_FILE)
    measured = ("validation", "validation", "/data/test.npz", "validation")
    for number, (measured_on, error) in enumerate(zip(measured, (0.5, 0.25, 0.125, 0.75), strict=True), 1):
        ledger.note_taken(replace(TAKEN, number=number, digest=f"d{number}"))
        ledger.note_recorded(replace(recorded(number, (number,), error), measured_on=measured_on))
    assert typed("stream", "report", "--home", str(home)) == 0
    shown = capsys.readouterr().out
    assert "CER 0.7500 over mega-batches 1 to 2, on validation, 10 samples" in shown
    assert "CER 0.1250 over mega-batch 3, on /data/test.npz, 10 samples" in shown
    assert "CER 0.7500 over mega-batch 4, on validation" in shown
    assert "10 test.npz" in shown and "10 validation" in shown and "1.6250" not in shown
    typed("stream", "report", "--home", str(home), "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["cer"] is None and [each["cer"] for each in facts["measured"]] == [0.75, 0.125, 0.75]
    error, cer, memory, _ = figure_of(ledger.stretches)
    assert [list(series.x) for series in error.series] == [[1, 2], [3], [4]]
    assert [list(series.y) for series in cer.series] == [[0.5, 0.75], [0.125], [0.75]]
    assert cer.series[1].label == "on /data/test.npz" and len(memory.series) == 1


def test_a_report_says_what_was_refused_and_why(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = StreamLedger(home / "state" / LEDGER_FILE)
    ledger.note_taken(TAKEN)
    ledger.note_recorded(replace(recorded(1, (1,)), note="rose.e1@2: found spam", is_refused=True))
    assert typed("stream", "report", "--home", str(home)) == 0
    assert "mega-batch 1: refused: rose.e1@2: found spam" in capsys.readouterr().out


def test_a_report_lists_what_was_skipped_until_it_is_taken(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = StreamLedger(home / "state" / LEDGER_FILE)
    ledger.note_skipped(Skipped(file="/in/a.npz", signature="half", reason="the beginning", at=1.0))
    assert typed("stream", "report", "--home", str(home)) == 0
    assert "skipped: /in/a.npz: the beginning" in capsys.readouterr().out
    ledger.note_taken(TAKEN)
    assert typed("stream", "report", "--home", str(home)) == 0
    assert "skipped" not in capsys.readouterr().out


def test_a_figure_in_a_folder_that_is_not_there_is_refused_and_no_folder_made(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = StreamLedger(home / "state" / LEDGER_FILE)
    ledger.note_taken(TAKEN)
    ledger.note_recorded(recorded(1, (), 0.5))
    away = tmp_path / "away"
    assert typed("stream", "report", "--home", str(home), "--plot", str(away / "a.png")) == 2
    assert f"no folder {away}" in capsys.readouterr().err and not away.exists()
    (tmp_path / "taken.svg").mkdir()
    assert typed("stream", "report", "--home", str(home), "--plot", str(tmp_path / "taken.svg")) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_news_are_shown_twice_a_second_and_what_is_skipped_or_amiss_always() -> None:
    throttle = Throttle()
    assert [throttle.due("stream") for _ in range(3)] == [True, False, False]
    assert all(throttle.due(stage) for stage in ("skipped", "skipped", "trouble", "trouble"))


def test_doctor_names_what_keeps_a_stream_from_going_on() -> None:
    own = AgentState(
        node="rose", swarm="garden", connected=True, fence=1, gate_version=1, activity="", outbox=0,
        certificate_days=1.0, experts=(), socket_bytes=SocketBytes(), disk_free_bytes=10**12,
        clock_skew_s=0.0, expert_server_pid=0,
    )  # fmt: skip
    (check,) = [each for each in agent_checks(own) if each.name == "stream"]
    assert check.ok
    troubled = replace(own, trouble="a.npz could not be taken, once: no space left on device")
    (check,) = [each for each in agent_checks(troubled) if each.name == "stream"]
    assert not check.ok and "a.npz" in check.found and "--stop" in check.remedy
    assert "stream in trouble: a.npz" in describe_agent(troubled)


def test_a_figure_sums_up_error_memory_and_flops() -> None:
    both = Stretch(measured_on="validation", recorded=(recorded(1, (), 0.5), recorded(2, (1, 2), 0.25)))
    error, cer, memory, flops = figure_of([both])
    assert (error.series[0].y, cer.series[0].y) == ([0.5, 0.25], [0.5, 0.75])
    assert memory.series[0].y == [9.0, 18.0]
    assert [series.y for series in flops.series] == [[5.0, 10.0], [7.0, 14.0]]
    assert isinstance(recorded(1, ()), Recorded)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to train on"),
        (("digits", "--watch", "in"), "DATA together with --watch"),
        (("digits", "--wait", "2"), "--wait without --watch"),
        (("--watch", "in", "--refine"), "--watch together with --refine"),
        (("--watch", "in", "--idle", "soon"), "--idle"),
        (("--watch", "in", "--keep-mb", "0"), "--keep-mb"),
        (("digits", "--update", "hope"), "--update"),
        (("digits", "--stop"), "DATA together with --stop"),
        (("digits", "--remember", "all"), "--remember"),
        (("digits", "--head", "two"), "--head"),
        (("digits", "--head", "nearest-mean"), "--head with fine-tune, which is what trains unless told"),
        (("digits", "--memory", "9", "--remember", "coreset"), "--memory, --remember with fine-tune"),
        (("--watch", "in", "--update", "ewc", "--remember", "coreset"), "--remember with ewc"),
        (("digits", "--refine", "--head", "own"), "--refine together with --head"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert typed("train", *words, "--home", str(home)) == 2
    assert said in capsys.readouterr().err


def test_the_command_names_the_update_strategies_that_there_are() -> None:
    assert set(UPDATES) == set(STRATEGIES)
    assert set(REMEMBERED) == set(get_args(Selection)) and set(HEADS) == set(get_args(Head))
