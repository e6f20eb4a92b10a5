"""Whether a contribution may enter the gate: pure rules, each refusal with what was found and expected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.digests import verify_digest
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    TrunkMismatchError,
)
from swarm.domain.ids import Digest, ExpertId, expert_of, owner_of
from swarm.domain.manifests import Contribution, LeafContribution, Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification, check_class_names
from swarm.domain.tensors import TensorEntry
from swarm.gating.regions import LeafSummary
from swarm.modules.packing import unpack

LARGEST_COUNT = 10**9
"""Caps an owner's influence: no leaf may claim more samples than this in one prototype."""
LARGEST_FEATURE = 1e6
"""Squared distances of features within this bound stay finite in float32."""
MAX_CONTRIBUTION_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedContribution:
    """A contribution that passed every check; `summaries[i]` belongs to `contribution.leaves[i]`."""

    digest: Digest
    contribution: Contribution
    summaries: tuple[LeafSummary, ...]


def check_statement(contribution: Contribution, specification: Specification, caller: Caller) -> None:
    """Raise unless the caller may contribute these leaves under this specification (arrays not yet read)."""
    subject = f"contribution of {contribution.owner}"
    if caller.role != "node" or caller.id != contribution.owner:
        raise NotAuthorisedError(
            subject, found=f"sent by {caller.role} {caller.id}", expected="its own owner"
        )
    if contribution.swarm != specification.swarm:
        raise InvalidInputError(subject, found=f"swarm {contribution.swarm}", expected=specification.swarm)
    if contribution.trunk != specification.trunk.digest:
        raise TrunkMismatchError(
            subject,
            found=f"features of trunk {contribution.trunk[:12]}",
            expected=f"trunk {specification.trunk.digest[:12]}",
            remedy="fetch the swarm's specification and train again",
        )
    if contribution.epoch < 1 or not math.isfinite(contribution.created_at):
        raise InvalidInputError(subject, found=f"epoch {contribution.epoch}", expected="1 or more")
    limit = specification.max_leaves_per_owner
    if not 1 <= len(contribution.leaves) <= limit:
        raise InvalidInputError(subject, found=f"{len(contribution.leaves)} leaves", expected=f"1 to {limit}")
    names = [leaf.leaf for leaf in contribution.leaves]
    if len(set(names)) != len(names):
        raise InvalidInputError(subject, found="a leaf twice", expected="distinct leaves")
    for leaf in contribution.leaves:
        _check_leaf(leaf, contribution, specification)


def _check_leaf(leaf: LeafContribution, contribution: Contribution, specification: Specification) -> None:
    subject = f"leaf {leaf.leaf[:60]}"
    if owner_of(leaf.leaf) != contribution.owner or expert_of(leaf.leaf) != leaf.expert:
        raise NotAuthorisedError(
            subject,
            found=f"expert {leaf.expert[:60]}",
            expected=f"a leaf and its expert of {contribution.owner}",
        )
    check_class_names(tuple(leaf.class_counts))
    counts = list(leaf.class_counts.values())
    if not counts or min(counts) < 1 or sum(counts) > LARGEST_COUNT:
        raise InvalidInputError(subject, found=f"class counts {counts[:8]}", expected=f"1 to {LARGEST_COUNT}")
    if sum(counts) < specification.min_leaf_count:
        raise InvalidInputError(
            subject,
            found=f"{sum(counts)} samples",
            expected=f"at least {specification.min_leaf_count}",
            remedy="leaves below the minimum count stay at home",
        )
    rows = leaf.prototypes.shape[0] if leaf.prototypes.shape else 0
    if not 1 <= rows <= specification.max_prototypes_per_leaf:
        raise InvalidInputError(
            subject, found=f"{rows} prototypes", expected=f"1 to {specification.max_prototypes_per_leaf}"
        )
    _check_entry(subject, "prototypes", leaf.prototypes, "float32", (rows, specification.trunk.feature_size))
    _check_entry(subject, "prototype counts", leaf.prototype_counts, "int64", (rows,))
    _check_entry(subject, "radii", leaf.radii, "float32", (rows, 3))


