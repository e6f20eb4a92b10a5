"""A contribution may come in without a trial only where it is another one with a leaf split into copies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator.contribution_arrays import CheckedContribution, check_arrays, read_arrays
from coordinator.contribution_checks import check_experts, check_statement
from coordinator.split_checks import check_exact_split
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    SwarmError,
)
from swarm.domain.ids import LeafId, NodeId, expert_of, leaf_of
from swarm.domain.manifests import Correction, Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification
from tests.support.contributions import GivenBranch, GivenLeaf, grown_contribution
from tests.support.trust import manifest, module, specification

SIZE = 6
ADA, CALLER = NodeId("ada"), Caller(role="node", id=NodeId("ada"))
RNG = np.random.default_rng(3)
FEATURES = RNG.normal(size=(60, SIZE)).astype(np.float32)
OTHERS = RNG.normal(size=(30, SIZE)).astype(np.float32)
LABELS = (["beech"] * 10 + ["élm"] * 10) * 3
FIRST = np.arange(60) < 25
Leaves = dict[int, GivenLeaf]
Branches = dict[int, GivenBranch]


def spec() -> Specification:
    made = specification()
    return replace(
        made,
        trunk=replace(made.trunk, feature_size=SIZE),
        min_leaf_count=10,
        max_leaves_per_owner=4,
        max_prototypes_per_leaf=8,
    )


def version(number: int, **changes: Any) -> Manifest:
    """The head of ada's expert of that number: all are copies."""
    leaf = leaf_of(ADA, number)
    made = replace(manifest("ada"), leaf=leaf, expert=expert_of(leaf), trunk=spec().trunk.digest)
    return replace(made, **changes)


def pin(number: int) -> str:
    return digest_of(f"version of {number}".encode())


def before(**changes: Any) -> tuple[Leaves, Branches]:
    leaves = {
        1: GivenLeaf(features=FEATURES, labels=LABELS),
        2: GivenLeaf(features=OTHERS, labels=LABELS[:30]),
    }
    return leaves, {}


def part(rows: np.ndarray, **changes: Any) -> GivenLeaf:
    labels = [label for label, taken in zip(LABELS, rows, strict=True) if taken]
    return GivenLeaf(features=FEATURES[rows], labels=labels, **{"parent": 1, **changes})


def after() -> tuple[Leaves, Branches]:
    leaves = {
        3: part(FIRST, manifest=pin(3)),
        2: GivenLeaf(features=OTHERS, labels=LABELS[:30]),
        4: part(~FIRST, manifest=pin(4)),
    }
    return leaves, {1: GivenBranch(features=FEATURES)}


MANIFESTS: dict[str, Manifest] = {
    "ada.e1": version(1),
    "ada.e2": version(2),
    pin(3): version(3),
    pin(4): version(4),
}


def given_(made: tuple[Leaves, Branches], form: str = "exact") -> CheckedContribution:
    value, blob = grown_contribution("ada", *made, spec(), form=form)
    check_statement(value, spec(), CALLER)
    return check_arrays(digest_of(b"x"), value, blob, spec().trunk)


@pytest.mark.parametrize("form", ["exact", "compact", "none"])
def test_a_split_into_exact_copies_passes(form: str) -> None:
    found = check_exact_split(given_(before(), form), given_(after(), form), MANIFESTS, 20)
    assert found == "ada.l1"


def test_a_split_of_a_child_passes_and_so_does_one_with_a_learned_gate() -> None:
    first = given_(after())
    leaves, branches = after()
    again = FIRST & (np.arange(60) % 2 == 0)
    leaves |= {5: part(again, parent=3, manifest=pin(5)), 6: part(FIRST & ~again, parent=3, manifest=pin(6))}
    del leaves[3]
    branches[3] = GivenBranch(features=FEATURES[FIRST], parent=1, split=np.ones(SIZE + 1, np.float32))
    manifests = MANIFESTS | {pin(5): version(5), pin(6): version(6)}
    assert check_exact_split(first, given_((leaves, branches)), manifests, 5) == "ada.l3"


