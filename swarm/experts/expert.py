"""An expert ready to answer: verified weights in the net that its manifest names."""

import math
import re
import sys
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError, VerificationError
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.factories import is_built_in
from swarm.experts.inputs import as_tensor, check_inputs, preprocessed
from swarm.experts.nets import build_net, built_in_numbers
from swarm.experts.weights import load_net
from swarm.modules.packing import ReadBlob, check_module

ROWS_AT_ONCE = 1024


class LoadedExpert:
    """One expert version in memory. `probabilities` may be called from several threads."""

    def __init__(
        self, manifest: Manifest, net: nn.Module, scale: float, offset: float, device: torch.device
    ) -> None:
        self.manifest = manifest
        self._net = net.to(device).eval().requires_grad_(False)
        self._scale, self._offset, self._device = scale, offset, device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the columns of `probabilities`."""
        return self.manifest.class_names

    @property
    def flops_per_query(self) -> int:
        return self.manifest.cost.inference_flops

    @property
    def size_bytes(self) -> int:
        """The bytes of its weights."""
        return sum(module.size_bytes for module in self.manifest.modules)

    @classmethod
    def load(
        cls,
        manifest: Manifest,
        read: ReadBlob,
        specification: Specification,
        import_paths: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> Self:
        """Build the net and load the modules, after checking every digest, type, shape and value.

        `read` returns a blob's verified bytes. Raises ShapeMismatchError for another input or other tensors,
        VerificationError for damaged or non-finite modules, NotFoundError if the factory is not here.
        """
        subject = f"{manifest.expert}@{manifest.version}"
        if manifest.net.input_shape != specification.input_shape:
            raise ShapeMismatchError(
                f"{subject}, input shape",
                found=str(list(manifest.net.input_shape)),
                expected=f"{list(specification.input_shape)}, as swarm {specification.swarm} specifies",
            )
        for module in manifest.modules:
            check_module(module, read)
        _check_factory(manifest, subject)
        with torch.random.fork_rng(devices=[]):
            net = build_net(manifest.net, import_paths)
        try:
            load_net(net, manifest.modules, read)
        except ShapeMismatchError as error:
            raise ShapeMismatchError(
                f"{subject}, weights", found=error.found, expected=error.expected, remedy=error.remedy
            ) from error
        expert = cls(manifest, net, specification.scale, specification.offset, device or torch.device("cpu"))
        expert._check_answers()
        return expert

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return class probabilities float32 [B, C] over `class_names` for raw inputs [B, *input_shape].

        Raises ShapeMismatchError for other inputs, VerificationError if the expert gives no finite numbers.
        """
        check_inputs(inputs, self.manifest.net.input_shape)
        found = np.empty((len(inputs), len(self.class_names)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(inputs), ROWS_AT_ONCE):
                raw = as_tensor(inputs[start : start + ROWS_AT_ONCE]).to(self._device)
                logits = self._net(preprocessed(raw, self._scale, self._offset)).float()
                found[start : start + len(raw)] = torch.softmax(logits, 1).cpu().numpy()
        if not np.isfinite(found).all():
            raise VerificationError(
                f"answer of {self.manifest.expert}@{self.manifest.version}",
                found="a probability that is not finite",
                expected="finite numbers",
                remedy="check the inputs' range; if it is right, withdraw the expert and train it again",
            )
        return found

    def _check_answers(self) -> None:
        self.probabilities(np.zeros((1, *self.manifest.net.input_shape), dtype=np.float32))


def _check_factory(manifest: Manifest, subject: str) -> None:
    """Raise where building what a peer names would harm us: a net larger than its weights would fill memory
    (ShapeMismatchError), and some of Python's own modules act when they are imported (InvalidInputError)."""
    if not is_built_in(manifest.net.factory):
        if re.split(r"[.:]", manifest.net.factory)[0] in sys.stdlib_module_names:
            raise InvalidInputError(
                f"{subject}, factory {manifest.net.factory[:80]}",
                found="a module of Python's own library",
                expected="people's own code",
            )
        return
    promised = built_in_numbers(manifest.net)
    found = sum(math.prod(tensor.shape) for module in manifest.modules for tensor in module.tensors)
    if promised > found:
        raise ShapeMismatchError(
            f"{subject}, weights",
            found=f"{found} numbers",
            expected=f"{promised} of net {manifest.net.factory}",
        )
