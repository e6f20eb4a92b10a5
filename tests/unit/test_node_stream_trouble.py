"""What fails through no fault of its samples is tried again: in order first, then beside what goes well."""

import errno
from pathlib import Path

import pytest

from node.stream.taking import NotTakenError
from node.stream.trouble import ASIDE_S, LONGEST_ASIDE_S, TRIES, Patience, Trouble, pause_s
from node.stream.watching import Arrival
from swarm.domain.errors import NotReadyError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


A, B, C = (Arrival(path=Path(f"/in/{name}.npz"), signature="s") for name in "abc")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failed(patience: Patience, clock: Clock, arrival: Arrival, times: int) -> None:
    for _ in range(times):
        clock.now += patience.note_failure(arrival).again_s


def test_a_machine_in_trouble_is_asked_ever_more_slowly_and_the_order_is_kept(clock: Clock) -> None:
    patience = Patience(clock)
    pauses = []
    for _ in range(TRIES - 1):
        assert patience.chosen([A, B]) is A
        failure = patience.note_failure(A)
        pauses.append(failure.again_s)
        assert patience.chosen([A, B]) is None and patience.is_waiting([A, B])
        clock.now += failure.again_s
    assert pauses == [1.0, 2.0] and pause_s(30) == 60.0
    assert patience.chosen([A, B]) is A


def test_after_a_few_failures_others_have_a_turn_and_while_all_fail_nothing_is_put_aside(
    clock: Clock,
) -> None:
    patience = Patience(clock)
    failed(patience, clock, A, TRIES)
    assert patience.chosen([A, B]) is B
    for _ in range(20):
        chosen = patience.chosen([A, B])
        assert chosen is not None and not patience.note_failure(chosen).is_aside
        clock.now += 60.0
    assert patience.is_waiting([A, B])


def test_what_fails_while_others_go_well_is_put_aside_and_tried_again_later(clock: Clock) -> None:
    patience = Patience(clock)
    failed(patience, clock, A, TRIES)
    assert patience.chosen([A, B, C]) is B
    patience.note_success(B)
    assert patience.chosen([A, C]) is A, "it may have been the machine until now"
    failure = patience.note_failure(A)
    assert failure.is_aside and failure.is_first and failure.again_s == ASIDE_S and failure.times == TRIES + 1
    assert patience.chosen([A, C]) is C and not patience.is_waiting([A])
    clock.now += ASIDE_S
    assert patience.chosen([A]) is A
    again = patience.note_failure(A)
    assert again.is_aside and not again.is_first and again.again_s == 2 * ASIDE_S
    for _ in range(9):
        again = patience.note_failure(A)
    assert again.again_s == LONGEST_ASIDE_S


def test_what_changed_or_went_away_is_forgotten(clock: Clock) -> None:
    patience = Patience(clock)
    failed(patience, clock, A, TRIES)
    patience.chosen([B])
    assert patience.note_failure(A).times == 1
    changed = Arrival(path=A.path, signature="t")
    assert patience.note_failure(changed).times == 1


def test_the_swarm_hears_what_is_the_matter_and_no_names_of_files() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/private/patients.npz")
    for error, reason in (
        (full, "No space left on device"),
        (MemoryError(), "out of memory"),
        (NotTakenError("/private/a.npz", reason="its process\nended"), "its process?ended"),
        (NotReadyError("specification", found="/private"), "not ready"),
        (ValueError("/private"), "ValueError"),
    ):  # fmt: skip
        assert Trouble.of(error).reason == reason
    assert "/private/patients.npz" in Trouble.of(full).told
    assert len(Trouble.of(OSError(1, "x" * 500)).reason) == 120
