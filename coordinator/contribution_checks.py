"""Whether a contribution may enter the gate: pure rules, each refusal with what was found and expected."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from swarm.domain.contributions import BranchContribution, Contribution, FeatureSums, LeafContribution
from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    TrunkMismatchError,
)
from swarm.domain.ids import Digest, ExpertId, digest, expert_of, owner_of
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import (
    MAX_EXPERT_FLOPS,
    Specification,
    TrunkReference,
    check_class_names,
)
from swarm.domain.tensors import TensorEntry
from swarm.gating.regions import MIN_CLASS_COUNT, region_columns
from swarm.gating.sums import MAX_SAMPLES, triangle_length
from swarm.gating.tree import Tree
from swarm.rpc.options import MAX_CONTRIBUTION_BYTES

LARGEST_COUNT = 10**9
"""Caps an owner's influence: no leaf may claim more samples than this in one prototype."""


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
    _check_branches(contribution, specification)
    specification.check_owners_classes(contribution.class_names(), f"class names of {subject}")
    _check_sums(contribution, specification.trunk)
    _, size = arrays_blob(contribution)
    if size > MAX_CONTRIBUTION_BYTES:
        raise ExhaustedError(
            subject,
            found=f"{size} bytes",
            expected=f"at most {MAX_CONTRIBUTION_BYTES}",
            remedy="contribute compact sums: swarm train --sums compact",
        )


def arrays_blob(contribution: Contribution) -> tuple[Digest, int]:
    """Return the digest and the size in bytes of the one blob that all arrays lie in."""
    entries = _entries(contribution)
    blobs = {entry.blob for entry in entries}
    if len(blobs) != 1:
        raise InvalidInputError(
            f"contribution of {contribution.owner}",
            found=f"{len(blobs)} blobs",
            expected="all arrays in one blob",
        )
    return next(iter(blobs)), max(entry.offset + entry.size_bytes for entry in entries)


def _entries(contribution: Contribution) -> list[TensorEntry]:
    found = [
        entry
        for leaf in contribution.leaves
        for entry in (leaf.prototypes, leaf.prototype_counts, leaf.radii, leaf.columns)
        if entry is not None
    ]
    found += [
        entry
        for branch in contribution.branches
        for entry in (branch.prototypes, branch.prototype_counts, branch.radii, branch.split)
        if entry is not None
    ]
    return found + list(contribution.sums.tensors if contribution.sums else ())


def _check_branches(contribution: Contribution, specification: Specification) -> None:
    """Raise unless the branches make a tree over the leaves, each of two children or more, with sound arrays.

    Refused by name: branches of others, as many of them as leaves, an unknown parent, a cycle, a branch that
    is a leaf as well, too many above each other, a learned gate of other than two children.
    """
    leaves, branches = contribution.leaves, contribution.branches
    if len(branches) >= len(leaves):
        raise InvalidInputError(
            f"contribution of {contribution.owner}",
            found=f"{len(branches)} branches over {len(leaves)} leaves",
            expected="fewer branches than leaves: each has two children or more",
        )
    for branch in branches:
        if owner_of(branch.leaf) != contribution.owner:
            raise NotAuthorisedError(
                f"branch {branch.leaf[:60]}",
                found=f"a branch of {owner_of(branch.leaf)}",
                expected=f"one of {contribution.owner}",
            )
    tree = Tree.of(leaves, branches)
    for branch, children in zip(branches, tree.children, strict=True):
        subject = f"branch {branch.leaf}"
        if len(children) < 2:
            raise InvalidInputError(
                subject,
                found=f"{len(children)} child",
                expected="at least two",
                remedy="let it take its place",
            )
        if branch.split is not None and len(children) != 2:
            raise InvalidInputError(
                subject,
                found=f"a learned gate over {len(children)} children",
                expected="two: it is a binary gate",
            )
        _check_prototypes(subject, branch, specification)
        if branch.split is not None:
            columns = len(region_columns(specification.trunk.feature_size))
            _check_entry(subject, "learned gate", branch.split, ("float32",), (columns + 1,))


def _check_sums(contribution: Contribution, trunk: TrunkReference) -> None:
    sums, subject = contribution.sums, f"sums of {contribution.owner}"
    for leaf in contribution.leaves:
        if (leaf.columns is None) != (sums is None):
            raise InvalidInputError(
                f"leaf {leaf.leaf}",
                found="no columns" if leaf.columns is None else "columns without sums",
                expected="columns for each leaf and F'F for all, or neither",
            )
        if leaf.columns is not None:
            shape = (trunk.sum_size, len(leaf.class_counts))
            _check_entry(f"leaf {leaf.leaf}", "columns", leaf.columns, ("int32", "int64"), shape)
    if sums is None:
        return
    counted = sum(sum(leaf.class_counts.values()) for leaf in contribution.leaves)
    if sums.samples != counted or not 1 <= counted <= MAX_SAMPLES:
        raise InvalidInputError(
            subject,
            found=f"{sums.samples} samples, and {counted} in class counts",
            expected=f"the same, 1 to {MAX_SAMPLES}",
        )
    _check_form(sums, subject, trunk.sum_size)


