"""The Open Inference Protocol over gRPC, by the stock client of Triton: sync, asyncio and streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.support.open_inference import Served, grpc_input, rows, served

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("served")) as running:
        yield running


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run what blocks, beside the coordinator that answers it."""
    return await asyncio.to_thread(work)


def parameters(response: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }


async def test_the_stock_client_infers_and_learns_who_answered(swarm: Served) -> None:
    def ask() -> Any:
        with swarm.grpc_client() as client:
            return client.infer("swarm", [grpc_input(rows("adb"))], request_id="7")

    result = await in_thread(ask)
    assert result.as_numpy("label").tolist() == [b"a", b"d", b"b"]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (3, 4) and probabilities.dtype == np.float32
    response = result.get_response()
    facts = parameters(response)
    assert (response.id, response.model_version) == ("7", "2")
    assert facts["swarm_gate_version"] == 2 and facts["swarm_degraded"] is False
    assert facts["swarm_gate_entropy"] >= 0
    assert len(json.loads(facts["swarm_route"])) == 3
