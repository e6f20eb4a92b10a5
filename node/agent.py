"""The node's agent: what the command and the coordinator ask of this machine.

One asyncio process without torch. Learning and answering are child processes; what shall leave the machine
goes through the outbox, so training goes on while coordinator, registry or Redis are away.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import structlog

from node.announcing import REBUILD_EVENT, Announcer
from node.delivery import Courier
from node.expert_relay import ExpertRelay
from node.growth.carrying import Grower
from node.knowledge import SwarmKnowledge
from node.leaves import LeafBook, OwnLeaf
from node.loading import Loading
from node.outbound import OutboundLog
from node.outbox import Outbox
from node.renewal import Renewals
from node.sending import BlobSending
from node.standing_in import StandingIn
from node.training import Trainer
from swarm import __version__
from swarm.config import NodeHome
from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.combination import TrialOption
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.growth import GrowthOrder, Survey
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.inference import ExpertAnswer, ExpertRequest, GateTrial, SocketBytes
from swarm.domain.membership import Event, Heartbeat, Hello, Welcome
from swarm.experts.factories import buildable
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.telemetry import SocketMeter
from swarm.trust.identity import Identity, certificate_not_after

_log = structlog.get_logger(__name__)


class Agent:
    """AgentPort for the command, ExpertPort and GrowerPort for the coordinator's calls, and the stream's
    callbacks."""

    def __init__(
        self,
        *,
        home: NodeHome,
        identity: Identity,
        advertise: str,
        import_paths: tuple[str, ...],
        book: LeafBook,
        outbox: Outbox,
        outbound: OutboundLog,
        courier: Courier,
        trainer: Trainer,
        grower: Grower,
        relay: ExpertRelay,
        knowledge: SwarmKnowledge,
        coordinator: CoordinatorClient,
        registry: RegistryClient,
        meter: SocketMeter,
        sending: BlobSending,
        renewals: Renewals,
        announcer: Announcer,
        fence: "Fence",
        standing_in: StandingIn,
        loading: Loading,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._identity, self._advertise = home, identity, advertise
        self._import_paths, self._book, self._outbox = import_paths, book, outbox
        self._outbound, self._courier, self._trainer, self._relay = outbound, courier, trainer, relay
        self._grower = grower
        self._knowledge, self._coordinator, self._registry = knowledge, coordinator, registry
        self._meter, self._renewals, self._fence, self._clock = meter, renewals, fence, clock
        self._sending = sending
        self._announcer = announcer
        self._standing_in, self._loading = standing_in, loading
        self._looking: asyncio.Task[None] | None = None
        self._clock_skew_s = 0.0
        self.stopping = asyncio.Event()
        """Set when the agent shall end: by `stop`, after `leave`, or by a signal."""

    def train(self, request: TrainOrder) -> AsyncIterator[TrainStep]:
        """Carry out a training order and tell its steps."""
        return self._trainer.train(request)

    async def state(self) -> AgentState:
        """Return the agent's view of itself."""
        identity = Identity.load(self._home.identity)
        left = certificate_not_after(identity.certificate_pem) - datetime.now(UTC)
        return AgentState(
            node=identity.id,
            swarm=identity.swarm,
            connected=self._fence.value > 0,
            fence=self._fence.value,
            gate_version=self._knowledge.gate_version,
            activity=self.activity,
            outbox=len(self._outbox),
            certificate_days=left.total_seconds() / 86_400,
            experts=tuple(f"{leaf.expert}@{leaf.head_version}" for leaf in self._book.published()),
            socket_bytes=self.socket_bytes,
            disk_free_bytes=shutil.disk_usage(self._home.root).free,
            clock_skew_s=self._clock_skew_s,
            expert_server_pid=self._relay.pid,
            trouble=self._trainer.trouble.told if self._trainer.trouble else "",
            outbox_trouble=self._courier.trouble,
            memory=self._relay.memory,
        )

    async def leave(self, reason: str) -> tuple[int, tuple[ExpertId, ...]]:
        """Leave the swarm for good: experts out of the gate, certificate revoked; then the agent ends."""
        left = await self._coordinator.leave(reason, f"leave-{self._identity.id}-{uuid.uuid4().hex}")
        _log.info("node.left", gate_version=left[0], experts=len(left[1]))
        self._end_soon()
        return left

    async def stop(self) -> None:
        """End the agent and its children."""
        self._end_soon()

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        """Relay a query to the expert server."""
        return await self._relay.predict(request)

    async def pass_on(self, query: bytes) -> bytes:
        """Relay an encoded query to the expert server, which reads it; its encoded reply comes back."""
        return await self._relay.pass_on(query)

    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial:
        """Relay a gate's trial to the expert server."""
        return await self._relay.try_gate(candidate, incumbent, options, specification)

    async def survey(self, gate: bytes, specification: bytes) -> Survey:
        """Relay a survey of a gate's leaves to the expert server, which tells how much is new as well."""
        return await self._relay.survey(gate, specification)

    async def carry_out(self, order: GrowthOrder) -> None:
        """Take a proposal to carry out."""
        await self._grower.carry_out(order)

    @property
    def activity(self) -> str:
        """What heartbeats say: `idle`, `train 40%`, `split ada.e1 40%`; with what waits in the outbox, what
        holds it up, and what is kept there because its recipient refused it."""
        trains, grows = self._trainer.activity, self._grower.activity
        doing = [trains] if trains != "idle" or not grows else []
        doing += [grows] if grows else []
        waiting, kept = len(self._outbox), self._outbox.kept
        why = f" ({self._courier.held_up_by})" if self._courier.held_up_by else ""
        doing += [f"{waiting} waiting to be sent{why}"] if waiting else []
        doing += [f"{kept} refused and kept"] if kept else []
        return ", ".join(doing)

    @property
    def socket_bytes(self) -> SocketBytes:
        """TCP bytes of the agent, its expert servers and what sends its large blobs."""
        each = (self._meter.totals(), self._relay.socket_bytes, self._sending.socket_bytes)
        return SocketBytes(sent=sum(one.sent for one in each), received=sum(one.received for one in each))

    async def hello(self) -> Hello:
        """Return the first message of a new stream, with this node's signed heads."""
        leaves = self._book.everything()
        nets = self._book.nets()
        paths = tuple(
            dict.fromkeys((*self._import_paths, *(p for leaf in leaves for p in leaf.import_paths)))
        )
        return Hello(
            advertise=self._advertise,
            can_build=buildable(sorted(nets), paths),
            manifests=self._book.published_envelopes(),
            served=self.served(),
            gate_version=self._knowledge.gate_version,
            software=f"swarm {__version__}",
        )

    def heartbeat(self, fence: int) -> Heartbeat:
        """Return a proof of life under a fence."""
        return Heartbeat(
            fence=fence,
            socket_bytes=self.socket_bytes,
            activity=self.activity,
            served=self.served(),
            gate_version=self._knowledge.gate_version,
            trouble=self._trainer.trouble.reason if self._trainer.trouble else "",
            loaded=self._loading.loaded(),
            declined=self._standing_in.declined,
            room_bytes=self._standing_in.room_bytes,
        )

    def served(self) -> tuple[Digest, ...]:
        """Return the manifests of others that it holds: for those it stands in. What it owns is known
        from its heads, and grows with every version."""
        return tuple(sorted(Digest(file.stem) for file in (self._home.cache / "manifests").glob("*.json")))

    async def on_welcome(self, welcome: Welcome) -> None:
        """A new lease: take up what is new, announce the heads under its fence, and deliver what waits."""
        self._clock_skew_s = self._clock() - welcome.server_time
        self._take("specification", welcome.specification)
        self._take("revocations", welcome.revocations)
        self._take("gate", welcome.gate)
        self._fence.value, self._courier.offline = welcome.fence, ""
        self._announcer.begin()
        self._look_for_tombstones()
        self._courier.kick()
        self._grower.kick()

    async def on_gate(self, envelope: bytes) -> None:
        """A new gate is active."""
        self._take("gate", envelope)
        self._grower.kick()

    async def on_specification(self, envelope: bytes) -> None:
        """A new version of the specification."""
        self._take("specification", envelope)

    async def on_revocations(self, envelope: bytes) -> None:
        """A new revocation list."""
        self._take("revocations", envelope)

    async def on_event(self, event: Event) -> None:
        """Something happened in the swarm."""
        _log.debug("event", kind=event.kind, id=event.id)
        if event.kind.startswith("growth."):
            self._grower.kick()
        if event.kind == REBUILD_EVENT:
            self._announcer.begin(everything=True)
        if event.kind == "expert.withdrawn" and ("owner", self._identity.id) in event.fields:
            self._look_for_tombstones()

    async def on_placement(self, manifests: Sequence[Digest]) -> None:
        """What the coordinator wants this node to hold and keep loaded."""
        self._loading.keep(manifests)
        self._standing_in.place(manifests)

    async def on_disconnect(self, error: SwarmError) -> None:
        """The lease is gone with the stream; deliveries wait for the next one. An expired certificate is
        renewed before the next attempt."""
        self._fence.value, self._courier.offline = 0, str(error)
        await self._renewals.check()

    def _take(self, what: str, envelope: bytes) -> None:
        if not envelope:
            return
        taken = {
            "specification": self._knowledge.take_specification,
            "gate": self._knowledge.take_gate,
            "revocations": self._knowledge.revocations.keep,
        }[what]
        try:
            taken(envelope)
            if what == "gate" and self._knowledge.gate is not None:
                self._book.contributions.note_gate(self._knowledge.gate.contributions)
                self._grower.follow()
                self._standing_in.kick()
        except SwarmError as error:
            # What does not verify is not used; the rest of a welcome still counts.
            _log.error("statement.refused", what=what, because=str(error))
        except OSError as error:
            # A disk that takes nothing: what else came still counts, and all of it comes again.
            _log.error("statement.not_kept", what=what, because=str(error))

    def _look_for_tombstones(self) -> None:
        """Begin to look which own experts were withdrawn: now, or while this agent was away."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.create_task(self._retire_withdrawn(), name="tombstones")

    async def _retire_withdrawn(self) -> None:
        """Retire the leaves whose experts have no head in the registry any more but a tombstone."""
        delay = 1.0
        while published := self._book.published():
            try:
                heads = {head.expert for head in await self._registry.heads(self._identity.id)}
                missing = [leaf for leaf in published if leaf.expert not in heads]
                gone = [leaf.expert for leaf in missing if await self._has_tombstone(leaf)]
            except SwarmError as error:
                _log.info("tombstones.not_asked", because=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 60.0)
                continue
            self._grower.retire_withdrawn(gone)
            return

    async def _has_tombstone(self, leaf: OwnLeaf) -> bool:
        try:
            nodes = (await self._registry.lineage(manifest=leaf.head)).nodes
        except NotFoundError:  # lost, not withdrawn: announcing brings it back
            return False
        return any(node.expert == leaf.expert and node.standing == "withdrawn" for node in nodes)

    def _end_soon(self) -> None:
        """End once the present call has been answered."""
        asyncio.get_running_loop().call_later(0.2, self.stopping.set)


class Fence:
    """The present lease's fence, 0 while there is none."""

    def __init__(self) -> None:
        self.value = 0