def _check_form(sums: FeatureSums, subject: str, size: int) -> None:
    names = ["gram"] if sums.form == "exact" else ["diagonal", "factor_scales", "factors"]
    given = sorted(entry.name for entry in sums.tensors)
    has_minor = sums.form == "compact" and "minor_factors" in given
    if given != names + ["minor_factors"] * has_minor:
        raise InvalidInputError(
            subject,
            found=f"tensors {', '.join(entry.name[:40] for entry in sums.tensors[:5])}",
            expected=f"{', '.join(names)} for {sums.form} sums",
        )
    if sums.form == "exact":
        shape = (triangle_length(size),)
        _check_entry(subject, "gram", sums.tensor("gram"), ("int32", "int64"), shape)
        return
    factors = [sums.tensor(name) for name in ("factors", "minor_factors")[: 1 + has_minor]]
    widths = [each.shape[-1] if each.shape else 0 for each in factors]
    rank = sum(widths)
    if min(widths) < 1 or rank > size:
        raise InvalidInputError(subject, found=f"rank {rank}", expected=f"1 to {size}")
    for each, width, dtype in zip(factors, widths, ("int16", "int8"), strict=False):
        _check_entry(subject, each.name.replace("_", " "), each, (dtype,), (size, width))
    _check_entry(subject, "factor scales", sums.tensor("factor_scales"), ("float32",), (rank,))
    _check_entry(subject, "diagonal", sums.tensor("diagonal"), ("float32",), (size,))


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
    for name, count in leaf.class_counts.items():
        if count < MIN_CLASS_COUNT:
            raise InvalidInputError(
                f"class {name[:60]} of {subject}",
                found=f"{count} samples",
                expected=f"at least {MIN_CLASS_COUNT}",
                remedy="leave the class out: a sum over so few samples tells too much of each",
            )
    if leaf.manifest:
        digest(leaf.manifest)
    _check_prototypes(subject, leaf, specification)


def _check_prototypes(
    subject: str, leaf: LeafContribution | BranchContribution, specification: Specification
) -> None:
    rows = leaf.prototypes.shape[0] if leaf.prototypes.shape else 0
    if not 1 <= rows <= specification.max_prototypes_per_leaf:
        raise InvalidInputError(
            subject, found=f"{rows} prototypes", expected=f"1 to {specification.max_prototypes_per_leaf}"
        )
    columns = len(region_columns(specification.trunk.feature_size))
    _check_entry(subject, "prototypes", leaf.prototypes, ("float32",), (rows, columns))
    _check_entry(subject, "prototype counts", leaf.prototype_counts, ("int64",), (rows,))
    _check_entry(subject, "radii", leaf.radii, ("float32",), (rows, 3))


def _check_entry(
    subject: str, what: str, entry: TensorEntry, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    if entry.dtype not in dtypes or tuple(entry.shape) != shape:
        raise ShapeMismatchError(
            f"{what} of {subject}",
            found=f"{entry.dtype} {list(entry.shape)}",
            expected=f"{' or '.join(dtypes)} {list(shape)}",
        )


def check_experts(
    contribution: Contribution,
    heads: Mapping[ExpertId, Manifest],
    pinned: Mapping[Digest, Manifest] = MappingProxyType({}),
) -> None:
    """Raise unless every leaf's expert has a head in `heads` that its owner published and that fits.

    So has every version that a leaf pins, in `pinned`.
    """
    for leaf in contribution.leaves:
        _check_fits(leaf, heads.get(leaf.expert), contribution)
        if leaf.manifest:
            manifest = pinned.get(Digest(leaf.manifest))
            if manifest is None or manifest.expert != leaf.expert:
                raise NotFoundError(
                    f"pinned version {leaf.manifest[:12]} of {leaf.expert}",
                    found="no such version" if manifest is None else f"one of {manifest.expert}",
                    expected="a published version of the leaf's own expert",
                    remedy="publish it first, then contribute",
                )
            _check_fits(leaf, manifest, contribution)


def _check_fits(leaf: LeafContribution, manifest: Manifest | None, contribution: Contribution) -> None:
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
    _check_cost(manifest)


def _check_cost(manifest: Manifest) -> None:
    costs = [manifest.cost] + ([manifest.correction.cost] if manifest.correction is not None else [])
    flops = max(cost.inference_flops for cost in costs)
    if flops > MAX_EXPERT_FLOPS:
        raise InvalidInputError(
            f"expert {manifest.expert}@{manifest.version}",
            found=f"{flops:.3g} FLOPs per query",
            expected=f"at most {MAX_EXPERT_FLOPS:.3g}",
            remedy="train a smaller net: every judge asks it about all of its validation samples",
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
