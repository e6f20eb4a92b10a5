"""Train a net as a task of growth: told step by step, resumed where it was, judged before and after."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.expert_training import cost_of, metrics_of
from node.growth.bench import GrowthBench
from swarm.data.dataset import Dataset
from swarm.domain.ids import LeafId, number_of
from swarm.domain.manifests import Cost
from swarm.domain.tensors import ModuleEntry
from swarm.experts.flops import forward_flops
from swarm.experts.inputs import best_device
from swarm.experts.samples import Feed, Samples, derived_seed
from swarm.experts.training import TrainProgress, TrainSettings, train_expert
from swarm.experts.weights import pack_net

_TRAINED_AT, _EVALUATED_ROWS = 0.5, 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained net with what a manifest states of it."""

    modules: tuple[ModuleEntry, ...]
    metrics: dict[str, float]
    cost: Cost


def trained_net(
    bench: GrowthBench,
    leaf: LeafId,
    net: nn.Module,
    training: Samples,
    validation: Samples,
    *,
    keep_better: bool = False,
    name: str = "leaf",
) -> Trained:
    """Train a net from its weights and store what came of it; what the bench counted is in its cost.

    `keep_better`: the weights that it began with stay where training did not lower the validation loss.
    """
    number = number_of(leaf)
    before = loss(net, validation) if keep_better else None
    weights = {key: value.detach().clone() for key, value in net.state_dict().items()}

    def say(progress: TrainProgress) -> None:
        shown = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        done = _TRAINED_AT + (1 - _TRAINED_AT) * progress.fraction
        bench.report("train", f"{leaf}, step {progress.step}{shown}", done)

    result = train_expert(
        net,
        training,
        validation,
        TrainSettings(steps=bench.job.steps, seed=derived_seed(bench.job.seed, name, number)),
        checkpoint=bench.folder / f"{name}-{number}.checkpoint",
        on_progress=say,
        clock=bench.clock,
    )
    net, metrics = result.net, metrics_of(result)
    if before is not None and result.validation_nll is not None and result.validation_nll >= before:
        bench.notes.append(
            f"{leaf} keeps the weights that it began with ({name}): validation loss {before:.4f},"
            f" after training {result.validation_nll:.4f}"
        )
        net.load_state_dict(weights)
        metrics |= {"validation_nll": before, "validation_accuracy": accuracy(net, validation), "kept": 1.0}
    modules, blobs = pack_net(net)
    for blob in blobs.values():
        bench.write_to.put(blob)
    cost = cost_of(result)
    counted, bench.flops = bench.flops, 0
    return Trained(
        modules=modules, metrics=metrics, cost=replace(cost, train_flops=cost.train_flops + counted)
    )


def untrained_net(
    bench: GrowthBench, net: nn.Module, class_names: tuple[str, ...], judged: Dataset | None
) -> Trained:
    """Store a net as it is, judged on validation samples if there are some; what the bench counted is its
    cost."""
    modules, blobs = pack_net(net)
    for blob in blobs.values():
        bench.write_to.put(blob)
    metrics: dict[str, float] = {}
    shape = bench.job.specification.input_shape
    if judged is not None:
        samples = bench.as_samples(judged, class_names)
        metrics["validation_nll"] = float(losses(net, samples).mean())
        metrics["validation_accuracy"] = accuracy(net, samples)
        metrics["validation_samples"] = float(len(samples))
    cost = Cost(
        train_flops=bench.flops,
        inference_flops=forward_flops(net, shape),
        samples_seen=0,
        duration_s=bench.clock() - bench.started,
    )
    bench.flops = 0
    return Trained(modules=modules, metrics=metrics, cost=cost)


def loss(net: nn.Module, samples: Samples) -> float | None:
    """Return a net's mean loss on samples, None where there are none."""
    return float(losses(net, samples).mean()) if len(samples) else None


def losses(net: nn.Module, samples: Samples) -> NDArray[np.float64]:
    """Return a net's loss on each sample, float64 [N], on top of base logits where there are some."""
    return _over(
        net, samples, lambda judged, labels: nn.functional.cross_entropy(judged, labels, reduction="none")
    )


def accuracy(net: nn.Module, samples: Samples) -> float:
    """Return the share of samples that a net is right about."""
    return float(_over(net, samples, lambda judged, labels: judged.argmax(1) == labels).mean())


def _over(
    net: nn.Module, samples: Samples, judge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> NDArray[np.float64]:
    device, found = best_device(), []
    net.to(device).eval()
    with torch.no_grad():
        for batch in Feed(samples, device, _EVALUATED_ROWS, 0):
            found.append(judge(batch.judged(net(batch.inputs)), batch.labels).double().cpu().numpy())
    net.cpu()
    return np.concatenate(found)