def _check_entry(subject: str, what: str, entry: TensorEntry, dtype: str, shape: tuple[int, ...]) -> None:
    if entry.dtype != dtype or tuple(entry.shape) != shape:
        raise ShapeMismatchError(
            f"{what} of {subject}",
            found=f"{entry.dtype} {list(entry.shape)}",
            expected=f"{dtype} {list(shape)}",
        )


def check_experts(contribution: Contribution, heads: Mapping[ExpertId, Manifest]) -> None:
    """Raise unless every leaf's expert has a head in `heads` that its owner published and that fits."""
    for leaf in contribution.leaves:
        manifest = heads.get(leaf.expert)
        if manifest is None:
            raise NotFoundError(
                f"expert {leaf.expert}",
                found="no published version",
                expected=f"the expert of leaf {leaf.leaf}",
                remedy="publish the expert's modules first, then contribute",
            )
        if manifest.owner != contribution.owner or manifest.leaf != leaf.leaf:
            raise NotAuthorisedError(
                f"expert {leaf.expert}", found=f"owned by {manifest.owner}", expected=contribution.owner
            )
        if manifest.trunk != contribution.trunk:
            raise TrunkMismatchError(
                f"{leaf.expert}@{manifest.version}",
                found=f"trunk {manifest.trunk[:12]}",
                expected=f"trunk {contribution.trunk[:12]}",
            )
        unknown = sorted(set(leaf.class_counts) - set(manifest.class_names))
        if unknown:
            raise InvalidInputError(
                f"leaf {leaf.leaf}",
                found=f"samples of {', '.join(unknown[:5])}",
                expected=f"classes that {leaf.expert}@{manifest.version} knows",
            )


def check_epoch(contribution: Contribution, last_epoch: int) -> None:
    """Raise ConflictError unless the contribution is newer than the owner's last accepted one."""
    if contribution.epoch <= last_epoch:
        raise ConflictError(
            f"contribution of {contribution.owner}",
            found=f"epoch {contribution.epoch}",
            expected=f"more than {last_epoch}",
            remedy="contribute again with the next epoch",
        )


def read_arrays(digest: Digest, contribution: Contribution, arrays: bytes) -> CheckedContribution:
    """Return the contribution with its arrays, after checking digest, finite values, counts and radii.

    Heavy for large contributions: call it outside the event loop.
    """
    subject = f"contribution of {contribution.owner}"
    entries = [
        e for leaf in contribution.leaves for e in (leaf.prototypes, leaf.prototype_counts, leaf.radii)
    ]
    blobs = {entry.blob for entry in entries}
    if len(blobs) != 1:
        raise InvalidInputError(subject, found=f"{len(blobs)} blobs", expected="all arrays in one blob")
    verify_digest(arrays, next(iter(blobs)), f"arrays of {subject}")
    summaries = tuple(_summary(leaf, memoryview(arrays)) for leaf in contribution.leaves)
    return CheckedContribution(digest=digest, contribution=contribution, summaries=summaries)


def _summary(leaf: LeafContribution, arrays: memoryview) -> LeafSummary:
    subject = f"leaf {leaf.leaf}"
    prototypes, counts, radii = (
        unpack((entry,), lambda _: arrays)[entry.name]
        for entry in (leaf.prototypes, leaf.prototype_counts, leaf.radii)
    )
    _check_values(subject, "prototypes", prototypes, -LARGEST_FEATURE, LARGEST_FEATURE)
    _check_values(subject, "radii", radii, 0.0, 2 * LARGEST_FEATURE * math.sqrt(prototypes.shape[1]))
    _check_values(subject, "prototype counts", counts, 1, LARGEST_COUNT)
    if np.any(np.diff(radii, axis=1) < 0):
        raise InvalidInputError(
            f"radii of {subject}", found="a falling quantile", expected="rising quantiles"
        )
    total, promised = int(counts.sum()), sum(leaf.class_counts.values())
    if total != promised:
        raise InvalidInputError(
            f"counts of {subject}",
            found=f"{total} samples in prototypes and {promised} in classes",
            expected="equal sums",
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
