"""The outbound log tells what left, and survives crashes."""

from pathlib import Path

from node.outbound import OutboundLog
from swarm.domain.inference import Listing


def line(what: str, size: int = 10) -> Listing:
    return Listing(
        what=what, detail="d", size_bytes=size, recipient="registry", at=1.5, attributes={"a": "1"}
    )


def test_lines_come_back_as_they_were_recorded_newest_last(tmp_path: Path) -> None:
    log = OutboundLog(tmp_path / "outbound.jsonl")
    log.record([line("blob"), line("manifest")])
    log.record([line("contribution")])
    assert OutboundLog(tmp_path / "outbound.jsonl").read() == [
        line("blob"),
        line("manifest"),
        line("contribution"),
    ]
    assert log.read(limit=1) == [line("contribution")]


def test_a_line_torn_by_a_power_cut_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "outbound.jsonl"
    log = OutboundLog(path)
    log.record([line("blob")])
    with path.open("ab") as file:
        file.write(b'{"what": "mani')
    log.record([line("contribution")])
    assert [item.what for item in log.read()] == ["blob", "contribution"]


def test_nothing_left_before_the_first_line(tmp_path: Path) -> None:
    assert OutboundLog(tmp_path / "outbound.jsonl").read() == []
