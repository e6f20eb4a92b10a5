"""Owners whose leaves are split, merged and removed at random, and the gates over them, without any wire."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.candidate import plan_group
from coordinator.contribution_arrays import CheckedContribution
from coordinator.solver import solve_group
from coordinator.solver_jobs import Group, Solution
from swarm.digests import digest_of
from swarm.domain.contributions import BranchContribution, Contribution, FeatureSums, LeafContribution
from swarm.domain.ids import Digest, LeafId, NodeId, SwarmId, expert_of, leaf_of, number_of
from swarm.domain.tensors import TensorEntry
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import splits_of
from swarm.gating.gate_arrays import BRANCH_WEIGHTS, WEIGHTS, Placed
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.regions import LeafSummary
from swarm.gating.ridge import OwnerSums
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from swarm.trust.statements import Statement

FIXED_POINT, SIZE, OWNERS = 32.0, 8, 4
CLASS_NAMES = ("a", "b", "c")
RIDGES = (30.0, 300.0)
Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Columns = dict[str, NDArray[np.int64]]


def _samples(owner: int) -> tuple[Floats, NDArray[np.int16], NDArray[np.int64]]:
    rng = np.random.default_rng(owner)
    count = 40 + 15 * owner
    found = rng.normal(size=(count, SIZE)) * np.geomspace(2, 0.2, SIZE) + rng.normal(size=SIZE)
    features = found.astype(np.float32)
    return features, quantised(features, FIXED_POINT, False), rng.integers(0, len(CLASS_NAMES), count)


SAMPLES = {owner: _samples(owner) for owner in range(OWNERS)}
NODES = {owner: NodeId(f"node-{owner}") for owner in range(OWNERS)}


def columns_of(owner: int, rows: Rows) -> Columns:
    """F't of these samples, by class name, for the classes that are there."""
    _, q, labels = SAMPLES[owner]
    found = target_columns(q[rows], labels[rows], len(CLASS_NAMES))
    return {CLASS_NAMES[row]: found[:, row] for row in np.unique(labels[rows])}


def summary_of(owner: int, rows: Rows) -> LeafSummary:
    """Up to three prototypes of these samples."""
    points = SAMPLES[owner][0][rows]
    parts = np.array_split(points, min(3, len(points)))
    return LeafSummary(
        prototypes=np.stack([part.mean(axis=0) for part in parts]),
        counts=np.array([len(part) for part in parts], dtype=np.int64),
        radii=np.stack([np.float32([1, 2, 3]) + np.float32(part.std()) for part in parts]),
    )


@dataclass
class GrownLeaf:
    """One leaf: its samples' rows, what it sums up to, and whose copy its expert still is."""

    rows: Rows
    columns: Columns
    parent: int = 0
    net: str = ""


@dataclass
class GrownBranch:
    """A leaf that was split: the rows that it had, and its learned gate."""

    rows: Rows
    parent: int = 0
    split: Floats | None = None


