"""Gate versions that do not count any more, for whoever asks by one that it still has."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.gate_files import GateFiles, versions_there
from swarm.answering.active_gate import ActiveGate
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest

KEPT = 4
"""So many versions stay loaded: those who lag behind lag by a few."""
_REMEDY = "ask by the present one: name no version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A version's arrays, and whether it had no leaf that was withdrawn, going `by` this."""

    blobs: tuple[Digest, ...]
    is_clean: bool
    by: tuple[frozenset[str], ...] | None


class OlderGates:
    """The versions that were asked for last, loaded.

    A version with the leaf of a withdrawn expert, or of an owner that left, answers nobody: what is taken
    back stays taken back.
    """

    def __init__(
        self,
        files: GateFiles,
        is_withdrawn: Callable[[GateLeaf], bool],
        kept: int = KEPT,
        withdrawn: Callable[[], tuple[frozenset[str], ...]] | None = None,
    ) -> None:
        """`withdrawn`: all that `is_withdrawn` goes by, so that leaves are looked through only when that is
        new; None: for each query."""
        self._files, self._is_withdrawn, self._kept = files, is_withdrawn, kept
        self._withdrawn = withdrawn
        self._loaded: OrderedDict[int, ActiveGate] = OrderedDict()
        self._clean: dict[int, tuple[frozenset[str], ...]] = {}
        """By which of that a version had no leaf that was withdrawn."""
        self._seen: dict[int, _Seen] = {}
        self._loading, self._looking = asyncio.Lock(), asyncio.Lock()

    async def get(self, version: int) -> ActiveGate:
        """Return a version that was active once.

        Raises NotFoundError for one that never was, whose arrays are gone, or that has what was withdrawn.
        """
        async with self._loading:
            gate = self._loaded.get(version)
            if gate is None:
                gate = await asyncio.to_thread(self._load, version)
            self._loaded[version] = gate
            self._loaded.move_to_end(version)
            while len(self._loaded) > self._kept:
                self._loaded.popitem(last=False)
        present = None if self._withdrawn is None else self._withdrawn()
        if present is not None and self._clean.get(version) == present:
            return gate
        gone = sorted(leaf.expert for leaf in gate.value.leaves if self._is_withdrawn(leaf))
        if gone:
            raise NotFoundError(
                f"gate {version}",
                found=f"{', '.join(gone[:5])} in it, withdrawn since",
                expected="a version without what was withdrawn",
                remedy=_REMEDY,
            )
        if present is not None:
            self._clean = {each: by for each, by in self._clean.items() if each in self._loaded}
            self._clean[version] = present
        return gate

    async def answering(self, before: int) -> tuple[int, ...]:
        """Return the versions below `before` that `get` would return, the newest last."""
        async with self._looking:
            return await asyncio.to_thread(self._answering, before)

    async def statement(self, version: int) -> GateStatement:
        """Return what was signed of a version; NotFoundError where there is none."""
        return (await asyncio.to_thread(self._files.statement, version)).value

    def _answering(self, before: int) -> tuple[int, ...]:
        seen, found = dict[int, _Seen](), list[int]()
        present = None if self._withdrawn is None else self._withdrawn()
        for version in range(before - 1, 0, -1):
            known = self._seen.get(version)
            try:
                if known is None or known.by != present or present is None:
                    known = self._look(version, present)
            except SwarmError:  # one that cannot be read: those before it count as gone, as everywhere
                break
            seen[version] = known
            if self._files.blobs.missing(known.blobs):
                break
            if known.is_clean:
                found.append(version)
        self._seen = seen
        return tuple(reversed(found))

    def _look(self, version: int, present: tuple[frozenset[str], ...] | None) -> "_Seen":
        value = self._files.statement(version).value
        return _Seen(
            blobs=tuple(dict.fromkeys(entry.blob for entry in value.arrays)),
            is_clean=not any(map(self._is_withdrawn, value.leaves)),
            by=present,
        )

    def _load(self, version: int) -> ActiveGate:
        statement = self._files.statement(version)
        try:
            return self._files.load(statement)
        except NotFoundError as error:
            raise NotFoundError(
                f"gate {version}",
                found=f"its statement only: {error.subject} is gone",
                expected=versions_there(self._files.oldest_with_arrays(), self._files.newest()),
                remedy=_REMEDY,
            ) from error
