"""Large linear layers of experts that answer on a CPU, their weights packed once as oneDNN wants them.

torch gives float32 products to MKL, which is much slower than oneDNN on processors that are not Intel's, but
for a few rows; `benchmarks.serving.beside_hivemind` has nets of such layers on both sides. The packed weights
are the only copy in memory.
"""

import platform
from collections import Counter
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

LEAST_WEIGHTS: Final = 1 << 17
"""Smaller layers are as fast by MKL, whose calls cost less."""
LEAST_SIDE: Final = 64
"""Packed weights are filled up to whole blocks: of a layer with one output they would take many times the
memory."""
PACKED_FOR_ROWS: Final = 32
EXACT_ROWS: Final = 8
FEW_ROWS: Final = 64
"""Up to so many rows, layers see multiples of EXACT_ROWS, beyond them multiples of FEW_ROWS: for every number
of rows oneDNN makes code of its own, which takes time."""


class PackedLinear(nn.Linear):
    """An `nn.Linear` that was packed: computes the same within float32's precision, and cannot be trained.

    Who reads `weight` gets it unpacked, and `was_read` says so from then on.
    """

    packed: Tensor
    was_read: bool

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights float32 [out, in], unpacked for every reader."""
        self.was_read = True
        return self.packed.to_dense()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        if inputs.dtype != torch.float32 or inputs.device.type != "cpu":
            return nn.functional.linear(inputs, self.packed.to_dense(), self.bias)
        flat = inputs.reshape(-1, inputs.shape[-1])
        rows = len(flat)
        if (padding := _computed_rows(rows) - rows) > 0:
            flat = nn.functional.pad(flat, (0, 0, 0, padding))
        found = torch.ops.mkldnn._linear_pointwise(flat, self.packed, self.bias, "none", [], "")
        return found[:rows].reshape(*inputs.shape[:-1], self.out_features)  # type: ignore[no-any-return]


def can_pack() -> bool:
    """Say whether this process can pack layers: torch has oneDNN, on x86-64."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and platform.machine() in ("x86_64", "AMD64")


def pack(net: nn.Module) -> None:
    """Pack a net's large float32 layers on the CPU, in place. The net is not trained any more."""
    if not can_pack():
        return
    users = Counter(id(each) for layer in net.modules() for each in layer.parameters(recurse=False))
    for layer in net.modules():
        if type(layer) is nn.Linear and _is_worth_it(layer.weight) and users[id(layer.weight)] == 1:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), PACKED_FOR_ROWS)
            del layer.weight
            layer.__class__ = PackedLinear
            vars(layer).update(packed=packed, was_read=False)


def unpack_read(net: nn.Module) -> None:
    """Unpack those layers whose weights somebody reads beside the layer itself: each time costs a copy."""
    _unpack(layer for layer in net.modules() if isinstance(layer, PackedLinear) and layer.was_read)


def unpack(net: nn.Module) -> None:
    """Unpack all layers of a net that cannot do without their parameters."""
    _unpack(layer for layer in net.modules() if isinstance(layer, PackedLinear))


def _unpack(layers: Iterable[PackedLinear]) -> None:
    for layer in layers:
        dense = layer.packed.to_dense()
        del layer.packed, layer.was_read
        layer.__class__ = nn.Linear  # type: ignore[assignment]  # as before it was packed
        layer.register_parameter("weight", nn.Parameter(dense, requires_grad=False))
        layer.register_parameter("bias", vars(layer)["_parameters"].pop("bias"))  # in their order


def pack_if_alike(net: nn.Module, inputs: Tensor) -> None:
    """Pack a net where it gives the same for inputs then, but for layers whose weights are read: people's own
    nets may use their parameters beside their layers, and not find them, or not all."""
    if not can_pack():
        return
    with torch.inference_mode():
        try:
            expected = net(inputs)
        except Exception:  # whatever people's own nets raise: these inputs are not theirs
            return
    pack(net)
    with torch.inference_mode():
        try:
            is_alike = torch.allclose(net(inputs), expected, rtol=1e-3, atol=1e-4, equal_nan=True)
        except Exception:
            is_alike = False
    (unpack_read if is_alike else unpack)(net)


def _is_worth_it(weight: Tensor) -> bool:
    is_plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
    return is_plain and weight.numel() >= LEAST_WEIGHTS and min(weight.shape) >= LEAST_SIDE


def _computed_rows(rows: int) -> int:
    """Return how many rows are computed for so many."""
    if rows <= EXACT_ROWS:
        return rows
    step = EXACT_ROWS if rows <= FEW_ROWS else FEW_ROWS
    return -(-rows // step) * step