Change = Callable[[Leaves, Branches], None]


def _another_sample(leaves: Leaves, _: Branches) -> None:
    features = FEATURES[FIRST].copy()
    features[0] += 1
    leaves[3] = replace(leaves[3], features=features)


def _another_class(leaves: Leaves, _: Branches) -> None:
    leaves[3] = replace(leaves[3], labels=["élm", *leaves[3].labels[1:]])


def _others_changed(leaves: Leaves, _: Branches) -> None:
    leaves[2] = replace(leaves[2], manifest=pin(2))


def _others_moved(leaves: Leaves, _: Branches) -> None:
    leaves[2] = replace(leaves[2], parent=1)


def _others_grew(leaves: Leaves, _: Branches) -> None:
    leaves[2] = GivenLeaf(features=OTHERS[::-1] + 1, labels=LABELS[:30])


def _another_region(_: Leaves, branches: Branches) -> None:
    branches[1] = GivenBranch(features=FEATURES[:50])


def _unpinned(leaves: Leaves, _: Branches) -> None:
    leaves[4] = replace(leaves[4], manifest="")


def _trained(leaves: Leaves, _: Branches) -> None:
    leaves[4] = replace(leaves[4], manifest=pin(7))


def _an_others(leaves: Leaves, _: Branches) -> None:
    leaves[4] = replace(leaves[4], manifest=pin(3))


def _not_split(leaves: Leaves, branches: Branches) -> None:
    leaves.clear(), branches.clear()
    leaves |= before()[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_another_sample, "F'F"),
        (_another_class, "class counts"),
        (_others_changed, "leaf ada.l2"),
        (_others_moved, "leaf ada.l2"),
        (_others_grew, "leaf ada.l2"),
        (_another_region, "other prototypes"),
        (_unpinned, "no pinned version"),
        (_trained, "computes something else"),
        (_an_others, "unknown"),
        (_not_split, "none gone"),
    ],
)
def test_what_changes_more_than_the_tree_is_refused_by_name(change: Change, named: str) -> None:
    leaves, branches = after()
    change(leaves, branches)
    trained = version(4, modules=(module("trained"),))
    with pytest.raises(InvalidInputError, match=named):
        check_exact_split(given_(before()), given_((leaves, branches)), MANIFESTS | {pin(7): trained}, 20)


def test_columns_that_do_not_add_up_are_refused_and_so_are_children_that_are_too_small() -> None:
    first, second = given_(before()), given_(after())
    assert second.sums is not None
    moved = second.sums.columns.copy()
    moved[0, 0] += 1
    with pytest.raises(InvalidInputError, match="do not add up"):
        check_exact_split(first, replace(second, sums=replace(second.sums, columns=moved)), MANIFESTS, 20)
    with pytest.raises(InvalidInputError, match=r"child ada.l3.*25 samples"):
        check_exact_split(first, second, MANIFESTS, 26)
    with pytest.raises(InvalidInputError, match="no version"):
        check_exact_split(first, second, {}, 20)


def test_a_copy_computes_the_same_whoever_owns_it_and_whatever_it_is_called() -> None:
    parent, copy = version(1), version(3, version=4, parent_version=3, metrics={"a": 1.0}, created_at=9.0)
    assert parent.computes == copy.computes
    correction = Correction(
        modules=(module("more"),), base=digest_of(b"g"), class_temperature=0.2, metrics={}, cost=parent.cost
    )
    for other in (
        replace(parent, modules=(module("trained"),)),
        replace(parent, class_names=tuple(reversed(parent.class_names))),
        replace(parent, net=replace(parent.net, factory="mlp:9x9")),
        replace(parent, correction=correction),
    ):
        assert other.computes != parent.computes


# What the coordinator refuses before it looks at arrays


def tree_changed(change: Callable[[Contribution], Contribution]) -> Contribution:
    return change(grown_contribution("ada", *after(), spec())[0])


