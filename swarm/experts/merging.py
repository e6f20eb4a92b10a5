"""One net out of several that came from one: by their task vectors tau_i = theta_i - theta_0.

theta_0 are the weights of the common ancestor (`swarm.domain.lineage.common_ancestor`): without one, elements
of the same name mean different things and no method helps. Reckoned in float64 and returned in the parents'
dtypes, so that equal parents' mean is the parent. The order of the parents changes nothing.
Sources: Ilharco et al. 2023 (task vectors), Yadav et al. 2023 (TIES), Marczak et al. 2024 (MagMax).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError, VerificationError
from swarm.domain.growth import MERGE_METHODS
from swarm.domain.manifests import Manifest
from swarm.domain.specification import check_class_names
from swarm.experts.nets import build_net
from swarm.experts.weights import head_tensors, load_tensors, tensors_of
from swarm.modules.packing import ReadBlob

SCALES: Final[Mapping[str, float]] = MappingProxyType({"magmax": 0.5, "ties": 0.55, "mean": 1.0})
"""By how much each method adds its task vector to theta_0."""
DEFAULT_METHOD: Final = "mean"
"""On validation data no better than MagMax for two children of a split, and the simpler one
(`benchmarks.merging`)."""
TIES_SHARE: Final = 0.2
"""TIES keeps this share of each parent's task vector: its largest elements."""

