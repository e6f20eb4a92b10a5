"""The stream's ledger: each mega-batch once, in order, whole lines only."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.stream.ledger import Recorded, Skipped, StreamLedger, Taken
from swarm.domain.errors import VerificationError
from swarm.domain.streams import MegaBatchRecord, cumulative_error

TAKEN = Taken(
    number=1, file="/in/a.npz", signature="s1", digest="d1", samples=100, held_out=10, error_before=None,
    error=1.0, judged=10, measured_on="validation", fresh=90, novel=0, novelty_by="", flops_forward=5,
    flops_total=7, seconds=0.5, at=1.0,
)  # fmt: skip


def recorded(number: int, learned: tuple[int, ...], error: float = 0.25) -> Recorded:
    record = MegaBatchRecord(
        number=number, samples=100, error=error, waited=not learned, parameters=9, flops_forward=5,
        flops_total=7, seconds=0.5,
    )  # fmt: skip
    return Recorded(
        record=record, learned=learned, measured_on="validation", judged=10, experts=("rose.e1@1",),
        gate_version=1,
    )  # fmt: skip


def filled(path: Path) -> StreamLedger:
    ledger = StreamLedger(path)
    ledger.note_taken(TAKEN)
    ledger.note_recorded(recorded(1, ()))
    ledger.note_taken(replace(TAKEN, number=2, file="/in/b.npz", signature="s2", digest="d2"))
    ledger.note_skipped(Skipped(file="/in/c.npz", signature="s3", reason="empty", at=2.0))
    return ledger


def test_everything_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    written, read = filled(tmp_path / "stream.jsonl"), StreamLedger(tmp_path / "stream.jsonl")
    assert (read.taken, read.recorded, read.skipped) == (written.taken, written.recorded, written.skipped)
    assert read.last == 2 and read.waiting == (1, 2)
    assert read.knows("/in/a.npz", "s1") and read.knows("/in/c.npz", "s3")
    assert not read.knows("/in/a.npz", "changed")
    assert read.number_of("d2") == 2 and read.number_of("other") == 0
    assert (tmp_path / "stream.jsonl").stat().st_mode & 0o077 == 0


def test_what_was_learned_waits_no_more_and_a_later_record_replaces_the_first(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "stream.jsonl")
    ledger.note_recorded(recorded(2, (), 0.5))
    ledger.note_recorded(recorded(2, (1, 2), 0.125))
    read = StreamLedger(tmp_path / "stream.jsonl")
    assert read.waiting == () and [record.waited for record in read.records] == [True, False]
    assert cumulative_error(read.records) == 0.375


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_a_crash_cut_short_counts_as_not_written(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "stream.jsonl"
    filled(path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    ledger = StreamLedger(path)
    assert ledger.last == 1
    ledger.note_taken(replace(TAKEN, number=2, file="/in/b.npz", signature="s2", digest="d2"))
    assert path.read_bytes() == b"".join(lines[:3])
    assert StreamLedger(path).last == 2


def test_a_mega_batch_that_is_noted_again_counts_once(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "stream.jsonl")
    before = (tmp_path / "stream.jsonl").read_bytes()
    ledger.note_taken(TAKEN)
    assert (tmp_path / "stream.jsonl").read_bytes() == before


def test_a_damaged_ledger_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    filled(path)
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(VerificationError, match=r"stream\.jsonl"):
        StreamLedger(path)


def test_what_was_taken_after_all_is_left_out_no_more_and_each_entry_has_its_newest_reason(
    tmp_path: Path,
) -> None:
    ledger = filled(tmp_path / "stream.jsonl")
    for at, reason in ((3.0, "half a file"), (4.0, "cannot be read")):
        ledger.note_skipped(Skipped(file="/in/d.npz", signature=f"s{at}", reason=reason, at=at))
    ledger.note_taken(replace(TAKEN, number=3, file="/in/c.npz", signature="s4", digest="d3"))
    for read in (ledger, StreamLedger(tmp_path / "stream.jsonl")):
        assert [(one.file, one.reason) for one in read.left_out] == [("/in/d.npz", "cannot be read")]
        assert len(read.skipped) == 3
