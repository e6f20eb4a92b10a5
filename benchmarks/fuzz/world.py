"""What is attacked: a real Redis, registry and coordinator, a node's services, and members."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import torch

import coordinator.app
import swarm.registry.app
from benchmarks.fuzz.delivering import InProcess
from node.expert_service import ExpertService, SpecificationFile
from node.expert_store import ExpertStore
from node.federation import FederatedClients
from node.gate_evaluation import GateEvaluator
from node.holdings import Holdings
from node.outbound import OutboundLog
from node.own_validation import OwnValidation
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import pack_net
from swarm.modules.blobs import BlobFiles
from swarm.rpc import methods as m
from swarm.rpc.callers import CertificateGatekeeper, SameMachineGatekeeper
from swarm.rpc.methods import AnyMethod
from swarm.rpc.server import Service, create_server
from swarm.rpc.servicers import (
    agent_service,
    expert_service,
    federation_client_service,
    grower_service,
    holder_service,
)
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.statements import read_statement, sign_statement, statement_digest
from tests.support.coordinator import SIZE, BackEnd, SmallNode, back_end


@dataclass(frozen=True, slots=True)
class Offered:
    """A server's services and its port."""

    services: tuple[Service, ...]
    in_process: InProcess
    port: int


@dataclass
class World:
    """Everything that runs, and who attacks it: `mal`, a member in good standing, and who else may call."""

    swarm: BackEnd
    registry: Offered
    coordinator: Offered
    node: Offered
    same_machine: InProcess
    as_leaver: InProcess
    ada: SmallNode
    bob: SmallNode
    mal: SmallNode
    quitter: SmallNode
    streamer: Identity
    operator: Identity
    coordinator_identity: Identity
    expert: Manifest
    manifest: Digest
    blob: bytes
    channels: dict[tuple[int, str], grpc.aio.Channel]

    def place_of(self, method: AnyMethod) -> tuple[Offered | None, InProcess]:
        """Return who serves a method over TCP, and its handlers here."""
        if method.service == "Agent":
            return None, self.same_machine
        if method is m.LEAVE:
            return None, self.as_leaver
        if method.service == "Registry":
            return self.registry, self.registry.in_process
        if method.service in ("Expert", "Grower", "FederationClient", "Holder"):
            return self.node, self.node.in_process
        return self.coordinator, self.coordinator.in_process

    def caller_of(self, method: AnyMethod) -> Identity:
        """Return a member whom the table of methods lets call."""
        if method is m.CONNECT:
            return self.streamer
        if method is m.WITHDRAW:
            return self.quitter.identity
        if "node" in method.roles:
            return self.mal.identity
        return self.operator if "operator" in method.roles else self.coordinator_identity

    def forget(self) -> None:
        """Drop what the honest nodes of this world noted of events: they are no part of what is measured."""
        for node in (self.ada, self.bob, self.mal, self.quitter):
            for noted in (node.events, node.gates, node.specifications, node.orders):
                noted.clear()  # type: ignore[attr-defined]

    def channel(self, offered: Offered, identity: Identity) -> grpc.aio.Channel:
        """Return a connection of a member, kept open."""
        known = self.channels.get((offered.port, identity.id))
        if known is None:
            role = {self.registry.port: "registry.plants", self.coordinator.port: "coordinator.plants"}
            name = role.get(offered.port, f"{self.ada.id}.node.plants")
            credentials = grpc.ssl_channel_credentials(
                identity.ca_pem, identity.key_pem, identity.certificate_pem
            )
            options = (("grpc.ssl_target_name_override", name), ("grpc.max_send_message_length", -1))
            known = grpc.aio.secure_channel(f"127.0.0.1:{offered.port}", credentials, options)
            self.channels[(offered.port, identity.id)] = known
        return known


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Found a swarm with two owners in its gate and members that will attack it."""
    made: list[Any] = []
    with _noting_servers(made):
        async with back_end(folder) as swarm, contextlib.AsyncExitStack() as stack:
            ada = await swarm.node("ada", "ab", sums="exact")
            bob = await swarm.node("bob", "cd", sums="compact")
            for node in (ada, bob):
                await node.train()
            mal, quitter = await swarm.node("mal", "ab"), await swarm.node("quitter", "a")
            await mal.train()
            await quitter.publish()
            leaver, streamer = await swarm.join("leaver"), await swarm.join("streamer")
            registry, coordinating = (
                Offered(tuple(services), _in_process(identity_folder, revoked, services), port)
                for (identity_folder, revoked, services), port in zip(
                    made, (swarm.registry_port, swarm.endpoints.port), strict=True
                )
            )
            node, manifest, digest = await _node(ada, folder / "home-of-ada", stack)
            blob = bytes(256)
            await mal.registry.publish_blob(digest_of(blob), blob)
            membership = next(s for s in coordinating.services if s.name == "swarm.v1.Membership")
            found = World(
                swarm=swarm,
                registry=registry,
                coordinator=coordinating,
                node=node,
                same_machine=InProcess(
                    SameMachineGatekeeper(Caller(role="node", id=ada.id)), [agent_service(_Agent())]
                ),
                as_leaver=InProcess(SameMachineGatekeeper(Caller(role="node", id=leaver.id)), [membership]),
                ada=ada,
                bob=bob,
                mal=mal,
                quitter=quitter,
                streamer=streamer,
                operator=create_service_identity(  # not the founder's: whose name may be guessed and revoked
                    CertificateAuthority.load(swarm.home.ca),
                    folder / "keeper",
                    role="operator",
                    member=NodeId("keeper"),
                    coordinator_record=ada.identity.coordinator_record,
                    now=datetime.now(UTC),
                ),
                coordinator_identity=Identity.load(swarm.home.coordinator / "identity"),
                expert=manifest,
                manifest=digest,
                blob=blob,
                channels={},
            )
            try:
                yield found
            finally:
                for channel in found.channels.values():
                    await channel.close()


def _in_process(folder: Path, revoked: Any, services: Any) -> InProcess:
    return InProcess(CertificateGatekeeper(Identity.load(folder).swarm, revoked, time.time), services)


@contextmanager
def _noting_servers(made: list[Any]) -> Iterator[None]:
    """Note what the processes' servers are made of."""
    modules: tuple[Any, ...] = (swarm.registry.app, coordinator.app)

    def noted(folder: Path, revoked: Any, services: Any, **options: Any) -> Any:
        services = list(services)
        made.append((folder, revoked, services))
        return create_server(folder, revoked, services, **options)

    for module in modules:
        module.create_server = noted
    try:
        yield
    finally:
        for module in modules:
            module.create_server = create_server


