"""Split a leaf: two exact copies under new ids, each for its own part of the leaf's samples."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.growth.bench import GrowthBench, Stood, check_same
from node.growth.jobs import GrowingLeaf, GrownLeaf, GrowthResult
from node.growth.laying import LaidBranch
from node.growth.splitting import Parts, fit_gate, two_parts
from swarm.domain.ids import LeafId
from swarm.domain.manifests import Parent


def split_leaf(bench: GrowthBench) -> GrowthResult:
    """Return two copies of the job's leaf, and the contribution in which they share its place.

    The columns of the parts add up to the leaf's exactly and F'F stays as it is, so that no answer changes.
    Raises VerificationError where the samples are not those of the last contribution, InvalidInputError where
    a part would have too few.
    """
    job, laid = bench.job, bench.laid
    (parent,), old = job.leaves, laid.leaf(job.leaves[0].leaf)
    source, samples = bench.samples(parent)
    features = bench.features(samples.inputs, in_fixed_point=laid.sums is not None)
    check_same(old, samples, features, source.told)
    parts = two_parts(
        features.regions,
        np.where(source.told, samples.labels, -1),
        samples.class_names,
        old.class_counts,
        min_count=job.specification.min_leaf_count,
        seed=job.seed,
        subject=parent.leaf,
    )
    bench.flops += parts.flops
    if parts.moved:
        bench.notes.append(f"{', '.join(parts.moved)} lie in one part: too few samples for both")
    own = bench.own_sums(parent)
    rank = laid.sums.rank if own is None and laid.sums is not None else own.f.rank if own is not None else 0
    stood = []
    for part, leaf in enumerate(job.new_leaves):
        rows = parts.of(part)
        bench.report("sums", f"{leaf}: {len(rows)} samples", 0.5 + 0.2 * part)
        part_samples = samples.subset(rows)
        stood.append(
            bench.stands(
                leaf,
                part_samples,
                replace(
                    features,
                    regions=features.regions[rows],
                    q=None if features.q is None else features.q[rows],
                ),
                source.subset(samples, rows),
                rank=rank,
                parent=parent.leaf,
                # What the gate is told of the leaf it is told of the parts, no more and no less.
                told=old.class_counts,
            )
        )
    arrays, split_gate = {name: array for name, array in old.arrays.items() if name != "columns"}, ""
    learned = _gate(bench, features.regions, parts)
    if learned is not None:
        arrays["split"], split_gate = learned, "split.npy"
        np.save(bench.folder / split_gate, learned)
    branch = LaidBranch(leaf=parent.leaf, arrays=arrays, parent=old.parent)
    bench.report("contribute", "lays the contribution down", 0.95)
    changed = laid.without([parent.leaf])
    changed = replace(
        changed,
        leaves=(*changed.leaves, *(one.laid for one in stood)),
        branches=(*changed.branches, branch),
    )
    return GrowthResult(
        task="split",
        leaves=tuple(
            _copy(bench, parent, leaf, one) for leaf, one in zip(job.new_leaves, stood, strict=True)
        ),
        contribution=changed.lay_down(bench.folder),
        split_gate=split_gate,
        notes=tuple(bench.notes),
    )


def _gate(bench: GrowthBench, regions: NDArray[np.float32], parts: Parts) -> NDArray[np.float32] | None:
    """Return the learned gate, where the proposal asks for one, fitted to the parts."""
    return fit_gate(regions, ~parts.second) if bench.job.options.get("gate") == "learned" else None


def _copy(bench: GrowthBench, parent: GrowingLeaf, leaf: LeafId, stood: Stood) -> GrownLeaf:
    manifest = parent.manifest
    cost = replace(
        manifest.cost,
        train_flops=bench.flops // len(bench.job.new_leaves),
        samples_seen=0,
        duration_s=bench.clock() - bench.started,
    )
    return GrownLeaf(
        leaf=leaf,
        net=manifest.net,
        class_names=manifest.class_names,
        class_counts=stood.class_counts,
        modules=manifest.modules,
        correction=manifest.correction,
        parents=(Parent(kind="split-from", manifest=parent.digest),),
        metrics={"samples": float(sum(stood.class_counts.values()))},
        cost=cost,
        summary=stood.summary,
        sums=stood.sums,
        shard=stood.shard,
    )
