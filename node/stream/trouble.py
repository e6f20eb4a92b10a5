"""What keeps a stream from going on and is no fault of its samples: how long to wait, and who goes first.

A full disk, too little memory or a killed process says nothing about a mega-batch, so nothing is given up for
it: the same one is tried again, ever more slowly. One that fails again and again while others go well is put
aside so that it holds up nobody, and is tried again later.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.stream.taking import NotTakenError
from node.stream.watching import Arrival
from swarm.domain.errors import SwarmError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
TRIES = 3
"""After so many failures of one mega-batch others have their turn."""
ASIDE_S, LONGEST_ASIDE_S = 600.0, 3600.0
"""One that was put aside is tried again after so long, doubled each time."""
_LONGEST_REASON = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What keeps a stream from going on. `reason` names no file and no path, since heartbeats carry it to the
    swarm: one printable line, at most 120 characters; `told` says everything, on this machine alone."""

    reason: str
    told: str

    @classmethod
    def of(cls, error: BaseException, told: str = "") -> "Trouble":
        """Return what an error says."""
        match error:
            case NotTakenError():
                reason = error.reason
            case SwarmError():
                reason = error.code.replace("_", " ")
            case _:
                reason = reason_of(error)
        return cls(reason=_line(reason), told=told or said(error))


def reason_of(error: BaseException) -> str:
    """Return what an error of the machine says, without names of files."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "out of memory" if isinstance(error, MemoryError) else type(error).__name__


def said(error: BaseException) -> str:
    """Return an error in full."""
    return str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"


def pause_s(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row: 1, 2, 4, at most 60."""
    return _doubled(FIRST_PAUSE_S, failures, LONGEST_PAUSE_S)


def in_words(seconds: float) -> str:
    """Return a length of time in whole seconds, minutes or hours: `10 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


@dataclass(slots=True, kw_only=True)
class _Failing:
    times: int
    since: float
    last: float
    successes: int
    asides: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How often, and within how many seconds, a mega-batch could not be taken; in how many it is tried again.
    `is_aside`: it waits aside, others go on; `is_first`: and did not before."""

    times: int
    within_s: float
    again_s: float
    is_aside: bool = False
    is_first: bool = False


class Patience:
    """Remembers what could not be taken, until the agent ends. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failing: dict[tuple[str, str], _Failing] = {}
        self._in_a_row, self._not_before, self._successes = 0, 0.0, 0

    def chosen(self, arrived: Sequence[Arrival]) -> Arrival | None:
        """Return which of those that arrived to take now; None where it is time to wait.

        In order; what failed TRIES times comes after all others, until one of these went well.
        """
        now, there = self._clock(), {_key(each) for each in arrived}
        self._failing = {key: kept for key, kept in self._failing.items() if key in there}
        present = [each for each in arrived if not self._is_aside(each)]
        if now < self._not_before or not present:
            return None
        return next((each for each in present if self._has_a_turn(each)), None) or min(
            present, key=lambda each: self._failing[_key(each)].last
        )

    def is_waiting(self, arrived: Sequence[Arrival]) -> bool:
        """Say whether some of these are still to be taken, and not put aside."""
        return any(not self._is_aside(each) for each in arrived)

    def note_failure(self, arrival: Arrival) -> Failure:
        """Take note that one could not be taken, through no fault of its samples."""
        now = self._clock()
        kept = self._failing.setdefault(
            _key(arrival), _Failing(times=0, since=now, last=now, successes=self._successes)
        )
        went_well = kept.successes < self._successes
        kept.times, kept.last, kept.successes = kept.times + 1, now, self._successes
        if kept.times >= TRIES and (went_well or kept.asides):
            kept.asides += 1
            again_s = _doubled(ASIDE_S, kept.asides, LONGEST_ASIDE_S)
            kept.until = now + again_s
            self._in_a_row, self._not_before = 0, now
        else:
            self._in_a_row += 1
            again_s = pause_s(self._in_a_row)
            self._not_before = now + again_s
        return Failure(
            times=kept.times,
            within_s=now - kept.since,
            again_s=again_s,
            is_aside=kept.until > now,
            is_first=kept.asides == 1,
        )

    def note_success(self, arrival: Arrival) -> None:
        """Take note that one was taken: whatever is the matter with others, it is not the machine."""
        self._successes += 1
        self._in_a_row, self._not_before = 0, 0.0
        self.forget(arrival)

    def forget(self, arrival: Arrival) -> None:
        """One is settled, or has changed."""
        self._failing.pop(_key(arrival), None)

    def _has_a_turn(self, arrival: Arrival) -> bool:
        kept = self._failing.get(_key(arrival))
        return kept is None or kept.times < TRIES or kept.successes < self._successes

    def _is_aside(self, arrival: Arrival) -> bool:
        kept = self._failing.get(_key(arrival))
        return kept is not None and kept.until > self._clock()


def _key(arrival: Arrival) -> tuple[str, str]:
    return str(arrival.path), arrival.signature


def _doubled(first: float, times: int, longest: float) -> float:
    return min(first * 2.0 ** min(times - 1, 30), longest)


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:_LONGEST_REASON]
