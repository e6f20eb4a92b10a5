"""Callers take turns and share the room; who is refused hears when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.fair_queue import FairQueue, Room
from swarm.domain.errors import ExhaustedError


def drained(queue: FairQueue[str]) -> list[str]:
    found = []
    while queue.next() is not None:
        found.append(queue.take())
    return found


def test_a_flood_of_one_caller_delays_another_by_one_item() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.put("flood", f"f{number}")
    queue.put("calm", "c0")
    queue.put("calm", "c1")
    assert drained(queue) == ["f0", "c0", "f1", "c1", "f2", "f3", "f4"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nothing_is_lost_and_each_caller_keeps_its_order(steps: list[tuple[str, bool]]) -> None:
    queue: FairQueue[str] = FairQueue()
    put, taken = [], []
    for number, (caller, takes) in enumerate(steps):
        if takes and queue.next() is not None:
            first = queue.next()
            taken.append(queue.take())
            assert taken[-1] == first
        else:
            queue.put(caller, f"{caller}{number:03}")
            put.append(f"{caller}{number:03}")
    taken += drained(queue)
    assert sorted(taken) == sorted(put)
    for caller in "abc":
        own = [each for each in taken if each[0] == caller]
        assert own == sorted(own)


def test_a_caller_beyond_its_share_is_refused_and_others_are_not() -> None:
    room = Room("experts", most=100)
    with room.held("flood", 60), room.held("flood", 40):
        with pytest.raises(ExhaustedError, match=r"100 rows of flood waiting.*try again in \d+\.\d\d s"):
            room.held("flood", 1).__enter__()
        with room.held("calm", 50):
            with (
                pytest.raises(ExhaustedError, match="at most 50, its share among 2"),
                room.held("calm", 1),
            ):
                pass
            assert room.taken == 150
    assert room.taken == 0


def test_one_request_of_a_caller_fits_whatever_its_size() -> None:
    room = Room("experts", most=10)
    with room.held("ada", 1000), room.held("bob", 1000):
        assert room.taken == 2000


def test_when_to_come_back_follows_from_what_was_worked_off() -> None:
    room = Room("experts", most=1000)
    with room.held("ada", 500), room.held("bob", 500):
        for _ in range(60):
            room.note(10, 0.1)
        assert room.retry_s(500) == pytest.approx(5.0, rel=0.01)
