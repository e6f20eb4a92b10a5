"""The expert server: `python -m node.expert_server CONFIG.json`, a child of the agent.

It answers on a unix socket for the agent and, where the node advertises an address, on a mutual TLS
listener for coordinator and peers, where it routes for others, too. Standard output carries one JSON object
a line: `{"ready": true}` when it answers, then every second what it sent and
received, what is in its memory (`swarm.domain.agent.ExpertMemory`), and which manifests' experts those are.
"""

import asyncio
import ipaddress
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from node.children import die_with_parent
from node.expert_server_config import ExpertServerConfig
from node.expert_service import ExpertService, SpecificationFile
from node.expert_store import ExpertStore
from node.gate_evaluation import GateEvaluator
from node.holdings import Holdings
from node.leaves import import_paths_of
from node.outbound import OutboundLog
from node.own_validation import OwnValidation
from node.revocation_file import RevocationFile
from node.routing_for_others import ROUTING_LOOK_S, OwnExperts, RoutingForOthers, keep_current
from node.stream.novelty import fresh_counts
from swarm.answering.direct import DirectAnswers, tell_failure
from swarm.answering.front_door import FrontDoor, GuardedInference
from swarm.answering.query_queue import QueryQueue
from swarm.answering.vouching import SignedAnswers
from swarm.config import NodeHome
from swarm.domain.errors import SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.membership import Caller
from swarm.exits import leave_process
from swarm.heap import suit_transfers
from swarm.modules.blobs import BlobFiles
from swarm.open_files import raise_limit
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.credentials import IdentitySource
from swarm.rpc.server import RpcServer, create_local_server, create_server
from swarm.rpc.servicers import expert_service, holder_service, inference_service
from swarm.rpc.verified import VerifiedRegistry
from swarm.telemetry import SocketMeter, configure_logging
from swarm.trust.identity import Identity

REPORT_S = 1.0
KEPT_BYTES = 64 << 20
"""What its heap keeps of freed memory: queries and answers of many rows, and activations, come and go. Where
less is kept, the kernel clears the same pages again and again."""
DRAIN_S = 2.0
"""How long what it has taken up may go on once it is told to end."""
REGISTRY, COORDINATOR = NodeId("registry"), NodeId("coordinator")


async def serve(config: ExpertServerConfig) -> None:
    """Answer until SIGTERM."""
    raise_limit()
    home = NodeHome(Path(config.home))
    identity = Identity.load(home.identity)
    keyring = identity.keyring()
    revocations = RevocationFile(home, keyring)
    store = ExpertStore(
        home,
        import_paths=lambda: (*config.import_paths, *import_paths_of(home.state)),
        budget_bytes=config.expert_bytes,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stopping.set)
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(SocketMeter())
        to_registry = open_channel(identity, identity.registry, "registry", REGISTRY)
        to_coordinator = open_channel(identity, identity.coordinator, "coordinator", COORDINATOR)
        registry = RegistryClient(await stack.enter_async_context(to_registry))
        coordinator = CoordinatorClient(await stack.enter_async_context(to_coordinator))
        visiting = BlobFiles(home.state / "visiting")
        service = ExpertService(
            store=store,
            specification=SpecificationFile(home, keyring),
            keyring=keyring,
            evaluator=GateEvaluator(
                node=identity.id,
                registry=VerifiedRegistry(registry, coordinator, keyring, visiting),
                visiting=visiting,
                store=store,
                validation=OwnValidation(home),
                executor=ThreadPoolExecutor(1, thread_name_prefix="trial"),
                import_paths=config.import_paths,
            ),
            outbound=OutboundLog(home.outbound),
            fresh=partial(fresh_counts, home.state),
            micro_batching=config.micro_batching,
        )
        door, local_services = FrontDoor(QueryQueue()), [expert_service(service)]
        servers: list[RpcServer] = []
        work: list[asyncio.Task[None]] = []
        if config.listen:
            holdings = holder_service(Holdings(home, keyring, OutboundLog(home.outbound)))
            answers = DirectAnswers(
                identity,
                IdentitySource(home.identity),
                coordinator=coordinator,
                registry=registry,
                folder=home.state / "routing",
                import_paths=config.import_paths,
                own=OwnExperts(identity.id, service),
                look_s=ROUTING_LOOK_S,
            )
            stack.push_async_callback(answers.close)
            signed = SignedAnswers(
                RoutingForOthers(coordinator, answers),
                identity.id,
                identity.swarm,
                identity.required_signer(),
                time.time,
            )
            routed = GuardedInference(signed, door)
            routing = inference_service(routed, door.admit)
            services = [expert_service(service), holdings, routing]
            direct = create_server(home.identity, revocations.is_revoked, services)
            direct.add_port(listen_address(config.listen))
            servers.append(direct)
            local_services.append(routing)
            work.append(asyncio.create_task(keep_current(answers, home)))
            work[-1].add_done_callback(tell_failure)
        local = create_local_server(Caller(role="node", id=identity.id), local_services)
        local.add_socket(Path(config.socket))
        servers.append(local)
        for server in servers:
            await server.start()
        _say({"ready": True})
        while not stopping.is_set():
            revocations.refresh()
            counted = meter.totals()
            told = {"memory": asdict(store.memory), "loaded": store.in_memory_now()}
            _say({"sent": counted.sent, "received": counted.received, **told})
            try:
                await asyncio.wait_for(stopping.wait(), REPORT_S)
            except TimeoutError:
                continue
        await asyncio.gather(*(server.say_ending() for server in servers))
        await door.drain("this node", DRAIN_S)
        await asyncio.gather(*(server.stop(DRAIN_S) for server in servers))
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


def listen_address(advertised: str) -> str:
    """Return where to listen for an advertised HOST:PORT: there if it is loopback, else on every address."""
    host, _, port = advertised.rpartition(":")
    bare = host.strip("[]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return advertised if bare == "localhost" else f"0.0.0.0:{port}"
    if address.is_loopback:
        return advertised
    return f"[::]:{port}" if address.version == 6 else f"0.0.0.0:{port}"


def main() -> int:
    """Run with the configuration file that the command line names; return the exit status."""
    die_with_parent()
    suit_transfers(KEPT_BYTES)
    config = ExpertServerConfig.read(Path(sys.argv[1]))
    configure_logging("expert-server", level=config.log_level)
    torch.set_num_threads(max(1, config.threads))
    try:
        asyncio.run(serve(config))
    except SwarmError as error:
        _say({"problem": str(error)})
        print(error, file=sys.stderr)
        return 1
    return 0


def _say(fields: dict[str, object]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    leave_process(main())
