"""What the lineage says of an expert that shall be trained anew: which withdrawn versions it came from."""

from collections.abc import Iterable
from typing import Protocol

from coordinator.root_expert import ManifestRegistry
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.lineage import Lineage, LineageNode


class LineageRegistry(ManifestRegistry, Protocol):
    """The registry, with the graph of parents (`swarm.rpc.clients.RegistryClient`)."""

    async def lineage(self, manifest: str = "", expert: str = "") -> Lineage: ...


async def withdrawn_ancestors(registry: LineageRegistry, expert: ExpertId) -> frozenset[NodeId]:
    """Return the owners of the withdrawn versions that an expert's newest version came from."""
    found = await registry.lineage(expert=expert)
    nodes = {node.manifest: node for node in found.nodes}
    return frozenset(
        nodes[digest].owner
        for digest in _ancestors(found, _newest(found, expert))
        if digest in nodes and nodes[digest].standing == "withdrawn"
    )


async def came_from_withdrawn(registry: LineageRegistry, experts: Iterable[ExpertId], owner: NodeId) -> bool:
    """Return whether the newest version of each of these experts came from one that `owner` withdrew."""
    return all([owner in await withdrawn_ancestors(registry, expert) for expert in experts])


async def descends_from_withdrawn(registry: LineageRegistry, expert: ExpertId) -> str:
    """Return `ada.e1@3` where an expert's newest version came from one that was withdrawn; else nothing."""
    found = await registry.lineage(expert=expert)
    newest = _newest(found, expert)
    if newest is None or newest.standing != "descends-from-withdrawn":
        return ""
    return f"{newest.expert}@{newest.version}"


def _newest(found: Lineage, expert: ExpertId) -> LineageNode | None:
    own = [node for node in found.nodes if node.expert == expert]
    return max(own, key=lambda node: node.version, default=None)


def _ancestors(found: Lineage, of: LineageNode | None) -> set[Digest]:
    seen: set[Digest] = set()
    queue = [of.manifest] if of is not None else []
    while queue:
        child = queue.pop()
        parents = {edge.parent for edge in found.edges if edge.child == child} - seen
        seen |= parents
        queue += parents
    return seen
