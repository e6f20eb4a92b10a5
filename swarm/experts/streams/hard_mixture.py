"""Hard mixtures of experts and what they have to beat, each by a number of steps.

A small net's hidden layer is the frozen feature, balanced k-means the gate, one expert trains on each shard,
alone. Source: Gross, Ranzato and Szlam 2017 (the mixture), Gururangan et al. 2023 (balanced fitting, top-k).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.streams.fitting import BestWeights, FlatWeights, Prepared
from swarm.experts.streams.mlps import MlpStack
from swarm.gating.distances import squared_distances
from swarm.gating.kmeans import balanced_kmeans

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
GATE_SAMPLES = 4000
"""Prototypes are fitted to at most so many samples; every sample then goes to the nearest."""
TEMPERATURES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of a top-k's softmax(-d^2 / T + log prior), in mean squared distances to the nearest prototype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """Adam for a number of steps, judged on validation samples every `evaluate_every` and at the end."""

    steps: int
    batch: int = 128
    learning_rate: float = 1e-3
    evaluate_every: int = 100

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.evaluate_every) < 1 or not self.learning_rate > 0:
            raise InvalidInputError("steps", found=str(self), expected="numbers above 0")


class Task:
    """A classification task in memory: training, validation and test samples, as nets see them."""

    def __init__(self, train: Samples, validation: Samples, test: Samples, *, classes: int) -> None:
        self.train, self.validation, self.test = map(Prepared, (train, validation, test))
        self.input_size = int(np.prod(train.input_shape))
        self.classes = classes

    def fresh(self, width: int, *, members: int, seed: int) -> MlpStack:
        """Return MLPs of one hidden layer, initialised by seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights", members))
            return MlpStack(self.input_size, width, 1, self.classes, members)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """Prototypes float32 [k, D] in a frozen net's hidden layer; the shard of each sample, int64 [N] each."""

    net: MlpStack
    prototypes: Floats
    train: Rows
    validation: Rows
    test: Rows

    def distances(self, data: Prepared) -> Floats:
        """Return squared distances to the prototypes, float32 [N, k]."""
        return squared_distances(_features(self.net, data), self.prototypes)


def fit_gate(net: MlpStack, task: Task, k: int, *, seed: int) -> Gate:
    """Return the gate of k prototypes in net's hidden layer; net has one member."""
    features = _features(net, task.train)
    drawn = np.random.default_rng(seed).permutation(len(features))[: max(GATE_SAMPLES, k)]
    prototypes = balanced_kmeans(features[drawn], k, seed=seed).centres
    shards = [
        squared_distances(_features(net, part), prototypes).argmin(axis=1).astype(np.int64)
        for part in (task.train, task.validation, task.test)
    ]
    return Gate(net=net, prototypes=prototypes, train=shards[0], validation=shards[1], test=shards[2])


def train_steps(
    stack: MlpStack, task: Task, settings: StepSettings, *, seed: int, marks: Sequence[int] = ()
) -> dict[int, MlpStack]:
    """Train every member on all samples; return the stack as best on validation at each mark and at the end.

    Batches are the same for all members. A mark is a number of steps.
    """
    flat = FlatWeights(stack)
    optimiser = torch.optim.Adam([flat.values], lr=settings.learning_rate)
    keeper = BestWeights(stack, patience=settings.steps)
    wanted, found = {*marks, settings.steps}, {}
    generator = torch.Generator().manual_seed(derived_seed(seed, "batches", 0))
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, settings.steps + 1):
        if len(order) < min(settings.batch, len(task.train)):
            order = torch.randperm(len(task.train), generator=generator)
        rows, order = order[: settings.batch], order[settings.batch :]
        flat.gradients.zero_()
        task.train.losses(stack, rows).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % settings.evaluate_every == 0 or step in wanted:
            with torch.no_grad():
                keeper.judge(task.validation.losses(stack, slice(None)))
            if step in wanted:
                found[step] = _frozen(stack, keeper)
    return found


