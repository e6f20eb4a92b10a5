"""A net's weights as modules: one module for each top-level child, named after it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import Digest
from swarm.domain.tensors import OWN_MODULE, ModuleEntry, state_name
from swarm.modules.packing import ReadBlob, pack_module, unpack

_CARRIED = {
    torch.float64: "float64", torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8",
    torch.uint8: "uint8", torch.bool: "bool",
}  # fmt: skip

Array = NDArray[Any]


def module_arrays(net: nn.Module) -> dict[str, dict[str, Array]]:
    """Return parameters and buffers by module name and tensor name; bfloat16 tensors as uint16 arrays.

    Children without tensors (activations, pooling) are no modules.
    """
    modules: dict[str, dict[str, Array]] = {}
    for name, tensor in state_tensors(net).items():
        module, tensor_name = _split_name(net, name)
        modules.setdefault(module, {})[tensor_name] = _as_array(tensor)
    return modules


def pack_net(net: nn.Module) -> tuple[tuple[ModuleEntry, ...], dict[Digest, bytes]]:
    """Return net's modules and the blobs that hold them; InvalidInputError if it has no weights at all."""
    entries, blobs = [], {}
    dtypes = tensor_dtypes(net)
    for module, arrays in module_arrays(net).items():
        prefix = "" if module == OWN_MODULE else f"{module}."
        names = {name: dtypes[prefix + name] for name in arrays}
        entry, new = pack_module(module, arrays, names)
        entries.append(entry)
        blobs.update(new)
    if not entries:
        raise InvalidInputError("net", found="no weights", expected="at least one parameter")
    return tuple(entries), blobs


def load_net(net: nn.Module, modules: Sequence[ModuleEntry], read: ReadBlob) -> None:
    """Put modules' weights into net; ShapeMismatchError unless names, dtypes and shapes are its own."""
    load_tensors(net, mapped_tensors(modules, read))


def load_tensors(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors, by their names in the state dict, into net; ShapeMismatchError unless they fit."""
    own = state_tensors(net)
    problems = [f"no tensor {name}" for name in own if name not in tensors]
    problems += [f"unknown tensor {name}" for name in tensors if name not in own]
    problems += [
        f"{name} as {_described(tensors[name])} instead of {_described(tensor)}"
        for name, tensor in own.items()
        if name in tensors and (tensors[name].shape, tensors[name].dtype) != (tensor.shape, tensor.dtype)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ShapeMismatchError(
            "weights",
            found=", ".join(problems[:3]) + more,
            expected="exactly the net's own tensors",
            remedy="use the net, input shape and classes that the weights were trained with",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def warm_start(
    net: nn.Module,
    modules: Sequence[ModuleEntry],
    read: ReadBlob,
    old_classes: Sequence[str],
    new_classes: Sequence[str],
) -> int:
    """Copy into net what fits of an earlier version's modules and return the number of tensors copied.

    Tensors are matched by name and shape. The rows of the last layer are matched by class name instead:
    rows of classes that are new keep their fresh values.
    """
    old = tensors_of(modules, read)
    own = state_tensors(net)
    head = head_tensors(net, len(new_classes))
    shared = [name for name in new_classes if name in old_classes]
    rows = [list(new_classes).index(name) for name in shared]
    old_rows = [list(old_classes).index(name) for name in shared]
    copied = 0
    with torch.no_grad():
        for name, tensor in own.items():
            source = old.get(name)
            if source is None or source.dtype != tensor.dtype or source.shape[1:] != tensor.shape[1:]:
                continue
            if name in head and len(source) == len(old_classes):
                tensor[rows] = source[old_rows]
                copied += 1
            elif source.shape == tensor.shape:
                tensor.copy_(source)
                copied += 1
    return copied


def zero_head(net: nn.Module, classes: int) -> bool:
    """Set the last linear layer to zero, so that net answers 0 for every class; False where it has none of
    that width, or other layers follow (net is then as it was, or answers otherwise)."""
    head = head_tensors(net, classes)
    with torch.no_grad():
        for name, tensor in state_tensors(net).items():
            if name in head:
                tensor.zero_()
    return bool(head)


def mapped_tensors(modules: Sequence[ModuleEntry], read: ReadBlob) -> dict[str, torch.Tensor]:
    """Return modules' tensors by their names in the state dict, without a copy: pages are read when used.

    They are read-only, as verified blobs are: a write into one ends the process. So they are for copying
    from, and for nets that nobody trains.
    """
    return {
        state_name(module.name, entry.name): _as_view(array, entry.dtype)
        for module in modules
        for entry, array in zip(module.tensors, unpack(module.tensors, read).values(), strict=True)
    }


def tensors_of(
    modules: Sequence[ModuleEntry], read: ReadBlob, *, named: bool = True
) -> dict[str, torch.Tensor]:
    """Return copies of modules' tensors by name; named False leaves the module's name out."""
    return {
        state_name(module.name if named else OWN_MODULE, entry.name): _as_tensor(array, entry.dtype)
        for module in modules
        for entry, array in zip(module.tensors, unpack(module.tensors, read).values(), strict=True)
    }


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Return tensors as arrays; bfloat16 as uint16."""
    return {name: _as_array(tensor) for name, tensor in tensors.items()}


def state_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return net's parameters and persistent buffers by name; they share its memory."""
    found = {name: value for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    for name, tensor in found.items():
        if tensor.dtype not in _CARRIED or tensor.layout != torch.strided:
            raise InvalidInputError(
                f"tensor {name}",
                found=f"{tensor.dtype}, {tensor.layout}",
                expected=f"dense {', '.join(_CARRIED.values())}",
            )
    return found


def tensor_dtypes(net: nn.Module) -> dict[str, str]:
    """Return the dtype names of net's parameters and buffers."""
    return {name: _CARRIED[tensor.dtype] for name, tensor in state_tensors(net).items()}


def head_tensors(net: nn.Module, classes: int) -> set[str]:
    """Return the names of the last linear layer's tensors, if its width is the number of classes."""
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != classes:
        return set()
    prefix = f"{linear[-1][0]}." if linear[-1][0] else ""
    return {f"{prefix}weight", f"{prefix}bias"}


def _split_name(net: nn.Module, name: str) -> tuple[str, str]:
    child, dot, rest = name.partition(".")
    return (child, rest) if dot and child in net._modules else (OWN_MODULE, name)


def _as_array(tensor: torch.Tensor) -> Array:
    plain = tensor.detach().cpu().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def _as_tensor(array: Array, dtype: str) -> torch.Tensor:
    return _as_view(array.copy(), dtype)


def _as_view(array: Array, dtype: str) -> torch.Tensor:
    with warnings.catch_warnings():
        # Of what `mapped_tensors` says.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _described(tensor: torch.Tensor) -> str:
    return f"{_CARRIED.get(tensor.dtype, str(tensor.dtype))} {list(tensor.shape)}"