@dataclass
class Grown:
    """One owner's leaves and branches by number. Columns and F'F are kept as running sums of integers."""

    owner: int
    leaves: dict[int, GrownLeaf] = field(default_factory=dict)
    branches: dict[int, GrownBranch] = field(default_factory=dict)
    gram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((SIZE + 1, SIZE + 1), np.int64))
    last: int = 0

    def join(self) -> None:
        """Begin with two leaves."""
        _, q, _ = SAMPLES[self.owner]
        self.gram = self.gram + exact_gram(q)
        for rows in np.array_split(np.arange(len(q)), 2):
            number = self._next()
            self.leaves[number] = GrownLeaf(
                rows=rows, columns=columns_of(self.owner, rows), net=f"{self.owner}.{number}"
            )

    def split(self, choice: int, *, learned: bool) -> tuple[int, ...]:
        """Put two exact copies under a leaf; return their numbers, none where it has too few samples."""
        number = sorted(self.leaves)[choice % len(self.leaves)]
        leaf, rng = self.leaves[number], np.random.default_rng(choice)
        first = rng.random(len(leaf.rows)) < 0.5
        if first.all() or not first.any() or self._depth(number) >= 4:
            return ()
        del self.leaves[number]
        gate = rng.normal(size=SIZE + 1).astype(np.float32) if learned else None
        self.branches[number] = GrownBranch(rows=leaf.rows, parent=leaf.parent, split=gate)
        mine = columns_of(self.owner, leaf.rows[first])
        rest = {name: leaf.columns[name] - mine.get(name, 0) for name in leaf.columns}
        theirs = {name: rest[name] for name in columns_of(self.owner, leaf.rows[~first])}
        children = []
        for rows, columns in ((leaf.rows[first], mine), (leaf.rows[~first], theirs)):
            children.append(self._next())
            self.leaves[children[-1]] = GrownLeaf(rows=rows, columns=columns, parent=number, net=leaf.net)
        return tuple(children)

    def merge(self, choice: int) -> None:
        """Make one leaf of two that have the same parent: their columns added."""
        numbers = sorted(self.leaves)
        first = numbers[choice % len(numbers)]
        others = [n for n in numbers if n != first and self.leaves[n].parent == self.leaves[first].parent]
        if not others:
            return
        one, two = self.leaves.pop(first), self.leaves.pop(others[choice % len(others)])
        columns = {
            name: one.columns.get(name, 0) + two.columns.get(name, 0) for name in {*one.columns, *two.columns}
        }
        number = self._next()
        self.leaves[number] = GrownLeaf(
            rows=np.concatenate([one.rows, two.rows]),
            columns={name: np.asarray(columns[name]) for name in columns},
            parent=one.parent,
            net=f"{self.owner}.{number}",
        )
        self._collapse()

    def remove(self, choice: int) -> None:
        """Take a leaf away with its sums; not the last one."""
        if len(self.leaves) > 1:
            gone = self.leaves.pop(sorted(self.leaves)[choice % len(self.leaves)])
            self.gram = self.gram - exact_gram(SAMPLES[self.owner][1][gone.rows])
            self._collapse()

    def contribution(self, *, from_scratch: bool = False, with_sums: bool = True) -> CheckedContribution:
        """What the owner gives; `from_scratch`: all sums made anew of the samples."""
        owner = NODES[self.owner]
        places = [
            LeafContribution(
                leaf=leaf_of(owner, number),
                expert=expert_of(leaf_of(owner, number)),
                class_counts={
                    name: int((SAMPLES[self.owner][2][leaf.rows] == CLASS_NAMES.index(name)).sum())
                    for name in leaf.columns
                },
                prototypes=ENTRY,
                prototype_counts=ENTRY,
                radii=ENTRY,
                columns=ENTRY if with_sums else None,
                parent=self._name(leaf.parent),
            )
            for number, leaf in self.leaves.items()
        ]
        columns = [
            (columns_of(self.owner, leaf.rows) if from_scratch else leaf.columns)
            for leaf in self.leaves.values()
        ]
        rows = np.concatenate([leaf.rows for leaf in self.leaves.values()])
        gram = exact_gram(SAMPLES[self.owner][1][np.sort(rows)]) if from_scratch else self.gram
        sums = OwnerSums(
            owner=owner,
            samples=len(rows),
            columns=np.stack([each[name] for each in columns for name in sorted(each)], axis=1),
            exact=pack_triangle(gram),
        )
        value = Contribution(
            swarm=SwarmId("garden"),
            owner=owner,
            epoch=1,
            trunk=digest_of(b"trunk"),
            leaves=tuple(places),
            created_at=0.0,
            sums=FeatureSums(form="exact", samples=len(rows), tensors=(ENTRY,)) if with_sums else None,
            branches=tuple(
                BranchContribution(
                    leaf=leaf_of(owner, number),
                    prototypes=ENTRY,
                    prototype_counts=ENTRY,
                    radii=ENTRY,
                    parent=self._name(branch.parent),
                    split=None if branch.split is None else ENTRY,
                )
                for number, branch in self.branches.items()
            ),
        )
        return CheckedContribution(
            digest=digest_of(f"{owner} {sorted(self.leaves)}".encode()),
            contribution=value,
            summaries=tuple(summary_of(self.owner, leaf.rows) for leaf in self.leaves.values()),
            sums=sums if with_sums else None,
            branches=tuple(summary_of(self.owner, branch.rows) for branch in self.branches.values()),
            splits=tuple(branch.split for branch in self.branches.values()),
        )

    def nets(self) -> dict[LeafId, str]:
        """Which net each leaf's expert is: copies are the same one."""
        return {leaf_of(NODES[self.owner], number): leaf.net for number, leaf in self.leaves.items()}

    def _next(self) -> int:
        self.last += 1
        return self.last

    def _name(self, number: int) -> str:
        return leaf_of(NODES[self.owner], number) if number else ""

    def _depth(self, number: int) -> int:
        parent = (self.leaves.get(number) or self.branches[number]).parent
        return 1 + self._depth(parent) if parent else 0

    def _collapse(self) -> None:
        """What is alone under a branch, or under one that is gone, moves up."""
        while True:
            below = {number: 0 for number in self.branches}
            for each in (*self.leaves.values(), *self.branches.values()):
                if each.parent:
                    below[each.parent] += 1
            lone = next((number for number, count in below.items() if count < 2), None)
            if lone is None:
                return
            gone = self.branches.pop(lone)
            for each in (*self.leaves.values(), *self.branches.values()):
                if each.parent == lone:
                    each.parent = gone.parent


