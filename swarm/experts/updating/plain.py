"""Fine-tuning: training goes on with the new samples alone. Every other strategy adds to this one.

Source: the lower bound of van de Ven, Tuytelaars and Tolias, "Three types of incremental learning", 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Batch, Samples
from swarm.experts.updating.memory import Memory
from swarm.experts.updating.port import Update


class PlainUpdate:
    """An update that adds nothing to training. Implements `Update`; the others override what they add."""

    def __init__(
        self, strategy: object, memory: Memory | None, class_names: Sequence[str], seed: int
    ) -> None:
        self.class_names, self.seed = tuple(class_names), seed
        self.memory = memory or Memory(class_names=())
        self.remembered = self.memory.recalled(self.class_names)
        self.step_flops = self.end_flops = 0
        self._strategy = strategy

    @property
    def fingerprint(self) -> str:
        return f"{self._strategy!r} {self.class_names} {self.seed} {self.memory.digest()}"

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        self.net, self.train, self.forward_flops = net, train, forward_flops
        self.batch = max(1, min(batch, len(train)))
        outputs = classes_of(net, train)
        if outputs != len(self.class_names):
            raise InvalidInputError(
                "update",
                found=f"{len(self.class_names)} class names",
                expected=f"{outputs}, one for each output of the net",
                remedy="name the classes in the order of the net's outputs",
            )
        if train.base_logits is not None:
            raise InvalidInputError(
                "update",
                found="samples with base logits",
                expected="none: what is remembered has no base to be judged on",
                remedy="train corrections without an update",
            )

    def watched(self, validation: Samples) -> Samples:
        return validation

    def mixed(self, step: int, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        return batch.loss(logits)

    def observe(self) -> None: ...

    def penalty(self) -> torch.Tensor | None:
        return None

    def stepped(self) -> None: ...

    def tracked(self) -> Mapping[str, torch.Tensor]:
        return {}

    def restore(self, tracked: Mapping[str, torch.Tensor]) -> None: ...

    def end(self, net: nn.Module, train: Samples, validation: Samples) -> Memory:
        return Memory(class_names=self.class_names, seen=self.remembered.seen + len(train))


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """Remembers which classes the net knew, and nothing else."""

    name: ClassVar[str] = "fine-tune"

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        return PlainUpdate(self, memory, class_names, seed)


def device_of(net: nn.Module) -> torch.device:
    """Return the device that net's first parameter lies on."""
    return next(net.parameters()).device


def trainable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return net's trainable parameters by name."""
    return {name: weights for name, weights in net.named_parameters() if weights.requires_grad}


def classes_of(net: nn.Module, samples: Samples) -> int:
    """Return the width of net's output; net is left in eval mode."""
    net.eval()
    with torch.no_grad():
        return int(net(torch.zeros(1, *samples.input_shape, device=device_of(net))).shape[1])
