"""Contributions as a node makes them, from features and labels: with exact sums, compact ones, or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.domain.contributions import BranchContribution, Contribution, FeatureSums, LeafContribution
from swarm.domain.ids import NodeId, expert_of, leaf_of
from swarm.domain.specification import Specification, TrunkReference
from swarm.gating.regions import region_columns, summarise_leaf
from swarm.gating.sums import compact_sums, exact_gram, pack_triangle, quantised, target_columns
from swarm.modules.packing import pack_single

Arrays = dict[str, NDArray[Any]]


def arrays_of(
    features: NDArray[np.float32], labels: list[str], trunk: TrunkReference, form: str = "exact"
) -> Arrays:
    """One leaf's arrays, and its owner's sums of the same samples."""
    names = sorted(set(labels))
    summary = summarise_leaf(features[:, region_columns(features.shape[1])], prototypes=8, seed=0)
    arrays: Arrays = {
        "prototypes": summary.prototypes,
        "prototype_counts": summary.counts,
        "radii": summary.radii,
    }
    if form == "none":
        return arrays
    q = quantised(features, trunk.fixed_point, trunk.has_constant)
    rows = np.array([names.index(label) for label in labels])
    arrays["columns"] = target_columns(q, rows, len(names))
    if form == "exact":
        return arrays | {"gram": pack_triangle(exact_gram(q))}
    return arrays | compact_sums(q, min(4, q.shape[1])).arrays()


def contribution_of(
    owner: str,
    labels: list[str],
    arrays: Arrays,
    specification: Specification,
    *,
    epoch: int = 1,
    number: int = 1,
    created_at: float = 1.0,
) -> tuple[Contribution, bytes]:
    """The statement of these arrays, and their bytes."""
    entries, _, blob = pack_single(arrays)
    by_name = {entry.name: entry for entry in entries}
    leaf = leaf_of(NodeId(owner), number)
    sums = None
    if "columns" in arrays:
        form = "exact" if "gram" in arrays else "compact"
        tensors = ("gram",) if form == "exact" else ("factors", "factor_scales", "diagonal")
        sums = FeatureSums(
            form="exact" if form == "exact" else "compact",
            samples=len(labels),
            tensors=tuple(by_name[name] for name in tensors),
        )
    value = Contribution(
        swarm=specification.swarm,
        owner=NodeId(owner),
        epoch=epoch,
        trunk=specification.trunk.digest,
        leaves=(
            LeafContribution(
                leaf=leaf,
                expert=expert_of(leaf),
                class_counts={name: labels.count(name) for name in sorted(set(labels))},
                prototypes=by_name["prototypes"],
                prototype_counts=by_name["prototype_counts"],
                radii=by_name["radii"],
                columns=by_name.get("columns"),
            ),
        ),
        created_at=created_at,
        sums=sums,
    )
    return value, blob


@dataclass(frozen=True, kw_only=True)
class GivenLeaf:
    """A leaf's samples, and where it stands."""

    features: NDArray[np.float32]
    labels: list[str]
    parent: int = 0
    manifest: str = ""


@dataclass(frozen=True, kw_only=True)
class GivenBranch:
    """The samples that a branch had as a leaf, and its learned gate."""

    features: NDArray[np.float32]
    parent: int = 0
    split: NDArray[np.float32] | None = None


def grown_contribution(
    owner: str,
    leaves: Mapping[int, GivenLeaf],
    branches: Mapping[int, GivenBranch],
    specification: Specification,
    *,
    form: str = "exact",
    epoch: int = 1,
    proposal: str = "",
) -> tuple[Contribution, bytes]:
    """The statement of leaves and branches by number, and its bytes. F'F is of all leaves' samples, put in
    one order whichever leaves they are in."""
    trunk, node = specification.trunk, NodeId(owner)
    arrays: Arrays = {}
    for number, branch in branches.items():
        summary = summarise_leaf(branch.features[:, region_columns(trunk.feature_size)], prototypes=8, seed=0)
        arrays |= _named(number, prototypes=summary.prototypes, counts=summary.counts, radii=summary.radii)
        if branch.split is not None:
            arrays |= _named(number, split=branch.split)
    for number, leaf in leaves.items():
        own = arrays_of(leaf.features, leaf.labels, trunk, "none" if form == "none" else "exact")
        arrays |= _named(
            number, prototypes=own["prototypes"], counts=own["prototype_counts"], radii=own["radii"]
        )
        if form != "none":
            arrays |= _named(number, columns=own["columns"])
    q = quantised(
        np.concatenate([leaf.features for leaf in leaves.values()]), trunk.fixed_point, trunk.has_constant
    )
    q = q[np.lexsort(q.T)]
    sums: Arrays = {}
    if form == "exact":
        sums = {"gram": pack_triangle(exact_gram(q))}
    elif form == "compact":
        sums = compact_sums(q, min(4, q.shape[1])).arrays()
    entries, _, blob = pack_single(arrays | sums)
    by_name = {entry.name: entry for entry in entries}

    def name_of(number: int) -> str:
        return leaf_of(node, number) if number else ""

    value = Contribution(
        swarm=specification.swarm,
        owner=node,
        epoch=epoch,
        trunk=trunk.digest,
        leaves=tuple(
            LeafContribution(
                leaf=leaf_of(node, number),
                expert=expert_of(leaf_of(node, number)),
                class_counts={name: leaf.labels.count(name) for name in sorted(set(leaf.labels))},
                prototypes=by_name[f"{number}/prototypes"],
                prototype_counts=by_name[f"{number}/counts"],
                radii=by_name[f"{number}/radii"],
                columns=by_name.get(f"{number}/columns"),
                parent=name_of(leaf.parent),
                manifest=leaf.manifest,
            )
            for number, leaf in leaves.items()
        ),
        created_at=1.0,
        sums=FeatureSums(
            form="exact" if form == "exact" else "compact",
            samples=len(q),
            tensors=tuple(by_name[name] for name in sums),
        )
        if sums
        else None,
        branches=tuple(
            BranchContribution(
                leaf=leaf_of(node, number),
                prototypes=by_name[f"{number}/prototypes"],
                prototype_counts=by_name[f"{number}/counts"],
                radii=by_name[f"{number}/radii"],
                parent=name_of(branch.parent),
                split=by_name.get(f"{number}/split"),
            )
            for number, branch in branches.items()
        ),
        proposal=proposal,
    )
    return value, blob


def _named(number: int, **arrays: NDArray[Any]) -> Arrays:
    return {f"{number}/{name}": array for name, array in arrays.items()}
