"""One expert through one drift by one strategy: accuracies after every stage, FLOPs, bytes remembered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.updates.drifts import Stage
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.training import TrainSettings, train_expert
from swarm.experts.updating import Memory, UpdateStrategy
from swarm.experts.updating.memory import joined
from swarm.experts.weights import pack_net, warm_start

NET, STEPS = "mlp:128x2", 300
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """accuracy[t][k]: on the test samples of stage k after stage t. `chosen_by`: accuracy after the last
    stage on the samples of all stages that are kept for choosing settings."""

    accuracy: list[list[float]]
    sizes: list[int]
    chosen_by: float
    train_flops: int
    memory_bytes: int

    def figures(self) -> dict[str, float]:
        """Return the figures of docs/updates.md; forgetting is the mean fall from each old stage's best."""
        last, old = self.accuracy[-1], self.sizes[:-1]
        best = [max(row[k] for row in self.accuracy[k:]) for k in range(len(last) - 1)]
        return {
            "seen": float(np.average(last, weights=self.sizes)),
            "old": float(np.average(last[:-1], weights=old)),
            "new": last[-1],
            "forgetting": float(np.mean([top - now for top, now in zip(best, last[:-1], strict=True)])),
            "train_flops": float(self.train_flops),
            "memory_bytes": float(self.memory_bytes),
            "chosen_by": self.chosen_by,
        }


def run_updates(stages: Sequence[Stage], strategy: UpdateStrategy, seed: int, *, test: bool) -> Outcome:
    """Train one expert on stage after stage; without test, no test sample is looked at."""
    memory: Memory | None = None
    net: nn.Module | None = None
    known, flops = list[str](), 0
    accuracy: list[list[float]] = []
    for number, stage in enumerate(stages):
        names = [str(digit) for digit in range(stage.classes)]
        net = _continued(net, known, names, seed)
        own = derived_seed(seed, "update", number)
        result = train_expert(
            net,
            stage.train,
            stage.validation,
            TrainSettings(steps=STEPS, seed=own),
            update=strategy.update(memory, names, seed=own),
            device=CPU,
        )
        net, memory, known = result.net, result.memory, names
        flops += result.train_flops + result.evaluation_flops
        if test:
            accuracy.append([accuracy_on(net, each.test) for each in stages])
    return _outcome(net, stages, accuracy, flops, memory.size_bytes if memory else 0)


def run_afresh(stages: Sequence[Stage], seed: int, *, test: bool) -> Outcome:
    """Train a new net on all stages' samples, with the steps of all updates: nothing was thrown away."""
    everything, held_out = stages[0].train, stages[0].validation
    for stage in stages[1:]:
        everything, held_out = joined(everything, stage.train), joined(held_out, stage.validation)
    names = [str(digit) for digit in range(stages[-1].classes)]
    settings = TrainSettings(steps=STEPS * len(stages), seed=seed)
    result = train_expert(_continued(None, [], names, seed), everything, held_out, settings, device=CPU)
    accuracy = [[accuracy_on(result.net, each.test) for each in stages]] * len(stages) if test else []
    kept_bytes = sum(array.nbytes for part in (everything, held_out) for array in (part.inputs, part.labels))
    flops = result.train_flops + result.evaluation_flops
    return _outcome(result.net, stages, accuracy, flops, kept_bytes)


def accuracy_on(net: nn.Module, samples: Samples) -> float:
    """Return the share of samples that net answers rightly."""
    with torch.inference_mode():
        answers = net(torch.from_numpy(samples.inputs).float() * samples.scale).argmax(1)
    return float((answers.numpy() == samples.labels).mean())


def _outcome(
    net: nn.Module | None, stages: Sequence[Stage], accuracy: list[list[float]], flops: int, kept_bytes: int
) -> Outcome:
    if net is None:
        raise ValueError("no stages")
    return Outcome(
        accuracy=accuracy,
        sizes=[len(stage.test) for stage in stages],
        chosen_by=float(np.mean([accuracy_on(net, stage.choosing) for stage in stages])),
        train_flops=flops,
        memory_bytes=kept_bytes,
    )


def _continued(net: nn.Module | None, known: Sequence[str], names: Sequence[str], seed: int) -> nn.Module:
    """Return a net for names, with the weights of net wherever they fit: what a node does."""
    torch.manual_seed(derived_seed(seed, "net", 0))
    fresh = build_net(net_reference(NET, (28, 28), len(names)))
    if net is not None:
        modules, blobs = pack_net(net)
        warm_start(fresh, modules, lambda digest: memoryview(blobs[digest]), known, names)
    return fresh
