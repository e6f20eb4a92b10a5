"""The swarm's status, for people: who is connected, what has no owner, how the store is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.gate_keeper import GateKeeper
from coordinator.heads import Heads
from coordinator.live_nodes import LiveNodes
from coordinator.members import Members
from coordinator.replicas import Replicas
from coordinator.revocations import Revocations
from coordinator.specifications import Specifications
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.members import MemberRecord
from swarm.domain.membership import NodeView, SwarmStatus
from swarm.registry.store import MetadataStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """Reads the coordinator's parts."""

    store: MetadataStore
    members: Members
    revocations: Revocations
    specifications: Specifications
    heads: Heads
    live: LiveNodes
    keeper: GateKeeper
    replicas: Replicas
    started_at: float
    clock: Callable[[], float]
    socket_bytes: Callable[[], SocketBytes]
    certificate_days: Callable[[], float]

    async def now(self) -> SwarmStatus:
        """Return the status at this moment; answers while the store is away, and says so."""
        try:
            await self.store.ping()
            redis, durability = "ok", await self.store.durability()
        except SwarmError as error:
            redis, durability = str(error), "unknown"
        away = self._leaves_without_owner()
        specification, active = self.specifications.current.value, self.keeper.active
        return SwarmStatus(
            swarm=specification.swarm,
            specification_version=specification.version,
            class_names=specification.class_names,
            gate_version=0 if active is None else active.version,
            nodes=tuple(self._view(record) for record in self.members.of_role("node")),
            leaves_without_owner=tuple(leaf.leaf for leaf in away),
            redis=redis,
            durability=durability,
            started_at=self.started_at,
            server_time=self.clock(),
            socket_bytes=self.socket_bytes(),
            certificate_days=self.certificate_days(),
            stand_ins=self._stand_ins(away),
            replicas=self.replicas.replicas,
            under_replicated=self.replicas.under_replicated(),
        )

    def _view(self, record: MemberRecord) -> NodeView:
        alive = self.live.get(record.id)
        seen = alive or self.live.seen.get(record.id)
        return NodeView(
            id=record.id,
            alive=alive is not None,
            revoked=self.revocations.is_revoked(record.id),
            fence=seen.fence if seen else 0,
            advertise=seen.link.hello.advertise if seen else "",
            activity=alive.activity if alive else "",
            last_seen=seen.last_seen if seen else 0.0,
            experts=tuple(sorted(e for e, m in self.heads.manifests().items() if m.owner == record.id)),
            socket_bytes=seen.socket_bytes if seen else SocketBytes(),
            software=seen.link.hello.software if seen else "",
        )

    def _leaves_without_owner(self) -> tuple[GateLeaf, ...]:
        """Return the gate's leaves whose owner is away, also those that another holder answers for."""
        if self.keeper.active is None:
            return ()
        connected: set[NodeId] = {node.link.node for node in self.live}
        return tuple(leaf for leaf in self.keeper.active.value.leaves if leaf.owner not in connected)

    def _stand_ins(self, leaves: Iterable[GateLeaf]) -> dict[str, NodeId]:
        """Return who is asked first for each of these leaves, where somebody holds what it answers with."""
        found = {}
        for leaf in leaves:
            head = self.heads.answering(leaf)
            holders = self.live.holders(head.manifest, head.digest) if head is not None else []
            if holders:
                found[str(leaf.leaf)] = holders[0].link.node
        return found
