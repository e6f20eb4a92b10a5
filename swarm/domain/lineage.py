"""The graph of parents: which version came from which, and what a withdrawal taints."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import ParentKind

Standing = Literal["live", "superseded", "withdrawn", "descends-from-withdrawn"]


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
