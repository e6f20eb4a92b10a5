"""Dealing one data set to several nodes, as private data would lie: `iid`, `classes:N`, `dirichlet:A`."""

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import UsageError

Rows = NDArray[np.int64]
_DRAWS = 200
_LEAST_SAMPLES = 10
_KINDS = "iid, classes:N (N classes each) or dirichlet:A (class shares drawn with concentration A)"


def partition(labels: NDArray[np.int64], scheme: str, nodes: int, seed: int) -> list[Rows]:
    """Return each node's rows, int64, rising; every row of labels [N] is in exactly one.

    `iid`: shuffled, equal parts. `classes:N`: N classes for each node, neighbours in a shuffled ring of all
    classes, the nodes' first ones evenly spaced, so that every class is held; a class's samples are shared
    equally by its holders (10 classes, 10 nodes, N = 2: each class at two nodes, no pair of classes twice).
    `dirichlet:A`: each class is split by shares drawn from Dirichlet(A), drawn again until every node has two
    classes and ten samples.
    Raises UsageError for an unknown scheme or one that these labels cannot fill.
    """
    kind, _, argument = scheme.partition(":")
    if nodes < 1:
        raise UsageError("nodes", found=str(nodes), expected="at least 1", remedy="use --nodes 1 or more")
    if len(labels) < nodes:
        raise UsageError(
            f"partition {scheme}",
            found=f"{len(labels)} samples for {nodes} nodes",
            expected="at least one for each",
            remedy="use fewer nodes or bring more samples",
        )
    rng = np.random.default_rng(seed)
    if scheme == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), nodes)]
    if kind == "classes":
        return _by_classes(labels, int(_number(scheme, argument, int)), nodes, rng)
    if kind == "dirichlet":
        return _by_dirichlet(labels, _number(scheme, argument, float), nodes, rng)
    raise _unknown(scheme)


def _number(scheme: str, text: str, kind: type[float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise _unknown(scheme)
    return value


def _unknown(scheme: str) -> UsageError:
    return UsageError(
        "partition", found=repr(scheme), expected=_KINDS, remedy="for example --partition classes:4"
    )


def _by_classes(labels: NDArray[np.int64], each: int, nodes: int, rng: np.random.Generator) -> list[Rows]:
    classes = np.unique(labels)
    if each > len(classes) or each * nodes < len(classes):
        raise UsageError(
            f"partition classes:{each}",
            found=f"{nodes} nodes for {len(classes)} classes",
            expected="every class at some node and no node with more classes than there are",
            remedy=f"use classes:{min(len(classes), -(-len(classes) // nodes))} or more, or other --nodes",
        )
    ring = rng.permutation(classes)
    holders: dict[int, list[int]] = {int(label): [] for label in classes}
    for node in range(nodes):
        first = node * len(ring) // nodes
        for place in range(first, first + each):
            holders[int(ring[place % len(ring)])].append(node)
    parts: list[list[Rows]] = [[] for _ in range(nodes)]
    for label, nodes_of in holders.items():
        rows = rng.permutation(np.flatnonzero(labels == label))
        for node, part in zip(nodes_of, np.array_split(rows, len(nodes_of)), strict=True):
            parts[node].append(part)
    return [np.sort(np.concatenate(part)) for part in parts]


def _by_dirichlet(
    labels: NDArray[np.int64], concentration: float, nodes: int, rng: np.random.Generator
) -> list[Rows]:
    classes = np.unique(labels)
    enough = min(2, len(classes))
    for _ in range(_DRAWS):
        holder = np.empty(len(labels), dtype=np.int64)
        for label in classes:
            rows = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(nodes, concentration))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
            for node, part in enumerate(np.split(rows, cuts)):
                holder[part] = node
        parts = [np.flatnonzero(holder == node) for node in range(nodes)]
        if all(len(part) >= _LEAST_SAMPLES and len(np.unique(labels[part])) >= enough for part in parts):
            return parts
    raise UsageError(
        f"partition dirichlet:{concentration:g}",
        found=f"no draw of {_DRAWS} gave each of {nodes} nodes {enough} classes and {_LEAST_SAMPLES} samples",
        expected="as much for each node",
        remedy="use a larger concentration or fewer nodes",
    )
