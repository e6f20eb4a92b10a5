"""The sending process: `python -m node.blob_sender IDENTITY REGISTRY CACHE DIGEST`.

Sends one blob of a cache to the registry at `REGISTRY`, `host:port`, and steps back meanwhile: queries that
this machine answers come first. Standard output carries `{"sent": bytes}` for each piece that went (less than
0 where what went does not count), `{"sockets": [sent, received]}` at the end, TCP bytes, and `{"problem":
...}` before exit code 2, as `node.learner` does.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from node.children import die_with_parent
from node.learner import PROBLEM_EXIT, say
from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.problems import Problem
from swarm.heap import suit_transfers
from swarm.modules.blobs import BlobFiles
from swarm.niceness import step_back
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.credentials import IdentitySource
from swarm.telemetry import SocketMeter, configure_logging


async def send(identity: Path, registry: str, cache: Path, blob: Digest) -> None:
    """Send the blob; raises what `RegistryClient.publish_blob` does, and NotFoundError for one not here."""
    data = BlobFiles(cache).open_unverified(blob)
    source = IdentitySource(identity)
    with SocketMeter() as meter:
        async with open_channel(source, registry, "registry", NodeId("registry")) as connection:
            try:
                await RegistryClient(connection).publish_blob(blob, data, lambda count: say({"sent": count}))
            finally:
                counted = meter.totals()
                say({"sockets": [counted.sent, counted.received]})


def main(arguments: Sequence[str]) -> int:
    """Send what the arguments name and return the exit code."""
    identity, registry, cache, blob = arguments
    try:
        asyncio.run(send(Path(identity), registry, Path(cache), Digest(blob)))
    except SwarmError as error:
        say({"problem": asdict(Problem.of(error))})
        return PROBLEM_EXIT
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    step_back()
    die_with_parent()
    suit_transfers()
    configure_logging("node", level="warning")
    sys.exit(main(sys.argv[1:]))