async def _node(
    owner: SmallNode, folder: Path, stack: contextlib.AsyncExitStack
) -> tuple[Offered, Manifest, Digest]:
    """Serve a real expert of owner's, with what a node's expert server is made of."""
    home = NodeHome(folder)
    for each in (home.state / "manifests", home.cache, home.run):
        each.mkdir(parents=True)
    envelope = await owner.coordinator.specification()
    (home.state / "specification.json").write_bytes(envelope)
    (home.state / "gate.json").write_bytes(await owner.coordinator.gate())
    specification = read_statement(envelope, Specification).value
    cache = BlobFiles(home.cache)
    torch.manual_seed(0)
    reference = net_reference("mlp:8x1", (SIZE,), 2)
    modules, blobs = pack_net(build_net(reference))
    for blob in blobs.values():
        cache.put(blob)
    published = read_statement(await owner.registry.manifest(expert=owner.expert), Manifest).value
    manifest = replace(published, net=reference, modules=modules, trunk=specification.trunk.digest)
    signed = sign_statement(manifest, owner.identity.required_signer())
    digest = statement_digest(signed)
    (home.state / "manifests" / f"{digest}.json").write_bytes(signed)
    store = ExpertStore(home, import_paths=lambda: ())
    outbound = OutboundLog(home.outbound)
    service = ExpertService(
        store=store,
        specification=SpecificationFile(home, owner.keyring),
        keyring=owner.keyring,
        evaluator=GateEvaluator(
            node=owner.id,
            registry=owner.verified,
            visiting=BlobFiles(home.state / "visiting"),
            store=store,
            validation=OwnValidation(home),
            executor=ThreadPoolExecutor(1),
            import_paths=(),
        ),
        outbound=outbound,
    )
    federated = FederatedClients(home, outbound, allowed=frozenset({"kmeans"}), threads=1)
    stack.push_async_callback(federated.stop)
    holdings = Holdings(home, owner.keyring, outbound)
    services = [
        expert_service(service),
        grower_service(_Grower()),
        federation_client_service(federated),
        holder_service(holdings),
    ]
    server = create_server(owner.identity.folder, owner.keyring.is_revoked, services)
    port = server.add_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(partial(server.stop, 0))
    offered = Offered(
        tuple(services), _in_process(owner.identity.folder, owner.keyring.is_revoked, services), port
    )
    return offered, manifest, digest


class _Grower:
    """Takes every order; what carries it out is a trainer's business."""

    async def carry_out(self, order: GrowthOrder) -> None:
        await asyncio.sleep(0)


class _Agent:
    """An agent that carries nothing out: its requests come from its own user, and are read all the same."""

    async def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        yield TrainStep(stage="done", message=order.net, fraction=1.0)

    async def state(self) -> AgentState:
        return AgentState(
            node="ada", swarm="plants", connected=True, fence=1, gate_version=2, activity="idle", outbox=0,
            certificate_days=0.5, experts=("ada.e0",), socket_bytes=SocketBytes(), disk_free_bytes=5,
            clock_skew_s=0.0, expert_server_pid=77,
        )  # fmt: skip

    async def leave(self, reason: str) -> tuple[int, tuple[ExpertId, ...]]:
        return 3, (ExpertId("ada.e0"),)

    async def stop(self) -> None:
        await asyncio.sleep(0)
