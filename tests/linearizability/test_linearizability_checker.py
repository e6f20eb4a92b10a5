"""The checker of histories: it agrees with trying every order, and finds each kind of broken head."""

import itertools
import math
import random
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability.checking import Model, Operation, check
from tests.linearizability.heads_model import (
    NOTHING,
    OK,
    WITHDRAWN,
    Announce,
    Grant,
    HeadModel,
    HeadState,
    Publish,
    ReadHead,
    ReadVersion,
    Withdraw,
    stale_fence,
    stale_parent,
)

CALLS: tuple[Hashable, ...] = (
    ReadHead(),
    ReadVersion(1),
    ReadVersion(2),
    Grant(),
    Withdraw(1, "w1"),
    Withdraw(2, "w2"),
    *(
        Publish(version, f"{version}-{writer}", fence, f"{version}-{writer}-{fence}")
        for version in (1, 2)
        for writer in "ab"
        for fence in (1, 2)
    ),
    Announce(1, "1-a", 1),
    Announce(2, "2-b", 1),
)
BEGIN = HeadModel(HeadState(fence=1))


def linearizable_by_trying_all(model: Model[HeadState], history: Sequence[Operation]) -> bool:
    """The definition: some subset with all that returned, in some order that keeps real time."""
    known = [row for row, each in enumerate(history) if each.outcome is not None]
    unknown = [row for row, each in enumerate(history) if each.outcome is None]
    for count in range(len(unknown) + 1):
        for taken in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *taken]):
                places = itertools.combinations(order, 2)
                if all(history[late].returned > history[early].invoked for early, late in places) and _legal(
                    model, [history[row] for row in order]
                ):
                    return True
    return False


def _legal(model: Model[HeadState], order: Sequence[Operation]) -> bool:
    states = {model.initial}
    for each in order:
        states = {
            after
            for state in states
            for outcome, after in model.outcomes(state, each.call)
            if each.outcome in (None, outcome)
        }
    return bool(states)


def simulated(
    chance: random.Random, count: int, unknown: float = 0.2, calls: Sequence[Hashable] = CALLS
) -> list[Operation]:
    """A linearizable history: each operation takes effect at one moment within its interval, or, where its
    outcome is unknown, at one after its call or never."""
    state, history = BEGIN.initial, list[Operation]()
    moments = sorted(chance.sample(range(1, 1000), count))
    for process, moment in enumerate(moments):
        call = chance.choice(calls)
        invoked = moment - chance.uniform(0.1, 300)
        if chance.random() < unknown:
            if chance.random() < 0.5:
                _, state = chance.choice(list(BEGIN.outcomes(state, call)))
            history.append(Operation(process=process, call=call, outcome=None, invoked=invoked))
            continue
        outcome, state = chance.choice(list(BEGIN.outcomes(state, call)))
        returned = moment + chance.uniform(0.1, 300)
        history.append(
            Operation(process=process, call=call, outcome=outcome, invoked=invoked, returned=returned)
        )
    return history


@given(st.randoms(use_true_random=False), st.integers(1, 40))
@settings(deadline=None)
def test_every_linearizable_history_passes(chance: random.Random, count: int) -> None:
    assert check(BEGIN, simulated(chance, count)) is None


@given(st.randoms(use_true_random=False), st.integers(2, 5))
@settings(deadline=None, max_examples=300)
def test_the_checker_agrees_with_trying_every_order(chance: random.Random, count: int) -> None:
    history = simulated(chance, count)
    row = chance.randrange(count)
    if history[row].outcome is not None:  # perhaps no history of a head any more
        other = chance.choice(simulated(chance, count, unknown=0.0))
        broken = Operation(
            process=history[row].process,
            call=history[row].call,
            outcome=other.outcome,
            invoked=history[row].invoked,
            returned=history[row].returned,
        )
        history[row] = broken
    assert (check(BEGIN, history) is None) == linearizable_by_trying_all(BEGIN, history)


def one_after_the_other(*pairs: tuple[Hashable, Hashable | None]) -> list[Operation]:
    return [
        Operation(
            process=0,
            call=call,
            outcome=outcome,
            invoked=float(2 * row),
            returned=math.inf if outcome is None else 2 * row + 1.0,
        )
        for row, (call, outcome) in enumerate(pairs)
    ]


