"""Selective finetuning: which weights shall a new expert start from?

Every candidate (peers' experts, the swarm's root, random initialisation) embeds a few of the new shard's
samples with its penultimate features and is scored by how well nearest neighbours tell the classes apart
there. Random initialisation takes part and wins ties, and everything that choosing costs is counted: both are
changes to the source, Bornschein et al., NEVIS'22, JMLR 2023.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.experts.flops import forward_flops
from swarm.experts.footprint import measured_forward, rows_at_once
from swarm.experts.inputs import best_device
from swarm.experts.samples import Feed, Samples
from swarm.experts.training import TrainSettings, train_expert
from swarm.experts.weights import load_tensors, state_tensors

Net = nn.Module
NEIGHBOURS = 5
MOST_SAMPLES = 1000
"""At most so many training and so many validation samples are embedded."""
TRIAL_STEPS = 100
RANDOM = "random"
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A net to start from; `name` is `random` or the manifest's `expert@version`."""

    name: str
    net: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A candidate's score: nearest-neighbour accuracy on the new shard, and the FLOPs of finding out."""

    name: str
    accuracy: float
    flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStart:
    """Validation accuracy and loss (nats) after the same few steps from borrowed and from random weights, and
    what finding out cost."""

    steps: int
    borrowed: float
    random: float
    borrowed_nll: float
    random_nll: float
    flops: int

    @property
    def helped(self) -> bool:
        """Whether borrowing is ahead; among equal accuracies the lower loss decides."""
        return (self.borrowed, -self.borrowed_nll) > (self.random, -self.random_nll)


def rank_candidates(
    candidates: Sequence[Candidate], training: Samples, validation: Samples, *, seed: int
) -> tuple[Ranked, ...]:
    """Return the candidates by falling accuracy, random initialisation first among equals, then in the given
    order.

    Neighbours are training samples. Judged are validation samples and, as long as these are fewer than
    MOST_SAMPLES, training samples too, each without itself among its neighbours: on a small shard's few
    validation samples alone everything would tie.
    """
    few = training.few(MOST_SAMPLES, seed)
    judged = validation.few(MOST_SAMPLES, seed)
    left_out = min(len(few), MOST_SAMPLES - len(judged))
    ranked = []
    for candidate in candidates:
        known = penultimate(candidate.net, few)
        right = knn_correct(known[:left_out], known, few.labels, few.labels[:left_out], leave_one_out=True)
        if len(judged):
            asked = penultimate(candidate.net, judged)
            right = np.concatenate([right, knn_correct(asked, known, few.labels, judged.labels)])
        embedding = forward_flops(candidate.net, few.input_shape) * (len(few) + len(judged))
        flops = embedding + 2 * len(few) * len(right) * known.shape[1]
        ranked.append(Ranked(name=candidate.name, accuracy=float(right.mean()), flops=flops))
    order = sorted(
        range(len(ranked)), key=lambda row: (-ranked[row].accuracy, ranked[row].name != RANDOM, row)
    )
    return tuple(ranked[row] for row in order)


def penultimate(net: nn.Module, samples: Samples) -> NDArray[np.float32]:
    """Return what reaches the net's last linear layer, float32 [N, F], in eval mode.

    Where the net has no linear layer, its output.
    """
    device = best_device()
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    caught: list[torch.Tensor] = []
    handle = (
        linear[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])) if linear else None
    )
    was_training = net.training
    net.to(device).eval()
    found = []
    try:
        _, held = measured_forward(net, torch.zeros(1, *samples.input_shape, device=device))
        with torch.inference_mode():
            for inputs, *_ in Feed(samples, device, min(_BATCH, rows_at_once(held)), 0):
                caught.clear()
                output = net(inputs)
                features = caught[-1] if caught else output
                found.append(features.flatten(1).float().cpu().numpy())
    finally:
        if handle is not None:
            handle.remove()
        net.cpu().train(was_training)
    return np.concatenate(found)


def knn_correct(
    asked: NDArray[np.float32],
    known: NDArray[np.float32],
    labels: NDArray[np.int64],
    truth: NDArray[np.int64],
    neighbours: int = NEIGHBOURS,
    *,
    leave_one_out: bool = False,
) -> NDArray[np.bool_]:
    """Return for each asked sample whether the vote of the nearest known ones is the truth, bool [Q].

    asked [Q, F], known [N, F] with labels. With leave_one_out the asked samples are the first known ones, and
    none is its own neighbour. Cosine distance, so that candidates with features of different sizes compare.
    Ties: the lower label.
    """
    similarity = _unit(asked) @ _unit(known).T
    if leave_one_out:
        np.fill_diagonal(similarity, -np.inf)
    count = min(neighbours, len(known))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    votes = np.zeros((len(asked), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(asked))[:, None], labels[nearest]), 1)
    right: NDArray[np.bool_] = votes.argmax(axis=1) == truth
    return right


def head_start(
    borrowed: nn.Module,
    random: nn.Module,
    training: Samples,
    validation: Samples,
    *,
    seed: int,
    steps: int = TRIAL_STEPS,
) -> HeadStart:
    """Train copies of both nets for the same few steps and say what borrowing was worth by then.

    Both nets keep their weights. Without validation samples accuracies and losses are 0.
    """
    settings = TrainSettings(steps=steps, seed=seed, patience=steps, evaluate_every=steps)
    accuracies, losses, flops = [], [], 0
    for net in (borrowed, random):
        before: Mapping[str, torch.Tensor] = {
            name: tensor.detach().clone() for name, tensor in state_tensors(net).items()
        }
        result = train_expert(net, training, validation, settings)
        accuracies.append(result.validation_accuracy or 0.0)
        losses.append(result.validation_nll or 0.0)
        flops += result.train_flops + result.evaluation_flops
        load_tensors(net, before)
    return HeadStart(
        steps=steps,
        borrowed=accuracies[0],
        random=accuracies[1],
        borrowed_nll=losses[0],
        random_nll=losses[1],
        flops=flops,
    )


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
