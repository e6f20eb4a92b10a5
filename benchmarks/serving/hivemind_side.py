"""`HIVEMIND_PYTHON hivemind_side.py serve | ask ADDRESSES PEER`: hivemind's expert server, and callers of it.

Run by an interpreter that has hivemind, so it needs nothing of ours. The server is that of the
minimalistic preset of hivemind's benchmark_throughput.py: one FFN expert of 1024, one handler. The callers
speak by its own client's stub, all in one event loop.
"""

import asyncio
import json
import sys
import time
from typing import Any

import torch

HIDDEN = 1024
MOST_ROWS = 8192


def serve() -> None:
    from hivemind.dht import DHT  # type: ignore[import-not-found]
    from hivemind.moe.server import ModuleBackend, Server  # type: ignore[import-not-found]
    from hivemind.moe.server.layers import name_to_block  # type: ignore[import-not-found]
    from hivemind.utils.tensor_descr import BatchTensorDescriptor  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    dht = DHT(start=True)
    module = torch.jit.script(name_to_block["ffn"](HIDDEN))  # type: ignore[no-untyped-call]
    backend = ModuleBackend(
        name="expert.0",
        module=module,
        optimizer=torch.optim.Adam(module.parameters()),
        args_schema=(BatchTensorDescriptor(HIDDEN),),
        outputs_schema=BatchTensorDescriptor(HIDDEN),
        max_batch_size=MOST_ROWS,
    )
    server = Server(
        dht=dht, module_backends={"expert.0": backend}, num_connection_handlers=1, device="cpu", start=True
    )
    server.ready.wait()
    addresses = [str(address) for address in dht.get_visible_maddrs()]
    _say({"addresses": addresses, "peer": str(dht.peer_id)})
    sys.stdin.read()
    server.shutdown()
    dht.shutdown()


def ask(addresses: str, peer: str) -> None:
    from hivemind.moe.client.remote_expert_worker import (  # type: ignore[import-not-found]
        RemoteExpertWorker,
    )
    from hivemind.p2p import P2P, PeerID  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    p2p = RemoteExpertWorker.run_coroutine(P2P.create(initial_peers=addresses.split(",")))
    there = PeerID.from_base58(peer)
    _say({"ready": True})
    for line in sys.stdin:
        _say(RemoteExpertWorker.run_coroutine(_load(p2p, there, **json.loads(line))))


async def _load(p2p: Any, peer: Any, *, clients: int, requests: int, rows: int) -> dict[str, Any]:
    from hivemind.compression import serialize_torch_tensor  # type: ignore[import-not-found]
    from hivemind.moe.client.expert import expert_forward, get_server_stub  # type: ignore[import-not-found]

    stub, taken = get_server_stub(p2p, peer), list[float]()
    inputs = torch.randn(rows, HIDDEN)
    message = serialize_torch_tensor(inputs)

    async def client() -> None:
        for _ in range(requests):
            started = time.perf_counter()
            (found,) = await expert_forward("expert.0", [inputs], [message], stub)
            taken.append(time.perf_counter() - started)
            assert found.shape == (rows, HIDDEN)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {"wall_s": time.perf_counter() - started, "taken_s": taken}


def _say(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
