"""Whether a contribution is another one with one leaf split into exact copies, and nothing else: pure.

What passes can be taken into a gate without a trial: it changes no answer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.contribution_arrays import CheckedContribution
from swarm.domain.contributions import BranchContribution, Contribution, LeafContribution
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import LeafId
from swarm.domain.manifests import Manifest
from swarm.gating.regions import LeafSummary
from swarm.gating.ridge import OwnerSums

_ROWS = 1 << 22


def check_exact_split(
    before: CheckedContribution,
    after: CheckedContribution,
    manifests: Mapping[str, Manifest],
    min_leaf_count: int,
) -> LeafId:
    """Return the leaf of `before` that is a branch in `after`; raise InvalidInputError if more has changed.

    The branch has the leaf's prototypes, counts, radii and parent. Its children, at least two new leaves of
    min_leaf_count samples or more each, have class counts and columns whose sums are the leaf's, and pin
    versions that compute the same as what answered for it. All other leaves and branches, and F'F, are the
    same. `manifests` are those pinned by their digests, and heads by expert. Reads all of F'F: not for an
    event loop.
    """
    old, new = before.contribution, after.contribution
    subject = f"split by {new.owner}"
    for what, was, now in (("owner", old.owner, new.owner), ("trunk", old.trunk, new.trunk)):
        if was != now:
            raise InvalidInputError(subject, found=f"{what} {now[:60]}", expected=was[:60])
    leaf, branch, children = _split_leaf(old, new)
    _check_others(before, after, leaf.leaf)
    named = f"split of {leaf.leaf}"
    if branch.parent != leaf.parent:
        raise InvalidInputError(
            named, found=f"branch under {branch.parent or 'none'}", expected=leaf.parent or "no parent"
        )
    if not _same_prototypes(before.summary_of(leaf.leaf), after.summary_of(leaf.leaf)):
        raise InvalidInputError(
            named, found="a branch with other prototypes, counts or radii", expected="those of the leaf"
        )
    for child in children:
        if sum(child.class_counts.values()) < min_leaf_count:
            raise InvalidInputError(
                f"{named}, child {child.leaf}",
                found=f"{sum(child.class_counts.values())} samples",
                expected=f"at least {min_leaf_count}",
            )
    _check_counts(named, leaf, children)
    _check_sums(named, before.sums, after.sums)
    if before.sums is not None:
        _check_columns(named, before, after, leaf, children)
    _check_copies(named, leaf, children, manifests)
    return leaf.leaf


def _split_leaf(
    old: Contribution, new: Contribution
) -> tuple[LeafContribution, BranchContribution, list[LeafContribution]]:
    was, now = ({each.leaf: each for each in value.leaves} for value in (old, new))
    gone, come = [leaf for leaf in was if leaf not in now], [leaf for leaf in now if leaf not in was]
    known = {branch.leaf for branch in old.branches}
    added = [branch for branch in new.branches if branch.leaf not in known]
    children = [now[leaf] for leaf in come]
    if (
        len(gone) != 1
        or [branch.leaf for branch in added] != gone
        or len(new.branches) != len(old.branches) + 1
        or len(children) < 2
        or any(child.parent != gone[0] for child in children)
    ):
        raise InvalidInputError(
            f"split by {new.owner}",
            found=f"{_named(gone)} gone, {_named(come)} new, {_named([each.leaf for each in added])} split",
            expected="one leaf that is a branch now, with two or more new leaves right under it",
        )
    return was[gone[0]], added[0], children


def _check_others(before: CheckedContribution, after: CheckedContribution, split: LeafId) -> None:
    old, new = before.contribution, after.contribution
    now = {leaf.leaf: leaf for leaf in new.leaves}
    for leaf in old.leaves:
        if leaf.leaf == split:
            continue
        kept = now[leaf.leaf]
        is_same = (
            (leaf.expert, leaf.parent, leaf.manifest) == (kept.expert, kept.parent, kept.manifest)
            and dict(leaf.class_counts) == dict(kept.class_counts)
            and _same_prototypes(before.summary_of(leaf.leaf), after.summary_of(leaf.leaf))
        )
        if is_same and before.sums is not None and after.sums is not None:
            is_same = np.array_equal(before.columns_of(leaf.leaf), after.columns_of(leaf.leaf))
        if not is_same:
            raise _changed(f"leaf {leaf.leaf}", split)
    branches = {branch.leaf: branch for branch in new.branches}
    for branch in old.branches:
        found = branches.get(branch.leaf)
        is_same = (
            found is not None
            and found.parent == branch.parent
            and _same_prototypes(before.summary_of(branch.leaf), after.summary_of(branch.leaf))
            and _same_array(before.split_of(branch.leaf), after.split_of(branch.leaf))
        )
        if not is_same:
            raise _changed(f"branch {branch.leaf}", split)


def _check_counts(subject: str, leaf: LeafContribution, children: Sequence[LeafContribution]) -> None:
    total: dict[str, int] = {}
    for child in children:
        for name, count in child.class_counts.items():
            total[name] = total.get(name, 0) + count
    if total != dict(leaf.class_counts):
        raise InvalidInputError(
            subject,
            found=f"class counts {_counts(total)} of all children",
            expected=f"the leaf's, {_counts(leaf.class_counts)}",
        )


def _check_sums(subject: str, was: OwnerSums | None, now: OwnerSums | None) -> None:
    if was is None and now is None:
        return
    is_same = was is not None and now is not None and was.samples == now.samples and _same_gram(was, now)
    if not is_same:
        raise InvalidInputError(subject, found="another F'F", expected="the very one: no sample has changed")


def _check_columns(
    subject: str,
    before: CheckedContribution,
    after: CheckedContribution,
    leaf: LeafContribution,
    children: Sequence[LeafContribution],
) -> None:
    names = sorted(leaf.class_counts)
    left = before.columns_of(leaf.leaf).copy()
    for child in children:
        columns = after.columns_of(child.leaf)
        for column, name in enumerate(sorted(child.class_counts)):
            left[:, names.index(name)] -= columns[:, column]
    if left.any():
        raise InvalidInputError(
            subject, found="columns of children that do not add up", expected="the leaf's, exactly"
        )


def _check_copies(
    subject: str,
    leaf: LeafContribution,
    children: Sequence[LeafContribution],
    manifests: Mapping[str, Manifest],
) -> None:
    parent = manifests.get(leaf.manifest or leaf.expert)
    if parent is None:
        raise InvalidInputError(subject, found=f"no version of {leaf.expert}", expected="what answers for it")
    for child in children:
        copy = manifests.get(child.manifest) if child.manifest else None
        if copy is None or copy.expert != child.expert:
            raise InvalidInputError(
                f"{subject}, child {child.leaf}",
                found="no pinned version"
                if not child.manifest
                else f"version {child.manifest[:12]}, unknown",
                expected=f"a published version of {child.expert}, pinned",
            )
        if copy.computes != parent.computes:
            raise InvalidInputError(
                f"{subject}, child {child.leaf}",
                found=f"{copy.expert}@{copy.version}, which computes something else",
                expected=f"an exact copy of {parent.expert}@{parent.version}",
            )


def _same_prototypes(was: LeafSummary, now: LeafSummary) -> bool:
    return (
        np.array_equal(was.prototypes, now.prototypes)
        and np.array_equal(was.counts, now.counts)
        and np.array_equal(was.radii, now.radii)
    )


def _same_gram(was: OwnerSums, now: OwnerSums) -> bool:
    if was.compact is not None and now.compact is not None:
        mine, others = was.compact.arrays(), now.compact.arrays()
        return mine.keys() == others.keys() and all(_same_array(mine[name], others[name]) for name in mine)
    if was.compact is not None or now.compact is not None:
        return False
    mine_packed, others_packed = was.triangle(), now.triangle()
    return mine_packed.shape == others_packed.shape and all(
        np.array_equal(mine_packed[start : start + _ROWS], others_packed[start : start + _ROWS])
        for start in range(0, len(mine_packed), _ROWS)
    )


def _same_array(was: NDArray[np.generic] | None, now: NDArray[np.generic] | None) -> bool:
    if was is None or now is None:
        return was is now
    return was.dtype == now.dtype and np.array_equal(was, now)


def _changed(what: str, split: LeafId) -> InvalidInputError:
    return InvalidInputError(
        f"split of {split}",
        found=f"another {what} than before",
        expected="only the leaf that is split changes",
    )


def _named(leaves: Sequence[str]) -> str:
    return ", ".join(leaves[:5]) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {counts[name]}" for name in sorted(counts)[:5])
