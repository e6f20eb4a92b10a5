"""An expert ready to answer: verified weights in the net that its manifest names.

An expert with a correction has a second set of weights for the same net: `corrections` is what that adds to
the class scores of the swarm's root.
"""

import math
import re
import sys
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.inference import ExpertForm
from swarm.domain.manifests import Cost, Manifest, NetReference
from swarm.domain.specification import Specification
from swarm.domain.tensors import ModuleEntry
from swarm.experts.factories import is_built_in
from swarm.experts.footprint import MOST_ROWS, measured_forward, rows_at_once
from swarm.experts.inputs import as_tensor, check_inputs, preprocessed
from swarm.experts.nets import build_net, built_in_numbers
from swarm.experts.packed_linear import pack_if_alike
from swarm.experts.weights import load_net
from swarm.modules.packing import ReadBlob, check_module


class LoadedExpert:
    """One expert version in memory. `values` and its kin may be called from several threads."""

    def __init__(
        self,
        manifest: Manifest,
        net: nn.Module,
        correcting: nn.Module | None,
        scale: float,
        offset: float,
        device: torch.device,
    ) -> None:
        self.manifest = manifest
        self._net = net.to(device).eval().requires_grad_(False)
        self._correcting = correcting
        if correcting is not None:
            self._correcting = correcting.to(device).eval().requires_grad_(False)
        self.scale, self.offset, self._device = scale, offset, device
        self.rows_at_once = MOST_ROWS
        """So many rows' activations fit into memory together."""
        correcting_bytes = held_bytes(self._correcting) if self._correcting is not None else 0
        self._form_bytes = {"probabilities": held_bytes(self._net), "corrections": correcting_bytes}

    @property
    def device(self) -> torch.device:
        """What it computes on."""
        return self._device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the columns of `values`."""
        return self.manifest.class_names

    @property
    def has_correction(self) -> bool:
        """Say whether the expert can be asked for corrections."""
        return self._correcting is not None

    @property
    def size_bytes(self) -> int:
        """The bytes that its weights take where it computes, those of its correction included."""
        return sum(self._form_bytes.values())

    def net(self, form: ExpertForm) -> nn.Module:
        """Return the net that gives that form; InvalidInputError without a correction to ask."""
        if form == "probabilities":
            return self._net
        if self._correcting is None:
            raise self._no_correction()
        return self._correcting

    def form_bytes(self, form: ExpertForm) -> int:
        """Return the bytes of the weights that give that form; 0 without a correction."""
        return self._form_bytes[form]

    def flops_per_query(self, form: ExpertForm = "probabilities") -> int:
        """Return what one input costs in that form, as the owner says; InvalidInputError without a correction
        to ask."""
        return self._parts(form)[1].inference_flops

    def modules(self, form: ExpertForm = "probabilities") -> tuple[ModuleEntry, ...]:
        """Return the modules that give that form; InvalidInputError without a correction to ask."""
        return self._parts(form)[0]

    def module_digests(self, form: ExpertForm = "probabilities") -> tuple[Digest, ...]:
        """Return the digests of the modules that give that form; raises as `modules` does."""
        return tuple(module.digest for module in self.modules(form))

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
        net = _loaded(manifest, manifest.modules, subject, read, import_paths)
        correcting = None
        if manifest.correction is not None:
            named = f"{subject}, correction"
            correcting = _loaded(manifest, manifest.correction.modules, named, read, import_paths)
        place = device or torch.device("cpu")
        expert = cls(manifest, net, correcting, specification.scale, specification.offset, place)
        expert._try_out()
        return expert

    def values(self, inputs: NDArray[np.generic], form: ExpertForm) -> NDArray[np.float32]:
        """Return `probabilities` or `corrections`, as form says."""
        return self.probabilities(inputs) if form == "probabilities" else self.corrections(inputs)

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return class probabilities float32 [B, C] over `class_names` for raw inputs [B, *input_shape].

        Raises ShapeMismatchError for other inputs, VerificationError if the expert gives no finite numbers.
        """
        return self._computed(inputs, "probabilities", "a probability")

    def corrections(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return what the expert adds to the class scores, float32 [B, C] over `class_names`, rows sum to 0.

        The logits of its correction, centred over its own classes. Raises as `probabilities` does, and
        InvalidInputError for an expert without a correction.
        """
        return self._computed(inputs, "corrections", "a correction")

    def finished(self, logits: Tensor, form: ExpertForm) -> Tensor:
        """Return values of a form from its net's logits float32 [..., C]."""
        if form == "probabilities":
            return torch.softmax(logits, -1)
        return logits - logits.mean(-1, keepdim=True)

    def _computed(self, inputs: NDArray[np.generic], form: ExpertForm, what: str) -> NDArray[np.float32]:
        net = self.net(form)
        check_inputs(inputs, self.manifest.net.input_shape)
        found = np.empty((len(inputs), len(self.class_names)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(inputs), self.rows_at_once):
                raw = as_tensor(inputs[start : start + self.rows_at_once]).to(self._device)
                logits = net(preprocessed(raw, self.scale, self.offset)).float()
                found[start : start + len(raw)] = self.finished(logits, form).cpu().numpy()
        if not np.isfinite(found).all():
            raise VerificationError(
                f"answer of {self.manifest.expert}@{self.manifest.version}",
                found=f"{what} that is not finite",
                expected="finite numbers",
                remedy="check the inputs' range; if it is right, withdraw the expert and train it again",
            )
        return found

    def _parts(self, form: ExpertForm) -> tuple[tuple[ModuleEntry, ...], Cost]:
        if form == "probabilities":
            return self.manifest.modules, self.manifest.cost
        if self.manifest.correction is None:
            raise self._no_correction()
        return self.manifest.correction.modules, self.manifest.correction.cost

    def _no_correction(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self.manifest.expert}@{self.manifest.version}",
            found="no correction",
            expected="a version that was refined",
            remedy="ask it for probabilities, or let its owner run swarm train --refine",
        )

    def _try_out(self) -> None:
        """Answer one row, and see by it how many rows fit into memory at once."""
        nothing = np.zeros((1, *self.manifest.net.input_shape), dtype=np.float32)
        _, held = measured_forward(self._net, as_tensor(nothing).to(self._device))
        self.rows_at_once = rows_at_once(held)
        for net in (self._net, self._correcting):
            if net is not None and self._device.type == "cpu":
                pack_if_alike(net, torch.linspace(0, 1, nothing.size).reshape(nothing.shape))
        self.probabilities(nothing)
        if self.has_correction:
            self.corrections(nothing)


def held_bytes(net: nn.Module) -> int:
    """Return the bytes of what a net holds: parameters and buffers, those that share memory once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*net.parameters(), *net.buffers())
    }
    return sum(storages.values())


def _loaded(
    manifest: Manifest,
    modules: tuple[ModuleEntry, ...],
    subject: str,
    read: ReadBlob,
    import_paths: Sequence[str],
) -> nn.Module:
    """Return the manifest's net with these weights, every module and tensor checked."""
    for module in modules:
        check_module(module, read)
    _check_factory(manifest.net, modules, subject)
    with torch.random.fork_rng(devices=[]):
        net = build_net(manifest.net, import_paths)
    try:
        load_net(net, modules, read)
    except ShapeMismatchError as error:
        raise ShapeMismatchError(
            f"{subject}, weights", found=error.found, expected=error.expected, remedy=error.remedy
        ) from error
    return net


def _check_factory(net: NetReference, modules: tuple[ModuleEntry, ...], subject: str) -> None:
    """Raise where building what a peer names would harm us: a net larger than its weights would fill memory
    (ShapeMismatchError), and some of Python's own modules act when they are imported (InvalidInputError)."""
    if not is_built_in(net.factory):
        if re.split(r"[.:]", net.factory)[0] in sys.stdlib_module_names:
            raise InvalidInputError(
                f"{subject}, factory {net.factory[:80]}",
                found="a module of Python's own library",
                expected="people's own code",
            )
        return
    promised = built_in_numbers(net)
    found = sum(math.prod(tensor.shape) for module in modules for tensor in module.tensors)
    if promised > found:
        raise ShapeMismatchError(
            f"{subject}, weights",
            found=f"{found} numbers",
            expected=f"{promised} of net {net.factory}",
        )
