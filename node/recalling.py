"""What a leaf's update remembers: from its last update or, where that left nothing, from its own samples.

A leaf that a split, merge or add made, or that was trained without remembering, has no memory: its next
update would learn the new samples and forget all others. Where its samples are is known, so it is made up for
as if they had been one update of no steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from node.jobs import ExistingLeaf
from node.preparing import Bench
from node.shard_source import ShardSource
from swarm.domain.errors import SwarmError
from swarm.experts.flops import forward_flops
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net
from swarm.experts.samples import Samples
from swarm.experts.updating.memory import Memory, read_memory
from swarm.experts.updating.port import UpdateStrategy
from swarm.experts.updating.replay import Replay
from swarm.experts.weights import load_net

_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What is remembered of a leaf, None: nothing; and the FLOPs of making up for it."""

    memory: Memory | None
    flops: int = 0


def recall(
    bench: Bench,
    existing: ExistingLeaf,
    strategy: UpdateStrategy,
    *,
    seed: int,
    tell: Callable[[str], None],
) -> Recalled:
    """Return what a leaf that continues remembers; without its samples nothing, and `tell` says so."""
    kept = read_memory(Path(existing.memory), tell) if existing.memory else None
    if kept is not None or not existing.shard:
        return Recalled(memory=kept)
    try:
        return _made_up(bench, existing, strategy, seed)
    except (SwarmError, OSError) as error:
        tell(f"{existing.leaf} remembers nothing of its samples: {error}")
        return Recalled(memory=None)


def _made_up(bench: Bench, existing: ExistingLeaf, strategy: UpdateStrategy, seed: int) -> Recalled:
    specification, order = bench.job.specification, bench.job.order
    dataset = ShardSource.read(Path(existing.shard)).load(specification, f"what {existing.leaf} stands for")
    labels = dataset.labels_among(existing.class_names)
    rows = np.flatnonzero(labels >= 0)
    samples = Samples(
        inputs=dataset.inputs[rows],
        labels=labels[rows],
        scale=specification.scale,
        offset=specification.offset,
    )
    if not len(samples):
        return Recalled(memory=None)
    net = build_net(existing.net, order.import_paths)
    load_net(net, existing.modules, bench.read_from.open_verified)
    net = net.to(best_device())
    if isinstance(strategy, Replay):
        strategy = replace(strategy, head="own")  # the net is thrown away
    update = strategy.update(None, existing.class_names, seed=seed)
    flops = forward_flops(net, existing.net.input_shape)
    update.begin(net, samples, batch=_BATCH, forward_flops=flops)
    memory = update.end(net, samples, samples.at(np.zeros(0, dtype=np.int64)))
    return Recalled(memory=memory, flops=update.end_flops)
