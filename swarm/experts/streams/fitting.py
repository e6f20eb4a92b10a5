"""Fit nets to what has gathered: epochs, with early stopping of each member by its own validation loss."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.domain.streams import Flops
from swarm.experts.flops import TRAINING_PASSES, forward_flops
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.samples import Samples, derived_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """At most `epochs` passes, Adadelta; a member ends `patience` epochs after its best validation loss.

    The defaults are those of the paper's MNIST; it names no patience.
    """

    epochs: int = 100
    patience: int = 10
    batch: int = 128
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch) < 1 or not self.learning_rate > 0:
            raise InvalidInputError("fitting", found=str(self), expected="numbers above 0")


class MemberNet(Protocol):
    """A net that maps inputs [B, *shape] to logits [members, B, classes]; each member is judged alone."""

    members: int

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


class Prepared:
    """Samples as a net sees them, on the CPU: inputs float32 [N, *shape], labels [N], base logits or None."""

    def __init__(self, samples: Samples) -> None:
        if not len(samples):
            raise InvalidInputError("stream", found="no samples", expected="at least one")
        self.inputs = preprocessed(as_tensor(samples.inputs), samples.scale, samples.offset)
        self.labels = as_tensor(samples.labels)
        self.base = None if samples.base_logits is None else as_tensor(samples.base_logits)

    def __len__(self) -> int:
        return len(self.labels)

    def losses(self, net: MemberNet, rows: torch.Tensor | slice) -> torch.Tensor:
        """Return each member's mean cross entropy on rows, [members]."""
        logits = net(self.inputs[rows])
        if self.base is not None:
            logits = logits + self.base[rows]
        labels = self.labels[rows].expand(len(logits), -1)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view(labels.shape).mean(1)


def fit(net: MemberNet, train: Samples, validation: Samples, settings: FitSettings, *, seed: int) -> Flops:
    """Train net in place; every member ends with the weights of its epoch of least validation loss.

    A member that has ended costs nothing more, although it is still computed with the others. Optimiser state
    does not outlive the call. Batches are drawn by seed, the same for all members. Raises InvalidInputError
    without samples, or for a loss that is not finite.
    """
    module = cast(nn.Module, net)
    data, held = Prepared(train), Prepared(validation)
    flat = FlatWeights(module)
    optimiser = torch.optim.Adadelta([flat.values], lr=settings.learning_rate)
    keeper = BestWeights(net, settings.patience)
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed(derived_seed(seed, "fit", epoch))
        order = torch.randperm(len(data), generator=generator)
        for rows in torch.split(order, settings.batch):
            flat.gradients.zero_()
            data.losses(net, rows).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            if not keeper.judge(held.losses(net, slice(None))):
                break
    keeper.give(module)
    each = forward_flops(module, train.input_shape) // net.members * keeper.judged
    return Flops(
        forward=each * (len(train) + len(validation)),
        total=each * (TRAINING_PASSES * len(train) + len(validation)),
    )


class FlatWeights:
    """All parameters of a net as views of one vector: an optimiser then takes one small step, not many."""

    def __init__(self, net: nn.Module) -> None:
        parameters = list(net.parameters())
        self.values = torch.cat([each.detach().flatten() for each in parameters]).requires_grad_()
        self.gradients = torch.zeros_like(self.values)
        self.values.grad = self.gradients
        whole, start = self.values.detach(), 0
        for each in parameters:
            end = start + each.numel()
            each.data = whole[start:end].view(each.shape)
            each.grad = self.gradients[start:end].view(each.shape)
            start = end


class BestWeights:
    """The weights of each member's best judgement; `judged` counts judgements up to each member's end."""

    def __init__(self, net: MemberNet, patience: int) -> None:
        self._net, self._patience = net, patience
        self._parameters = list(cast(nn.Module, net).parameters())
        self._best = [each.detach().clone() for each in self._parameters]
        self._least = torch.full((net.members,), torch.inf)
        self._stale = torch.zeros(net.members, dtype=torch.int64)
        self.judged = 0

    def judge(self, losses: torch.Tensor) -> bool:
        """Take in the losses [members] of the present weights; say whether any member goes on."""
        if not bool(losses.isfinite().all()):
            raise InvalidInputError(
                "training", found="a loss that is not finite", expected="a falling loss",
                remedy="use a lower learning rate",
            )  # fmt: skip
        running = self._stale < self._patience
        self.judged += int(running.sum())
        better = running & (losses < self._least)
        self._least = torch.where(better, losses, self._least)
        self._stale = torch.where(better, 0, self._stale + 1)
        if bool(better.any()):
            rows = better if self._net.members > 1 else slice(None)
            for kept, weights in zip(self._best, self._parameters, strict=True):
                kept[rows] = weights.detach()[rows]
        return bool((self._stale < self._patience).any())

    def give(self, net: nn.Module) -> None:
        """Give the net, or a copy of it, every member's best weights."""
        with torch.no_grad():
            for kept, weights in zip(self._best, net.parameters(), strict=True):
                weights.copy_(kept)
                weights.grad = None
