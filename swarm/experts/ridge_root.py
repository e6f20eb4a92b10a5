"""The swarm's root as an expert of its own: net `ridge-root:TRUNK`, trunk and linear map in one.

With `ridge-root:best-of-K:TRUNK` the map has K columns, and a class's score is the best of its columns'. With
`ridge-root:owners-of-K:TRUNK` it has K columns between owners and K within them (`ClassColumns`).

Float inputs -> features -> fixed point round(fixed_point * feature), clamped to int16, with a constant column
where the trunk has none -> class scores -> over the class temperature, so that a softmax gives the root's
probabilities. It is solved from sums (`swarm.gating.ridge`), never trained.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import Digest
from swarm.domain.manifests import NetReference
from swarm.domain.specification import TrunkReference
from swarm.domain.tensors import ModuleEntry
from swarm.experts.inputs import exact_float32
from swarm.experts.random_features import built_in_trunk
from swarm.gating.class_columns import ClassColumns
from swarm.modules.packing import ReadBlob, pack_module

RIDGE_ROOT = "ridge-root"
MAX_INT16 = 32767
BEST_OF, OWNERS_OF = "best-of-", "owners-of-"
MAX_COLUMNS = 1 << 20
_TRUNK, _HEAD = "trunk", "head"


class RidgeRoot(nn.Module):
    """Inputs [B, *input_shape] to logits [B, classes], with the features of `trunk`."""

    def __init__(self, trunk: nn.Module, head: nn.Module, has_constant: bool) -> None:
        super().__init__()
        self.trunk, self.has_constant = trunk, has_constant
        self.head = head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with exact_float32():
            features = self.trunk(inputs)
        if not self.has_constant:
            features = torch.cat([features, features.new_ones(len(features), 1)], 1)
        return self.head(features)  # type: ignore[no-any-return]


class _Head(nn.Module):
    """`weight` [M, classes] for features in fixed point; `fixed_point` and `class_temperature` [1]."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, classes))
        self.register_buffer("fixed_point", torch.ones(1))
        self.register_buffer("class_temperature", torch.ones(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        q = torch.round(self.fixed_point * features).clamp(-MAX_INT16, MAX_INT16)
        return (q @ self.weight) / self.class_temperature

    fixed_point: torch.Tensor
    class_temperature: torch.Tensor


class _BestHead(_Head):
    """The same with `weight` [M, K] and `rows` int64 [K], the class of each column; 0 for a class without."""

    def __init__(self, size: int, columns: int, classes: int) -> None:
        super().__init__(size, columns)
        self.classes = classes
        self.register_buffer("rows", torch.zeros(columns, dtype=torch.int64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return _best(super().forward(features), self.rows, self.classes)

    rows: torch.Tensor


class _OwnersHead(_BestHead):
    """The same with `weight` [M, 2K] and `owners` int64 [K] besides, as `swarm.gating.class_columns` says."""

    def __init__(self, size: int, columns: int, classes: int) -> None:
        super().__init__(size, columns, classes)
        self.weight = nn.Parameter(torch.zeros(size, 2 * columns))
        self.register_buffer("owners", torch.zeros(columns, dtype=torch.int64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        between, within = _Head.forward(self, features).chunk(2, dim=1)
        count = within.shape[1]
        owners = self.owners.clamp(0, count - 1)
        behind = within - _best(within, owners, count)[:, owners]
        return _best(behind + _best(between, owners, count)[:, owners], self.rows, self.classes)

    owners: torch.Tensor


def _best(scores: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return the largest of scores [B, K] for each of so many rows, [B, count]; 0 for one without."""
    places = rows.clamp(0, count - 1).expand(len(scores), -1)
    return scores.new_zeros(len(scores), count).scatter_reduce(1, places, scores, "amax", include_self=False)


def ridge_root_net(reference: NetReference, trunk: str) -> nn.Module:
    """Return the net of `ridge-root:<trunk>`, all zeros; InvalidInputError unless the trunk is built in."""
    columns, of_owners = 0, trunk.startswith(OWNERS_OF)
    if of_owners or trunk.startswith(BEST_OF):
        number, _, trunk = trunk.removeprefix(OWNERS_OF if of_owners else BEST_OF).partition(":")
        columns = int(number) if number.isdecimal() and number.isascii() and len(number) < 8 else 0
        trunk = trunk if 0 < columns <= MAX_COLUMNS else ""
    net = built_in_trunk(trunk, reference.input_shape, None)
    if net is None:
        raise InvalidInputError(
            "net",
            found=repr(reference.factory[:80]),
            expected=f"ridge-root:randconv-sqrt:K or :identity, the trunk after {BEST_OF}N: or {OWNERS_OF}N:"
            " or alone",
        )
    has_constant = not isinstance(net, nn.Flatten)
    size = math.prod(reference.input_shape) + 1 if isinstance(net, nn.Flatten) else net.feature_size
    classes = reference.classes
    best = _OwnersHead if of_owners else _BestHead
    return RidgeRoot(net, best(size, columns, classes) if columns else _Head(size, classes), has_constant)


def root_modules(
    reference: TrunkReference,
    read: ReadBlob,
    columns: ClassColumns,
    class_temperature: float,
    input_shape: Sequence[int],
) -> tuple[NetReference, tuple[ModuleEntry, ...], dict[Digest, bytes]] | None:
    """Return the root's net, its modules and their blobs, the trunk's among them at their own addresses.

    columns map features in fixed point to class scores. `read` returns the trunk's verified blobs.
    None for a user's own trunk: whoever lacks its code could not build the root. Raises ShapeMismatchError
    unless columns fit the trunk.
    """
    shape = tuple(input_shape)
    with torch.device("meta"):
        trunk = built_in_trunk(reference.factory, shape, None)
    if trunk is None:
        return None
    if len(columns.weights) != reference.sum_size:
        raise ShapeMismatchError(
            "root weights",
            found=str(list(columns.weights.shape)),
            expected=f"[{reference.sum_size}, columns]",
        )
    if not class_temperature > 0:
        raise InvalidInputError("class temperature", found=str(class_temperature), expected="above 0")
    arrays: dict[str, NDArray[np.generic]] = {
        "weight": np.ascontiguousarray(columns.weights, dtype=np.float32),
        "fixed_point": np.array([reference.fixed_point], dtype=np.float32),
        "class_temperature": np.array([class_temperature], dtype=np.float32),
    }
    best_of = ""
    if (linear := columns.linear()) is not None:
        arrays["weight"] = linear
    else:
        arrays["rows"], best_of = columns.rows, f"{BEST_OF}{len(columns.rows)}:"
    if columns.owners is not None:
        arrays["owners"], best_of = columns.owners, f"{OWNERS_OF}{len(columns.rows)}:"
    head, blobs = pack_module(_HEAD, arrays)
    modules = [head]
    if not isinstance(trunk, nn.Flatten):
        entry = ModuleEntry(name=_TRUNK, digest=reference.weights.digest, tensors=reference.weights.tensors)
        modules.insert(0, entry)
        blobs |= {tensor.blob: bytes(read(tensor.blob)) for tensor in entry.tensors}
    net = NetReference(
        factory=f"{RIDGE_ROOT}:{best_of}{reference.factory}",
        input_shape=shape,
        classes=columns.classes,
        code_digest="",
    )
    return net, tuple(modules), blobs