def entry() -> TensorEntry:
    """Arrays stand in `CheckedContribution` itself here."""
    return TensorEntry(name="x", dtype="float32", shape=(1,), blob=digest_of(b"x"), offset=0, size_bytes=4)


ENTRY = entry()


def solved(
    given: Iterable[CheckedContribution], *, withdrawn: Collection[LeafId] = (), flat: bool = False
) -> tuple[Group, Solution]:
    """The gate over contributions, planned and solved as the coordinator does."""
    checked = {each.contribution.owner: each for each in given}
    statements = [
        Statement(value=each.contribution, digest=each.digest, envelope=b"", key_id="")
        for each in checked.values()
    ]
    heads: Mapping[Any, Any] = {
        leaf.expert: None
        for each in checked.values()
        for leaf in each.contribution.leaves
        if leaf.leaf not in withdrawn
    }
    group = plan_group(statements, heads)
    group = replace(group, branches=()) if flat else group
    ordered = [checked[owner] for owner in sorted(checked)]
    return group, solve_group(ordered, group.leaves, CLASS_NAMES, RIDGES, FIXED_POINT, group.branches)


def bits(found: tuple[Group, Solution]) -> dict[str, bytes]:
    """All that a gate's statement would say of leaves and arrays."""
    group, solution = found
    arrays = {**solution.prototypes, WEIGHTS: solution.weights, "roots": solution.roots}
    arrays[BRANCH_WEIGHTS] = solution.branch_weights
    named = {name: b"" if array is None else array.tobytes() for name, array in arrays.items()}
    return named | {"group": repr((group.leaves, group.branches)).encode()}


def loaded(found: tuple[Group, Solution]) -> tuple[Placed, PrototypeGate, AnalyticGate | None]:
    """The gates of a solution's first ridge, as whoever answers loads them."""
    group, solution = found
    placed = Placed.of(group.leaves, group.branches)
    arrays: dict[str, NDArray[Any]] = dict(solution.prototypes)
    splits = splits_of(arrays, placed.is_learned)
    prototypes = PrototypeGate.from_arrays(
        arrays, leaves=len(group.leaves), temperature=1.0, tree=placed.tree, splits=splits
    )
    if solution.weights is None:
        return placed, prototypes, None
    arrays[WEIGHTS] = solution.weights[0]
    if solution.branch_weights is not None:
        arrays[BRANCH_WEIGHTS] = solution.branch_weights[0]
    analytic = AnalyticGate.from_statement_arrays(
        arrays, group.leaves, CLASS_NAMES, FIXED_POINT, False, placed
    )
    return placed, prototypes, analytic


def numbers(leaves: Sequence[LeafId]) -> list[int]:
    return [number_of(leaf) for leaf in leaves]


def digests(group: Group) -> tuple[Digest, ...]:
    return group.contributions
