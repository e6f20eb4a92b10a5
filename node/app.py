"""The node's agent as a process: `swarm node`, or `python -m node.app HOME` where the command starts it.

Builds every part, runs them together, and ends them together: at SIGTERM, SIGINT, or the command's `stop`.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from node.agent import Agent, Fence
from node.announcing import Announcer
from node.config import NodeConfig
from node.control import AgentSeat, agent_socket, ensure_agent
from node.delivery import Courier
from node.enrol import check_advertised
from node.expert_relay import ExpertRelay
from node.expert_server_config import ExpertServerConfig
from node.federation import FederatedClients, allowed_apps
from node.growth.carrying import Grower
from node.growth.own_contribution import OwnContributions
from node.growth.reporting import Reporting
from node.growth.stages import GrowerParts
from node.growth.unused import UnusedExperts
from node.knowledge import SwarmKnowledge
from node.leaves import LeafBook
from node.loading import Loading
from node.loans import Lending
from node.outbound import OutboundLog
from node.outbox import Outbox
from node.publishing import Publisher
from node.renewal import Renewals
from node.sending import BlobSending
from node.standing_in import StandingIn
from node.training import Trainer
from swarm.domain.errors import SwarmError, UsageError
from swarm.domain.ids import NodeId
from swarm.domain.membership import Caller
from swarm.exits import leave_process
from swarm.experts.factories import buildable, can_build
from swarm.federation.child import FLOWER_ENVIRONMENT
from swarm.forking.forks import forking
from swarm.heap import suit_transfers
from swarm.modules.blobs import BlobFiles
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.credentials import IdentitySource
from swarm.rpc.node_stream import NodeStreamClient
from swarm.rpc.peers import LivingPeers
from swarm.rpc.server import create_local_server
from swarm.rpc.servicers import agent_service
from swarm.rpc.verified import VerifiedRegistry
from swarm.telemetry import SocketMeter, configure_logging
from swarm.trust.identity import Identity

__all__ = ["NodeConfig", "agent_socket", "ensure_agent", "serve"]

COORDINATOR, REGISTRY = NodeId("coordinator"), NodeId("registry")
_log = structlog.get_logger(__name__)


async def serve(config: NodeConfig) -> None:
    """Run the agent of a home until it is told to end. Nothing of it stays behind.

    Raises NotFoundError where the home is no member's, UsageError where it is not a node's, ConflictError
    where an agent runs there already.
    """
    suit_transfers()
    home = config.home
    identity = Identity.load(home.identity)
    if identity.role != "node":
        raise UsageError(
            f"home {home.root}",
            found=f"the identity of {identity.role} {identity.id}",
            expected="a node's",
            remedy="join as a node: swarm join TOKEN@HOST:PORT --home ANOTHER",
        )
    check_advertised(config.advertise)
    async with AsyncExitStack() as stack:
        seat = AgentSeat.take(home)
        stack.callback(seat.leave)
        stack.enter_context(forking(home.run / "fork_server.log", FLOWER_ENVIRONMENT))
        meter = stack.enter_context(SocketMeter())
        source = IdentitySource(home.identity)
        to_coordinator = open_channel(source, identity.coordinator, "coordinator", COORDINATOR)
        to_registry = open_channel(source, identity.registry, "registry", REGISTRY)
        coordinator = CoordinatorClient(await stack.enter_async_context(to_coordinator))
        registry = RegistryClient(await stack.enter_async_context(to_registry))
        fence, cache = Fence(), BlobFiles(home.cache)
        book, outbox, outbound = LeafBook(home.state), Outbox(home.outbox), OutboundLog(home.outbound)
        outbox.sweep()
        knowledge = SwarmKnowledge(home, identity.keyring(), registry, cache)
        sending = BlobSending(
            registry, cache, identity=home.identity, address=identity.registry, log=home.run / "sender.log"
        )
        publisher = Publisher(
            registry=registry,
            coordinator=coordinator,
            cache=cache,
            book=book,
            outbox=outbox,
            outbound=outbound,
            signer=identity.required_signer(),
            deltas=config.delta,
            send=sending.publish_blob,
        )
        unused = UnusedExperts(
            identity=identity,
            book=book,
            outbox=outbox,
            cache=cache,
            knowledge=knowledge,
            registry=registry,
            fence=lambda: fence.value,
        )
        courier = Courier(
            outbox,
            publisher,
            fence=lambda: fence.value,
            on_active=book.contributions.note_active,
            make_room=unused.make_room,
        )
        verified = VerifiedRegistry(
            registry,
            coordinator,
            identity.keyring(),
            cache,
            find_peers=LivingPeers(source, identity.id, coordinator),
            deltas=config.delta,
        )
        trainer = Trainer(
            home=home,
            identity=identity,
            book=book,
            outbox=outbox,
            courier=courier,
            cache=cache,
            knowledge=knowledge,
            default_net=config.net,
            threads=config.worker_threads,
            lending=Lending(
                identity.id,
                verified,
                settled=lambda: fence.value > 0 or bool(courier.offline),
            ),
        )
        grower = Grower(
            GrowerParts(
                home=home,
                identity=identity,
                book=book,
                outbox=outbox,
                courier=courier,
                cache=cache,
                knowledge=knowledge,
                registry=verified,
                net=config.net,
                threads=config.worker_threads,
                unused=unused,
                own=OwnContributions(
                    identity=identity,
                    kept=book.contributions,
                    coordinator=coordinator,
                    scratch=home.state / "contributions" / "arriving.part",
                ),
            ),
            Reporting(coordinator),
            learns_mega_batches=lambda: trainer.learns_mega_batches,
        )
        trainer.is_growing = lambda: bool(grower.activity)
        configuration = home.run / "experts.json"
        ExpertServerConfig(
            home=str(home.root),
            socket=str(seat.expert_socket),
            listen=config.advertise,
            import_paths=config.import_paths,
            expert_bytes=config.expert_bytes,
            threads=config.worker_threads,
            log_level=config.log_level,
            micro_batching=config.micro_batching,
        ).write(configuration)
        relay = ExpertRelay(home, configuration, seat.expert_socket)
        loading = Loading(relay, knowledge)
        renewals = Renewals(identity, coordinator)
        announcer = Announcer(
            book=book,
            registry=registry,
            cache=cache,
            outbound=outbound,
            fence=lambda: fence.value,
            done=courier.kick,
        )
        standing_in = StandingIn(
            node=identity.id,
            state=home.state,
            cache=cache,
            registry=verified,
            gate=lambda: knowledge.gate,
            can_build=lambda factory: can_build(factory, buildable([factory], config.import_paths)),
            own_manifests=book.manifests,
            count=config.stand_ins,
            most_bytes=config.stand_in_bytes,
            load=loading.load,
        )
        relay.on_ready = standing_in.kick
        agent = Agent(
            home=home,
            identity=identity,
            advertise=config.advertise,
            import_paths=config.import_paths,
            book=book,
            outbox=outbox,
            outbound=outbound,
            courier=courier,
            trainer=trainer,
            grower=grower,
            relay=relay,
            knowledge=knowledge,
            coordinator=coordinator,
            registry=registry,
            meter=meter,
            sending=sending,
            renewals=renewals,
            announcer=announcer,
            fence=fence,
            standing_in=standing_in,
            loading=loading,
        )
        federation = FederatedClients(
            home, outbound, allowed=allowed_apps(config.federation), threads=config.worker_threads
        )
        stack.push_async_callback(federation.stop)
        stream = NodeStreamClient(
            to_coordinator,
            experts=agent,
            federation=federation,
            grower=agent,
            listener=agent,
            hello=agent.hello,
            beat=agent.heartbeat,
        )
        control = create_local_server(Caller(role="operator", id=identity.id), [agent_service(agent)])
        control.add_socket(seat.control_socket)
        await control.start()
        stack.push_async_callback(control.stop)
        _end_on_signals(agent.stopping)
        seat.announce(time.time())
        _log.info("node.started", node=identity.id, swarm=identity.swarm)
        trainer.resume()
        grower.resume()
        await _run_until_told(
            agent, [relay.run(), courier.run(), renewals.run(), stream.run(), standing_in.run()]
        )
        await trainer.stop()
        await grower.stop()
    _log.info("node.stopped", node=identity.id)


async def _run_until_told(agent: Agent, work: Sequence[Coroutine[None, None, None]]) -> None:
    """Run everything until the agent is told to end; what fails ends the rest and is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    told = asyncio.create_task(agent.stopping.wait())
    try:
        done, _ = await asyncio.wait([*tasks, told], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*tasks, told):
            task.cancel()
        await asyncio.gather(*tasks, told, return_exceptions=True)


def _end_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stopping.set)


def main() -> int:
    """Run the agent of the home that the command line names; return the exit status."""
    try:
        config = NodeConfig.load(Path(sys.argv[1]))
        configure_logging("node", level=config.log_level, json_lines=config.log_json)
        asyncio.run(serve(config))
    except SwarmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    leave_process(main())
