"""The port between training and how an expert is kept from forgetting: a strategy, and one update of it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from swarm.experts.samples import Batch, Samples
from swarm.experts.updating.memory import Memory


class Update(Protocol):
    """One update in progress. `train_expert` calls `begin`, then for every step `mixed`, `loss`, `observe`,
    `penalty` and `stepped`, and at last `end`; everything is a function of the step, so that it can resume.
    """

    @property
    def fingerprint(self) -> str:
        """Names strategy, settings, memory and seed: a checkpoint of another update is not used."""
        ...

    @property
    def step_flops(self) -> int:
        """FLOPs of a step beyond 3 forward passes for each sample of the mixed batch; known after `begin`."""
        ...

    @property
    def end_flops(self) -> int:
        """FLOPs of `end`; known after it."""
        ...

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        """Take net as it is before the first step, also where the run is about to resume: it lies on the
        training device. batch: the size of training's own batches; forward_flops: of one sample.

        Raises InvalidInputError where the strategy cannot work on this net or these samples.
        """
        ...

    def watched(self, validation: Samples) -> Samples:
        """Return what the best weights are chosen by: validation, and remembered samples held out."""
        ...

    def mixed(self, step: int, batch: Batch) -> Batch:
        """Return the batch of a training step, with what is mixed into it."""
        ...

    def loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Return what is minimised, from the logits [b, classes] of a mixed batch."""
        ...

    def observe(self) -> None:
        """Look at the gradients of `loss` before those of `penalty` are added and the weights move."""
        ...

    def penalty(self) -> torch.Tensor | None:
        """Return what is added to the loss as a function of the weights alone, if anything."""
        ...

    def stepped(self) -> None:
        """Look at the weights after they moved."""
        ...

    def tracked(self) -> Mapping[str, torch.Tensor]:
        """Return what was summed up over the steps, for the checkpoint; it may go on changing."""
        ...

    def restore(self, tracked: Mapping[str, torch.Tensor]) -> None:
        """Take back what `tracked` returned at an earlier step."""
        ...

    def end(self, net: nn.Module, train: Samples, validation: Samples) -> Memory:
        """Return what the next update needs. net holds the best weights; its head may be replaced."""
        ...


class UpdateStrategy(Protocol):
    """How an expert learns new samples of its shard without those of earlier updates. Knows its own knobs."""

    @property
    def name(self) -> str:
        """As in the registry."""
        ...

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        """Return one update of an expert whose outputs mean class_names.

        memory: what the last update of this very expert returned; None where there was none, or where the
        net does not continue it.
        """
        ...