_ANCESTOR: Final = "common ancestor"
_Piece = tuple[str, str]
"""A tensor's name and a class: one row of the output layer; the class is empty for a whole tensor."""
_Pieces = Mapping[_Piece, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The output layer: its tensors' names, and the class of each of their rows in the ancestor and in each
    parent. InvalidInputError for a class that is there twice."""

    tensors: Collection[str]
    ancestor: Sequence[str]
    parents: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for names in (self.ancestor, *self.parents):
            check_class_names(tuple(names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The merged net's classes: in the order that the parents have in common, else all of them sorted."""
        orders = {tuple(names) for names in self.parents}
        return orders.pop() if len(orders) == 1 else tuple(sorted(set().union(*orders)))


def merged(
    method: str,
    ancestor: Mapping[str, Tensor],
    parents: Sequence[Mapping[str, Tensor]],
    *,
    head: Head | None = None,
    buffers: Collection[str] = (),
    scale: float | None = None,
) -> dict[str, Tensor]:
    """Return theta_0 + scale * tau by name, where tau is, element by element, of at least two parents':

    `magmax`: the one of largest magnitude (ties: the positive one). `ties`: after all but the largest fifth
    of each parent's whole vector are taken for 0 (equal ones at the border stay), the mean of those that have
    the sign of their sum; 0 where that is 0. `mean`: their mean. scale None: the method's own (SCALES).

    Rows of the head are matched by class name and come in the order of `head.class_names`. A row that one
    parent alone has stays as it is there; one that theta_0 lacks has no task vector and becomes the plain
    mean of those who have it. Floating `buffers` (running statistics) become plain means, whole numbers
    (counters) the largest.
    Raises InvalidInputError for an unknown method, fewer than two parents or a scale that is not above 0,
    ShapeMismatchError for tensors that differ in name, shape or dtype (theta_0 may be of another floating
    dtype), VerificationError for values that are not finite.
    """
    factor = _checked_scale(method, len(parents), scale)
    head = head or Head(tensors=(), ancestor=(), parents=[()] * len(parents))
    _check_alike(ancestor, parents, head)
    origin = _pieces(ancestor, head.tensors, head.ancestor)
    held = [
        _pieces(tensors, head.tensors, names) for tensors, names in zip(parents, head.parents, strict=True)
    ]
    moving = {
        piece
        for piece, tensor in origin.items()
        if tensor.is_floating_point()
        and piece[0] not in buffers
        and sum(piece in pieces for pieces in held) > 1
    }
    borders = [_border(origin, pieces, moving) if method == "ties" else 0.0 for pieces in held]

    def piece_of(name: str, class_name: str) -> Tensor:
        piece = (name, class_name)
        return _merged_piece(method, piece, origin, held, borders, factor if piece in moving else 0.0)

    found = {}
    for name, first in parents[0].items():
        if name in head.tensors:
            values = torch.stack([piece_of(name, class_name) for class_name in head.class_names])
        else:
            values = piece_of(name, "")
        found[name] = values.to(first.dtype)
    _check_finite(found, f"{method} merge")
    return found


def merged_net(
    method: str,
    ancestor: Manifest,
    parents: Sequence[Manifest],
    read: ReadBlob,
    import_paths: Sequence[str] = (),
    *,
    scale: float | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the merge of versions as a net in eval mode, and the classes of its outputs (`merged`).

    Corrections are left out: one belongs to the weights beside which it was trained. The means of batch
    norms' running statistics are only roughly those of the merged weights (Jordan et al. 2023): a net that
    has such wants some training steps.
    Raises InvalidInputError as `merged`, for parents of different nets, and for classes that differ where no
    last linear layer has a row for each; ShapeMismatchError also where the ancestor had another net; what
    `read` and `build_net` raise.
    """
    _checked_scale(method, len(parents), scale)
    subject = f"merge of {' and '.join(f'{each.expert}@{each.version}' for each in parents)}"
    nets = [replace(each.net, classes=0) for each in parents]
    if any(net != nets[0] for net in nets):
        raise InvalidInputError(
            subject,
            found=", ".join(f"{net.factory} {list(net.input_shape)} {net.code_digest[:12]}" for net in nets),
            expected="one net, built by the same source code",
        )
    head = Head(
        tensors=(), ancestor=ancestor.class_names, parents=tuple(each.class_names for each in parents)
    )
    classes = head.class_names
    # Every weight is replaced: its random initialisation is nobody's business.
    with torch.random.fork_rng(devices=[]):
        net = build_net(replace(nets[0], classes=len(classes)), import_paths)
    head = replace(head, tensors=frozenset(head_tensors(net, len(classes))))
    if not head.tensors and {tuple(names) for names in (*head.parents, head.ancestor)} != {classes}:
        raise InvalidInputError(
            subject,
            found=f"net {nets[0].factory}, whose last layer is not linear with a row for each class",
            expected="the same classes in the same order in ancestor and parents",
        )
    weights = merged(
        method,
        tensors_of(ancestor.modules, read),
        [tensors_of(each.modules, read) for each in parents],
        head=head if head.tensors else None,
        buffers=frozenset(name for name, _ in net.named_buffers()),
        scale=scale,
    )
    load_tensors(net, weights)
    return net.eval(), classes


def _merged_piece(
    method: str,
    piece: _Piece,
    origin: _Pieces,
    held: Sequence[_Pieces],
    borders: Sequence[float],
    factor: float,
) -> Tensor:
    """Return one piece of the merge; factor 0: it has no task vectors to merge."""
    rows = [row for row, pieces in enumerate(held) if piece in pieces]
    theirs = torch.stack([held[row][piece] for row in rows])
    if not theirs.is_floating_point():
        return theirs.amax(0)
    theirs = theirs.double()
    if not factor:
        return _mean(theirs)
    theta = origin[piece].double()
    if method == "mean":
        # Not theta + mean(theirs - theta): that would lose digits where theta is large.
        return (1 - factor) * theta + factor * _mean(theirs)
    vectors = theirs - theta
    return theta + factor * (
        _magmax(vectors) if method == "magmax" else _ties(vectors, [borders[row] for row in rows])
    )


def _mean(values: Tensor) -> Tensor:
    """Return the mean over the first dimension, of sorted values, so that their order changes no digit."""
    return values.sort(dim=0).values.mean(dim=0)


def _magmax(vectors: Tensor) -> Tensor:
    highest, lowest = vectors.amax(0), vectors.amin(0)
    return torch.where(highest >= -lowest, highest, lowest)


def _ties(vectors: Tensor, borders: Sequence[float]) -> Tensor:
    """vectors [parents, ...]; elements below their parent's border count as 0."""
    least = torch.tensor(borders, dtype=vectors.dtype).view(-1, *[1] * (vectors.dim() - 1))
    kept = torch.where(vectors.abs() >= least, vectors, 0.0).sort(dim=0).values
    agreeing = torch.where(kept.sign() == kept.sum(0).sign(), kept, 0.0)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


def _border(origin: _Pieces, pieces: _Pieces, moving: Collection[_Piece]) -> float:
    """Return the magnitude from which on elements of a parent's task vector belong to its largest fifth."""
    sizes = [
        (tensor.double() - origin[piece].double()).abs().flatten()
        for piece, tensor in pieces.items()
        if piece in moving
    ]
    everything = torch.cat(sizes) if sizes else torch.zeros(0)
    if not len(everything):
        return 0.0
    kept = math.ceil(TIES_SHARE * len(everything))
    return float(everything.kthvalue(len(everything) - kept + 1).values)


def _pieces(tensors: Mapping[str, Tensor], head: Collection[str], classes: Sequence[str]) -> _Pieces:
    return {
        (name, each): tensor[row] if name in head else tensor
        for name, tensor in tensors.items()
        for row, each in enumerate(classes if name in head else ("",))
    }


def _checked_scale(method: str, parents: int, scale: float | None) -> float:
    if method not in SCALES:
        raise InvalidInputError("merge", found=repr(method[:40]), expected=" or ".join(MERGE_METHODS))
    if parents < 2:
        raise InvalidInputError("merge", found=f"{parents} to merge", expected="at least two")
    factor = SCALES[method] if scale is None else scale
    if not 0 < factor < math.inf:
        raise InvalidInputError("merge, scale", found=str(factor), expected="a finite number above 0")
    return factor


def _check_alike(ancestor: Mapping[str, Tensor], parents: Sequence[Mapping[str, Tensor]], head: Head) -> None:
    """Raise by name unless all have the first parent's tensors, with a row of the head for each class."""
    if len(head.parents) != len(parents):
        raise InvalidInputError(
            "merge", found=f"{len(parents)} parents", expected=f"{len(head.parents)}, as for class names"
        )
    first = parents[0]
    everybody = [(_ANCESTOR, ancestor, head.ancestor)]
    everybody += [
        (f"parent {row + 1}", *each) for row, each in enumerate(zip(parents, head.parents, strict=True))
    ]
    for who, tensors, class_names in everybody:
        for name in {**first, **tensors}:
            subject = f"{who}, tensor {name}"
            if name not in tensors or name not in first:
                found = "none" if name not in tensors else "one that parent 1 lacks"
                raise ShapeMismatchError(subject, found=found, expected="the same tensors in all")
            shape, wanted = list(tensors[name].shape), list(first[name].shape)
            if name in head.tensors:
                wanted[:1] = [len(class_names)]
            if shape != wanted:
                raise ShapeMismatchError(subject, found=str(shape), expected=str(wanted))
            dtype, wanted_dtype = tensors[name].dtype, first[name].dtype
            is_wider = who == _ANCESTOR and dtype.is_floating_point and wanted_dtype.is_floating_point
            if dtype != wanted_dtype and not is_wider:
                raise ShapeMismatchError(subject, found=str(dtype), expected=str(wanted_dtype))
        _check_finite(tensors, who)


def _check_finite(tensors: Mapping[str, Tensor], who: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise VerificationError(
                f"{who}, tensor {name}", found="a value that is not finite", expected="finite weights"
            )
