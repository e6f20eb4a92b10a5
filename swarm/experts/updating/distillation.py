"""Learning without forgetting: the net as it was answers for the old classes, and is to be agreed with."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from swarm.experts.samples import Batch, Samples
from swarm.experts.updating.memory import Memory
from swarm.experts.updating.penalties import check_positive
from swarm.experts.updating.plain import PlainUpdate
from swarm.experts.updating.port import Update


class LwfUpdate(PlainUpdate):
    """Adds the distillation loss on the new samples, over the outputs of the classes known before."""

    def __init__(
        self,
        strategy: "LearningWithoutForgetting",
        memory: Memory | None,
        class_names: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__(strategy, memory, class_names, seed)
        self.weight, self.temperature = strategy.weight, strategy.temperature
        self.old = [row for row, name in enumerate(self.class_names) if name in self.memory.class_names]

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        super().begin(net, train, batch=batch, forward_flops=forward_flops)
        if not self.old:
            return
        self.teacher = copy.deepcopy(net).eval().requires_grad_(False)
        self.step_flops = forward_flops * self.batch

    def loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        loss = super().loss(batch, logits)
        if not self.old:
            return loss
        with torch.no_grad():
            target = self.teacher(batch.inputs).float()[:, self.old]
        return loss + self.weight * distillation(logits.float()[:, self.old], target, self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningWithoutForgetting:
    """Adds `weight * distillation` on new samples: no old sample and no importance is kept.

    Sources: Li and Hoiem, "Learning without forgetting", ECCV 2016; the temperature's square as in Hinton,
    Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """

    name: ClassVar[str] = "lwf"
    weight: float = 0.3
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_positive("LwF", weight=self.weight, temperature=self.temperature)

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        return LwfUpdate(self, memory, class_names, seed)


def distillation(logits: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 times the mean over rows of KL(softmax(target / T) || softmax(logits / T)), logits [b, C].

    The divergence has the gradients of Li and Hoiem's cross entropy and is 0 where both agree; T^2 keeps them
    as large at every temperature.
    """
    wanted = torch.log_softmax(target / temperature, dim=1)
    got = torch.log_softmax(logits / temperature, dim=1)
    return temperature**2 * nn.functional.kl_div(got, wanted, reduction="batchmean", log_target=True)
