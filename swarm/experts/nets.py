"""An expert's network from its reference. A net maps float32 [B, *input_shape] to logits [B, classes].

By name: `linear`, `mlp:WIDTHxDEPTH`, `cnn` or `cnn:CHANNELSxCHANNELS` (images [H, W] or [H, W, C]). Or a
user's `package.module:factory`, called as `factory(input_shape=..., classes=...)`. `ridge-root:TRUNK` is the
swarm's root as a net: solved, never trained (`swarm.experts.ridge_root`).
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.domain.manifests import NetReference
from swarm.experts.factories import import_factory, is_built_in
from swarm.experts.flops import counted_flops
from swarm.experts.footprint import check_footprint
from swarm.experts.inputs import channels_first, is_image_shape
from swarm.experts.ridge_root import RIDGE_ROOT, ridge_root_net

MAX_WIDTH = 1 << 16
MAX_DEPTH = 64
CNN_HIDDEN = 64


def net_reference(
    factory: str, input_shape: Sequence[int], classes: int, import_paths: Sequence[str] = ()
) -> NetReference:
    """Return the reference of a factory to train, with the digest of the source file of a user's own.

    Raises InvalidInputError for `ridge-root`, whose weights come from the swarm's sums.
    """
    if factory.partition(":")[0] == RIDGE_ROOT:
        raise _bad_name(factory)
    digest = None
    if not is_built_in(factory):
        _, digest = import_factory(factory, import_paths)
    return NetReference(
        factory=factory, input_shape=tuple(input_shape), classes=classes, code_digest=digest or ""
    )


def build_net(reference: NetReference, import_paths: Sequence[str] = ()) -> nn.Module:
    """Return a fresh network, initialised from torch's global generator, checked by one forward pass.

    Raises NotFoundError or InvalidInputError where the factory cannot be had, does not keep its promise or,
    if built in, would take more of a machine than `check_footprint` allows; VerificationError where it is
    other code than the reference was made with.
    """
    if is_built_in(reference.factory):
        check_footprint(_without_memory(reference).eval(), reference.input_shape, f"net {reference.factory}")
        net = _built_in(reference)
    else:
        net = _users_own(reference, import_paths)
    _check_output(net, reference)
    return net


def built_in_numbers(reference: NetReference) -> int:
    """Return how many numbers a built-in net consists of, without memory for them."""
    return sum(tensor.numel() for tensor in _without_memory(reference).state_dict().values())


def flops_by_name(reference: NetReference) -> int:
    """Return what one row takes of a built-in net, counted without memory; 0 for people's own nets.

    Raises InvalidInputError for a net that does not exist.
    """
    if not is_built_in(reference.factory):
        return 0
    row = torch.zeros(1, *reference.input_shape, device="meta")
    return counted_flops(_without_memory(reference).eval(), row)


def _without_memory(reference: NetReference) -> nn.Module:
    with torch.device("meta"):
        return _built_in(reference)


def _built_in(reference: NetReference) -> nn.Module:
    name, _, options = reference.factory.partition(":")
    builders: dict[str, Callable[[NetReference, str], nn.Module]] = {
        "linear": _linear,
        "mlp": _mlp,
        "cnn": _cnn,
        RIDGE_ROOT: ridge_root_net,
    }
    return builders[name](reference, options)


def _users_own(reference: NetReference, import_paths: Sequence[str]) -> nn.Module:
    factory, digest = import_factory(reference.factory, import_paths)
    if reference.code_digest and digest != reference.code_digest:
        raise VerificationError(
            f"factory {reference.factory}",
            found=f"source code {(digest or 'without a file')[:12]}",
            expected=f"source code {reference.code_digest[:12]}, which the expert was trained with",
            remedy="install the version of the code that its owner uses",
        )
    try:
        net = factory(input_shape=reference.input_shape, classes=reference.classes)
    except Exception as error:
        raise InvalidInputError(
            f"factory {reference.factory}",
            found=f"{type(error).__name__}: {error}",
            expected=f"input_shape={reference.input_shape}, classes={reference.classes} to be accepted",
        ) from error
    if not isinstance(net, nn.Module):
        raise InvalidInputError(
            f"factory {reference.factory}",
            found=f"a {type(net).__name__}",
            expected="a torch.nn.Module",
            remedy="let the factory return the network itself",
        )
    return net


def _check_output(net: nn.Module, reference: NetReference) -> None:
    """Run one zero input through net in eval mode; InvalidInputError unless it gives [1, classes]."""
    net.eval()
    try:
        with torch.no_grad():
            output = net(torch.zeros(1, *reference.input_shape))
    except Exception as error:
        raise InvalidInputError(
            f"net {reference.factory}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            expected=f"to take float32 inputs [batch, {', '.join(map(str, reference.input_shape))}]",
        ) from error
    found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != [1, reference.classes]:
        raise InvalidInputError(
            f"net {reference.factory}",
            found=f"output {found} for one input",
            expected=f"logits [1, {reference.classes}], one for each class",
            remedy="use the factory's `classes` argument for the width of the last layer",
        )
    if not output.is_floating_point():
        raise InvalidInputError(f"net {reference.factory}", found=f"{output.dtype} output", expected="floats")
    net.train()


class Mlp(nn.Module):
    """Hidden layers with ReLU, then the head. One child per layer, so that one layer is one module."""

    def __init__(self, inputs: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.depth = depth
        for layer in range(depth):
            self.add_module(f"hidden{layer + 1}", nn.Linear(inputs if layer == 0 else width, width))
        self.head = nn.Linear(width if depth else inputs, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = inputs.flatten(1)
        for layer in range(self.depth):
            values = torch.relu(self.get_submodule(f"hidden{layer + 1}")(values))
        return self.head(values)  # type: ignore[no-any-return]


class Cnn(nn.Module):
    """Two convolutions, each with ReLU and 2x2 max pooling, one hidden layer, the head."""

    def __init__(self, height: int, width: int, depth: int, channels: tuple[int, int], classes: int) -> None:
        super().__init__()
        kernel, padding = (5, 0) if min(height, width) >= 16 else (3, 1)
        self.conv1 = nn.Conv2d(depth, channels[0], kernel, padding=padding)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel, padding=padding)
        sides = [_twice_pooled(side, kernel - 1 - 2 * padding) for side in (height, width)]
        self.hidden = nn.Linear(channels[1] * sides[0] * sides[1], CNN_HIDDEN)
        self.head = nn.Linear(CNN_HIDDEN, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = channels_first(inputs)
        for convolution in (self.conv1, self.conv2):
            values = nn.functional.max_pool2d(torch.relu(convolution(values)), 2)
        return self.head(torch.relu(self.hidden(values.flatten(1))))  # type: ignore[no-any-return]


def _twice_pooled(side: int, shrink: int) -> int:
    return ((side - shrink) // 2 - shrink) // 2


def _linear(reference: NetReference, options: str) -> nn.Module:
    if options:
        raise _bad_name(reference.factory)
    return Mlp(math.prod(reference.input_shape), 0, 0, reference.classes)


def _mlp(reference: NetReference, options: str) -> nn.Module:
    width, depth = _two_numbers(reference.factory, options or "128x2", MAX_WIDTH, MAX_DEPTH)
    return Mlp(math.prod(reference.input_shape), width, depth, reference.classes)


def _cnn(reference: NetReference, options: str) -> nn.Module:
    channels = _two_numbers(reference.factory, options or "16x32", MAX_WIDTH, MAX_WIDTH)
    shape = reference.input_shape
    if not is_image_shape(shape):
        raise InvalidInputError(
            f"net {reference.factory}",
            found=f"input shape {list(shape)}",
            expected="images [height, width] or [height, width, channels] of at least 4 x 4",
            remedy="use mlp:128x2 for vectors",
        )
    return Cnn(shape[0], shape[1], shape[2] if len(shape) == 3 else 1, channels, reference.classes)


def _two_numbers(factory: str, text: str, largest: int, second_largest: int) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= largest or not 1 <= int(match[2]) <= second_largest:
        raise _bad_name(factory)
    return int(match[1]), int(match[2])


def _bad_name(factory: str) -> InvalidInputError:
    return InvalidInputError(
        "net",
        found=repr(factory[:80]),
        expected="linear, mlp:WIDTHxDEPTH, cnn, cnn:CHANNELSxCHANNELS or package.module:factory",
        remedy="for example mlp:128x2",
    )
