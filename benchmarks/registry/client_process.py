"""`python -m benchmarks.registry.client_process IDENTITY ADDRESS CACHE`: a node's end of the registry."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from swarm.domain.ids import Digest, NodeId
from swarm.heap import suit_transfers
from swarm.modules import BlobFiles
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.pb import registry_pb2
from swarm.telemetry import SocketMeter, configure_logging
from swarm.trust.identity import Identity


class Node:
    """What a node does with blobs, each act timed."""

    def __init__(self, connection: Connection, cache: Path, meter: SocketMeter) -> None:
        self._connection, self._client = connection, RegistryClient(connection)
        self._cache, self._meter = cache, meter

    async def publish(self, digests: list[str]) -> dict[str, Any]:
        """Send what the registry lacks of blobs in the cache, as `node.publishing` does."""
        files = BlobFiles(self._cache)
        sent = self._meter.totals().sent
        started = time.perf_counter()
        for digest in await self._client.missing([Digest(each) for each in digests]):
            await self._client.publish_blob(digest, files.open_unverified(digest))
        return {"wall_s": time.perf_counter() - started, "sent": self._meter.totals().sent - sent}

    async def commit(self, envelope: str, fence: int) -> dict[str, Any]:
        sent = self._meter.totals().sent
        await self._client.commit(envelope.encode(), fence)
        return {"sent": self._meter.totals().sent - sent}

    async def fetch(self, digest: str, size: int, into: str) -> dict[str, Any]:
        """Fetch into a folder: verified, durable."""
        files = BlobFiles(Path(into))
        started = time.perf_counter()
        await self._client.fetch_into(Digest(digest), files, size)
        return {"wall_s": time.perf_counter() - started}

    async def stream(self, digest: str, size: int) -> dict[str, Any]:
        """Let the bytes come and drop them: the transfer alone."""
        started, found = time.perf_counter(), 0
        async for chunk in self._connection.stream(m.FETCH, registry_pb2.BlobRequest(digest=digest)):
            found += len(chunk)
        if found != size:
            raise RuntimeError(f"{found} bytes came instead of {size}")
        return {"wall_s": time.perf_counter() - started}


async def _obey(identity: str, address: str, cache: str) -> None:
    known = Identity.load(Path(identity))
    with SocketMeter() as meter:
        async with open_channel(known, address, "registry", NodeId("registry")) as connection:
            node = Node(connection, Path(cache), meter)
            print(json.dumps({}), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                request = json.loads(line)
                try:
                    answer = await getattr(node, request.pop("do"))(**request)
                except Exception as error:  # told to who asked
                    answer = {"error": repr(error)}
                print(json.dumps(answer), flush=True)


def main(*arguments: str) -> None:
    suit_transfers()
    configure_logging("node", level="warning")
    asyncio.run(_obey(*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
