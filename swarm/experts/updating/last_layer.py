"""A net's last layer, where it is a linear one: its name, its inputs, and its rows by class name."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Feed, Samples
from swarm.experts.updating.plain import device_of, trainable

_BATCH = 1024


class LastLayer(NamedTuple):
    """The name of the linear layer that ends a net, and the layer."""

    name: str
    layer: nn.Linear


def last_linear(net: nn.Module, classes: int) -> LastLayer | None:
    """Return the linear layer registered last, if it gives classes outputs."""
    linear = [LastLayer(name, part) for name, part in net.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear and linear[-1].layer.out_features == classes else None


def features_of(
    net: nn.Module, samples: Samples, classes: int, *, or_outputs: bool = False
) -> NDArray[np.float32]:
    """Return what net's last layer sees of at least one sample in eval mode: float32 [N, D].

    Raises InvalidInputError unless net's output is that of one nn.Linear with classes rows; or_outputs: takes
    the outputs themselves then.
    """
    last = last_linear(net, classes)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows: list[torch.Tensor] = []
    net.eval()
    with ExitStack() as stack, torch.no_grad():
        if last is not None:
            hook = last.layer.register_forward_hook(
                lambda layer, inputs, output: seen.append((inputs[0], output))
            )
            stack.callback(hook.remove)
        for batch in Feed(samples, device_of(net), _BATCH, 0):
            seen.clear()
            output = net(batch.inputs)
            ends_linear = len(seen) == 1 and seen[0][0].dim() == 2 and torch.equal(seen[0][1], output)
            if not ends_linear and not or_outputs:
                raise _not_linear(net)
            rows.append(seen[0][0] if ends_linear else output)
    return torch.cat(rows).float().cpu().numpy()


def aligned(
    remembered: Mapping[str, NDArray[np.float32]],
    net: nn.Module,
    old_classes: Sequence[str],
    new_classes: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Return remembered tensors in the shapes of net's trainable parameters, float32 on net's device.

    Rows of the last layer are found by class name; rows of new classes, and tensors that were not remembered
    or have another shape now, are zero.
    """
    last = last_linear(net, len(new_classes))
    head = {f"{last.name}.{part}".lstrip(".") for part in ("weight", "bias")} if last else set()
    shared = [name for name in new_classes if name in old_classes]
    rows = [list(new_classes).index(name) for name in shared]
    old_rows = [list(old_classes).index(name) for name in shared]
    found = {}
    for name, weights in trainable(net).items():
        target = torch.zeros_like(weights, dtype=torch.float32)
        source = remembered.get(name)
        if source is not None:
            values = torch.from_numpy(np.array(source)).to(target.device)
            if name in head and len(values) == len(old_classes) and values.shape[1:] == target.shape[1:]:
                target[rows] = values[old_rows]
            elif values.shape == target.shape:
                target.copy_(values)
        found[name] = target
    return found


def _not_linear(net: nn.Module) -> InvalidInputError:
    return InvalidInputError(
        f"net {type(net).__name__}",
        found="an output that no linear layer gives",
        expected="a net that ends in one torch.nn.Linear over features [B, D], a row for each class",
        remedy="remember by reservoir and keep the net's own head, or end the net in nn.Linear",
    )
