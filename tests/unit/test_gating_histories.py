"""The gate is a function of who is in it: joins, withdrawals and splits leave no bit behind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swarm.gating.analytic_gate import WEIGHTS, AnalyticGate
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns

FIXED_POINT, SIZE, OWNERS = 32.0, 9, 5
CLASS_NAMES = ("a", "b", "c")
Acts = Sequence[tuple[str, int, int]]
Columns = NDArray[np.int64]


@dataclass(frozen=True)
class Leaf:
    class_names: tuple[str, ...] = CLASS_NAMES
    has_columns: bool = True


def samples(owner: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """An owner's features in fixed point and their labels; owners differ in size."""
    rng = np.random.default_rng(owner)
    count = 30 + 9 * owner
    found = rng.normal(size=(count, SIZE - 1)) * np.geomspace(2, 0.05, SIZE - 1) + rng.normal(size=SIZE - 1)
    return quantised(found.astype(np.float32), FIXED_POINT, False), rng.integers(0, len(CLASS_NAMES), count)


SAMPLES = {owner: samples(owner) for owner in range(OWNERS)}
GRAMS = {owner: exact_gram(q) for owner, (q, _) in SAMPLES.items()}


def columns_of(owner: int, rows: NDArray[np.int64]) -> Columns:
    q, labels = SAMPLES[owner]
    return target_columns(q[rows], labels[rows], len(CLASS_NAMES))


class History:
    """What a swarm goes through: each owner's leaves, their columns kept as sums and never made anew.

    A split gives the second child what the first one takes from their parent's columns. `rows` say whose
    samples a leaf's are, for those who make the columns from scratch.
    """

    def __init__(self) -> None:
        self.columns: dict[int, list[Columns]] = {}
        self.rows: dict[int, list[NDArray[np.int64]]] = {}
        self.gram = np.zeros((SIZE, SIZE), dtype=np.int64)

    def act(self, what: str, owner: int, choice: int) -> None:
        present = owner in self.columns
        if what == "join" and not present:
            self.rows[owner] = [np.arange(len(SAMPLES[owner][0]))]
            self.columns[owner] = [columns_of(owner, self.rows[owner][0])]
            self.gram += GRAMS[owner]
        elif what == "leave" and present:
            del self.rows[owner], self.columns[owner]
            self.gram -= GRAMS[owner]
        elif what == "split" and present:
            self._split(owner, choice)

    def _split(self, owner: int, choice: int) -> None:
        place = choice % len(self.rows[owner])
        parent = self.rows[owner].pop(place)
        first = np.random.default_rng(choice).random(len(parent)) < 0.5
        children = [parent[first], parent[~first]]
        self.rows[owner][place:place] = children
        of_parent = self.columns[owner].pop(place)
        of_first = columns_of(owner, children[0])
        self.columns[owner][place:place] = [of_first, of_parent - of_first]

    def sums(self, owner: int) -> OwnerSums:
        return sums(owner, self.columns[owner])

    def sums_from_scratch(self, owner: int) -> OwnerSums:
        return sums(owner, [columns_of(owner, rows) for rows in self.rows[owner]])


def sums(owner: int, columns: Sequence[Columns]) -> OwnerSums:
    return OwnerSums(
        owner=f"node-{owner}",
        samples=len(SAMPLES[owner][0]),
        columns=np.concatenate(columns, axis=1),
        exact=pack_triangle(GRAMS[owner]),
    )


def gates(weights: NDArray[np.float64], leaves: int) -> list[AnalyticGate]:
    """The gate of each ridge, as its statement has it."""
    return [
        AnalyticGate.from_statement_arrays(
            {WEIGHTS: each.astype(np.float32)}, [Leaf()] * leaves, CLASS_NAMES, FIXED_POINT, False
        )
        for each in weights
    ]


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "leave", "split", "split"]),
        st.integers(0, OWNERS - 1),
        st.integers(0, 99),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ACTS, st.permutations(range(OWNERS)))
def test_after_joins_withdrawals_and_splits_the_gate_is_that_of_what_remains_to_the_bit(
    acts: Acts, order: list[int]
) -> None:
    swarm = History()
    for act in (("join", order[0], 0), *acts):
        swarm.act(*act)
        if swarm.columns:
            solve([swarm.sums(owner) for owner in swarm.columns], RIDGES[:1], FIXED_POINT)
    if not swarm.columns:
        swarm.act("join", order[-1], 0)
    assert np.array_equal(swarm.gram, sum(GRAMS[owner] for owner in swarm.columns))
    lived = solve([swarm.sums(owner) for owner in swarm.columns], RIDGES, FIXED_POINT)

    again = [owner for owner in order if owner in swarm.columns]
    fresh = solve([swarm.sums_from_scratch(owner) for owner in again], RIDGES, FIXED_POINT)
    widths = {owner: len(CLASS_NAMES) * len(swarm.rows[owner]) for owner in again}
    starts = dict(zip(again, np.cumsum([0, *widths.values()]), strict=False))
    places = np.concatenate([starts[owner] + np.arange(widths[owner]) for owner in swarm.columns])
    assert lived.tobytes() == np.ascontiguousarray(fresh[:, :, places]).tobytes()

    leaves = sum(map(len, swarm.rows.values()))
    asked = np.random.default_rng(7).normal(size=(6, SIZE - 1)).astype(np.float32)
    pairs = zip(gates(lived, leaves), gates(fresh[:, :, places], leaves), strict=True)
    assert all(a.scores(asked).tobytes() == b.scores(asked).tobytes() for a, b in pairs)
