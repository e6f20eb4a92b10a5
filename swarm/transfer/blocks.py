"""Which holder fetches which blocks: plain bookkeeping without I/O.

Each holder has a run of blocks, which it streams in order. One without work takes over half of the longest
run of the others, so that a fast one does more and nobody waits for a plan.
"""

from collections import deque
from collections.abc import Iterable


class Assignment:
    """The blocks that are still to come, by holder."""

    def __init__(self, blocks: Iterable[int], holders: Iterable[str]) -> None:
        names = list(holders)
        self._runs: dict[str, deque[int]] = {name: deque() for name in names}
        wanted = sorted(blocks)
        share = -(-len(wanted) // max(1, len(names)))
        for number, name in enumerate(names):
            self._runs[name].extend(wanted[number * share : (number + 1) * share])
        self._left_over: list[int] = []

    def next_run(self, holder: str) -> list[int]:
        """Return the consecutive blocks that a holder fetches next, the first of them at once; none where
        there is nothing for it now."""
        run = self._runs[holder]
        if not run:
            run.extend(self._left_over)
            self._left_over.clear()
        if not run:
            self._take_over(run)
        first = list(run)[:1]
        while first and len(first) < len(run) and run[len(first)] == first[-1] + 1:
            first.append(run[len(first)])
        return first

    def is_next(self, holder: str, block: int) -> bool:
        """Say whether a block is still this holder's to fetch next."""
        run = self._runs.get(holder)
        return bool(run) and run is not None and run[0] == block

    def done(self, holder: str) -> None:
        """Note that a holder's first block has come whole."""
        self._runs[holder].popleft()

    def drop(self, holder: str) -> None:
        """Leave a holder's blocks to the others."""
        self._left_over = sorted([*self._left_over, *self._runs.pop(holder, ())])

    @property
    def is_done(self) -> bool:
        """Whether every block has come."""
        return not self._left_over and not any(self._runs.values())

    def _take_over(self, run: deque[int]) -> None:
        longest = max(self._runs.values(), key=len)
        taken = [longest.pop() for _ in range(len(longest) // 2)]
        run.extend(reversed(taken))
