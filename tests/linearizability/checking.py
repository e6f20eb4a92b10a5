"""Whether a concurrent history is linearizable: just-in-time linearization, breadth first, with memoisation.

A history is linearizable if every operation can be given one moment between its call and its return so that
the operations in the order of these moments are what a sequential object would have done. The checker walks
the calls and returns in real time and keeps all configurations that are still possible: the object's state
and which of the open operations have taken effect in it. An operation is made to take effect only when one
returns that needs it (Lowe 2017, after Wing & Gong 1993); equal configurations are one, which is the memory.

An operation whose outcome is unknown never returns: it may take effect at any time after its call, or never.
Linearizability is local (Herlihy & Wing 1990): each object's history is checked alone.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)
Configuration = tuple[State, frozenset[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call by one process, with moments on one clock. Outcome None: unknown, and it never returned."""

    process: int
    call: Hashable
    outcome: Hashable | None
    invoked: float
    returned: float = math.inf

    def __post_init__(self) -> None:
        if self.invoked >= self.returned or (self.outcome is None) != math.isinf(self.returned):
            raise ValueError(f"an operation that cannot be: {self}")


class Model(Protocol[State]):
    """A sequential object. `outcomes` gives all that a call may answer in a state, with the state after it.

    An answer that changes nothing in one state must change nothing in any later one.
    """

    initial: State

    def outcomes(self, state: State, call: Hashable) -> Iterable[tuple[Hashable, State]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation(Generic[State]):
    """The first operation whose answer no order of the operations before its return explains."""

    operation: Operation
    states: tuple[State, ...]

    def __str__(self) -> str:
        return f"{self.operation} is explained by none of {len(self.states)} states: {self.states[:4]}"


def check(model: Model[State], history: Sequence[Operation]) -> Violation[State] | None:
    """Return None for a linearizable history, else the first operation that nothing explains."""
    search = _Search(model, history)
    events = sorted(
        [(operation.invoked, True, row) for row, operation in enumerate(history)]
        + [(o.returned, False, row) for row, o in enumerate(history) if o.outcome is not None]
    )
    for _, is_call, row in events:
        if is_call:
            search.call(row)
        elif not search.returns(row):
            return Violation(operation=history[row], states=tuple(search.states_before))
    return None


class _Search(Generic[State]):
    def __init__(self, model: Model[State], history: Sequence[Operation]) -> None:
        self._model, self._history = model, history
        self._open: set[int] = set()
        self._configurations: set[Configuration[State]] = {(model.initial, frozenset())}
        self.states_before: list[State] = []

    def call(self, row: int) -> None:
        self._open.add(row)
        self._configurations = {self._settled(each) for each in self._configurations}

    def returns(self, row: int) -> bool:
        """Keep the configurations in which the operation has taken effect; say whether any is left."""
        found: set[Configuration[State]] = set()
        seen = set(self._configurations)
        queue = list(self._configurations)
        while queue:
            state, done = queue.pop()
            if row in done:
                found.add((state, done - {row}))
                continue
            for other in self._open - done:
                for after in self._steps(state, other):
                    following = self._settled((after, done | {other}))
                    if following not in seen:
                        seen.add(following)
                        queue.append(following)
        if not found:
            self.states_before = list({state for state, _ in self._configurations})
            return False
        self._open.discard(row)
        self._configurations = found
        return True

    def _steps(self, state: State, row: int) -> list[State]:
        """Return the states that an operation leads to. One of unknown outcome that changes nothing may as
        well not take effect."""
        operation = self._history[row]
        return [
            after
            for outcome, after in self._model.outcomes(state, operation.call)
            if outcome == operation.outcome or (operation.outcome is None and after != state)
        ]

    def _settled(self, configuration: Configuration[State]) -> Configuration[State]:
        """Let the open operations take effect that are explained here and change nothing: whatever they would
        allow later, they allow now."""
        state, done = configuration
        idle = [
            row
            for row in self._open - done
            if self._history[row].outcome is not None
            and (self._history[row].outcome, state) in self._model.outcomes(state, self._history[row].call)
        ]
        return state, done.union(idle)
