"""How much memory this process has at most, looked at all the time and not at the ends of rounds alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_LOOK_EVERY_S = 0.05


class MostResident:
    """The most that was seen, beside what there was at first."""

    def __init__(self) -> None:
        self._first = self._most = _resident_mb()

    @property
    def growth_mb(self) -> float:
        return self._most - self._first

    def look(self) -> None:
        self._most = max(self._most, _resident_mb())


@contextmanager
def most_resident() -> Iterator[MostResident]:
    """Look at this process's memory, in a thread, while the context lasts."""
    most, ending = MostResident(), threading.Event()

    def watch() -> None:
        while not ending.wait(_LOOK_EVERY_S):
            most.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ending.set()
        thread.join()
        most.look()


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6
