"""Contributions as a node makes them, from features and labels: with exact sums, compact ones, or none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import NodeId, expert_of, leaf_of
from swarm.domain.manifests import Contribution, FeatureSums, LeafContribution
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
