"""A whole back end in one process: a real Redis, registry and coordinator over mutual TLS; and small nodes.

A node's expert knows the means of its classes and answers by the nearest: real modules, little to train.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.addresses import Endpoints
from coordinator.app import serve
from coordinator.config import CoordinatorConfig
from coordinator.founding import found_swarm
from coordinator.gate_queue import ContributionQueue, Pending
from node.gate_trial import TrialGate, Voice, answering, judge
from node.join_port import JoinPort
from swarm.config import SwarmHome
from swarm.digests import digest_of
from swarm.domain.combination import TrialOption
from swarm.domain.contributions import Contribution, FeatureSums, LeafContribution
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import GrowthOrder, Survey
from swarm.domain.ids import Digest, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.inference import ExpertAnswer, ExpertForm, ExpertRequest, GateTrial, Query, SocketBytes
from swarm.domain.manifests import Correction, Cost, Manifest, NetReference, Share
from swarm.domain.membership import ContributionOutcome, Event, Head, Heartbeat, Hello, Welcome
from swarm.domain.specification import Specification
from swarm.domain.tensors import ModuleEntry
from swarm.gating.regions import summarise_leaf
from swarm.gating.sums import compact_sums, exact_gram, pack_triangle, quantised, target_columns
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_module, pack_single, unpack
from swarm.registry.app import RegistryConfig
from swarm.registry.app import serve as serve_registry
from swarm.registry.redis_server import RedisServer
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.node_stream import NodeStreamClient
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.certificates import ca_swarm
from swarm.trust.identity import Identity, new_key_and_csr, save_identity
from swarm.trust.proofs import join_proof
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement
from swarm.trust.tokens import JoinToken, parse_join_line

SIZE = 6
RANK = 4
LIFT = 2.0
"""What a correction adds to its expert's nearest class, before it is centred."""
CLASSES = ("a", "b", "c", "d")
Floats = NDArray[np.float32]

_JOINERS = ThreadPoolExecutor(24, thread_name_prefix="joiner")


def samples(name: str, count: int, seed: int) -> Floats:
    """Samples of a class: a cloud around its own corner."""
    centre = np.zeros(SIZE, np.float32)
    centre["abcdef".index(name)] = 5.0
    noise = np.random.default_rng(seed).normal(scale=0.5, size=(count, SIZE))
    return (centre + noise).astype(np.float32)


async def refusal(work: Awaitable[object]) -> SwarmError:
    """Return the error that refuses the work; it has to be refused."""
    with pytest.raises(SwarmError) as caught:
        await work
    return caught.value


async def result_or_refusal(work: Awaitable[object]) -> object:
    try:
        return await work
    except SwarmError as error:
        return error


