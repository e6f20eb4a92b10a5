"""The graph of parents: which version came from which, what a withdrawal taints, what two have in common."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import ParentKind

Standing = Literal["live", "superseded", "withdrawn", "descends-from-withdrawn"]
DESCENT: Final[frozenset[ParentKind]] = frozenset(get_args(ParentKind))
"""Every kind of edge hands weights down: who borrowed began with the lender's, as a child does with its
parent's."""
_NO_TIMES: Final[Mapping[Digest, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """One version in the graph and how it stands."""

    manifest: Digest
    expert: ExpertId
    version: int
    owner: NodeId
    standing: Standing
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageEdge:
    """child came from parent."""

    child: Digest
    parent: Digest
    kind: ParentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Ancestors and descendants of one version, newest first."""

    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]


def descendants(children: Mapping[Digest, Iterable[Digest]], roots: Iterable[Digest]) -> list[Digest]:
    """Return everything that came from roots, without the roots, breadth first; safe on shared descent."""
    seen = dict.fromkeys(roots)
    queue = list(seen)
    found: list[Digest] = []
    for parent in queue:
        for child in children.get(parent, ()):
            if child not in seen:
                seen[child] = None
                found.append(child)
                queue.append(child)
    return found


def common_ancestor(
    first: Digest,
    second: Digest,
    edges: Iterable[LineageEdge],
    *,
    kinds: Collection[ParentKind] = DESCENT,
    created_at: Mapping[Digest, float] = _NO_TIMES,
) -> Digest | None:
    """Return the version from which both came by the fewest steps in all, None where there is none.

    A version is 0 steps from itself: where one came from the other, the older of the two is found. Ties: the
    newer by created_at (unknown or not finite: the oldest), then the lower digest, so that the order of edges
    and of first and second does not matter. edges are of both versions' lineages, in any order, some of them
    twice if need be. Every version is visited at most once from either side, so cycles in what a peer claims
    do no harm. An edge is the word of the child's owner, no proof that weights fit. Which versions are
    withdrawn is for the caller to look up.
    """
    parents: dict[Digest, list[Digest]] = defaultdict(list)
    for edge in edges:
        if edge.kind in kinds:
            parents[edge.child].append(edge.parent)
    of_first, of_second = _steps_up(first, parents), _steps_up(second, parents)

    def rank(shared: Digest) -> tuple[int, float, Digest]:
        at = created_at.get(shared, -math.inf)
        return of_first[shared] + of_second[shared], -at if math.isfinite(at) else math.inf, shared

    return min(of_first.keys() & of_second.keys(), key=rank, default=None)


def _steps_up(start: Digest, parents: Mapping[Digest, Iterable[Digest]]) -> dict[Digest, int]:
    """Return the fewest steps from start to each of its ancestors, itself among them."""
    steps = {start: 0}
    queue = [start]
    for child in queue:
        for parent in parents.get(child, ()):
            if parent not in steps:
                steps[parent] = steps[child] + 1
                queue.append(parent)
    return steps
