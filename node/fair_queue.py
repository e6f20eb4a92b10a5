"""Who goes next, and how much may wait: callers take turns, and share the room there is."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from swarm.domain.errors import ExhaustedError

PIECE_BYTES: Final = 4096
"""A waiting row counts once for each piece of so many bytes that its input has."""
MOST_WAITING: Final = 65_536
"""So many pieces may wait or be worked on: 256 MiB of inputs."""
FIRST_GUESS_S: Final = 1e-4
"""What a piece takes, until some were measured."""
_SMOOTHING: Final = 0.2

_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """Items by caller. The caller whose turn it is gives its oldest item, then it is the next one's turn."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[_Item]] = OrderedDict()

    def put(self, caller: str, item: _Item) -> None:
        """Let an item wait behind those of its caller."""
        self._waiting.setdefault(caller, deque()).append(item)

    def next(self) -> _Item | None:
        """Return the item that is next and leave it there; None where nothing waits."""
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    def take(self) -> _Item:
        """Remove and return the item that is next; KeyError where nothing waits."""
        caller, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[caller] = items
        return item

    def clear(self) -> list[_Item]:
        """Remove and return everything."""
        items = [item for waiting in self._waiting.values() for item in waiting]
        self._waiting.clear()
        return items


class Room:
    """How much callers have waiting or being worked on, in pieces. For one event loop.

    Those that wait share the room evenly: beyond its share a caller is refused, so that one caller's flood
    keeps nobody out. One request of each caller always fits.
    """

    def __init__(self, subject: str, most: int = MOST_WAITING) -> None:
        self._subject, self._most = subject, most
        self._taken: dict[str, int] = {}
        self._piece_s = FIRST_GUESS_S

    @property
    def taken(self) -> int:
        """The pieces of all callers."""
        return sum(self._taken.values())

    @contextmanager
    def held(self, caller: str, pieces: int) -> Iterator[None]:
        """Count a request while the context lasts; ExhaustedError says when to come back."""
        own = self._taken.get(caller, 0)
        share = self._most // (len(self._taken) + (caller not in self._taken))
        if own and own + pieces > share:
            wait_s = self.retry_s(own)
            raise ExhaustedError(
                self._subject,
                found=f"{own} rows of {caller or 'this process'} waiting",
                expected=f"at most {share}, its share among {len(self._taken)} callers",
                remedy=f"send fewer at a time, and try again in {wait_s:.2f} s; nothing was done",
                retry_after_s=wait_s,
            )
        self._taken[caller] = own + pieces
        try:
            yield
        finally:
            self._taken[caller] -= pieces
            if not self._taken[caller]:
                del self._taken[caller]

    def note(self, pieces: int, seconds: float) -> None:
        """Learn from what was worked off how long a piece takes."""
        if pieces:
            self._piece_s += _SMOOTHING * (seconds / pieces - self._piece_s)

    def retry_s(self, own: int) -> float:
        """Return in how many seconds half of a caller's pieces are likely to be done, 0.01 to 60."""
        return min(60.0, max(0.01, self._piece_s * min(self.taken, own * max(1, len(self._taken))) / 2))