@dataclass
class BackEnd:
    """What is running. `restart_coordinator` ends it and starts it again from its folder."""

    folder: Path
    home: SwarmHome
    redis: RedisServer
    redis_url: str
    registry_port: int
    token: JoinToken
    endpoints: Endpoints
    serving: asyncio.Task[None]
    clients: contextlib.AsyncExitStack

    async def operator(self) -> CoordinatorClient:
        return CoordinatorClient(await self._connection(Identity.load(self.home.operator / "identity")))

    async def new_token(self, role: Any = "node", uses: int = 1) -> JoinToken:
        line, _ = await (await self.operator()).create_token(role, uses)
        return parse_join_line(line)[0]

    async def join(self, name: str, token: JoinToken | None = None) -> Identity:
        """Join as a machine elsewhere does, by the join port alone."""
        token = token or await self.new_token()
        # Threads of its own: the coordinator under test uses the loop's.
        return await asyncio.get_running_loop().run_in_executor(_JOINERS, self._join, name, token)

    async def node(self, name: str, classes: str, **options: Any) -> "SmallNode":
        """Let a node join and connect."""
        identity = await self.join(name)
        return await self.connect(SmallNode(self, identity, tuple(classes), **options))

    async def connect(self, node: "SmallNode") -> "SmallNode":
        await self.clients.enter_async_context(node)
        return node

    def door(self, ca_pem: bytes = b"") -> JoinPort:
        return JoinPort("127.0.0.1", self.endpoints.join_port, ca_pem=ca_pem)

    def request(
        self, name: str, token: str, role: Any = "node", signer: Signer | None = None
    ) -> dict[str, str]:
        """The body of a join request, and nothing sent."""
        signer = signer or Signer.generate()
        _, csr_pem = new_key_and_csr(ca_swarm(self.ca_pem), role, NodeId(name))
        return {
            "token": token, "node": name, "role": role, "csr_pem": csr_pem.decode(),
            "signing_key": signer.public_hex, "proof": join_proof(signer, csr_pem),
        }  # fmt: skip

    @property
    def ca_pem(self) -> bytes:
        return (self.home.ca / "ca.pem").read_bytes()

    def _join(self, name: str, token: JoinToken) -> Identity:
        door = self.door()
        ca_pem = door.fetch_ca(token.pin)
        swarm, member, signer = ca_swarm(ca_pem), NodeId(name), Signer.generate()
        key_pem, csr_pem = new_key_and_csr(swarm, "node", member)
        answer = door.join(
            {
                "token": token.text, "node": name, "role": "node", "csr_pem": csr_pem.decode(),
                "signing_key": signer.public_hex, "proof": join_proof(signer, csr_pem),
            }
        )  # fmt: skip
        return save_identity(
            self.folder / name,
            swarm=swarm,
            role="node",
            id=member,
            coordinator="127.0.0.1" + answer["coordinator"],
            registry="127.0.0.1" + answer["registry"],
            join=door.address,
            ca_pem=ca_pem,
            certificate_pem=answer["certificate_pem"].encode(),
            key_pem=key_pem,
            record=answer["record"].encode(),
            coordinator_record=answer["coordinator_record"].encode(),
            signer=signer,
        )

    async def stop_coordinator(self) -> None:
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)

    async def start_coordinator(self, **options: Any) -> float:
        """Return how many seconds the start took; options are of `CoordinatorConfig`."""
        began = time.monotonic()
        self.serving, self.endpoints = await start_coordinator(
            self.home, self.redis_url, self.registry_port, self.endpoints, **options
        )
        return time.monotonic() - began

    async def _connection(self, identity: Identity) -> Connection:
        return await self.clients.enter_async_context(
            open_channel(identity, f"127.0.0.1:{self.endpoints.port}", "coordinator", NodeId("coordinator"))
        )


