"""A contribution's arrays: views into a file of its owner's, and whether they can be true. Pure."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.contribution_checks import LARGEST_COUNT, arrays_blob
from swarm.digests import verify_digest
from swarm.domain.contributions import BranchContribution, Contribution, LeafContribution
from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.ids import Digest, LeafId
from swarm.domain.specification import TrunkReference
from swarm.gating.regions import LeafSummary
from swarm.gating.ridge import OwnerSums, check_sums
from swarm.gating.sums import CompactSums
from swarm.modules.packing import unpack

LARGEST_FEATURE = 1e6
"""Squared distances of features within this bound stay finite in float32."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedContribution:
    """A contribution that passed every check; `summaries[i]` belongs to `contribution.leaves[i]`.

    `branches` and `splits` belong to `contribution.branches`; a split float32 [R + 1], or None. `sums` are
    views into the contribution's arrays, targets in the order of leaves and of their sorted class names; None
    where the owner gave no sums.
    """

    digest: Digest
    contribution: Contribution
    summaries: tuple[LeafSummary, ...]
    sums: OwnerSums | None = None
    branches: tuple[LeafSummary, ...] = ()
    splits: tuple[NDArray[np.float32] | None, ...] = ()

    def summary_of(self, leaf: LeafId) -> LeafSummary:
        """Return the prototypes of one of its leaves or branches; NotFoundError for another."""
        value = self.contribution
        names = [each.leaf for each in value.leaves] + [each.leaf for each in value.branches]
        known = zip(names, (*self.summaries, *self.branches), strict=True)
        found = next((summary for name, summary in known if name == leaf), None)
        if found is None:
            raise NotFoundError(f"leaf {leaf}", found="not in it", expected=f"a leaf of {value.owner}")
        return found

    def split_of(self, leaf: LeafId) -> NDArray[np.float32] | None:
        """Return the learned gate of one of its branches, None where it has none."""
        pairs = zip(self.contribution.branches, self.splits, strict=True)
        return next((split for branch, split in pairs if branch.leaf == leaf), None)

    def columns_of(self, leaf: LeafId) -> NDArray[np.int64]:
        """Return F't of one of its leaves, int64 [M, classes], classes sorted; NotFoundError without sums."""
        start = 0
        for each in self.contribution.leaves:
            end = start + len(each.class_counts)
            if each.leaf == leaf and self.sums is not None:
                return self.sums.columns[:, start:end]
            start = end
        raise NotFoundError(f"columns of leaf {leaf}", found="none", expected="a contribution with sums")


def read_arrays(
    digest: Digest, contribution: Contribution, arrays: bytes | memoryview
) -> CheckedContribution:
    """Return the contribution with its arrays, after checking digest, finite values, counts and radii.

    Sums are only looked at by `check_arrays`. Heavy for large contributions: the solver's child calls it.
    """
    subject, view = f"contribution of {contribution.owner}", memoryview(arrays)
    blob, _ = arrays_blob(contribution)
    verify_digest(view, blob, f"arrays of {subject}")
    return CheckedContribution(
        digest=digest,
        contribution=contribution,
        summaries=tuple(_summary(leaf, view) for leaf in contribution.leaves),
        sums=_owner_sums(contribution, view),
        branches=tuple(_branch_summary(branch, view) for branch in contribution.branches),
        splits=tuple(_split(branch, view) for branch in contribution.branches),
    )


def check_arrays(
    digest: Digest, contribution: Contribution, arrays: bytes | memoryview, trunk: TrunkReference
) -> CheckedContribution:
    """Return what `read_arrays` does, after checking too that the sums can be true (`ridge.check_sums`)."""
    checked = read_arrays(digest, contribution, arrays)
    if checked.sums is not None:
        check_sums(checked.sums, np.array(_target_counts(contribution), np.int64), trunk.fixed_point)
    return checked


def _target_counts(contribution: Contribution) -> list[int]:
    return [leaf.class_counts[name] for leaf in contribution.leaves for name in sorted(leaf.class_counts)]


def _owner_sums(contribution: Contribution, arrays: memoryview) -> OwnerSums | None:
    sums = contribution.sums
    if sums is None:
        return None
    columns = [
        unpack((leaf.columns,), lambda _: arrays)[leaf.columns.name].astype(np.int64)
        for leaf in contribution.leaves
        if leaf.columns is not None
    ]
    tensors = unpack(sums.tensors, lambda _: arrays)
    compact = CompactSums.from_arrays(tensors) if sums.form == "compact" else None
    return OwnerSums(
        owner=contribution.owner,
        samples=sums.samples,
        columns=np.concatenate(columns, axis=1),
        exact=None if compact is not None else tensors["gram"],
        compact=compact,
    )


def _summary(leaf: LeafContribution, arrays: memoryview) -> LeafSummary:
    subject = f"leaf {leaf.leaf}"
    found = _prototypes(subject, leaf, arrays)
    total, promised = int(found.counts.sum()), sum(leaf.class_counts.values())
    if total != promised:
        raise InvalidInputError(
            f"counts of {subject}",
            found=f"{total} samples in prototypes and {promised} in classes",
            expected="equal sums",
        )
    return found


def _branch_summary(branch: BranchContribution, arrays: memoryview) -> LeafSummary:
    subject = f"branch {branch.leaf}"
    found = _prototypes(subject, branch, arrays)
    if (total := int(found.counts.sum())) > LARGEST_COUNT:
        raise InvalidInputError(
            f"counts of {subject}", found=f"{total} samples", expected=f"at most {LARGEST_COUNT}"
        )
    return found


def _split(branch: BranchContribution, arrays: memoryview) -> NDArray[np.float32] | None:
    if branch.split is None:
        return None
    found: NDArray[np.float32] = unpack((branch.split,), lambda _: arrays)[branch.split.name]
    _check_values(f"branch {branch.leaf}", "learned gate", found, -LARGEST_FEATURE, LARGEST_FEATURE)
    return found


def _prototypes(
    subject: str, place: LeafContribution | BranchContribution, arrays: memoryview
) -> LeafSummary:
    prototypes, counts, radii = (
        unpack((entry,), lambda _: arrays)[entry.name]
        for entry in (place.prototypes, place.prototype_counts, place.radii)
    )
    _check_values(subject, "prototypes", prototypes, -LARGEST_FEATURE, LARGEST_FEATURE)
    _check_values(subject, "radii", radii, 0.0, 2 * LARGEST_FEATURE * math.sqrt(prototypes.shape[1]))
    _check_values(subject, "prototype counts", counts, 1, LARGEST_COUNT)
    if np.any(np.diff(radii, axis=1) < 0):
        raise InvalidInputError(
            f"radii of {subject}", found="a falling quantile", expected="rising quantiles"
        )
    return LeafSummary(prototypes=prototypes, counts=counts, radii=radii, flops=0)


def _check_values(
    subject: str, what: str, values: NDArray[np.generic], lowest: float, highest: float
) -> None:
    numbers = values.astype(np.float64)
    bad = ~(np.isfinite(numbers) & (numbers >= lowest) & (numbers <= highest))
    if np.any(bad):
        raise InvalidInputError(
            f"{what} of {subject}",
            found=f"{numbers[bad][0]} and {int(bad.sum()) - 1} more",
            expected=f"finite values of {lowest:g} to {highest:g}",
        )
