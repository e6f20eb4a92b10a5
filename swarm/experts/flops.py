"""FLOPs of a forward pass, also where torch's counter sees none.

Conventions: a multiply-add is 2 FLOPs; biases of matrix products are not counted (as in torch's counter).
One FLOP per output element of element-wise arithmetic, per input element of pooling and reductions; 5 per
element for softmax and normalisation, 2 for a batch norm in eval mode. Moving data is free.
torch's FlopCounterMode counts products and convolutions only, and not those inside fused kernels: LSTM,
attention and transformer layers in eval mode count zero there. Here attention takes its unfused path while
counting, and recurrent layers are counted from their sizes. Training costs 3 forward passes per sample.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

TRAINING_PASSES = 3

_aten = torch.ops.aten
_NORMALISING = {
    _aten._softmax, _aten._log_softmax, _aten.native_layer_norm, _aten.native_group_norm,
    _aten._fused_rms_norm,
}  # fmt: skip
_BATCH_NORM = {
    _aten.native_batch_norm, _aten._native_batch_norm_legit, _aten._native_batch_norm_legit_no_training,
    _aten.cudnn_batch_norm,
}  # fmt: skip
_WINDOWED = {
    _aten.avg_pool1d, _aten.avg_pool2d, _aten.avg_pool3d, _aten.max_pool2d_with_indices,
    _aten.max_pool3d_with_indices, _aten.mkldnn_max_pool2d, _aten.mkldnn_max_pool3d,
}  # fmt: skip
_REDUCING = {
    _aten.sum, _aten.mean, _aten.amax, _aten.amin, _aten.max, _aten.min, _aten.var, _aten.std, _aten.prod,
    _aten.var_mean, _aten.norm, _aten.linalg_vector_norm, _aten.logsumexp, _aten.cumsum, _aten.argmax,
    _aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool3d, _aten.adaptive_max_pool2d,
    _aten.adaptive_max_pool3d,
}  # fmt: skip
_FREE = {_aten.clone, _aten.copy_, _aten._to_copy, _aten.fill_, _aten.zero_, _aten.detach, _aten.lift_fresh}


def forward_flops(net: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the FLOPs of one sample's forward pass in eval mode, by running a copy of net on the CPU.

    net maps float32 [1, *input_shape]; it is left as it was.
    """
    return counted_flops(copy.deepcopy(net).cpu().eval(), torch.zeros(1, *input_shape))


def counted_flops(net: nn.Module, inputs: torch.Tensor) -> int:
    """Return the FLOPs of net(inputs), run as it is; on the `meta` device nothing is computed."""
    counter = _Counter()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_no_attention_fast_path())
        for module in net.modules():
            if isinstance(module, nn.RNNBase):
                stack.callback(module.register_forward_pre_hook(counter.pause).remove)
                stack.callback(module.register_forward_hook(counter.count_recurrent).remove)
        stack.enter_context(counter)
        net(inputs)
    return counter.flops


def training_flops(forward: int, samples: int) -> int:
    """Return the FLOPs of training on samples: the backward pass costs twice the forward pass."""
    return TRAINING_PASSES * forward * samples


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what each operation costs, except inside recurrent layers, which have no visible parts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self._paused = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch loads its compiler, two seconds and 80 MB, at the first operation

    def pause(self, module: nn.Module, inputs: Any) -> None:
        self._paused += 1

    def count_recurrent(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._paused -= 1
        if not self._paused and isinstance(module, nn.RNNBase):
            self.flops += recurrent_flops(module, _tokens(inputs[0]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        packet = func._overloadpacket
        if packet not in flop_registry and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if not self._paused:
            self.flops += _operation_flops(func, packet, args, kwargs, result)
        return result


def recurrent_flops(layer: nn.RNNBase, tokens: int) -> int:
    """Return the FLOPs of an RNN, GRU or LSTM over tokens (batch x length): products, then gates.

    Gates per hidden unit: RNN 2 (add, tanh); GRU 11 (3 adds, 3 nonlinearities, 5 for the mixture);
    LSTM 13 (4 adds, 4 nonlinearities, 3 for the cell, tanh, product).
    """
    gates, per_unit = {"LSTM": (4, 13), "GRU": (3, 11)}.get(layer.mode, (1, 2))
    directions = 2 if layer.bidirectional else 1
    carried = layer.proj_size or layer.hidden_size
    total = 0
    for depth in range(layer.num_layers):
        inputs = layer.input_size if depth == 0 else carried * directions
        products = 2 * gates * layer.hidden_size * (inputs + carried)
        projection = 2 * layer.hidden_size * layer.proj_size
        total += directions * (products + projection + per_unit * layer.hidden_size)
    return int(total * tokens)


def _operation_flops(func: Any, packet: Any, args: Sequence[Any], kwargs: Any, result: Any) -> int:
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if packet in _FREE:
        return 0
    if packet in _NORMALISING:
        return 5 * _elements(args[0])
    if packet in _BATCH_NORM:
        return 2 * _elements(args[0])
    if packet in _WINDOWED:
        window = args[1] if isinstance(args[1], Sequence) else [args[1]]
        dims = {"avg_pool1d": 1, "avg_pool3d": 3, "max_pool3d_with_indices": 3, "mkldnn_max_pool3d": 3}
        sides = list(window) * (dims.get(packet.__name__, 2) if len(window) == 1 else 1)
        return _elements(result) * int(math.prod(sides))
    if packet in _REDUCING:
        return _elements(args[0])
    return _elements(result) if torch.Tag.pointwise in func.tags else 0


def _elements(value: Any) -> int:
    first = value[0] if isinstance(value, tuple | list) and value else value
    return int(first.numel()) if isinstance(first, torch.Tensor) else 0


def _tokens(value: Any) -> int:
    data = value.data if isinstance(value, PackedSequence) else value
    return int(data.numel() // data.shape[-1])


@contextmanager
def _no_attention_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