@dataclass
class SmallNode:
    """A node with one expert over its classes.

    `sums`: how it gives F'F, if at all; `corrects`: its next version has a correction; `calls` names its
    classes otherwise, sample by sample ("a" for "b").
    """

    back_end: BackEnd
    identity: Identity
    classes: tuple[str, ...]
    share: Share = "borrow"
    count: int = 60
    sums: Literal["", "exact", "compact"] = ""
    corrects: bool = False
    calls: dict[str, str] = field(default_factory=dict)
    fails: SwarmError | None = None
    answers_wrong: bool = False
    hangs: bool = False
    served: list[Digest] = field(default_factory=list)
    others: list["SmallNode"] = field(default_factory=list)
    fence: int = 0
    gates: list[bytes] = field(default_factory=list)
    specifications: list[bytes] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    version: int = 0
    epoch: int = 0
    fails_to_judge: SwarmError | None = None
    activity: str = "idle"
    trouble: str = ""
    fails_to_grow: SwarmError | None = None
    orders: list[GrowthOrder] = field(default_factory=list)
    finds: Survey = field(default_factory=lambda: Survey(gate_version=0, leaves=()))
    advertise: str = ""
    room_bytes: int = 0
    loaded: tuple[Digest, ...] = ()
    declined: tuple[Digest, ...] = ()
    placements: list[tuple[Digest, ...]] = field(default_factory=list)

    @property
    def id(self) -> NodeId:
        return self.identity.id

    @property
    def expert(self) -> ExpertId:
        return expert_of(leaf_of(self.id, 0))

    @property
    def called(self) -> tuple[str, ...]:
        """Its classes by the names that it calls them."""
        return tuple(sorted({self.calls.get(name, name) for name in self.classes}))

    async def __aenter__(self) -> "SmallNode":
        self._stack = contextlib.AsyncExitStack()
        port = self.back_end.endpoints.port
        self.connection = await self._stack.enter_async_context(
            open_channel(self.identity, f"127.0.0.1:{port}", "coordinator", NodeId("coordinator"))
        )
        registry = await self._stack.enter_async_context(
            open_channel(
                self.identity, f"127.0.0.1:{self.back_end.registry_port}", "registry", NodeId("registry")
            )
        )
        self.coordinator, self.registry = CoordinatorClient(self.connection), RegistryClient(registry)
        self.keyring = self.identity.keyring()
        self.verified = VerifiedRegistry(
            self.registry,
            self.coordinator,
            self.keyring,
            BlobFiles(self.identity.folder.parent / f"{self.id}-cache"),
        )
        self.stream = NodeStreamClient(
            self.connection,
            experts=self,
            grower=self,
            listener=self,
            hello=self._hello,
            beat=self._beat,
            heartbeat_s=0.3,
        )
        self.welcomed = asyncio.Event()
        self._running = asyncio.create_task(self.stream.run())
        await asyncio.wait_for(self.welcomed.wait(), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def disconnect(self) -> None:
        """End the stream at once, as a killed process does."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._stack.aclose()

    async def publish(self, means: dict[str, Floats] | None = None) -> Head:
        """Publish the next version of the expert."""
        specification = await self._specification()
        weights = np.stack(
            [(means or {}).get(name, samples(name, 1, 0)[0] * 0 + _centre(name)) for name in self.called]
        ).astype(np.float32)
        module, blobs = pack_module("means", {"means": weights})
        for blob, data in blobs.items():
            self.verified.cache.put(data)
            await self.registry.publish_blob(blob, data)
        self.version += 1
        manifest = Manifest(
            swarm=specification.swarm,
            expert=self.expert,
            version=self.version,
            parent_version=self.version - 1,
            leaf=leaf_of(self.id, 0),
            owner=self.id,
            net=NetReference(factory="linear", input_shape=(SIZE,), classes=len(self.called), code_digest=""),
            class_names=self.called,
            modules=(module,),
            parents=(),
            trunk=specification.trunk.digest,
            gate_version_seen=0,
            share=self.share,
            metrics={},
            cost=Cost(train_flops=1, inference_flops=100, samples_seen=1, duration_s=0.1),
            created_at=time.time(),
            correction=self._correction((module,)) if self.corrects else None,
        )
        head = await self.registry.commit(self._signed(manifest), self.fence)
        self.served.append(head.manifest)
        return head

    async def contribution(self, over: str = "", **changes: Any) -> tuple[bytes, bytes]:
        """A signed contribution of the next epoch and its arrays; over: whose samples it is made of."""
        specification = await self._specification()
        features = np.concatenate([samples(name, self.count, 7) for name in over or self.classes])
        summary = summarise_leaf(features, prototypes=8, seed=0)
        known = self.called
        sums = self._sums(specification, features, known, over) if self.sums else {}
        entries, _, arrays = pack_single(
            {"prototypes": summary.prototypes, "prototype_counts": summary.counts, "radii": summary.radii}
            | sums
        )
        by_name = {entry.name: entry for entry in entries}
        self.epoch += 1
        value = Contribution(
            swarm=specification.swarm,
            owner=self.id,
            epoch=self.epoch,
            trunk=specification.trunk.digest,
            leaves=(
                LeafContribution(
                    leaf=leaf_of(self.id, 0),
                    expert=self.expert,
                    class_counts=dict.fromkeys(known, self.count),
                    prototypes=by_name["prototypes"],
                    prototype_counts=by_name["prototype_counts"],
                    radii=by_name["radii"],
                    columns=by_name.get("columns"),
                ),
            ),
            created_at=time.time(),
            sums=FeatureSums(
                form=self.sums,
                samples=self.count * len(self.classes),
                tensors=tuple(by_name[name] for name in sums if name != "columns"),
            )
            if self.sums
            else None,
        )
        return self._signed(replace(value, **changes)), arrays

    def _sums(
        self, specification: Specification, features: Floats, known: Sequence[str], over: str
    ) -> dict[str, NDArray[Any]]:
        """The node's F't and F'F, its labels by the names that it calls them."""
        names = [self.calls.get(name, name) for name in self.classes]
        if over:
            names = (names * len(over))[: len(over)]
        labels = np.repeat([known.index(name) for name in names], self.count)
        trunk = specification.trunk
        q = quantised(features, trunk.fixed_point, trunk.has_constant)
        columns = {"columns": target_columns(q, labels, len(known))}
        if self.sums == "exact":
            return columns | {"gram": pack_triangle(exact_gram(q))}
        return columns | compact_sums(q, RANK).arrays()

    def _correction(self, modules: tuple[ModuleEntry, ...]) -> Correction:
        return Correction(
            modules=modules,
            base=digest_of(b"gate"),
            class_temperature=0.2,
            metrics={},
            cost=Cost(train_flops=1, inference_flops=100, samples_seen=1, duration_s=0.1),
        )

    async def contribute(self, key: str = "", **changes: Any) -> ContributionOutcome:
        envelope, arrays = await self.contribution(**changes)
        return await self.coordinator.contribute(envelope, arrays, self.fence, key)

    async def train(self) -> ContributionOutcome:
        """Publish and contribute."""
        await self.publish()
        return await self.contribute()

    async def ask(self, *names: str, timeout_s: float = 20, **options: Any) -> Any:
        inputs = np.concatenate([samples(name, 1, 99) for name in names])
        return await self.coordinator.predict(Query(inputs=inputs, explain=True, **options), timeout_s)

    # ExpertPort

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            await asyncio.sleep(60)
        return [
            await self._answer(task.expert, task.manifest, request.inputs[task.rows], task.form)
            for task in request.tasks
        ]

    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial:
        if self.fails_to_judge is not None:
            raise self.fails_to_judge
        labels = [self.calls.get(name, name) for name in self.classes for _ in range(20)]
        inputs = np.concatenate([samples(name, 20, 5) for name in self.classes])
        tried, _ = await self._gate(candidate)
        present = await self._gate(incumbent) if incumbent else None
        leaves = (*tried.leaves, *(present[0].leaves if present else ()))
        voices = {who: await self._voice(who, inputs) for who in map(answering, leaves)}
        return judge(
            labels,
            inputs,
            tried,
            options,
            voices,
            incumbent=(present[0], present[1].combination()) if present else None,
        )

    async def survey(self, gate: bytes, specification: bytes) -> Survey:
        version = (await self.verified.open(gate, GateStatement)).value.version
        return replace(self.finds, gate_version=version)

    # GrowerPort

    async def carry_out(self, order: GrowthOrder) -> None:
        if self.fails_to_grow is not None:
            raise self.fails_to_grow
        self.orders.append(order)

    async def _gate(self, envelope: bytes) -> tuple[TrialGate, GateStatement]:
        statement = (await self.verified.open(envelope, GateStatement)).value
        arrays = await self.verified.gate_arrays(statement)
        return TrialGate.of(statement, arrays, (await self._specification()).trunk), statement

    async def _voice(self, who: str, inputs: Floats) -> Voice:
        """What an expert's head says, or one version of it, by its digest."""
        head = await self.verified.manifest(who)
        if head.value.share == "serve-only" and head.value.owner != self.id:
            return Voice(class_names=head.value.class_names)
        said = {
            form: (await self._answer(head.value.expert, head.digest, inputs, form)).values
            for form in ("probabilities", "corrections")
            if form == "probabilities" or head.value.correction is not None
        }
        return Voice(class_names=head.value.class_names, **said)

    async def _answer(
        self, expert: ExpertId, digest: Digest, inputs: NDArray[Any], form: ExpertForm
    ) -> ExpertAnswer:
        manifest = (await self.verified.manifest(digest)).value
        await self.verified.blobs(manifest)
        module = manifest.modules[0]
        means = unpack(module.tensors, self.verified.cache.open_verified)["means"]
        logits = -((inputs[:, None, :] - means[None]) ** 2).sum(axis=2)
        logits -= logits.max(axis=1, keepdims=True)
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        if form == "corrections":
            values = LIFT * (values - values.mean(axis=1, keepdims=True))
        if self.answers_wrong:
            values = values * 3 + 1
        return ExpertAnswer(
            expert=expert,
            version=manifest.version,
            manifest=digest,
            class_names=manifest.class_names,
            values=values.astype(np.float32),
            module_digests=(module.digest,),
            flops_per_query=100.0,
            form=form,
        )

    # StreamListener

    async def on_welcome(self, welcome: Welcome) -> None:
        self.fence = welcome.fence
        if welcome.gate:
            self.gates.append(welcome.gate)
        self.welcomed.set()

    async def on_gate(self, envelope: bytes) -> None:
        self.gates.append(envelope)

    async def on_specification(self, envelope: bytes) -> None:
        self.specifications.append(envelope)

    async def on_revocations(self, envelope: bytes) -> None:
        self.keyring.set_revocations(envelope)

    async def on_event(self, event: Event) -> None:
        self.events.append(event)

    async def on_placement(self, manifests: Sequence[Digest]) -> None:
        """Hold what it is told to, and say that it is loaded."""
        self.placements.append(tuple(manifests))
        for digest in manifests:
            manifest = (await self.verified.manifest(digest)).value
            await self.verified.blobs(manifest)
            if digest not in self.served:
                self.served.append(digest)
        self.loaded = tuple(manifests)

    async def on_disconnect(self, error: SwarmError) -> None:
        self.welcomed.clear()

    async def _hello(self) -> Hello:
        return Hello(
            advertise=self.advertise,
            can_build=("linear",),
            manifests=(),
            served=tuple(self.served),
            gate_version=0,
            software="test",
        )

    def _beat(self, fence: int) -> Heartbeat:
        return Heartbeat(
            fence=fence,
            socket_bytes=SocketBytes(),
            activity=self.activity,
            served=tuple(self.served),
            gate_version=0,
            trouble=self.trouble,
            loaded=self.loaded,
            declined=self.declined,
            room_bytes=self.room_bytes,
        )

    async def _specification(self) -> Specification:
        return (await self.verified.open(await self.coordinator.specification(), Specification)).value

    def _signed(self, value: object) -> bytes:
        return sign_statement(value, self.identity.required_signer())


def held_judging(judge: SmallNode) -> tuple[asyncio.Event, asyncio.Event]:
    """Let a node's judging wait. The first event says that it was asked, the second lets it go on."""
    asked, release, try_gate = asyncio.Event(), asyncio.Event(), judge.try_gate

    async def held(*arguments: Any) -> GateTrial:
        asked.set()
        await release.wait()
        return await try_gate(*arguments)

    judge.try_gate = held  # type: ignore[method-assign]
    return asked, release


async def until_heard(node: SmallNode) -> None:
    """Wait until the coordinator heard a heartbeat with the node's activity, and all that it says besides."""
    async with asyncio.timeout(10):
        while node.activity not in [view.activity for view in (await node.coordinator.status()).nodes]:
            await asyncio.sleep(0.02)


def queued_owners(monkeypatch: pytest.MonkeyPatch) -> list[NodeId]:
    """Return the owners of the contributions that come to the coordinator's queue from now on."""
    owners: list[NodeId] = []
    outcome_of = ContributionQueue.outcome_of

    async def noted(self: ContributionQueue, pending: Pending) -> ContributionOutcome:
        owners.append(pending.owner)
        return await outcome_of(self, pending)

    monkeypatch.setattr(ContributionQueue, "outcome_of", noted)
    return owners


def _centre(name: str) -> Floats:
    centre = np.zeros(SIZE, np.float32)
    centre["abcdef".index(name)] = 5.0
    return centre


async def start_coordinator(
    home: SwarmHome, redis_url: str, registry_port: int, at: Endpoints | None = None, **options: Any
) -> tuple[asyncio.Task[None], Endpoints]:
    ready: asyncio.Future[Endpoints] = asyncio.get_running_loop().create_future()
    config = CoordinatorConfig(
        home=home,
        redis_url=redis_url,
        join_port=at.join_port if at else 0,
        port=at.port if at else 0,
        registry=f"127.0.0.1:{registry_port}",
        **{"http_port": 0, **options},
    )
    serving = asyncio.create_task(serve(config, ready.set_result))
    await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    return serving, ready.result()


@asynccontextmanager
async def back_end(folder: Path, **options: Any) -> AsyncIterator[BackEnd]:
    """Found a swarm with an `identity` trunk and run its services; options are of `CoordinatorConfig`."""
    home = SwarmHome(folder / "home")
    line = await asyncio.to_thread(
        found_swarm,
        home,
        swarm="plants",
        input_shape=(SIZE,),
        input_dtype="float32",
        scale=1.0,
        offset=0.0,
        class_names=CLASSES,
        trunk="identity",
        min_leaf_count=10,
        now=datetime.now(UTC),
    )
    redis = RedisServer(home.redis)
    await redis.start()
    registry_ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    registry_config = RegistryConfig(
        identity=home.registry / "identity", blobs=home.registry / "blobs", redis_url=redis.url, port=0
    )
    registry = asyncio.create_task(serve_registry(registry_config, registry_ready.set_result))
    await asyncio.wait({registry, registry_ready}, return_when=asyncio.FIRST_COMPLETED)
    registry_port = registry_ready.result()
    serving, endpoints = await start_coordinator(home, redis.url, registry_port, **options)
    async with contextlib.AsyncExitStack() as clients:
        running = BackEnd(
            folder=folder,
            home=home,
            redis=redis,
            redis_url=redis.url,
            registry_port=registry_port,
            token=parse_join_line(line)[0],
            endpoints=endpoints,
            serving=serving,
            clients=clients,
        )
        try:
            yield running
        finally:
            await clients.aclose()
            await running.stop_coordinator()
            registry.cancel()
            await asyncio.gather(registry, return_exceptions=True)
            await redis.stop()
