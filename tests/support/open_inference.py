"""A small swarm for the Open Inference Protocol: ada knows a and b, bob c and d; both gave sums."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from numpy.typing import NDArray

from tests.support.coordinator import BackEnd, SmallNode, back_end, samples

Floats = NDArray[np.float32]


def rows(names: str) -> Floats:
    """One sample for each class named."""
    return np.concatenate([samples(name, 1, 99) for name in names])


@dataclass(frozen=True)
class Served:
    """The swarm, its two nodes, and the folder with a caller's certificate."""

    swarm: BackEnd
    ada: SmallNode
    bob: SmallNode

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.swarm.endpoints.port}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.swarm.endpoints.http_port}"

    @property
    def loopback_address(self) -> str:
        return f"127.0.0.1:{self.swarm.endpoints.loopback_port}"

    def at_its_ports(self, code: str) -> str:
        """Return code of the documents with this swarm's ports in it."""
        return code.replace("127.0.0.1:7071", self.address).replace("127.0.0.1:7080", self.http_address)

    def grpc_options(self, folder: Path | None = None) -> dict[str, Any]:
        """The stock client's options for mutual TLS by the certificate in a folder, else the operator's."""
        folder = folder or self.swarm.home.operator / "identity"
        return {
            "url": self.address,
            "ssl": True,
            "root_certificates": str(folder / "ca.pem"),
            "private_key": str(folder / "key.pem"),
            "certificate_chain": str(folder / "certificate.pem"),
            "channel_args": [("grpc.ssl_target_name_override", "coordinator.plants")],
        }

    def grpc_client(self) -> triton_grpc.InferenceServerClient:
        return triton_grpc.InferenceServerClient(**self.grpc_options())

    def aio_client(self) -> triton_aio.InferenceServerClient:
        return triton_aio.InferenceServerClient(**self.grpc_options())


@asynccontextmanager
async def served(
    folder: Path, before: Callable[[BackEnd], Awaitable[None]], **options: Any
) -> AsyncIterator[Served]:
    """Run the swarm, at first without a gate for `before`; options are of `CoordinatorConfig`."""
    async with back_end(folder, **options) as running:
        await before(running)
        ada = await running.node("ada", "ab", sums="exact")
        await ada.train()
        bob = await running.node("bob", "cd", sums="exact")
        await bob.train()
        yield Served(running, ada, bob)


def grpc_input(values: NDArray[Any], datatype: str = "FP32", dtype: Any = np.float32) -> Any:
    """An input of the stock gRPC client."""
    tensor = triton_grpc.InferInput("inputs", list(values.shape), datatype)
    tensor.set_data_from_numpy(values.astype(dtype))
    return tensor


def http_input(values: Floats, *, binary: bool = True) -> Any:
    """An input of the stock HTTP client."""
    tensor = triton_http.InferInput("inputs", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor
