"""The fixed random features behind the trunk `randconv-sqrt:K`: 16 K + 1 of them.

K seeded Gaussian filters of zero mean and unit norm, bias -0.3 U[0, 1], stride 1, ReLU and average pooling to
4 x 4 give h; the features are [10 (sqrt(h + 1e-4) - 0.14), 1]. Inputs that are no images take 16 K random
directions of unit norm instead of filters and pooling. Source: Coates and Ng 2011; the constants were
measured on Fashion-MNIST, where the square root is worth a point.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.inputs import channels_first, is_image_shape

POOLED_SIDE = 4
MAX_FILTERS = 4096
FIXED_POINT = 32.0
"""Steps per unit in which sums count these features: their root mean square is about 1."""
CACHED_BYTES = 4 << 20
"""A CPU makes so many bytes of filter responses at a time: they then stay in its cache (60,000 images of
28 x 28, K = 400, one core: 12 s instead of 52)."""


class RandomConvolutions(nn.Module):
    """Images [B, H, W] or [B, H, W, C] to 16 K + 1 features."""

    def __init__(self, filters: int, input_shape: Sequence[int], generator: torch.Generator | None) -> None:
        super().__init__()
        side = 5 if min(input_shape[:2]) >= 12 else 3
        # A 3 x 3 filter keeps the borders of small images: 8 x 8 then pools to exactly 4 x 4.
        self.padding = 0 if side == 5 else 1
        channels = input_shape[2] if len(input_shape) == 3 else 1
        self.register_buffer("filters", _unit_rows((filters, channels, side, side), generator, centred=True))
        self.register_buffer("biases", _biases(filters, generator))
        self.feature_size = filters * POOLED_SIDE**2 + 1
        responses = filters * math.prod(each - side + 1 + 2 * self.padding for each in input_shape[:2])
        self._cached_rows = max(1, CACHED_BYTES // (4 * responses))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        images = channels_first(inputs)
        rows = self._cached_rows if images.device.type == "cpu" else max(1, len(images))
        parts = [self._pooled(images[at : at + rows]) for at in range(0, len(images), rows)]
        return _rooted(torch.cat(parts))

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        responses = nn.functional.conv2d(images, self.filters, self.biases, padding=self.padding).relu_()
        height, width = responses.shape[2:]
        if height % POOLED_SIDE or width % POOLED_SIDE:
            return nn.functional.adaptive_avg_pool2d(responses, POOLED_SIDE).flatten(1)
        window = (height // POOLED_SIDE, width // POOLED_SIDE)
        return nn.functional.avg_pool2d(responses, window).flatten(1)

    filters: torch.Tensor
    biases: torch.Tensor


class RandomDirections(nn.Module):
    """Inputs of any shape, taken as vectors, to 16 K + 1 features."""

    def __init__(self, filters: int, input_shape: Sequence[int], generator: torch.Generator | None) -> None:
        super().__init__()
        units = filters * POOLED_SIDE**2
        self.register_buffer("filters", _unit_rows((units, math.prod(input_shape)), generator, centred=False))
        self.register_buffer("biases", _biases(units, generator))
        self.feature_size = units + 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return _rooted(nn.functional.linear(inputs.flatten(1), self.filters, self.biases).relu_())

    filters: torch.Tensor
    biases: torch.Tensor


def built_in_trunk(
    factory: str, input_shape: Sequence[int], generator: torch.Generator | None
) -> RandomConvolutions | RandomDirections | nn.Flatten | None:
    """Return the net of a built-in trunk, `randconv-sqrt:K` or `identity`; None for any other name.

    Without a generator its weights are zeros, to be loaded. Raises InvalidInputError for a K out of range.
    """
    name, _, option = factory.partition(":")
    if name == "randconv-sqrt":
        if not option.isdecimal() or not 1 <= int(option) <= MAX_FILTERS:
            raise InvalidInputError(
                "trunk", found=repr(factory[:80]), expected=f"randconv-sqrt:K with 1 <= K <= {MAX_FILTERS}"
            )
        kind = RandomConvolutions if is_image_shape(input_shape) else RandomDirections
        return kind(int(option), input_shape, generator)
    return nn.Flatten() if factory == "identity" else None


def _unit_rows(shape: tuple[int, ...], generator: torch.Generator | None, *, centred: bool) -> torch.Tensor:
    """Return Gaussian rows of unit norm (and zero mean where centred), float32 of shape; zeros without a
    generator."""
    if generator is None:
        return torch.zeros(shape)
    rows = torch.randn(shape[0], math.prod(shape[1:]), generator=generator)
    if centred:
        rows -= rows.mean(1, keepdim=True)
    return nn.functional.normalize(rows, dim=1).reshape(shape)


def _biases(count: int, generator: torch.Generator | None) -> torch.Tensor:
    return torch.zeros(count) if generator is None else -0.3 * torch.rand(count, generator=generator)


def _rooted(values: torch.Tensor) -> torch.Tensor:
    """Return [10 (sqrt(values + 1e-4) - 0.14), 1]."""
    rooted = values.add(1e-4).sqrt_().sub_(0.14).mul_(10)
    return torch.cat([rooted, rooted.new_ones(len(rooted), 1)], 1)
