"""Gate versions of before answer whoever asks by them, unless something in them was withdrawn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coordinator.older_gates import OlderGates
from swarm.answering.active_gate import ActiveGate
from swarm.digests import digest_of
from swarm.domain.errors import NotFoundError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest
from swarm.domain.tensors import TensorEntry
from swarm.trust.statements import Statement
from tests.support.answers import gate as active_gate


class Files:
    """Versions 1 to 6; the arrays of one are gone."""

    def __init__(self, without_arrays: int = 0) -> None:
        self.loaded: list[int] = []
        self.opened: list[int] = []
        self.without_arrays = without_arrays
        self.blobs = self

    def statement(self, version: int) -> Statement[GateStatement]:
        if not 1 <= version <= 6:
            raise NotFoundError(f"gate {version}", found="gate 6 as the newest")
        self.opened.append(version)
        present = active_gate().statement
        entry = replace(ENTRY, blob=digest_of(str(version).encode()))
        return replace(present, value=replace(present.value, version=version, arrays=(entry,)))

    def missing(self, blobs: Sequence[Digest]) -> list[Digest]:
        gone = digest_of(str(self.without_arrays).encode())
        return [blob for blob in blobs if blob == gone]

    def newest(self) -> int:
        return 6

    def oldest_with_arrays(self) -> int:
        return self.without_arrays + 1

    def load(self, statement: Statement[GateStatement]) -> ActiveGate:
        version = statement.value.version
        if version == self.without_arrays:
            raise NotFoundError("blob abc")
        self.loaded.append(version)
        return replace(active_gate(), statement=statement)


ENTRY = TensorEntry(name="n", blob=digest_of(b"n"), dtype="float32", shape=(1,), offset=0, size_bytes=4)


def nothing_withdrawn(leaf: GateLeaf) -> bool:
    return False


async def test_the_versions_asked_for_last_stay_loaded() -> None:
    files: Any = Files()
    older = OlderGates(files, nothing_withdrawn, kept=2)
    for version in (1, 2, 1, 3, 1, 2):
        assert (await older.get(version)).version == version
    assert files.loaded == [1, 2, 3, 2]


async def test_a_version_that_never_was_or_lost_its_arrays_is_not_found_by_name() -> None:
    files: Any = Files(without_arrays=4)
    older = OlderGates(files, nothing_withdrawn)
    with pytest.raises(NotFoundError, match="gate 2000: found gate 6 as the newest"):
        await older.get(2000)
    gone = "gate 4: found its statement only: blob abc is gone; expected gate 5 to 6"
    with pytest.raises(NotFoundError, match=gone):
        await older.get(4)
    assert (await older.get(5)).version == 5


@pytest.mark.parametrize("kept", [False, True])
async def test_what_is_withdrawn_while_a_version_is_loaded_is_not_answered_from_it(kept: bool) -> None:
    files: Any = Files()
    withdrawn: set[str] = set()
    by = (lambda: (frozenset(withdrawn),)) if kept else None
    older = OlderGates(files, lambda leaf: leaf.owner in withdrawn, withdrawn=by)
    owners = {leaf.owner for leaf in (await older.get(3)).value.leaves}
    withdrawn.add(next(iter(owners)))
    with pytest.raises(NotFoundError, match=r"gate 3: .*withdrawn since"):
        await older.get(3)
    withdrawn.clear()
    assert (await older.get(3)).version == 3 and files.loaded == [3]


async def test_the_versions_that_are_answered_are_those_with_arrays_and_without_what_was_withdrawn() -> None:
    files: Any = Files(without_arrays=2)
    withdrawn: set[str] = set()

    def is_withdrawn(leaf: GateLeaf) -> bool:
        return leaf.owner in withdrawn

    older = OlderGates(files, is_withdrawn, withdrawn=lambda: (frozenset(withdrawn),))
    assert await older.answering(6) == (3, 4, 5)
    opened = len(files.opened)
    assert await older.answering(6) == (3, 4, 5) and len(files.opened) == opened, "nothing is read again"
    files.without_arrays = 4
    assert await older.answering(7) == (5, 6)
    withdrawn.add(next(leaf.owner for leaf in (await older.statement(5)).leaves))
    assert await older.answering(7) == ()