def train_experts(stack: MlpStack, task: Task, gate: Gate, settings: StepSettings, *, seed: int) -> MlpStack:
    """Train member i on shard i alone, `steps` steps each; return it as each was best on its validation part.

    An expert without validation samples keeps its last weights, one without samples its first.
    """
    shards = [torch.from_numpy(np.flatnonzero(gate.train == row)) for row in range(stack.members)]
    sizes = torch.tensor([len(shard) for shard in shards])
    table = nn.utils.rnn.pad_sequence(shards, batch_first=True)
    own = torch.from_numpy(gate.validation[:, None] == np.arange(stack.members)).T.float()
    alive = (sizes > 0).float()
    flat = FlatWeights(stack)
    optimiser = torch.optim.Adam([flat.values], lr=settings.learning_rate)
    keeper = BestWeights(stack, patience=settings.steps)
    generator = torch.Generator().manual_seed(derived_seed(seed, "batches", 0))
    members = torch.arange(stack.members)[:, None]
    for step in range(1, settings.steps + 1):
        drawn = torch.rand(stack.members, settings.batch, generator=generator)
        places = torch.minimum((drawn * sizes[:, None]).long(), (sizes[:, None] - 1).clamp(min=0))
        rows = table[members, places]
        flat.gradients.zero_()
        logits = stack(task.train.inputs[rows], own=True)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), task.train.labels[rows].flatten(), reduction="none"
        )
        (losses.view(rows.shape).mean(1) * alive).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % settings.evaluate_every == 0 or step == settings.steps:
            with torch.no_grad():
                keeper.judge(_own_losses(stack, task.validation, own, step))
    return _frozen(stack, keeper)


def answers_of(stack: MlpStack, data: Prepared) -> Floats:
    """Return each member's class probabilities, float32 [k, N, classes]."""
    with torch.inference_mode():
        found: Floats = torch.softmax(stack(data.inputs), 2).numpy()
    return found


def ensemble_accuracy(stack: MlpStack, task: Task, members: int) -> float:
    """Return the test accuracy of the first members' mean probability."""
    mean = answers_of(stack, task.test)[:members].mean(axis=0)
    return _accuracy(mean, task.test)


def mixture_accuracy(stack: MlpStack, gate: Gate, task: Task, top: int) -> float:
    """Return the mixture's test accuracy by its `top` nearest experts.

    Weights softmax(-d^2 / T + log prior) over them; T is chosen on validation samples (top 1 needs none).
    """
    if top == 1:
        answers = answers_of(stack, task.test)
        return _accuracy(answers[gate.test, np.arange(len(gate.test))], task.test)
    counts = np.bincount(gate.train, minlength=stack.members)
    prior = np.log((counts + 1) / (counts.sum() + len(counts)))
    held, asked = gate.distances(task.validation), gate.distances(task.test)
    unit = float(held.min(axis=1).mean()) or 1.0
    held_answers = answers_of(stack, task.validation)

    def at(temperature: float) -> float:
        return _accuracy(_mixed(held_answers, held, prior, temperature * unit, top), task.validation)

    best = max(TEMPERATURES, key=at)
    return _accuracy(_mixed(answers_of(stack, task.test), asked, prior, best * unit, top), task.test)


def validation_accuracy(stack: MlpStack, task: Task) -> float:
    """Return the first member's accuracy on validation samples."""
    return _accuracy(answers_of(stack, task.validation)[0], task.validation)


def mixture_macs(task: Task, width: int, k: int) -> int:
    """Return the multiply-adds of one answer: the gate's hidden layer, k distances, one expert."""
    expert = task.input_size * width + width * task.classes
    return task.input_size * width + k * width + expert


def equal_width(task: Task, macs: int) -> int:
    """Return the width of the MLP of one hidden layer that takes about so many multiply-adds."""
    return max(1, round(macs / (task.input_size + task.classes)))


def _features(net: MlpStack, data: Prepared) -> Floats:
    with torch.inference_mode():
        found: Floats = net.hidden(data.inputs)[0].contiguous().numpy()
    return found


def _own_losses(stack: MlpStack, data: Prepared, own: torch.Tensor, step: int) -> torch.Tensor:
    """Return each member's mean loss on its own samples, own [k, N]; one without any improves with each step,
    so that its last weights are kept."""
    logits = stack(data.inputs)
    labels = data.labels.expand(len(logits), -1)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    counts = own.sum(1)
    means = (losses.view(labels.shape) * own).sum(1) / counts.clamp(min=1)
    return torch.where(counts > 0, means, torch.tensor(-float(step)))


def _mixed(
    answers: Floats, distances: Floats, prior: NDArray[np.float64], temperature: float, top: int
) -> Floats:
    scores = -distances / temperature + prior
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    kept = np.take_along_axis(scores, order, axis=1)
    shares = np.exp(kept - kept.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen = answers[order, np.arange(len(order))[:, None]]
    found: Floats = np.einsum("nt,ntc->nc", shares, chosen).astype(np.float32)
    return found


def _frozen(stack: MlpStack, keeper: BestWeights) -> MlpStack:
    """Return a copy of stack with its best weights; stack trains on."""
    found = copy.deepcopy(stack)
    keeper.give(found)
    return found


def _accuracy(answers: Floats, data: Prepared) -> float:
    return float(np.mean(answers.argmax(axis=1) == data.labels.numpy()))
