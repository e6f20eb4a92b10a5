"""The gate is a function of who is in it: joins, withdrawals and splits leave no bit behind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swarm.domain.ids import LeafId, leaf_of
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.distances import squared_distances
from swarm.gating.gate_arrays import WEIGHTS
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from tests.support import trees

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


GROWING = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "split", "learned split", "split", "merge", "remove", "withdraw"]),
        st.integers(0, trees.OWNERS - 1),
        st.integers(0, 999),
    ),
    max_size=30,
)


class GrowingSwarm:
    """Owners that come and go, whose leaves are added, split, merged and removed, and experts withdrawn."""

    def __init__(self) -> None:
        self.owners: dict[int, trees.Grown] = {}
        self.withdrawn: set[LeafId] = set()

    def act(self, what: str, owner: int, choice: int) -> None:
        grown = self.owners.get(owner)
        if what == "join" and grown is None:
            self.owners[owner] = trees.Grown(owner=owner)
            self.owners[owner].join()
        elif grown is None:
            return
        elif what == "leave":
            del self.owners[owner]
        elif what in ("split", "learned split"):
            grown.split(choice, learned=what == "learned split")
        elif what == "merge":
            grown.merge(choice)
        elif what == "remove":
            grown.remove(choice)
        elif what == "withdraw":
            numbers = sorted(grown.leaves)
            self.withdrawn.add(leaf_of(trees.NODES[owner], numbers[choice % len(numbers)]))


@settings(max_examples=80, deadline=None)
@given(GROWING, st.permutations(range(trees.OWNERS)))
def test_whatever_grew_and_went_the_gate_is_that_of_what_remains_to_the_bit(
    acts: Acts, order: list[int]
) -> None:
    swarm = GrowingSwarm()
    for act in (("join", order[0], 0), *acts):
        swarm.act(*act)
    lived = trees.solved([grown.contribution() for grown in swarm.owners.values()], withdrawn=swarm.withdrawn)
    again = [swarm.owners[owner] for owner in order if owner in swarm.owners]
    fresh = trees.solved(
        [grown.contribution(from_scratch=True) for grown in again], withdrawn=swarm.withdrawn
    )
    assert trees.bits(lived) == trees.bits(fresh)
    if lived[0].leaves:
        placed, prototypes, _ = trees.loaded(lived)
        asked = np.random.default_rng(7).normal(size=(6, trees.SIZE)).astype(np.float32)
        np.testing.assert_allclose(prototypes.leaf_weights(asked).sum(axis=1), 1, atol=1e-6)
        assert all(placed.tree.leaves_of(node) for node in range(placed.tree.nodes))


@settings(max_examples=30, deadline=None)
@given(GROWING, st.integers(0, trees.OWNERS - 1))
def test_the_gate_after_a_withdrawal_is_the_gate_that_never_had_that_owner(acts: Acts, gone: int) -> None:
    swarm, never = GrowingSwarm(), GrowingSwarm()
    for act in (("join", (gone + 1) % trees.OWNERS, 0), *acts):
        swarm.act(*act)
        if act[1] != gone:
            never.act(*act)
    swarm.act("leave", gone, 0)
    found, expected = (
        trees.solved([each.contribution() for each in one.owners.values()], withdrawn=one.withdrawn)
        for one in (swarm, never)
    )
    assert trees.bits(found) == trees.bits(expected)


def test_a_child_left_alone_answers_for_all_of_its_parents_region() -> None:
    owners = [trees.Grown(owner=0), trees.Grown(owner=1)]
    for each in owners:
        each.join()
    whole = trees.solved([each.contribution(with_sums=False) for each in owners])
    _, second = owners[0].split(0, learned=True)
    given_ = [each.contribution(with_sums=False) for each in owners]
    group, solution = trees.solved(given_, withdrawn=[leaf_of(trees.NODES[0], second)])
    assert [(leaf.leaf, leaf.parent) for leaf in group.leaves][:2] == [
        ("node-0.l2", ""), ("node-0.l3", "node-0.l1")
    ]  # fmt: skip
    assert [(branch.leaf, branch.is_learned) for branch in group.branches] == [("node-0.l1", False)]
    assert not any(name.startswith("split.") for name in solution.prototypes)
    asked = np.random.default_rng(7).normal(size=(9, trees.SIZE)).astype(np.float32)
    before, after = (trees.loaded(each)[1].leaf_weights(asked, 2.0) for each in (whole, (group, solution)))
    assert np.array_equal(after[:, [1, 0, 2, 3]], before)


def test_branches_without_a_living_leaf_go_and_sums_are_left_out_while_a_leaf_is() -> None:
    owner = trees.Grown(owner=0)
    owner.join()
    first, second = owner.split(0, learned=False)
    inner = owner.split(1, learned=False)
    assert owner.branches.keys() == {1, first}
    gone = [leaf_of(trees.NODES[0], number) for number in inner]
    group, solution = trees.solved([owner.contribution()], withdrawn=gone)
    assert solution.weights is None and not any(leaf.has_columns for leaf in group.leaves)
    living = {branch.leaf for branch in group.branches}
    assert living == {leaf_of(trees.NODES[0], 1)} and {leaf.leaf for leaf in group.leaves}.isdisjoint(gone)
    assert leaf_of(trees.NODES[0], second) in {leaf.leaf for leaf in group.leaves}


def test_what_an_owner_counts_is_not_more_for_a_split() -> None:
    """All an owner's counts weigh at most as four median owners': a branch counts once."""
    owners = [trees.Grown(owner=owner) for owner in range(trees.OWNERS)]
    for each in owners:
        each.join()
    priors = trees.solved([each.contribution() for each in owners])[1].prototypes["log_prior"]
    for choice in range(4):
        owners[3].split(choice, learned=False)
    group, solution = trees.solved([each.contribution() for each in owners])
    after = [np.sort(solution.prototypes["log_prior"]), np.sort(priors)]
    assert len(group.branches) > 1 and set(after[1]) <= set(after[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_gate_without_branches_answers_as_it_always_did_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owners = [trees.Grown(owner=owner) for owner in range(3)]
    for each in owners:
        each.join()
    found = trees.solved([each.contribution() for each in owners])
    _, prototypes, analytic = trees.loaded(found)
    assert analytic is not None and trees.bits(found)["branch_weights"] == b""
    names = [f"prototypes.{row}" for row in range(6)]
    assert list(found[1].prototypes) == [*names, "log_prior", "radii"]
    asked = rng.normal(size=(20, trees.SIZE)).astype(np.float32)

    arrays, solution = found[1].prototypes, found[1]
    wide = np.concatenate([arrays[name] for name in names]).astype(np.float64)
    logits = -squared_distances(asked, wide) / 0.7 + arrays["log_prior"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    starts = np.cumsum([0, *(len(arrays[name]) for name in names[:-1])])
    sums = np.add.reduceat(shares, starts, axis=1)
    weights = np.maximum(sums / sums.sum(axis=1, keepdims=True), 1e-12)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    assert prototypes.leaf_weights(asked, 0.7).tobytes() == weights.tobytes()

    assert solution.weights is not None
    scores = quantised(asked, 32.0, False).astype(np.float32) @ np.ascontiguousarray(solution.weights[0])
    pick = np.eye(len(analytic.leaf_rows), dtype=np.float32)
    by_leaf = scores @ np.stack([pick[:, analytic.leaf_rows == row].sum(axis=1) for row in range(6)], axis=1)
    shares = by_leaf.astype(np.float64) - by_leaf.astype(np.float64).max(axis=1, keepdims=True)
    shares = np.exp(shares / 0.05)
    shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    assert analytic.scores(asked).tobytes() == scores.tobytes()
    assert analytic.leaf_weights(scores, 0.05).tobytes() == shares.tobytes()
