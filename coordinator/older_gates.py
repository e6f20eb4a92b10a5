"""Gate versions that do not count any more, for whoever asks by one that it still has."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from coordinator.gate_files import GateFiles, versions_there
from swarm.answering.active_gate import ActiveGate
from swarm.domain.errors import NotFoundError
from swarm.domain.gates import GateLeaf

KEPT = 4
"""So many versions stay loaded: those who lag behind lag by a few."""
_REMEDY = "ask by the present one: leave --gate out"


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
        self._loading = asyncio.Lock()

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
