"""`python -m benchmarks.chaos_registry.node_side HOME PORT FENCE VERSION [FAULT [once]]`: a node publishes.

Lays the version down in the outbox, unless it is there or accepted already, and delivers everything by the
agent's own courier; then it ends. FAULT is as in SWARM_FAULT_POINT, for a process that is forked. `once`:
it ends with what its first delivery came to, `delivered` or what the registry answered, on its output.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

from node.delivery import Courier
from node.leaves import LeafBook
from node.outbound import OutboundLog
from node.outbox import Outbox
from node.publishing import Publisher
from swarm.config import NodeHome
from swarm.domain.ids import NodeId
from swarm.fault_points import aim
from swarm.modules import BlobFiles
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
from tests.support.laid_down import lay_down
from tests.support.trust import specification

NODE_SIDE = "benchmarks.chaos_registry.node_side"
NODE_NEEDS = ("node.delivery", "node.publishing", "swarm.rpc.clients", "tests.support.laid_down")


async def deliver(home: NodeHome, port: int, fence: int, version: int, how: str) -> None:
    Outbox(home.outbox).sweep()
    lay_down(home, specification(), 2 if how == "once" else 1, version)
    identity, outbox, book = Identity.load(home.identity), Outbox(home.outbox), LeafBook(home.state)
    async with open_channel(identity, f"127.0.0.1:{port}", "registry", NodeId("registry")) as connection:
        publisher = Publisher(
            registry=RegistryClient(connection),
            coordinator=cast(Any, None),  # no contributions here
            cache=BlobFiles(home.cache),
            book=book,
            outbox=outbox,
            outbound=OutboundLog(home.outbound),
            signer=identity.required_signer(),
        )
        courier = Courier(outbox, publisher, fence=lambda: fence, first_delay_s=0.02, longest_delay_s=0.2)
        going = asyncio.create_task(courier.run())
        while len(outbox) and not (how == "once" and courier.trouble):  # noqa: ASYNC110 - files
            await asyncio.sleep(0.01)
        if how == "once":
            print(courier.trouble or "delivered", flush=True)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    if outbox.kept:
        raise SystemExit(f"refused: {outbox.refused()}")


def main(home: str, port: str, fence: str, version: str, fault: str = "", how: str = "") -> None:
    aim(fault)
    asyncio.run(deliver(NodeHome(Path(home)), int(port), int(fence), int(version), how))


if __name__ == "__main__":
    main(*sys.argv[1:])
