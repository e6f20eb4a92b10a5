"""Which arrays the coordinator keeps, and that what was signed stays."""

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.contributions import ContributionFiles
from coordinator.envelope_files import EnvelopeFiles
from coordinator.gate_files import PAGE, GateFiles, oldest_with, versions_there
from coordinator.gate_retention import YOUNG_S, GateRetention, Named
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.trust.keyring import Keyring

A, B, C, D = (Digest(letter * 64) for letter in "abcd")


class Opened:
    """Stands for a keyring: an envelope is JSON of contributions and blobs, `?` one that was damaged."""

    def open(self, envelope: bytes, _: type) -> Any:
        if envelope == b"?":
            raise VerificationError("gate", found="a signature that does not verify")
        said = json.loads(envelope)
        arrays = tuple(SimpleNamespace(blob=Digest(blob)) for blob in said["blobs"])
        return SimpleNamespace(value=SimpleNamespace(contributions=tuple(said["given"]), arrays=arrays))


class Kept:
    """A coordinator's folder: gates, contributions with their arrays, and blobs that are old by now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        trunk: Any = None
        self.blobs = BlobFiles(folder / "blobs")
        self.files = GateFiles(
            EnvelopeFiles(folder / "gates"), self.blobs, cast(Keyring, Opened()), lambda: trunk
        )
        self.contributions = ContributionFiles(folder / "contributions")
        self.changing = asyncio.Lock()

    def give(self, *digests: Digest) -> None:
        for digest in digests:
            (self.folder / "contributions" / f"{digest}.json").write_bytes(b"signed")
            (self.folder / "contributions" / f"{digest}.bin").write_bytes(b"arrays")

    def blob(self, data: bytes, age_s: float = 2 * YOUNG_S) -> Digest:
        found = self.blobs.put(data)
        at = time.time() - age_s
        os.utime(self.blobs.path(found), (at, at))
        return found

    def gate(self, *given: Digest, blobs: tuple[Digest, ...] = ()) -> None:
        said = json.dumps({"given": given, "blobs": blobs}).encode()
        self.files.put(self.files.newest() + 1, said)

    async def drop(self, kept: int, beside: Named | None = None) -> None:
        await self.retention(kept, beside).drop()

    def retention(self, kept: int, beside: Named | None = None) -> GateRetention:
        return GateRetention(
            files=self.files,
            contributions=self.contributions,
            changing=self.changing,
            kept=kept,
            beside=lambda: beside or Named(),
        )


async def test_arrays_of_the_newest_versions_stay_and_all_that_was_signed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.give(A, B, C, D)
    for given in ((A,), (A, B), (B, C), (B, D)):
        kept.gate(*given)
    await kept.drop(2)
    assert kept.contributions.whole() == [B, C, D]
    assert kept.contributions.digests() == [A, B, C, D]
    assert kept.contributions.is_dropped(A) and not kept.contributions.has(A)
    await kept.drop(1)
    assert kept.contributions.whole() == [B, D]
    assert [kept.files.envelope(version) is not None for version in range(1, 5)] == [True] * 4


async def test_what_may_come_back_stays_however_old_it_is(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.give(A, B, C)
    root, other = kept.blob(b"root"), kept.blob(b"other")
    for given in (A, B, C):
        kept.gate(given)
    await kept.drop(1, Named(contributions=frozenset({A}), blobs=frozenset({root})))
    assert kept.contributions.whole() == [A, C]
    assert set(kept.blobs.digests()) == {root} and not kept.blobs.has(other)


async def test_blobs_of_older_gates_and_of_refused_candidates_go_and_what_is_young_stays(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path)
    shared, first, second = kept.blob(b"shared"), kept.blob(b"first"), kept.blob(b"second")
    kept.blob(b"of a candidate that was refused")
    young = kept.blob(b"of a root that is being made", age_s=1.0)
    kept.gate(blobs=(shared, first))
    kept.gate(blobs=(shared, second))
    await kept.drop(1)
    assert set(kept.blobs.digests()) == {shared, second, young}


async def test_nothing_goes_while_a_version_in_reach_cannot_be_read(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.give(A, B)
    kept.gate(A)
    kept.files.put(2, b"?")
    kept.gate(B)
    with pytest.raises(VerificationError):
        await kept.drop(2)
    retention = kept.retention(2)
    retention.notice_gate()
    await asyncio.sleep(0.2)
    await retention.stop()
    assert kept.contributions.whole() == [A, B]


async def test_nothing_goes_while_the_gate_is_changing(tmp_path: Path) -> None:
    """What is judged is on disk before any gate names it."""
    kept = Kept(tmp_path)
    kept.give(A, B)
    kept.gate(A)
    retention = kept.retention(1)
    async with kept.changing:
        retention.notice_gate()
        await asyncio.sleep(0.1)
        assert kept.contributions.whole() == [A, B]
        kept.gate(B)
    while kept.contributions.whole() != [B]:
        await asyncio.sleep(0.01)
    await retention.stop()


async def test_a_contribution_that_was_dropped_can_be_given_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.give(A)
    kept.contributions.drop_arrays(A)
    with pytest.raises(NotFoundError):
        kept.contributions.arrays(A)
    arrived = tmp_path / "contributions" / ".arrays.1"
    arrived.write_bytes(b"arrays again")
    kept.contributions.keep(A, b"signed", cast(Any, SimpleNamespace(path=arrived, discard=lambda: None)))
    assert kept.contributions.has(A) and bytes(kept.contributions.arrays(A)) == b"arrays again"


def test_what_a_crash_left_half_dropped_is_dropped_at_the_next_look(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.give(A, B, C)
    for given in (A, B, C):
        kept.gate(given)
    (tmp_path / "contributions" / f"{A}.bin").unlink()
    again = Kept(tmp_path)
    asyncio.run(again.drop(1))
    assert again.contributions.whole() == [C]


def test_the_versions_that_are_there_are_told_as_they_are() -> None:
    assert oldest_with(9, lambda version: version >= 4) == 4
    assert oldest_with(9, lambda version: version != 9) == 0
    assert (versions_there(4, 9), versions_there(9, 9), versions_there(0, 9)) == (
        "gate 4 to 9", "gate 9", "gate 9",
    )  # fmt: skip


def test_the_history_comes_in_pages_from_the_newest_on(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for _ in range(PAGE + 30):
        kept.gate()
    current = PAGE + 30
    page = kept.files.history(current, 0, 0)
    assert (len(page.envelopes), page.oldest, page.current) == (PAGE, 31, current)
    rest = kept.files.history(current, page.oldest, 1000)
    assert (len(rest.envelopes), rest.oldest) == (30, 1)
    few = kept.files.history(current, 0, 3)
    assert (len(few.envelopes), few.oldest) == (3, current - 2)
    assert kept.files.history(0, 0, 0).envelopes == ()


def test_a_page_of_the_history_ends_with_what_makes_it_large(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for version in range(1, 6):
        kept.files.put(version, bytes([version]) * 1_500_000)
    page = kept.files.history(5, 0, 0)
    assert [each[0] for each in page.envelopes] == [4, 5] and page.oldest == 4
