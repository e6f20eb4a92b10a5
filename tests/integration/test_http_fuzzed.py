"""The HTTP pages under requests, right and wrong ones, that schemathesis makes from their own description."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import sampled_from
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from tests.support.coordinator import BackEnd
from tests.support.open_inference import Served, rows, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
EXAMPLES = 30
"""For each page, right requests and as many wrong ones."""
HELD = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


async def nothing(_: BackEnd) -> None:
    """Nothing is asked before there is a gate."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("fuzzed"), before=nothing) as running:
        yield running


def fuzzed(address: str, mode: GenerationMode) -> Counter[str]:
    """Send requests to every page; return how often each page's statuses came."""
    schema: Any = schemathesis.openapi.from_url(f"http://{address}/v2/openapi.json")
    seen = Counter[str]()
    for found in schema.get_all_operations():
        operation = found.ok()
        with contextlib.suppress(Unsatisfiable):  # a page that takes nothing has no wrong requests
            send(operation, operation.as_strategy(generation_mode=mode), seen)
    return seen


def send(operation: Any, strategy: Any, seen: Counter[str]) -> None:
    """Send requests to one page, most of them for models that are there."""
    checks = CHECKS.get_by_names(list(HELD))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, name=sampled_from(["swarm", "swarm", "ada.e0", "root", ""]))
    def one(case: Any, name: str) -> None:
        if name and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = name
        response = case.call(timeout=20)
        seen[f"{operation.label} {response.status_code}"] += 1
        assert response.status_code not in (500, 502), (case.as_curl_command(), response.text)
        case.validate_response(response, checks=checks)

    one()


async def test_right_requests_are_answered_or_refused_as_described(swarm: Served) -> None:
    seen = await asyncio.to_thread(fuzzed, swarm.http_address, GenerationMode.POSITIVE)
    assert seen["GET /v2 200"] and seen["POST /v2/repository/index 200"]
    assert seen["GET /v2/models/{name} 200"] and sum(seen.values()) > 200, seen


async def test_wrong_requests_are_refused_as_described(swarm: Served) -> None:
    seen = await asyncio.to_thread(fuzzed, swarm.http_address, GenerationMode.NEGATIVE)
    assert seen["POST /v2/models/{name}/infer 400"] + seen["POST /v2/models/{name}/infer 404"], seen


async def test_after_all_that_it_answers_as_before(swarm: Served) -> None:
    import tritonclient.http as triton_http

    from tests.support.open_inference import http_input

    def ask() -> Any:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            return client.infer("swarm", [http_input(rows("abcd"))]).as_numpy("probabilities")

    assert (await asyncio.to_thread(ask)).argmax(axis=1).tolist() == [0, 1, 2, 3]