FIRST, SECOND = Publish(1, "1-a", 1, "k1"), Publish(2, "2-a", 1, "k2")
AT_FIRST, AT_SECOND, NO_HEAD = ("head", 1, "1-a"), ("head", 2, "2-a"), ("head", 0, "")
BROKEN: dict[str, list[tuple[Hashable, Hashable | None]]] = {
    "a stale read after the acknowledgement": [(FIRST, OK), (ReadHead(), NO_HEAD)],
    "an acknowledged write is lost": [(FIRST, OK), (ReadHead(), AT_FIRST), (ReadHead(), NO_HEAD)],
    "a version is skipped": [(FIRST, OK), (ReadHead(), ("head", 2, "1-a"))],
    "two winners for one version": [(FIRST, OK), (Publish(1, "1-b", 1, "k9"), OK)],
    "a withdrawn head is read": [(FIRST, OK), (Withdraw(1, "w"), OK), (ReadHead(), AT_FIRST)],
    "a head goes backwards": [(FIRST, OK), (SECOND, OK), (Announce(1, "1-a", 1), ("restored",))],
    "a phantom version": [(FIRST, stale_fence(2)), (ReadVersion(1), ("manifest", "1-a"))],
    "an acknowledged write is never visible": [(FIRST, OK), (SECOND, stale_parent(0))],
    "an older lease's write is taken": [(Grant(), ("granted", 2)), (FIRST, OK)],
    "a late publish undoes a withdrawal": [(FIRST, OK), (Withdraw(1, "w"), OK), (SECOND, OK)],
    "a retry acts twice": [(FIRST, OK), (SECOND, OK), (FIRST, stale_parent(2))],
    "an unknown write is taken back": [(FIRST, None), (ReadHead(), AT_FIRST), (ReadHead(), NO_HEAD)],
}
WHOLE: dict[str, list[tuple[Hashable, Hashable | None]]] = {
    "an unknown write takes effect late": [(FIRST, None), (ReadHead(), NO_HEAD), (ReadHead(), AT_FIRST)],
    "an unknown write never takes effect": [(FIRST, None), (ReadHead(), NO_HEAD), (SECOND, stale_parent(0))],
    "a retry by its key answers again": [(FIRST, OK), (Withdraw(1, "w"), OK), (FIRST, OK)],
    "what is withdrawn is refused": [(Withdraw(1, "w"), OK), (FIRST, WITHDRAWN)],
    "a version stays readable": [(FIRST, OK), (Withdraw(1, "w"), OK), (ReadVersion(1), ("manifest", "1-a"))],
    "an announced head may be newer": [(Announce(2, "2-a", 1), ("restored",)), (ReadHead(), AT_SECOND)],
    "one's own head announced": [(FIRST, OK), (Grant(), ("granted", 2)), (Announce(1, "1-a", 1), NOTHING)],
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_history_is_found(name: str) -> None:
    assert check(HeadModel(HeadState(fence=1)), one_after_the_other(*BROKEN[name])) is not None


@pytest.mark.parametrize("name", WHOLE)
def test_what_may_happen_is_no_violation(name: str) -> None:
    assert check(HeadModel(HeadState(fence=1)), one_after_the_other(*WHOLE[name])) is None


def test_simultaneous_writes_may_be_read_in_one_order_only() -> None:
    writes = [
        Operation(process=0, call=FIRST, outcome=OK, invoked=0, returned=10),
        Operation(process=1, call=SECOND, outcome=OK, invoked=1, returned=11),
    ]
    early, late = (
        Operation(process=2, call=ReadHead(), outcome=AT_SECOND, invoked=2, returned=3),
        Operation(process=2, call=ReadHead(), outcome=AT_FIRST, invoked=4, returned=5),
    )
    assert check(BEGIN, [*writes, early]) is None
    violation = check(BEGIN, [*writes, early, late])
    assert violation is not None and violation.operation == late


def test_a_history_with_many_unknown_outcomes_is_checked_in_reasonable_memory() -> None:
    chance = random.Random(3)
    assert check(BEGIN, simulated(chance, 120, unknown=0.4)) is None


def test_an_operation_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Operation(process=0, call=Grant(), outcome=OK, invoked=2, returned=1)
    with pytest.raises(ValueError, match="cannot be"):
        Operation(process=0, call=Grant(), outcome=None, invoked=2, returned=3)
