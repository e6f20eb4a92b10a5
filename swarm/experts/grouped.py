"""Experts of one architecture as one computation: weights stacked, one batched product for each layer.

What it saves is the fixed cost of an expert's pass, so it is for small nets: on a CPU core, eight experts at
one row each took 0.1 of the time of eight passes at 31 to 50 KiB of weights, 0.3 at 0.5 MiB, 0.8 at 2.6 MiB
and as long at 7 MiB (64 rows each: 0.6 to 0.8, and 1.0 from 2.6 MiB). Gathering the weights for each batch
costs more than it saves from 0.5 MiB on, so stacks are kept: a second copy of the weights.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.inference import ExpertForm
from swarm.domain.manifests import NetReference
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.nets import Mlp

MOST_EXPERT_BYTES: Final = 1 << 20
"""Larger experts are computed one by one."""
MOST_EXPERTS: Final = 64
"""So many experts share a stack at most."""
MOST_PADDING: Final = 2
"""A stack is not used where it would compute more than so many times the rows that were asked for."""

Inputs = NDArray[np.generic]


def architecture(expert: LoadedExpert, form: ExpertForm) -> NetReference | None:
    """Return what experts have to share to be computed together; None for one that is computed alone."""
    if form == "corrections" and not expert.has_correction:
        return None
    if expert.form_bytes(form) > MOST_EXPERT_BYTES or not isinstance(expert.net(form), Mlp):
        return None
    return expert.manifest.net


class ExpertGroup:
    """Experts of one architecture, in a fixed order, whose weights are copied and do not change."""

    def __init__(self, experts: Sequence[LoadedExpert], form: ExpertForm) -> None:
        self._first, self._form, self._count = experts[0], form, len(experts)
        nets = [expert.net(form) for expert in experts]
        self._layers = [
            (
                torch.stack([layer.weight for layer in layers]).transpose(1, 2),
                torch.stack([layer.bias for layer in layers]).unsqueeze(1),
            )
            for layers in zip(*map(_layers, nets), strict=True)
        ]

    @property
    def size_bytes(self) -> int:
        """The bytes of the stacked weights."""
        return sum(weight.nbytes + bias.nbytes for weight, bias in self._layers)

    def pays(self, rows: Sequence[int]) -> bool:
        """Say whether to compute so many rows of each expert together."""
        padded = self._count * max(rows, default=0)
        return padded <= min(MOST_PADDING * sum(rows), self._first.rows_at_once)

    def values(self, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
        """Return each expert's values float32 [B, C] for its own raw inputs [B, *input_shape], B >= 0.

        As each expert's `values` within float32's precision. Whether they are finite is not checked.
        """
        most = max(map(len, inputs))
        padded = np.zeros((self._count, most, *inputs[0].shape[1:]), dtype=inputs[0].dtype)
        for place, rows in enumerate(inputs):
            padded[place, : len(rows)] = rows
        with torch.inference_mode():
            raw = as_tensor(padded).to(self._first.device)
            values = preprocessed(raw, self._first.scale, self._first.offset).flatten(2)
            for number, (weight, bias) in enumerate(self._layers):
                values = torch.baddbmm(bias, values, weight)
                if number + 1 < len(self._layers):
                    values = torch.relu_(values)
            found = self._first.finished(values, self._form).cpu().numpy()
        return [found[place, : len(rows)] for place, rows in enumerate(inputs)]


def _layers(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.children() if isinstance(layer, nn.Linear)]