def _leaf(value: Contribution, row: int, **changes: Any) -> Contribution:
    leaves = list(value.leaves)
    leaves[row] = replace(leaves[row], **changes)
    return replace(value, leaves=tuple(leaves))


def _branch(value: Contribution, **changes: Any) -> Contribution:
    return replace(value, branches=(replace(value.branches[0], **changes),))


@pytest.mark.parametrize(
    ("change", "refusal", "named"),
    [
        (lambda v: _leaf(v, 0, parent="ada.l9"), InvalidInputError, "unknown parent"),
        (lambda v: _leaf(v, 0, parent=""), InvalidInputError, "at least two"),
        (lambda v: replace(v, branches=()), InvalidInputError, "unknown parent"),
        (lambda v: _branch(v, parent="ada.l1"), InvalidInputError, "cycle"),
        (lambda v: _branch(v, leaf=LeafId("ada.l2")), InvalidInputError, "twice"),
        (lambda v: _branch(v, leaf=LeafId("bob.l1")), NotAuthorisedError, "bob"),
        (lambda v: replace(v, branches=v.branches * 3), InvalidInputError, "3 branches over 3 leaves"),
        (lambda v: _leaf(v, 0, manifest="../etc"), InvalidInputError, "digest"),
        (lambda v: _branch(v, radii=v.branches[0].prototypes), ShapeMismatchError, "radii of branch"),
        (lambda v: _branch(v, split=v.branches[0].radii), ShapeMismatchError, "learned gate of branch"),
        (lambda v: _branch(v, prototypes=v.branches[0].radii), ShapeMismatchError, "prototypes of branch"),
    ],
)
def test_branches_that_make_no_tree_or_are_misshapen_are_refused_by_name(
    change: Callable[[Contribution], Contribution], refusal: type[SwarmError], named: str
) -> None:
    with pytest.raises(refusal, match=named):
        check_statement(tree_changed(change), spec(), CALLER)


def test_a_learned_gate_over_three_children_is_refused() -> None:
    leaves, branches = after()
    leaves[2] = replace(leaves[2], parent=1)
    branches[1] = replace(branches[1], split=np.zeros(SIZE + 1, np.float32))
    value, _ = grown_contribution("ada", leaves, branches, spec())
    with pytest.raises(InvalidInputError, match="over 3 children"):
        check_statement(value, spec(), CALLER)


def test_arrays_of_branches_come_in_as_they_went_out_and_false_ones_are_refused() -> None:
    leaves, branches = after()
    split = np.arange(SIZE + 1, dtype=np.float32)
    branches[1] = replace(branches[1], split=split)
    found = given_((leaves, branches))
    np.testing.assert_array_equal(found.split_of(LeafId("ada.l1")), split)
    whole = given_(before())
    for name in ("prototypes", "counts", "radii"):
        mine, others = (getattr(each.summary_of(LeafId("ada.l1")), name) for each in (found, whole))
        np.testing.assert_array_equal(mine, others)
    branches[1] = replace(branches[1], split=np.full(SIZE + 1, np.nan, np.float32))
    value, blob = grown_contribution("ada", leaves, branches, spec())
    with pytest.raises(InvalidInputError, match=r"learned gate of branch ada\.l1"):
        read_arrays(digest_of(b"x"), value, blob)


def test_a_pinned_version_must_be_published_and_of_the_leafs_own_expert() -> None:
    value, _ = grown_contribution("ada", *after(), spec())
    heads = {version(number).expert: version(number) for number in (2, 3, 4)}
    check_experts(value, heads, {pin(3): version(3), pin(4): version(4)})
    with pytest.raises(NotFoundError, match="no such version"):
        check_experts(value, heads, {pin(3): version(3)})
    with pytest.raises(NotFoundError, match=r"one of ada\.e3"):
        check_experts(value, heads, {pin(3): version(3), pin(4): version(3)})
