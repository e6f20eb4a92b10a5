"""Fit a branch's learned gate anew once its children are trained: whose loss on a sample is the lower one."""

from dataclasses import replace

import numpy as np

from node.growth.bench import GrowthBench
from node.growth.jobs import GrowthResult
from node.growth.net_training import losses
from node.growth.splitting import fit_gate
from swarm.experts.flops import forward_flops
from swarm.experts.nets import build_net
from swarm.experts.weights import load_net


def regate(bench: GrowthBench) -> GrowthResult:
    """Return the contribution with the gate between the job's two leaves fitted to their losses on all
    samples of both; a sample counts by how much its losses differ. Nothing else changes."""
    job, laid = bench.job, bench.laid
    parent = laid.leaf(job.leaves[0].leaf).parent
    whole = [bench.samples(leaf)[1] for leaf in job.leaves]
    regions = np.concatenate([bench.features(part.inputs, in_fixed_point=False).regions for part in whole])
    found = []
    for leaf in job.leaves:
        net = build_net(leaf.manifest.net, job.import_paths)
        load_net(net, leaf.manifest.modules, bench.read_from.open_verified)
        bench.flops += forward_flops(net, leaf.manifest.net.input_shape) * len(regions)
        found.append(
            np.concatenate([losses(net, bench.as_samples(part, leaf.manifest.class_names)) for part in whole])
        )
    first, second = found
    gate = fit_gate(regions, first < second, np.abs(first - second) + 1e-6)
    if gate is None:
        bench.notes.append(f"the gate of {parent} stays: one child has the lower loss everywhere")
        return GrowthResult(
            task="regate", leaves=(), contribution=laid.lay_down(bench.folder), notes=tuple(bench.notes)
        )
    np.save(bench.folder / "split.npy", gate)
    branches = tuple(
        replace(one, arrays={**one.arrays, "split": gate}) if one.leaf == parent else one
        for one in laid.branches
    )
    return GrowthResult(
        task="regate",
        leaves=(),
        contribution=replace(laid, branches=branches).lay_down(bench.folder),
        split_gate="split.npy",
        notes=tuple(bench.notes),
    )
