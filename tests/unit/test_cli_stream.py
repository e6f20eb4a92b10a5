"""`swarm train --watch`, `--stop` and `swarm stream report` as they are typed."""

import json
from pathlib import Path
from typing import get_args

import pytest

from node.stream.ledger import LEDGER_FILE, Recorded, Skipped, StreamLedger
from swarm.cli.app import build
from swarm.cli.output import run_guarded
from swarm.cli.stream import figure_of
from swarm.cli.training import HEADS, REMEMBERED, UPDATES
from swarm.domain.streams import MegaBatchRecord
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


def test_a_figure_sums_up_error_memory_and_flops() -> None:
    records: list[MegaBatchRecord] = [recorded(1, (), 0.5).record, recorded(2, (1, 2), 0.25).record]
    error, cer, memory, flops = figure_of(records)
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
