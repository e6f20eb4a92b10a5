"""What one row takes of whoever runs a net: memory of its activations, and FLOPs.

A few megabytes of weights can ask for gigabytes of activations. So built-in nets, which any peer can name in
any size, are measured before they are run, on torch's `meta` device, which has shapes and no memory; and each
net is run on so many rows at a time as fit into MAX_ACTIVATION_BYTES.
"""

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swarm.domain.errors import InvalidInputError
from swarm.domain.specification import MAX_ACTIVATION_BYTES, MAX_EXPERT_FLOPS
from swarm.experts.flops import counted_flops
from swarm.experts.inputs import is_image_shape

MOST_ROWS = 1024


def measured_forward(net: nn.Module, inputs: torch.Tensor) -> tuple[Any, int]:
    """Return net(inputs) and the most bytes that it held at a time, besides weights and inputs.

    net is in eval mode. What kernels take for themselves while they run is not seen.
    """
    meter = _Meter()
    with torch.no_grad(), meter:
        output = net(inputs)
    return output, meter.most


def rows_at_once(bytes_per_row: int) -> int:
    """Return how many rows, 1 to MOST_ROWS, take MAX_ACTIVATION_BYTES together."""
    return min(MOST_ROWS, max(1, MAX_ACTIVATION_BYTES // max(bytes_per_row, 1)))


def check_footprint(net: nn.Module, input_shape: Sequence[int], subject: str) -> None:
    """Raise InvalidInputError where one row's activations or FLOPs are beyond the limits.

    net is built in and lies on the `meta` device, in eval mode: nothing is allocated or computed.
    """
    if _is_small(net, input_shape):
        return
    row = torch.zeros(1, *input_shape, device="meta")
    _, held = measured_forward(net, row)
    if held > MAX_ACTIVATION_BYTES:
        raise InvalidInputError(
            subject,
            found=f"{held / 2**20:,.0f} MiB of activations for one row",
            expected=f"at most {MAX_ACTIVATION_BYTES >> 20} MiB",
            remedy="choose a smaller net, with fewer channels: others run it, too",
        )
    flops = counted_flops(net, row)
    if flops > MAX_EXPERT_FLOPS:
        raise InvalidInputError(
            subject,
            found=f"{flops:.3g} FLOPs per query",
            expected=f"at most {MAX_EXPERT_FLOPS:.3g}",
            remedy="choose a smaller net: others run it, too",
        )


def _is_small(net: nn.Module, input_shape: Sequence[int]) -> bool:
    """Say whether the limits hold even if every weight were used at every pixel.

    It spares the loading of torch's shape rules, two seconds and 80 MB, for what is far below the limits.
    """
    positions = math.prod(input_shape[:2]) if is_image_shape(input_shape) else 1
    tensors = list(net.state_dict().values())
    outputs, numbers = sum(map(len, tensors)), sum(tensor.numel() for tensor in tensors)
    return 4 * outputs * positions <= MAX_ACTIVATION_BYTES and 2 * numbers * positions <= MAX_EXPERT_FLOPS


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._held = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch loads its compiler, two seconds and 80 MB, at the first operation

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if _is_plain(each)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if _is_plain(made) and id(made.untyped_storage()) not in given:
                self._hold(made.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._held += size
        self.most = max(self.most, self._held)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._held -= size


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided
