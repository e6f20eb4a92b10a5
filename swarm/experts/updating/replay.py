"""Replay: some samples of earlier updates are kept, and each step learns from as many of them as of new ones.

Source: Chaudhry et al., "On tiny episodic memories in continual learning", 2019. Old and new samples weigh as
many as they stand for, so that the loss estimates the mean over everything seen (van de Ven et al. 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.data.reservoir import reservoir
from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Batch, Feed, Samples, WeightedBatch, derived_seed
from swarm.experts.updating.last_layer import features_of
from swarm.experts.updating.memory import Memory, joined, total_weight
from swarm.experts.updating.nearest_mean import normalised, put_nearest_mean_head
from swarm.experts.updating.plain import PlainUpdate, device_of
from swarm.experts.updating.port import Update
from swarm.experts.updating.selection import (
    Rows,
    Weighed,
    gradient_kernel,
    herding,
    matching_pursuit,
    quotas,
)

Selection = Literal["reservoir", "coreset", "herding"]
Head = Literal["own", "nearest-mean"]

HELD_OUT_SHARE = 0.2
"""Of the capacity: validation samples, so that the best weights are not chosen by new ones alone."""
CORESET_HEADS = 4
CANDIDATES = 1000
"""Per class, at most so many samples are weighed against each other for a coreset or by herding."""


class ReplayUpdate(PlainUpdate):
    """Mixes remembered samples into each batch, and remembers some of this update's at its end."""

    def __init__(
        self, strategy: "Replay", memory: Memory | None, class_names: Sequence[str], seed: int
    ) -> None:
        super().__init__(strategy, memory, class_names, seed)
        self.strategy = strategy
        # What another strategy saw and did not keep is stood for by no sample.
        old = self.remembered
        self.seen = old.seen if old.samples is not None else 0
        self.held_out_seen = old.held_out_seen if old.held_out is not None else 0

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        super().begin(net, train, batch=batch, forward_flops=forward_flops)
        if train.weights is not None:
            raise InvalidInputError("replay", found="weighted samples", expected="samples that count alike")
        if self.strategy.select == "coreset" or self.strategy.head != "own":
            features_of(net, train.at(np.arange(1)), len(self.class_names))
        old = self.remembered.samples
        self.replayed: Feed | None = None
        if old is None:
            return
        prepared = joined(old, train.at(np.zeros(0, dtype=np.int64)))
        self.replayed = Feed(prepared, device_of(net), self.batch, derived_seed(self.seed, "replay", 0))
        self.mean_weight = total_weight(prepared) / len(prepared)

    @property
    def old_share(self) -> float:
        """How much of everything seen came before this update."""
        return self.seen / (self.seen + len(self.train))

    def watched(self, validation: Samples) -> Samples:
        held_out = self.remembered.held_out
        if held_out is None or not len(validation):
            return validation
        share = self.old_share
        old = np.full(len(held_out), share / len(held_out), dtype=np.float32)
        new = np.full(len(validation), (1 - share) / len(validation), dtype=np.float32)
        return joined(replace(held_out, weights=old), replace(validation, weights=new))

    def mixed(self, step: int, batch: Batch) -> Batch:
        if self.replayed is None:
            return batch
        old = self.replayed.batch(step)
        share, rows = self.old_share, len(batch.labels)
        if not isinstance(old, WeightedBatch):
            raise AssertionError("remembered samples carry weights")
        weights = torch.full((rows,), (1 - share) / rows, device=batch.labels.device)
        both = Batch(
            inputs=torch.cat([batch.inputs, old.inputs]),
            labels=torch.cat([batch.labels, old.labels]),
            base=None,
        )
        old_weights = old.weights * (share / self.mean_weight / len(old.labels))
        return WeightedBatch.of(both, torch.cat([weights, old_weights]))

    def end(self, net: nn.Module, train: Samples, validation: Samples) -> Memory:
        old = self.remembered
        held_out_capacity = round(HELD_OUT_SHARE * self.strategy.capacity)
        samples, unheard = self._chosen(net, train, self.strategy.capacity - held_out_capacity)
        held_out = _by_reservoir(
            old.held_out,
            self.held_out_seen,
            validation,
            held_out_capacity,
            derived_seed(self.seed, "held", 0),
        )
        known = set(samples.labels.tolist())
        if self.strategy.head == "nearest-mean" and len(known) == len(self.class_names):
            judged = self.watched(validation)
            put_nearest_mean_head(net, samples, judged, len(self.class_names))
            self.end_flops += self.forward_flops * (len(samples) + len(judged))
        return Memory(
            class_names=self.class_names,
            seen=self.seen + len(train) - unheard,
            held_out_seen=self.held_out_seen + len(validation),
            samples=samples,
            held_out=held_out,
        )

    def _chosen(self, net: nn.Module, train: Samples, capacity: int) -> tuple[Samples, int]:
        """Return at most capacity samples that stand for everything seen, and how much of it they do not:
        what is of classes that there is no place for."""
        old = self.remembered
        if self.strategy.select == "reservoir":
            found = _by_reservoir(
                old.samples, self.seen, train, capacity, derived_seed(self.seed, "reservoir", 0)
            )
            return found if found is not None else train, 0
        candidates = _candidates(old.samples, train, derived_seed(self.seed, "candidates", 0))
        features = features_of(
            net, candidates, len(self.class_names), or_outputs=self.strategy.select == "herding"
        )
        self.end_flops += self.forward_flops * len(candidates)
        return self._by_class(candidates, features, capacity)

    def _by_class(
        self, candidates: Samples, features: NDArray[np.float32], capacity: int
    ) -> tuple[Samples, int]:
        known = candidates.weights if candidates.weights is not None else np.ones(len(candidates), np.float32)
        classes = np.unique(candidates.labels)
        members = [np.flatnonzero(candidates.labels == label) for label in classes]
        rows, weights, unheard = [], [], 0.0
        for own, quota in zip(members, quotas([len(each) for each in members], capacity), strict=True):
            picked = self._pick(features[own], candidates.labels[own], known[own], quota)
            if len(picked.rows):
                rows.append(own[picked.rows])
                weights.append(picked.weights / picked.weights.sum() * known[own].sum())
            else:
                unheard += float(known[own].sum())
        kept = candidates.at(np.concatenate(rows))
        return replace(kept, weights=np.concatenate(weights).astype(np.float32)), round(unheard)

    def _pick(
        self,
        features: NDArray[np.float32],
        labels: Rows,
        weights: NDArray[np.float32],
        count: int,
    ) -> Weighed:
        classes, size = len(self.class_names), len(labels)
        if self.strategy.select == "herding":
            rows = herding(normalised(features), weights, count)
            self.end_flops += 3 * features.shape[1] * size * len(rows)
            return Weighed(rows, np.ones(len(rows)))
        kernel = gradient_kernel(
            features, labels, classes, CORESET_HEADS, derived_seed(self.seed, "heads", 0)
        )
        self.end_flops += 2 * size * (size * (classes * CORESET_HEADS + features.shape[1] + 1))
        self.end_flops += CORESET_HEADS * 2 * size * (features.shape[1] + 1) * classes
        picked = matching_pursuit(kernel, weights, count)
        taken = len(picked.rows)
        self.end_flops += size * taken**2 + taken**4 // 12
        return picked


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Keeps at most `capacity` raw samples, a fifth of them from validation.

    select: `reservoir` (uniform over everything seen), `coreset` (weighted samples whose gradients match
    everyone's, per class) or `herding` (samples whose mean matches their class's, among what the last linear
    layer sees, or among the outputs of a net that ends in none). head: the net's `own`, or `nearest-mean`,
    put into its last layer when training is over unless a class has no sample in memory; with it, or with
    `coreset`, the net has to end in nn.Linear. Sources: Vitter 1985; Balles et al. 2022; Rebuffi et al. 2017.
    """

    name: ClassVar[str] = "replay"
    capacity: int = 500
    select: Selection = "herding"
    head: Head = "own"

    def __post_init__(self) -> None:
        if self.capacity < 2:
            raise InvalidInputError(
                "replay capacity", found=str(self.capacity), expected="at least 2 samples"
            )
        for knob, value, known in (
            ("selection", self.select, ("reservoir", "coreset", "herding")),
            ("head", self.head, ("own", "nearest-mean")),
        ):
            if value not in known:
                raise InvalidInputError(f"replay {knob}", found=repr(value), expected=" or ".join(known))

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        return ReplayUpdate(self, memory, class_names, seed)


def _by_reservoir(old: Samples | None, seen: int, new: Samples, capacity: int, seed: int) -> Samples | None:
    """Return a uniform sample of everything seen, each with the same weight; None if that is nothing."""
    if not capacity or not (len(new) or old is not None):
        return None
    both = joined(old, new)
    rows = reservoir(len(old) if old is not None else 0, seen, len(new), capacity, seed)
    kept = both.at(rows)
    return replace(kept, weights=np.full(len(rows), (seen + len(new)) / len(rows), dtype=np.float32))


def _candidates(old: Samples | None, new: Samples, seed: int) -> Samples:
    """Return the old samples and at most CANDIDATES new ones of each class, which stand for all new ones."""
    rng = np.random.default_rng(seed)
    weights = np.ones(len(new), dtype=np.float32)
    drawn = []
    for label in np.unique(new.labels):
        own = np.flatnonzero(new.labels == label)
        drawn.append(np.sort(rng.permutation(own)[:CANDIDATES]))
        weights[own] = len(own) / len(drawn[-1])
    return joined(old, replace(new, weights=weights).at(np.concatenate(drawn)))
