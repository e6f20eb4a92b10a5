"""`python -m benchmarks.serving.asking FOLDER...`: clients of a node's experts, each with its own identity
and connection; they ask as they are told on standard input."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import ExpertRequest, ExpertTask
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection, open_channel
from swarm.trust.identity import Identity


class Clients:
    """Connections to the servers that were asked so far."""

    def __init__(self, folders: list[Path]) -> None:
        self._identities = [Identity.load(folder) for folder in folders]
        self._open: dict[str, list[Connection]] = {}

    async def ask(
        self,
        *,
        address: str,
        node: str,
        trunk: str,
        experts: dict[str, str],
        shape: list[int],
        clients: int,
        requests: int,
        rows: int = 1,
        dtype: str = "uint8",
    ) -> dict[str, Any]:
        """Let clients ask `requests` times each, the next when the last was answered, each time `rows` of
        every expert (ids by manifest); return the seconds of all and of each answer."""
        connections = self._open.setdefault(
            address, [open_channel(each, address, "node", NodeId(node)) for each in self._identities]
        )[:clients]
        rng = np.random.default_rng(0)
        messages = [
            convert.expert_request_to_pb(
                ExpertRequest(
                    inputs=rng.integers(0, 17, (rows, *shape)).astype(dtype),
                    tasks=tuple(
                        ExpertTask(expert=ExpertId(name), manifest=Digest(digest), rows=np.arange(rows))
                        for digest, name in experts.items()
                    ),
                    trunk=Digest(trunk),
                    gate_version=1,
                )
            )
            for _ in connections
        ]
        taken: list[float] = []

        async def client(connection: Connection, message: Any) -> None:
            for _ in range(requests):
                started = time.perf_counter()
                reply = await connection.unary(m.EXPERT_PREDICT, message, 60)
                taken.append(time.perf_counter() - started)
                assert len(reply.answers) == len(experts)

        started = time.perf_counter()
        await asyncio.gather(*map(client, connections, messages))
        return {"wall_s": time.perf_counter() - started, "taken_s": taken}


async def _obey(folders: list[Path]) -> None:
    clients = Clients(folders)
    print(json.dumps({"ready": len(folders)}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await clients.ask(**json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_obey([Path(each) for each in sys.argv[1:]]))
