"""The coordinator's front door over real ports: rates, hints when to ask again, and the trail of answers."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from node.enrol import join
from swarm.config import NodeHome
from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Query
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.interceptors import PUSHBACK_KEY
from swarm.trust.identity import Identity
from tests.support.commands import shell
from tests.support.coordinator import BackEnd
from tests.support.open_inference import Served, grpc_input, rows, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
RATE, ROWS = 0.5, 8
"""So slow that what is used up stays used up while a test runs: 5 rows at once, then a row in two seconds."""


async def nothing(_: BackEnd) -> None:
    """Nothing is asked before there is a gate."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    rates = (("client/loopback", RATE), ("client/slow", RATE))
    folder = tmp_path_factory.mktemp("door")
    async with served(folder, before=nothing, loopback_port=0, query_rates=rates) as running:
        yield running


def asked_over_http(swarm: Served) -> tuple[int, dict[str, str], str]:
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [ROWS, 6], "data": rows("a" * ROWS).tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    page = f"http://{swarm.http_address}/v2/models/swarm/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(page, body), timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


async def test_beyond_its_rate_a_caller_is_told_when_to_ask_again(swarm: Served) -> None:
    operator = await swarm.swarm.operator()
    line, _ = await operator.create_token("client")
    home = NodeHome(swarm.swarm.folder / "slow")
    await asyncio.to_thread(join, line, home, name="slow", role="client")
    channel = open_channel(Identity.load(home.identity), swarm.address, "coordinator", NodeId("coordinator"))
    async with channel as connection:
        slow = CoordinatorClient(connection)
        first = await slow.predict(Query(inputs=rows("a" * ROWS)))
        assert len(first.probabilities) == ROWS
        with pytest.raises(ExhaustedError, match="client/slow") as caught:
            await slow.predict(Query(inputs=rows("a")))
    assert 3 < caught.value.retry_after_s < 11
    for _ in range(3):
        assert len((await operator.predict(Query(inputs=rows("a" * ROWS)))).probabilities) == ROWS


async def test_over_http_and_by_the_stock_client_the_hint_is_the_protocols(swarm: Served) -> None:
    status, _, _ = await asyncio.to_thread(asked_over_http, swarm)
    assert status == 200
    status, headers, text = await asyncio.to_thread(asked_over_http, swarm)
    assert status == 429 and 3 < int(headers["retry-after"]) < 11
    assert "client/loopback" in json.loads(text)["error"]

    def by_stock_client() -> InferenceServerException:
        with (
            triton_grpc.InferenceServerClient(url=swarm.loopback_address) as client,
            pytest.raises(InferenceServerException) as caught,
        ):
            client.infer("swarm", [grpc_input(rows("a"))])
        return caught.value

    refused = await asyncio.to_thread(by_stock_client)
    assert "RESOURCE_EXHAUSTED" in str(refused.status())
    assert re.search(r"ask again in \d", refused.message())

    def by_hand() -> grpc.RpcError:
        with grpc.insecure_channel(swarm.loopback_address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"no message at all")
        return caught.value

    unread: Any = await asyncio.to_thread(by_hand)
    assert unread.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 1000 < int(dict(unread.trailing_metadata())[PUSHBACK_KEY]) < 11_000


async def test_who_was_answered_by_whom_is_in_the_trail(swarm: Served) -> None:
    operator = await swarm.swarm.operator()
    inputs = rows("ab")
    answer = await operator.predict(Query(inputs=inputs, explain=True))
    experts = {f"{source.expert}@{source.version}" for row in answer.sources for source in row}

    def trail() -> list[dict[str, object]]:
        with shell() as sh:
            done = sh.swarm("audit", "--json", SWARM_HOME=str(swarm.swarm.home.root))
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)["queries"]
        return found

    found: list[dict[str, object]] = []
    async with asyncio.timeout(30):
        while not (found and found[-1]["caller"] == "operator/operator" and found[-1]["rows"] == 2):
            found = await asyncio.to_thread(trail)
    last = found[-1]
    assert last["model"] == "swarm" and last["outcome"] == "answered"
    assert set(last["experts"]) == experts  # type: ignore[call-overload]
    assert last["gate_version"] == answer.gate_version
    outcomes = {(line["caller"], line["outcome"]) for line in found}
    assert {("client/slow", "answered"), ("client/loopback", "answered")} <= outcomes
    audit = swarm.swarm.home.coordinator / "audit"
    text = "".join(path.read_text() for path in audit.iterdir())
    assert str(float(np.round(inputs[0, 0], 3))) not in text and '"a"' not in text
