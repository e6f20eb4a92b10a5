"""The FFN expert of hivemind's benchmark as a net of ours: D -> 4 D -> D with GELU, a residual and a norm."""

from collections.abc import Sequence

import torch
from torch import nn


class FeedForward(nn.Module):
    """Maps float32 [B, D] to [B, D]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ffn = nn.Linear(size, 4 * size)
        self.ffn_output = nn.Linear(4 * size, size)
        self.layer_norm = nn.LayerNorm(size, eps=1e-12)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        widened = nn.functional.gelu(self.ffn(inputs), approximate="tanh")
        return self.layer_norm(inputs + self.ffn_output(widened))  # type: ignore[no-any-return]


def feed_forward(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Return the net for inputs [D] and D classes."""
    if tuple(input_shape) != (classes,):
        raise ValueError(f"inputs {list(input_shape)} and {classes} classes: expected equally many")
    return FeedForward(classes)
