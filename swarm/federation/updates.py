"""What a node may change of a net in one round: arrays like the net's own, updates of bounded norm.

Source of the clipping: Sun et al. 2019 (Can you really backdoor federated learning?).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.federation.packing import Array
from swarm.federation.rounds import MOST_NUMBER

Arrays = Mapping[str, Array]
MOST_MEDIANS = 10.0
"""An update's norm is clipped to so many lower medians of the round's.

Honest nodes stay far below, so that what they average to is what plain FedAvg gives. On Fashion-MNIST (5
rounds of 5 steps, 8 rounds of 100) the largest norm was at most 2.0 medians for an MLP and a linear net,
3.6 for an MLP with batch norm: 10 nodes of 2 classes, Dirichlet .1 and .05, nodes of one class beside one
of all, nodes of 20 samples beside one of 5,000, two nodes of 100 and 5,000; 1.6 for a CNN on the first three.
"""


def check_like(subject: str, found: Arrays, own: Arrays, *, remedy: str = "", dtypes: bool = True) -> None:
    """Raise ShapeMismatchError unless found has the names and shapes of a net's own arrays (and their dtypes,
    unless dtypes is False), InvalidInputError for a number that is not finite or beyond MOST_NUMBER."""
    problems = [f"no array {name}" for name in own if name not in found]
    problems += [f"unknown array {name[:80]}" for name in found if name not in own]
    problems += [
        f"{name} as {_described(found[name])} instead of {_described(array)}"
        for name, array in own.items()
        if name in found
        and (found[name].shape != array.shape or (dtypes and found[name].dtype != array.dtype))
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ShapeMismatchError(
            subject,
            found=", ".join(problems[:3]) + more,
            expected="exactly the net's own arrays",
            remedy=remedy,
        )
    for name, array in found.items():
        if not (np.abs(array.astype(np.float64)) <= MOST_NUMBER).all():
            raise InvalidInputError(
                subject,
                found=f"{name} with a value that is NaN, infinite or too large",
                expected="finite numbers",
            )


def clipped_updates(sent: Arrays, trained: Sequence[Arrays]) -> tuple[list[dict[str, Array]], list[bool]]:
    """Return each node's arrays with its update, trained - sent, clipped to MOST_MEDIANS lower medians of all
    nodes' L2 norms, and who was clipped.

    Floating arrays and whole-number ones (counters, tables) have a norm and a bound each. Arrays that are not
    clipped stay as they are, to the bit; clipped whole numbers become float64. Less than half of the nodes
    cannot raise the median; half of them, so one of two, can lower it and hold the net still.
    """
    clipped = [dict(arrays) for arrays in trained]
    touched = [False] * len(trained)
    for belongs in (_is_floating, _is_whole):
        norms = [_norm(sent, arrays, belongs) for arrays in trained]
        most = MOST_MEDIANS * sorted(norms)[(len(norms) - 1) // 2]
        for node, norm in enumerate(norms):
            if norm > most:
                touched[node] = True
                clipped[node] |= _shortened(sent, trained[node], belongs, most / norm)
    return clipped, touched


def _norm(sent: Arrays, trained: Arrays, belongs: Callable[[Array], bool]) -> float:
    squares = [
        float(np.square(array.astype(np.float64) - sent[name]).sum())
        for name, array in trained.items()
        if belongs(array)
    ]
    return math.sqrt(sum(squares))


def _shortened(
    sent: Arrays, trained: Arrays, belongs: Callable[[Array], bool], share: float
) -> dict[str, Array]:
    """Return the arrays of one kind at a share of the way from sent to trained."""
    found = {}
    for name, array in trained.items():
        if belongs(array):
            start = sent[name].astype(np.float64)
            moved = start + share * (array.astype(np.float64) - start)
            found[name] = moved.astype(array.dtype) if _is_floating(array) else moved
    return found


def _is_floating(array: Array) -> bool:
    return array.dtype.kind == "f"


def _is_whole(array: Array) -> bool:
    return not _is_floating(array)


def _described(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
