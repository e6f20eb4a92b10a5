"""Real servers and connections on loopback, under real certificates; ports that remember what was asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from swarm.digests import digest_of
from swarm.domain.combination import TrialOption
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.growth import (
    GrowthOrder,
    GrowthPolicy,
    GrowthReport,
    LeafSurvey,
    Proposal,
    ProposalKind,
    Survey,
)
from swarm.domain.ids import ExpertId, LeafId, NodeId, owner_of
from swarm.domain.inference import (
    Answer,
    Examples,
    ExpertAnswer,
    ExpertForm,
    ExpertRequest,
    ExpertTask,
    GateTrial,
    Profile,
    Query,
    SocketBytes,
)
from swarm.domain.members import Role
from swarm.domain.membership import (
    Caller,
    Event,
    Heartbeat,
    Hello,
    PlacedVersions,
    SwarmStatus,
    TokenView,
    Welcome,
)
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.node_stream import Link
from swarm.rpc.ports import NodeLink
from swarm.rpc.server import RpcServer, Service, create_server
from swarm.trust.identity import Identity, create_service_identity
from tests.support.trust import Founded, found

SPEC, GATE = b"specification", b"gate"
MANIFEST = digest_of(b"manifest")
TRUNK = digest_of(b"trunk")


def found_now(folder: Path) -> Founded:
    """Found a swarm whose certificates are current."""
    return found(folder, now=datetime.now(UTC))


def service(swarm: Founded, role: Role, lifetime: timedelta | None = None) -> Identity:
    """Make the identity of a registry or an operator."""
    return create_service_identity(
        swarm.ca,
        swarm.folder / role,
        role=role,
        coordinator_record=swarm.coordinator.record,
        lifetime=lifetime,
        now=datetime.now(UTC),
    )


def node(swarm: Founded, name: str) -> Identity:
    """Let a node join, now."""
    return swarm.member(name, now=datetime.now(UTC))


@asynccontextmanager
async def serving(
    identity: Identity,
    services: Iterable[Service],
    revoked: Callable[[NodeId], bool] = lambda _: False,
    address: str = "127.0.0.1:0",
    now: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[RpcServer, str]]:
    """Run a server; yields it and its address."""
    server = create_server(identity.folder, revoked, services, now=now)
    port = server.add_port(address)
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def coordinator_client(identity: Identity, address: str) -> AsyncIterator[CoordinatorClient]:
    async with open_channel(identity, address, "coordinator", NodeId("coordinator")) as connection:
        yield CoordinatorClient(connection)


@asynccontextmanager
async def asking(
    coordinator: Identity,
    caller: Identity,
    *services: Service,
    revoked: Callable[[NodeId], bool] = lambda _: False,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[CoordinatorClient]:
    """Run a coordinator's server and yield a caller's client of it."""
    async with (
        serving(coordinator, services, revoked, now=now) as (_, address),
        coordinator_client(caller, address) as client,
    ):
        yield client


@asynccontextmanager
async def connected(identity: Identity, address: str, role: Role, member: str) -> AsyncIterator[Connection]:
    async with open_channel(identity, address, role, NodeId(member)) as connection:
        yield connection


class Membership:
    """A membership port in memory: leases by counting, and every act that was asked for."""

    def __init__(self) -> None:
        self.links: dict[str, Link | NodeLink] = {}
        self.fence = 0
        self.beats: list[Heartbeat] = []
        self.parted: list[str] = []
        self.acts: list[tuple[object, ...]] = []
        self.refusal: SwarmError | None = None
        self.appended: asyncio.Queue[Event] = asyncio.Queue()

    async def node_connected(self, link: NodeLink) -> Welcome:
        self.fence += 1
        self.links[link.node] = link
        return Welcome(
            fence=self.fence,
            lease_s=10.0,
            specification=SPEC,
            gate=GATE,
            revocations=b"",
            server_time=time.time(),
        )

    async def node_heartbeat(self, link: NodeLink, beat: Heartbeat) -> None:
        self.beats.append(beat)

    async def node_disconnected(self, link: NodeLink) -> None:
        self.parted.append(link.node)
        if self.links.get(link.node) is link:
            del self.links[link.node]

    async def placement(self) -> PlacedVersions:
        return PlacedVersions(mark="one", nodes={digest_of(b"manifest"): (NodeId("bob"), NodeId("ada"))})

    async def status(self) -> SwarmStatus:
        if self.refusal is not None:
            raise self.refusal
        return SwarmStatus(
            swarm="plants",
            specification_version=1,
            class_names=("beech", "élm"),
            gate_version=3,
            nodes=(),
            leaves_without_owner=(),
            redis="ok",
            durability="everysec",
            started_at=1.0,
            server_time=2.0,
            socket_bytes=SocketBytes(sent=5, received=7),
            certificate_days=6.5,
        )

    async def record(self, member: NodeId) -> bytes:
        raise NotFoundError(f"member {member}")

    async def specification(self, version: int) -> bytes:
        return SPEC

    async def revocations(self) -> bytes:
        return b""

    async def renew_certificate(self, caller: Caller, csr_pem: bytes, key: str) -> bytes:
        self.acts.append(("renew", caller, csr_pem, key))
        return b"certificate"

    async def leave(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]:
        self.acts.append(("leave", node, reason, key))
        return 4, (ExpertId(f"{node}.e0"),)

    async def revoke(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]:
        return await self.leave(node, reason, key)

    async def create_token(self, role: Role, uses: int, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        self.acts.append(("create_token", role, uses, lifetime_s, key))
        view = TokenView(id="t1", role=role, uses_left=uses, expires_at=9.0, created_at=1.0)
        return "swm1.t1.pin.secret@host:7070", view

    async def create_bearer(self, holder: NodeId, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        self.acts.append(("create_bearer", holder, lifetime_s, key))
        view = TokenView(
            id="b1", role="client", uses_left=0, expires_at=lifetime_s, created_at=0.0, bearer=holder
        )
        return "swb1.b1.secret", view

    async def tokens(self) -> list[TokenView]:
        return []

    async def revoke_token(self, token_id: str, key: str) -> None:
        self.acts.append(("revoke_token", token_id, key))

    async def events(self, after: str, follow: bool, limit: int) -> AsyncIterator[Event]:
        yield Event(id="1-0", kind="node.joined", at=1.0, fields=(("node", "ada"),))
        while follow:
            yield await self.appended.get()


class Inference:
    """Answers every row with certainty in the first class."""

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        rows = len(query.inputs)
        return Answer(
            class_names=("beech", "élm"),
            probabilities=np.tile(np.array([1.0, 0.0], np.float32), (rows, 1)),
            gate_version=3,
            degraded=(False,) * rows,
            combination="root",
        )

    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile:
        return Profile(
            id=digest_of(examples.inputs.tobytes()),
            owners=(NodeId("ada"),),
            examples=len(examples.labels),
            accuracy=0.75,
            accuracy_all=0.5,
            gate_version=3,
        )


class Growth:
    """A growth port that records every act; proposals stay as they were made until a test changes them."""

    def __init__(self) -> None:
        self.made: dict[str, Proposal] = {}
        self.acts: list[tuple[object, ...]] = []
        self.refusal: SwarmError | None = None
        self.present: GrowthPolicy = "manual"
        self.ends: Proposal | None = None
        """What a new proposal looks like to whoever asks about it a second time."""

    async def propose(
        self,
        caller: Caller,
        kind: ProposalKind,
        experts: Sequence[ExpertId],
        options: Mapping[str, str],
        gate_version: int,
        key: str,
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        added = (owner, regions) if kind == "add" else ()
        self.acts.append(("propose", caller, kind, tuple(experts), dict(options), gate_version, key, *added))
        if self.refusal is not None:
            raise self.refusal
        made = replace(
            proposal(),
            id=f"p{len(self.made) + 1}",
            kind=kind,
            experts=tuple(experts),
            owner=owner_of(experts[0]) if experts else owner or caller.id,
            options=dict(options),
            by=caller.id,
        )
        self.made[made.id] = made
        return made

    async def proposals(self, proposal: str) -> list[Proposal]:
        if proposal and proposal not in self.made:
            raise NotFoundError(f"proposal {proposal}")
        if self.ends is not None:
            self.made = {
                name: replace(self.ends, id=name, kind=each.kind, experts=each.experts)
                for name, each in self.made.items()
            }
        return [self.made[proposal]] if proposal else [*reversed(self.made.values())]

    async def report(self, caller: Caller, report: GrowthReport, key: str) -> Proposal:
        self.acts.append(("report", caller, report, key))
        return self.made[report.proposal]

    async def cancel(self, caller: Caller, proposal: str, key: str) -> Proposal:
        self.acts.append(("cancel", caller, proposal, key))
        self.made[proposal] = self.made[proposal].now("rolled-back", 9.0, f"cancelled by {caller.id}")
        return self.made[proposal]

    async def policy(self, policy: str, key: str) -> GrowthPolicy:
        self.acts.append(("policy", policy, key))
        self.present = policy or self.present  # type: ignore[assignment]
        return self.present


class Grower:
    """A grower port that keeps its orders."""

    def __init__(self) -> None:
        self.orders: list[GrowthOrder] = []
        self.refusal: SwarmError | None = None

    async def carry_out(self, order: GrowthOrder) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.orders.append(order)


class Experts:
    """Experts that know how many calls run at once, and can be told to wait or to fail."""

    def __init__(self) -> None:
        self.running = self.most_running = self.cancelled = 0
        self.wait_s = 0.0
        self.refusal: Exception | None = None
        self.columns = 2

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.wait_s)
            if self.refusal is not None:
                raise self.refusal
            return [self._answer(task) for task in request.tasks]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial:
        return trial(len(options))

    async def survey(self, gate: bytes, specification: bytes) -> Survey:
        return survey()

    def _answer(self, task: ExpertTask) -> ExpertAnswer:
        return ExpertAnswer(
            expert=task.expert,
            version=1,
            manifest=task.manifest,
            class_names=tuple(f"c{n}" for n in range(self.columns)),
            values=np.full(
                (len(task.rows), self.columns),
                1 / self.columns if task.form == "probabilities" else 0.0,
                np.float32,
            ),
            module_digests=(digest_of(b"head"),),
            flops_per_query=10.0,
            form=task.form,
        )


def trial(options: int = 2) -> GateTrial:
    counts = tuple(range(options))
    return GateTrial(
        samples=20,
        nll_sum=tuple(float(n) for n in counts),
        correct=counts,
        gained=counts,
        lost=counts,
        gained_among_own=counts,
        lost_among_own=counts,
        taken=counts,
        gained_on_root=counts,
        lost_on_root=counts,
        incumbent_correct=9,
        experts_missing=1,
        flops=77,
    )


def survey() -> Survey:
    leaf = LeafSurvey(leaf=LeafId("ada.l0"), samples=20, nll_sum=3.5, correct=15, novel=2)
    return Survey(gate_version=3, leaves=(leaf,), fresh=50, fresh_novel=7)


def proposal() -> Proposal:
    return Proposal(
        id="p1",
        kind="split",
        experts=(ExpertId("ada.e0"),),
        owner=NodeId("ada"),
        gate_version=3,
        by="operator",
        created_at=1.0,
        changed_at=2.0,
        options={"gate": "means", "steps": "50"},
        state="working",
        evidence={"z": 1.5},
        cost={"train_flops": 1e9},
        before=MANIFEST,
        gate_versions=(4,),
    )


def growth_order() -> GrowthOrder:
    return GrowthOrder(
        proposal="p1",
        kind="split",
        experts=(ExpertId("ada.e0"),),
        gate_version=3,
        before=MANIFEST,
        options={"gate": "learned"},
    )


def expert_request(rows: int = 3, width: int = 4, form: ExpertForm = "probabilities") -> ExpertRequest:
    return ExpertRequest(
        inputs=np.arange(rows * width, dtype=np.float32).reshape(rows, width),
        tasks=(
            ExpertTask(
                expert=ExpertId("ada.e0"),
                manifest=MANIFEST,
                rows=np.arange(rows, dtype=np.int64),
                form=form,
            ),
        ),
        trunk=TRUNK,
        gate_version=3,
    )


def hello() -> Hello:
    return Hello(
        advertise="",
        can_build=("cnn",),
        manifests=(b"envelope",),
        served=(MANIFEST,),
        gate_version=0,
        software="0",
    )


async def eventually(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Return once condition holds; AssertionError after within_s."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
