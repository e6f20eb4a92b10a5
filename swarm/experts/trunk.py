"""The trunk: a frozen map from raw inputs to features, the same on every machine, proven by a probe.

It holds operators and weights, never statistics of anyone's data. `randconv-sqrt:K`: random
convolutions for images, random directions for vectors (`swarm.experts.random_features`).
`identity`: the input itself. `package.module:factory[@weights.safetensors]`: a user's own net.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, TrunkMismatchError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.specification import TrunkReference
from swarm.experts.factories import import_factory
from swarm.experts.flops import forward_flops
from swarm.experts.inputs import as_tensor, check_inputs, exact_float32, preprocessed
from swarm.experts.random_features import (
    FIXED_POINT,
    RandomConvolutions,
    RandomDirections,
    built_in_trunk,
)
from swarm.experts.weights import load_tensors, state_tensors, tensor_dtypes, tensors_of, to_arrays
from swarm.modules.packing import ReadBlob, check_module, pack_module, unpack

PROBE_ROWS = 4
TOLERANCE = 2e-3
ROWS_AT_ONCE = {"cpu": 64, "cuda": 512}
STEPS_PER_RMS = 32
MAX_FIXED_POINT = 2**14
"""The constant feature, once the fixed point, has to fit into int16."""
_WEIGHTS_SIZE = "feature_size"


class Trunk:
    """A loaded trunk. `features` is safe to call from one thread at a time."""

    def __init__(
        self,
        reference: TrunkReference,
        net: nn.Module,
        input_shape: tuple[int, ...],
        *,
        scale: float,
        offset: float,
        device: torch.device,
    ) -> None:
        self.reference, self.input_shape = reference, input_shape
        self._scale, self._offset, self._device = scale, offset, device
        self.flops_per_query = forward_flops(net, input_shape)
        self._net = net.to(device).eval()

    @property
    def device(self) -> torch.device:
        """What it computes on."""
        return self._device

    @property
    def feature_size(self) -> int:
        return self.reference.feature_size

    @classmethod
    def load(
        cls,
        reference: TrunkReference,
        read: ReadBlob,
        *,
        scale: float,
        offset: float,
        import_paths: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> Self:
        """Build the trunk from verified weights and check that it reproduces the probe here.

        A GPU whose features are too far off is not used: the CPU computes them then.
        Raises VerificationError for bytes that are not the reference's, NotFoundError if a user's factory is
        not installed, TrunkMismatchError if this machine computes other features.
        """
        _check_digest(reference)
        for module in (reference.weights, reference.probe):
            check_module(module, read)
        probe = unpack(reference.probe.tensors, read)
        if set(probe) != {"input", "features"}:
            raise VerificationError("trunk probe", found=", ".join(probe), expected="input, features")
        input_shape = tuple(probe["input"].shape[1:])
        weights = tensors_of([reference.weights], read, named=False)
        weights.pop(_WEIGHTS_SIZE, None)
        net = _build(reference.factory, input_shape, None, import_paths)
        load_tensors(net, weights)
        cpu = torch.device("cpu")
        for place in dict.fromkeys((device or cpu, cpu)):
            trunk = cls(reference, net, input_shape, scale=scale, offset=offset, device=place)
            gap = trunk._gap(probe["input"], probe["features"])
            if gap <= reference.tolerance:
                return trunk
        raise TrunkMismatchError(
            f"trunk {reference.factory} ({reference.digest[:12]})",
            found=f"features that differ by {gap:.3g} from the probe's",
            expected=f"at most {reference.tolerance:g}",
            remedy="use the torch version and the trunk code that the swarm's founder uses",
        )

    def features(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the features float32 [B, feature_size] of raw inputs [B, *input_shape].

        Raises ShapeMismatchError for other inputs, InvalidInputError where a feature is not finite.
        """
        check_inputs(inputs, self.input_shape)
        found = np.empty((len(inputs), self.feature_size), dtype=np.float32)
        rows_at_once = ROWS_AT_ONCE.get(self._device.type, ROWS_AT_ONCE["cpu"])
        with torch.inference_mode(), exact_float32():
            for start in range(0, len(inputs), rows_at_once):
                raw = as_tensor(inputs[start : start + rows_at_once]).to(self._device)
                part = self._net(preprocessed(raw, self._scale, self._offset))
                if part.shape != (len(raw), self.feature_size):
                    raise TrunkMismatchError(
                        f"trunk {self.reference.factory}",
                        found=f"output {list(part.shape)}",
                        expected=f"features [{len(raw)}, {self.feature_size}]",
                    )
                found[start : start + len(raw)] = part.float().cpu().numpy()
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise InvalidInputError(
                f"inputs, row {row}", found="values whose features are not finite", expected="finite numbers"
            )
        return found

    def _gap(self, probe: NDArray[np.generic], expected: NDArray[np.float32]) -> float:
        """Return the largest absolute difference to the probe's features, infinite for another shape."""
        found = self.features(probe)
        return float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf


def make_trunk(
    factory: str,
    input_shape: Sequence[int],
    *,
    scale: float,
    offset: float,
    seed: int,
    import_paths: Sequence[str] = (),
) -> tuple[TrunkReference, dict[Digest, bytes]]:
    """Return a new trunk's reference and the blobs of its weights and probe; needs nobody's data.

    Filters come from a generator seeded with seed, a user's net from its own initialisation under that seed
    or from the safetensors file after `@`. The probe is uniform noise, 0..1 after preprocessing; from its
    features comes the fixed point of trunks that are not built in.
    """
    name, _, weights_file = factory.partition("@")
    shape = tuple(input_shape)
    if not 1 <= len(shape) <= 4 or min(shape) < 1 or not scale or not math.isfinite(scale + offset):
        raise InvalidInputError(
            "inputs",
            found=f"shape {list(shape)}, scale {scale}, offset {offset}",
            expected="1 to 4 positive sizes, a scale other than 0",
        )
    net = _build(name, shape, seed, import_paths).eval()
    if weights_file:
        load_tensors(net, _read_weights(Path(weights_file)))
    noise = np.random.default_rng(seed).random((PROBE_ROWS, *shape))
    probe_input = ((noise - offset) / scale).astype(np.float32)
    with torch.inference_mode():
        features = _as_features(name, net(preprocessed(as_tensor(probe_input), scale, offset)))
    size = features.shape[1]
    arrays = to_arrays(state_tensors(net)) or {_WEIGHTS_SIZE: np.array([size], dtype=np.int64)}
    weights, blobs = pack_module("trunk", arrays, tensor_dtypes(net))
    probe, probe_blobs = pack_module("probe", {"input": probe_input, "features": features})
    unsigned = TrunkReference(
        factory=name,
        feature_size=size,
        weights=weights,
        probe=probe,
        tolerance=TOLERANCE,
        fixed_point=_fixed_point(net, features),
        has_constant=bool((features[:, -1] == 1).all()),
        digest=Digest(""),
    )
    return replace(unsigned, digest=_trunk_digest(unsigned)), blobs | probe_blobs


def _build(
    factory: str, input_shape: tuple[int, ...], seed: int | None, import_paths: Sequence[str]
) -> nn.Module:
    """Return the trunk's net; seed None where its weights are loaded afterwards anyway."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if (built_in := built_in_trunk(factory, input_shape, generator)) is not None:
        return built_in
    if not factory.partition(":")[2]:
        raise InvalidInputError(
            "trunk",
            found=repr(factory[:80]),
            expected="randconv-sqrt:K, identity or package.module:factory[@file.safetensors]",
            remedy="for example randconv-sqrt:64",
        )
    function, _ = import_factory(factory, import_paths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        try:
            net = function(input_shape=input_shape)
        except Exception as error:
            raise InvalidInputError(
                f"trunk {factory}",
                found=f"{type(error).__name__}: {error}",
                expected=f"a call with input_shape={input_shape} to succeed",
            ) from error
    if not isinstance(net, nn.Module):
        raise InvalidInputError(
            f"trunk {factory}", found=f"a {type(net).__name__}", expected="a torch.nn.Module"
        )
    return net


def _as_features(factory: str, output: object) -> NDArray[np.float32]:
    if (
        not isinstance(output, torch.Tensor)
        or output.dim() != 2
        or len(output) != PROBE_ROWS
        or not output.is_floating_point()
    ):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InvalidInputError(
            f"trunk {factory}", found=f"output {found}", expected=f"float features [{PROBE_ROWS}, D]"
        )
    features: NDArray[np.float32] = output.float().numpy()
    if not np.isfinite(features).all():
        raise InvalidInputError(
            f"trunk {factory}", found="a feature that is not finite", expected="finite numbers"
        )
    return features


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise NotFoundError(
            f"trunk weights {path}", found="no such file", expected="a safetensors file"
        ) from None
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"trunk weights {path}", found=str(error), expected="a safetensors file"
        ) from error


def _fixed_point(net: nn.Module, features: NDArray[np.float32]) -> float:
    """Return the power of two that takes the features' root mean square to [32, 64), bounded to 1..2^14;
    random features have one of their own."""
    if isinstance(net, RandomConvolutions | RandomDirections):
        return FIXED_POINT
    rms = float(np.sqrt(np.mean(np.square(features, dtype=np.float64))))
    if rms * MAX_FIXED_POINT <= STEPS_PER_RMS:
        return float(MAX_FIXED_POINT)
    mantissa, exponent = math.frexp(STEPS_PER_RMS / rms)
    return math.ldexp(1.0, max(0, exponent - (mantissa == 0.5)))


def _check_digest(reference: TrunkReference) -> None:
    found = _trunk_digest(reference)
    if found != reference.digest:
        raise VerificationError(
            f"trunk {reference.factory}",
            found=f"a description with digest {found[:12]}",
            expected=f"digest {reference.digest[:12]}",
            remedy="the trunk is not used; ask the swarm's operator for the signed specification",
        )


def _trunk_digest(reference: TrunkReference) -> Digest:
    parts = [
        reference.factory,
        reference.feature_size,
        reference.weights.digest,
        reference.probe.digest,
        reference.tolerance,
        reference.fixed_point,
        reference.has_constant,
    ]
    return digest_of(json.dumps(parts, separators=(",", ":")).encode())
