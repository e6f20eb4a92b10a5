"""Signed manifests that are brought back travel in calls that fit."""

from hypothesis import given
from hypothesis import strategies as st

from swarm.domain.rebuild import MOST_AT_ONCE, MOST_BYTES_AT_ONCE, in_parts


@given(
    sizes=st.lists(st.integers(1, 1 << 20), max_size=40),
    small=st.integers(0, 2 * MOST_AT_ONCE + 1),
)
def test_every_manifest_comes_once_in_calls_that_fit_the_newest_first(sizes: list[int], small: int) -> None:
    envelopes = [bytes(size) for size in sizes] + [b"%d" % row for row in range(small)]
    parts = in_parts(envelopes)
    assert [each for part in reversed(parts) for each in part] == envelopes
    for part in parts:
        assert len(part) <= MOST_AT_ONCE
        assert len(part) == 1 or sum(map(len, part)) <= MOST_BYTES_AT_ONCE
    assert all(parts) or parts == [[]]


def test_who_has_nothing_offers_nothing_once() -> None:
    assert in_parts([]) == [[]]
