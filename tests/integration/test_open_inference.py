"""The Open Inference Protocol by the stock client of Triton, over gRPC and HTTP, against one small swarm."""

import asyncio
import base64
import json
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from node.enrol import join
from swarm.config import NodeHome
from swarm.domain.ids import NodeId
from swarm.domain.inference import MAX_QUERY_ROWS, ExpertAnswer, ExpertRequest, Query
from tests.support.commands import shell
from tests.support.coordinator import BackEnd, refusal
from tests.support.documented import Example, examples_of, grpcurl_line, ran
from tests.support.open_inference import Served, grpc_input, http_input, rows, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
EXAMPLES = examples_of(DOCUMENT)
BEFORE: dict[str, Any] = {}
"""What was answered while the swarm had no gate."""


def probe(swarm: BackEnd) -> tuple[int, str]:
    """Return how `swarm health inference` ends, and what it says."""
    with shell() as sh:
        done = sh.swarm(
            "health",
            "inference",
            SWARM_HOME=str(swarm.home.root),
            SWARM_COORDINATOR_PORT=str(swarm.endpoints.port),
        )
    return done.returncode, done.stdout + done.stderr


def http_ask(
    swarm: BackEnd, page: str, body: bytes | None = None, tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON that a plain HTTP client gets."""
    scheme = "http" if tls is None else "https"
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{swarm.endpoints.http_port}{page}", body)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=20, context=tls) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


READINESS = "inference.GRPCInferenceService"


def health_of(swarm: BackEnd, service: str) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{swarm.endpoints.loopback_port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def watched_until_ready(swarm: BackEnd) -> list[str]:
    """Return what a watcher hears until the service is ready."""
    heard: list[str] = []
    with grpc.insecure_channel(f"127.0.0.1:{swarm.endpoints.loopback_port}") as channel:
        request = health_pb2.HealthCheckRequest(service=READINESS)
        for reply in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=60):
            heard.append(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
            if heard[-1] == "SERVING":
                break
    return heard


async def not_ready(swarm: BackEnd) -> None:
    BEFORE["watch"] = asyncio.create_task(asyncio.to_thread(watched_until_ready, swarm))
    BEFORE["health"] = [await asyncio.to_thread(health_of, swarm, name) for name in ("", READINESS)]
    BEFORE["probe"], BEFORE["ready"], BEFORE["model"], BEFORE["live"] = await asyncio.gather(
        asyncio.to_thread(probe, swarm),
        asyncio.to_thread(http_ask, swarm, "/v2/health/ready"),
        asyncio.to_thread(http_ask, swarm, "/v2/models/swarm/infer", json_body()),
        asyncio.to_thread(http_ask, swarm, "/v2/health/live"),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    async with served(folder, before=not_ready, loopback_port=0) as running:
        yield running


def json_body(**changes: Any) -> bytes:
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, 6], "data": rows("a")[0].tolist()}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def facts_of(response: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }


async def told(work: Callable[[], Any]) -> InferenceServerException:
    """Return what the stock client raises."""
    with pytest.raises(InferenceServerException) as caught:
        await asyncio.to_thread(work)
    return caught.value


async def test_a_swarm_without_a_gate_is_alive_and_not_ready(swarm: Served) -> None:
    code, said = BEFORE["probe"]
    assert code == 5 and "no gate" in said and "swarm train" in said
    assert BEFORE["ready"][0] == 503 and "swarm train" in BEFORE["ready"][1]["error"]
    assert BEFORE["model"][0] == 503 and BEFORE["live"] == (200, {"live": True})
    assert BEFORE["health"] == ["SERVING", "NOT_SERVING"]
    assert await BEFORE["watch"] == ["NOT_SERVING", "SERVING"]
    assert [await asyncio.to_thread(health_of, swarm.swarm, name) for name in ("", READINESS)] == [
        "SERVING"
    ] * 2
    assert await asyncio.to_thread(probe, swarm.swarm) == (0, "inference: ready\n")
    assert await asyncio.to_thread(http_ask, swarm.swarm, "/v2/health/ready") == (200, {"ready": True})


async def test_the_stock_client_infers_and_learns_who_answered(swarm: Served) -> None:
    def ask() -> Any:
        with swarm.grpc_client() as client:
            return client.infer(
                "swarm",
                [grpc_input(rows("adb"))],
                request_id="7",
                parameters={"combination": "gate", "top_k": 1},
            )

    result = await asyncio.to_thread(ask)
    assert result.as_numpy("label").tolist() == [b"a", b"d", b"b"]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (3, 4) and probabilities.dtype == np.float32
    response = result.get_response()
    facts = facts_of(response)
    assert (response.id, response.model_version) == ("7", "2")
    assert (facts["swarm_gate_version"], facts["swarm_degraded"]) == (2, False)
    assert facts["swarm_combination"] == "gate top-1" and 0 <= facts["swarm_gate_entropy"] < np.log(2)
    route = json.loads(facts["swarm_route"])
    assert [row["experts"][0]["owner"] for row in route] == ["ada", "bob", "ada"]
    ours = await swarm.ada.ask("a", "d", "b", combination="gate", top_k=1)
    assert np.array_equal(probabilities, ours.probabilities)
    assert [row[0].manifest for row in ours.sources] == [row["experts"][0]["manifest"] for row in route]


async def test_an_undecided_gate_says_so(swarm: Served) -> None:
    between = (rows("a") + rows("c")) / 2

    def ask() -> Any:
        with swarm.grpc_client() as client:
            return facts_of(client.infer("swarm", [grpc_input(between)]).get_response())

    assert (await asyncio.to_thread(ask))["swarm_gate_entropy"] > 0.1


async def test_the_server_tells_what_it_is_and_which_models_it_has(swarm: Served) -> None:
    def ask() -> list[Any]:
        with swarm.grpc_client() as client:
            assert client.is_server_live() and client.is_server_ready()
            assert client.is_model_ready("swarm") and client.is_model_ready("ada.e0", "1")
            return [
                client.get_server_metadata(as_json=True),
                client.get_model_metadata("swarm", as_json=True),
                client.get_model_config("ada.e0", as_json=True)["config"],
                client.get_model_repository_index(as_json=True)["models"],
            ]

    server, model, config, index = await asyncio.to_thread(ask)
    assert server["name"] == "swarm" and "statistics" in server["extensions"]
    assert model["versions"] == ["1", "2"] and model["platform"] == "swarm_routed"
    assert model["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": ["-1", "6"]}]
    assert [(each["name"], each["datatype"], each["shape"]) for each in model["outputs"]] == [
        ("probabilities", "FP32", ["-1", "4"]),
        ("label", "BYTES", ["-1"]),
        ("confidence", "FP32", ["-1"]),
        ("out_of_distribution", "FP32", ["-1"]),
    ]
    assert config["max_batch_size"] == 4096 and config["input"][0]["data_type"] == "TYPE_FP32"
    assert json.loads(config["parameters"]["class_names"]["string_value"]) == ["a", "b"]
    states = {(each["name"], each["version"]): each["state"] for each in index}
    assert (
        states.items()
        >= {
            ("swarm", "2"): "READY",
            ("ada.e0", "1"): "READY",
            ("bob.e0", "1"): "READY",
        }.items()
    )

    def over_http() -> list[Any]:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("bob.e0")
            return [
                client.get_server_metadata(),
                client.get_model_metadata("swarm", "2"),
                client.get_model_config("ada.e0"),
                client.get_model_repository_index(),
            ]

    by_http = await asyncio.to_thread(over_http)
    assert by_http[0] == server and by_http[2]["parameters"] == config["parameters"]
    assert by_http[1]["inputs"][0]["shape"] == [-1, 6]
    told = {(each["name"], each["version"]): each["state"] for each in by_http[3]}
    # The root may be made anew between the two.
    assert _without_root(told) == _without_root(states)


async def test_whether_a_model_or_version_that_is_not_there_is_ready_is_answered_by_no(
    swarm: Served,
) -> None:
    absent = [("nobody", ""), ("nobody.e7", "1"), ("swarm", "99"), ("ada.e0", "99")]

    def over_grpc() -> list[bool]:
        with swarm.grpc_client() as client:
            return [client.is_model_ready(*each) for each in (*absent, ("swarm", "1"), ("ada.e0", ""))]

    def over_http() -> list[bool]:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            return [client.is_model_ready(*each) for each in (*absent, ("swarm", "1"), ("ada.e0", ""))]

    assert await asyncio.to_thread(over_grpc) == [False] * 4 + [True] * 2
    assert await asyncio.to_thread(over_http) == [False] * 4 + [True] * 2
    page = "/v2/models/swarm/versions/99/ready"
    code, said = await asyncio.to_thread(http_ask, swarm.swarm, page)
    assert code == 404 and "version 99" in said["error"]


async def test_a_models_versions_are_those_that_are_answered_whichever_is_named(swarm: Served) -> None:
    def told_by(client: Any, name: str, version: str, **as_json: bool) -> tuple[list[str], list[int]]:
        found = client.get_model_metadata(name, version, **as_json)
        return found["versions"], [int(size) for size in found["outputs"][0]["shape"]]

    def over_grpc() -> list[Any]:
        with swarm.grpc_client() as client:
            named = [("swarm", ""), ("swarm", "1"), ("swarm", "2"), ("ada.e0", ""), ("ada.e0", "1")]
            return [told_by(client, *each, as_json=True) for each in named]

    def over_http() -> list[Any]:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            named = [("swarm", ""), ("swarm", "1"), ("swarm", "2"), ("ada.e0", ""), ("ada.e0", "1")]
            return [told_by(client, *each) for each in named]

    found = await asyncio.to_thread(over_grpc)
    assert found == await asyncio.to_thread(over_http)
    assert [versions for versions, _ in found] == [["1", "2"]] * 3 + [["1"]] * 2

    def asked() -> list[Any]:
        with swarm.grpc_client() as client:
            return [
                client.infer("swarm", [grpc_input(rows("a"))], model_version=each)
                .as_numpy("probabilities")
                .shape[1]
                for each in found[0][0]
            ]

    # What a version is said to answer is what it answers: the classes are its own gate's.
    assert [shape[1] for _, shape in found[1:3]] == await asyncio.to_thread(asked)


async def test_an_expert_is_asked_by_its_name_and_version(swarm: Served) -> None:
    def ask() -> list[Any]:
        with swarm.grpc_client() as client:
            tensor = [grpc_input(rows("ab"))]
            return [
                client.infer("ada.e0", tensor),
                client.infer("bob.e0", tensor, model_version="1"),
                client.infer("coordinator.e0", tensor),
                client.infer("swarm", tensor, model_version="1"),
            ]

    ada, bob, root, older = await asyncio.to_thread(ask)
    assert ada.as_numpy("label").tolist() == [b"a", b"b"] and ada.as_numpy("probabilities").shape == (2, 2)
    assert set(bob.as_numpy("label").tolist()) <= {b"c", b"d"}
    assert root.as_numpy("label").tolist() == [b"a", b"b"]
    route = json.loads(facts_of(ada.get_response())["swarm_route"])
    assert [row["experts"][0]["expert"] for row in route] == ["ada.e0"] * 2
    assert facts_of(older.get_response())["swarm_gate_version"] == 1


async def test_the_asyncio_client_infers_and_streams(swarm: Served) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, name in enumerate("abx"):
            values = rows(name) if name != "x" else np.full((1, 6), np.nan, np.float32)
            yield {"model_name": "swarm", "inputs": [grpc_input(values)], "request_id": str(number)}

    async with swarm.aio_client() as client:
        result = await client.infer("swarm", [grpc_input(rows("c"))])
        assert result.as_numpy("label").tolist() == [b"c"]
        answers = [each async for each in client.stream_infer(requests())]
    assert [found.as_numpy("label").tolist() for found, error in answers if error is None] == [[b"a"], [b"b"]]
    assert [found.get_response().id for found, error in answers if error is None] == ["0", "1"]
    assert "NaN" in str(answers[2][1])


async def test_a_stream_answers_in_order_and_goes_on_after_a_wrong_request(swarm: Served) -> None:
    answers: list[tuple[Any, Any]] = []
    done = threading.Event()

    def heard(result: Any, error: Any) -> None:
        answers.append((result, error))
        if len(answers) == 10:
            done.set()

    def ask() -> None:
        with swarm.grpc_client() as client:
            client.start_stream(heard)
            for number in range(10):
                model = "nobody" if number == 4 else "swarm"
                client.async_stream_infer(
                    model,
                    [grpc_input(rows("abcd"[number % 4]))],
                    request_id=str(number),
                    enable_empty_final_response=True,
                )
            assert done.wait(30)
            client.stop_stream()

    await asyncio.to_thread(ask)
    wrong = [str(error) for _, error in answers if error is not None]
    assert len(wrong) == 1 and "nobody" in wrong[0]
    found = [result.get_response() for result, error in answers if error is None]
    assert [each.id for each in found] == [str(number) for number in range(10) if number != 4]
    assert all(facts_of(each)["triton_final_response"] for each in found)


async def test_requests_of_a_stream_are_worked_on_side_by_side_and_answered_in_their_order(
    swarm: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, begun, answers = asyncio.Event(), list[str](), list[Any]()
    for node in (swarm.ada, swarm.bob):

        async def held(request: ExpertRequest, node: Any = node, answer: Any = node.predict) -> Any:
            begun.append(node.id)
            # bob's have to wait for nobody.
            await (may_go.wait() if node.id == "ada" else asyncio.sleep(0))
            return await answer(request)

        monkeypatch.setattr(node, "predict", held)

    def failed(client: Any) -> int:
        return sum(
            client.get_inference_statistics(name, "1").model_stats[0].inference_stats.fail.count
            for name in ("ada.e0", "bob.e0")
        )

    def ask(client: Any) -> None:
        client.start_stream(lambda result, error: answers.append(error or result.get_response().id))
        for number in range(20):
            model = "bob.e0" if number % 4 else "ada.e0"
            client.async_stream_infer(model, [grpc_input(rows("a"))], request_id=str(number))

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(begun) < count:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert len(begun) == count, "no more are taken up than are worked on at once"

    with swarm.grpc_client() as client:
        await asyncio.to_thread(ask, client)
        await until(8)
        assert begun.count("bob") == 6 and not answers, "the first is not answered yet"
        may_go.set()
        async with asyncio.timeout(20):
            while len(answers) < 20:
                await asyncio.sleep(0.02)
        assert answers == [str(number) for number in range(20)]
        await asyncio.to_thread(client.stop_stream)
        before = await asyncio.to_thread(failed, client)
        may_go.clear()
        begun.clear()
        await asyncio.to_thread(ask, client)
        await until(8)
        await asyncio.to_thread(client.stop_stream, True)
        async with asyncio.timeout(20):
            while await asyncio.to_thread(failed, client) - before < 2:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert len(begun) == 8 and await asyncio.to_thread(failed, client) - before == 2


async def test_http_carries_numbers_as_json_and_as_bytes(swarm: Served) -> None:
    def ask(binary: bool) -> Any:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            wanted = [
                triton_http.InferRequestedOutput(name, binary_data=binary)
                for name in ("label", "probabilities")
            ]
            tensor = http_input(rows("cab"), binary=binary)
            return client.infer("swarm", [tensor], outputs=wanted, request_id="9")

    as_bytes, as_json = await asyncio.to_thread(ask, True), await asyncio.to_thread(ask, False)
    assert as_bytes.as_numpy("label").tolist() == [b"c", b"a", b"b"]
    assert as_json.as_numpy("label").tolist() == ["c", "a", "b"]
    assert np.array_equal(as_bytes.as_numpy("probabilities"), as_json.as_numpy("probabilities"))
    response = as_bytes.get_response()
    assert response["id"] == "9" and response["outputs"][1]["parameters"]["binary_data_size"] == 3 * 4 * 4
    assert response["parameters"]["swarm_degraded"] is False
    assert len(json.loads(response["parameters"]["swarm_route"])) == 3


async def test_the_best_classes_come_by_name_where_they_are_asked_for(swarm: Served) -> None:
    def ask() -> Any:
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            wanted = [triton_http.InferRequestedOutput("probabilities", class_count=2)]
            return client.infer("swarm", [http_input(rows("d"))], outputs=wanted).as_numpy("probabilities")

    found = await asyncio.to_thread(ask)
    assert found.shape == (1, 2)
    value, column, name = found[0, 0].decode().split(":")
    assert (column, name) == ("3", "d") and float(value) > 0.5


@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_an_answer_says_how_sure_it_is_how_far_out_its_rows_lie_and_what_nobody_knows(
    swarm: Served, transport: str
) -> None:
    strange = np.full((1, 6), 60, np.float32)
    inputs = np.concatenate([rows("ad"), (rows("a") + rows("c")) / 2, strange])
    plain = await swarm.ada.coordinator.predict(Query(inputs=inputs))
    least = float((plain.confidence[2] + plain.confidence[:2].min()) / 2)
    ours = await swarm.ada.coordinator.predict(Query(inputs=inputs, min_confidence=least))
    assert ours.unknown[:3] == (False, False, True) and ours.out_of_distribution is not None

    def ask(model: str, **parameters: Any) -> tuple[Any, dict[str, Any]]:
        if transport == "grpc":
            with swarm.grpc_client() as client:
                found = client.infer(model, [grpc_input(inputs)], parameters=parameters)
                return found, facts_of(found.get_response())
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            found = client.infer(model, [http_input(inputs)], parameters=parameters)
            return found, found.get_response()["parameters"]

    found, facts = await asyncio.to_thread(ask, "swarm", min_confidence=least)
    assert found.as_numpy("label").tolist() == [label.encode() for label in ours.labels]
    assert np.array_equal(found.as_numpy("probabilities"), ours.probabilities)
    assert np.array_equal(found.as_numpy("confidence"), ours.confidence)
    assert np.array_equal(found.as_numpy("out_of_distribution"), ours.out_of_distribution)
    assert found.as_numpy("out_of_distribution")[3] > 5
    assert (facts["swarm_unknown"], facts["swarm_calibration"]) == (True, ours.calibration)
    assert len(json.loads(facts["swarm_route"])) == 4, "who was asked is said of unknown rows, too"
    found, facts = await asyncio.to_thread(ask, "swarm", uniform=True)
    assert found.as_numpy("out_of_distribution").tolist() == [-1] * 4
    assert (facts["swarm_unknown"], facts["swarm_calibration"]) == (False, 0)
    found, facts = await asyncio.to_thread(ask, "ada.e0", min_confidence=1)
    sure = found.as_numpy("confidence") >= 1
    assert not sure.all() and facts["swarm_unknown"] is True
    assert (found.as_numpy("label") != b"").tolist() == sure.tolist()
    assert found.as_numpy("out_of_distribution") is None, "no gate is asked of an expert by name"


async def test_an_unknown_row_has_no_best_classes(swarm: Served) -> None:
    inputs = np.concatenate([rows("a"), (rows("a") + rows("c")) / 2])

    def ask() -> Any:
        with swarm.grpc_client() as client:
            confidence = client.infer("swarm", [grpc_input(inputs)]).as_numpy("confidence")
            wanted = [triton_grpc.InferRequestedOutput("probabilities", class_count=2)]
            found = client.infer(
                "swarm",
                [grpc_input(inputs)],
                outputs=wanted,
                parameters={"min_confidence": float(confidence.mean())},
            )
            return found.as_numpy("probabilities").tolist()

    known, unknown = await asyncio.to_thread(ask)
    assert known[0].endswith(b":0:a") and unknown == [b"", b""]


async def test_the_time_until_a_requests_turn_is_in_the_statistics(
    swarm: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, answer, held_s = asyncio.Event(), swarm.bob.predict, 0.5

    async def held(request: ExpertRequest) -> list[ExpertAnswer]:
        await may_go.wait()
        return await answer(request)

    monkeypatch.setattr(swarm.bob, "predict", held)

    def statistics() -> Any:
        with swarm.grpc_client() as client:
            return client.get_inference_statistics("bob.e0", "1").model_stats[0].inference_stats

    def ask(count: int) -> None:
        with swarm.grpc_client() as client:
            client.infer("bob.e0", [grpc_input(np.tile(rows("c"), (count, 1)))])

    before = await asyncio.to_thread(statistics)
    # As many rows as are worked on at once; then one more.
    asked = [asyncio.create_task(asyncio.to_thread(ask, MAX_QUERY_ROWS)) for _ in range(4)]
    await asyncio.sleep(held_s)
    asked.append(asyncio.create_task(asyncio.to_thread(ask, 1)))
    await asyncio.sleep(held_s)
    may_go.set()
    await asyncio.gather(*asked)
    after = await asyncio.to_thread(statistics)
    assert after.queue.count - before.queue.count == 5
    waited_s, computed_s = (
        (getattr(after, phase).ns - getattr(before, phase).ns) / 1e9 for phase in ("queue", "compute_infer")
    )
    assert held_s / 2 < waited_s < 4 * held_s < computed_s


async def test_statistics_count_what_was_asked_and_what_failed(swarm: Served) -> None:
    def ask() -> tuple[Any, Any, Any]:
        with swarm.grpc_client() as client:
            before = client.get_inference_statistics("bob.e0", "1").model_stats[0]
            client.infer("bob.e0", [grpc_input(rows("cdc"))])
            with pytest.raises(InferenceServerException):
                client.infer("bob.e0", [grpc_input(rows("c"), datatype="FP64", dtype=np.float64)])
            after = client.get_inference_statistics("bob.e0", "1").model_stats[0]
            everything = client.get_inference_statistics(as_json=True)["model_stats"]
        with triton_http.InferenceServerClient(swarm.http_address) as client:
            by_http = client.get_inference_statistics("bob.e0")["model_stats"][0]
        assert by_http["inference_count"] == after.inference_count
        return before, after, everything

    before, after, everything = await asyncio.to_thread(ask)
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert 3 in [batch.batch_size for batch in after.batch_stats]
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert {each["name"] for each in everything} >= {"swarm", "ada.e0", "bob.e0"}


async def test_what_is_not_served_is_unimplemented(swarm: Served) -> None:
    def by_grpc(method: str, *given: Any) -> Callable[[], Any]:
        def ask() -> None:
            with swarm.grpc_client() as client:
                getattr(client, method)(*given)

        return ask

    for method, *given in (
        ("load_model", "swarm"),
        ("unload_model", "swarm"),
        ("get_trace_settings",),
        ("get_log_settings",),
        ("get_system_shared_memory_status",),
        ("register_cuda_shared_memory", "r", b"", 0, 8),
    ):
        error = await told(by_grpc(method, *given))
        assert error.status() == "StatusCode.UNIMPLEMENTED", method
        said = error.message()
        assert "inference.GRPCInferenceService has no method '" in said and "ModelInfer" in said, said

    def by_http(method: str, *arguments: Any) -> Callable[[], None]:
        def call() -> None:
            with triton_http.InferenceServerClient(swarm.http_address) as client:
                getattr(client, method)(*arguments)

        return call

    for method, *given in (
        ("load_model", "swarm"),
        ("unload_model", "swarm"),
        ("get_trace_settings",),
        ("update_trace_settings", "swarm"),
        ("get_log_settings",),
        ("update_log_settings", {}),
        ("get_system_shared_memory_status",),
        ("get_cuda_shared_memory_status", "r"),
        ("register_system_shared_memory", "r", "key", 8),
        ("unregister_cuda_shared_memory",),
    ):
        assert (await told(by_http(method, *given))).status() == "501", method


async def test_who_is_unknown_is_named_by_grpc_and_http_alike(swarm: Served) -> None:
    def by_grpc(model: str, version: str) -> Callable[[], Any]:
        def ask() -> None:
            with swarm.grpc_client() as client:
                client.infer(model, [grpc_input(rows("a"))], model_version=version)

        return ask

    for model, version, status, http, named in (
        ("nobody", "", "NOT_FOUND", 404, "ada.e0, bob.e0"),
        ("ada.e0", "9", "NOT_FOUND", 404, "version 1"),
        ("swarm", "99", "NOT_FOUND", 404, "gate 2"),
        ("swarm", "latest", "INVALID_ARGUMENT", 400, "a number from 1"),
    ):
        error = await told(by_grpc(model, version))
        assert error.status() == f"StatusCode.{status}" and named in error.message()
        page = f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"
        code, said = await asyncio.to_thread(http_ask, swarm.swarm, f"{page}/infer", json_body())
        assert code == http and said["error"] == error.message()


BAD_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("no input", "one input, 'inputs', FP32 [rows, 6]", {"inputs": []}),
    ("another name", "one input, 'inputs'", {"name": "x"}),
    ("another datatype", "datatype FP32", {"datatype": "INT64"}),
    ("another shape", "shape [rows, 6]", {"shape": [1, 7]}),
    ("no axis of rows", "number of rows", {"shape": [6]}),
    ("no rows", "1 to 4096", {"shape": [0, 6], "raw": b""}),
    ("a negative size", "shape [rows, 6]", {"shape": [-1, 6]}),
    ("too many rows", "4096", {"shape": [5000, 6], "raw": bytes(5000 * 24)}),
    ("a shape beyond its bytes", "24 bytes", {"shape": [1 << 40, 6]}),
    ("bytes that lack", "24 bytes", {"raw": bytes(20)}),
    ("no content", "no content", {"raw": None}),
    ("NaN", "row 0", {"raw": np.full(6, np.nan, np.float32).tobytes()}),
    ("a misspelt parameter", "top_k", {"parameters": {"topk": 1}}),
    ("a profile that is no id", "parameter profile: found abc", {"parameters": {"profile": "abc"}}),
    ("a parameter of another type", "a number from 0", {"parameters": {"top_k": "2"}}),
    ("another output", "confidence or out_of_distribution", {"outputs": ["scores"]}),
    ("an output twice", "each once", {"outputs": ["confidence", "confidence"]}),
    ("a confidence that cannot be", "a number from 0 to 1", {"parameters": {"min_confidence": 2}}),
    ("a confidence that is a text", "a number from 0 to 1", {"parameters": {"min_confidence": "0.9"}}),
    ("an unknown combination", "corrected", {"parameters": {"combination": "best"}}),
    ("an unknown owner", "ada, bob", {"parameters": {"owners": "eve"}}),
]


def triton_request(changes: dict[str, Any]) -> Any:
    request = service_pb2.ModelInferRequest(model_name="swarm")
    raw = changes.get("raw", rows("a").tobytes())
    if changes.get("inputs") != []:
        request.inputs.add(
            name=changes.get("name", "inputs"),
            datatype=changes.get("datatype", "FP32"),
            shape=changes.get("shape", [1, 6]),
        )
        request.raw_input_contents.extend([] if raw is None else [raw])
    for name, value in changes.get("parameters", {}).items():
        setattr(request.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
    for name in changes.get("outputs", []):
        request.outputs.add(name=name)
    return request


def triton_body(changes: dict[str, Any]) -> tuple[bytes, int]:
    """The same over HTTP, the tensor's bytes behind the JSON."""
    raw = changes.get("raw", rows("a").tobytes())
    said: dict[str, Any] = {"inputs": changes.get("inputs", [{}])}
    for tensor in said["inputs"]:
        tensor = said["inputs"][0] = {"name": "inputs", "datatype": "FP32", "shape": [1, 6]}
        tensor |= {name: changes[name] for name in tensor if name in changes}
        if raw is not None:
            tensor["parameters"] = {"binary_data_size": len(raw)}
    said["parameters"] = changes.get("parameters", {})
    said["outputs"] = [{"name": name} for name in changes.get("outputs", [])]
    header = json.dumps(said).encode()
    return header + (raw or b"" if said["inputs"] else b""), len(header)


@pytest.mark.parametrize(("what", "helps", "changes"), BAD_REQUESTS, ids=[each[0] for each in BAD_REQUESTS])
async def test_bad_input_is_refused_by_a_sentence_that_helps(
    swarm: Served, what: str, helps: str, changes: dict[str, Any]
) -> None:
    def by_grpc() -> grpc.RpcError:
        with grpc.insecure_channel(swarm.loopback_address) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                service_pb2.ModelInferRequest.SerializeToString,
                service_pb2.ModelInferResponse.FromString,
            )
            with pytest.raises(grpc.RpcError) as caught:
                infer(triton_request(changes), timeout=20)
            return caught.value

    error: Any = await asyncio.to_thread(by_grpc)
    assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND") and helps in error.details()
    body, header = triton_body(changes)
    code, said = await asyncio.to_thread(
        http_ask,
        swarm.swarm,
        "/v2/models/swarm/infer",
        body,
        Inference_Header_Content_Length=str(header),
    )
    assert code in (400, 404) and said["error"] == error.details(), what


async def test_a_body_that_is_no_request_is_refused_and_the_coordinator_goes_on(swarm: Served) -> None:
    for body, headers, code, helps in (
        (b"{", {}, 400, "JSON"),
        (b"[1]", {}, 400, "a JSON object"),
        (b"[" * 100_000, {}, 400, "JSON"),
        (json_body(data="abc"), {}, 400, "a list of numbers"),
        (json_body(data=[1, "2", 3, 4, 5, 6]), {}, 400, "numbers"),
        (json_body(data=[[1, 2], [3]]), {}, 400, "numbers"),
        (json_body(data=[1e39] * 6), {}, 400, "NaN or infinity"),
        (json_body(parameters={"binary_data_size": 24}), {}, 400, "binary_data_size"),
        (json_body() + b"more", {"Inference_Header_Content_Length": str(len(json_body()))}, 400, "4 bytes"),
        (json_body(), {"Inference_Header_Content_Length": "9999"}, 400, "Inference-Header"),
        (json_body(), {"Inference_Header_Content_Length": "-1"}, 400, "Inference-Header"),
        (json_body(), {"Content_Encoding": "gzip"}, 400, "no compression"),
        (json_body(), {"Host": "evil.example"}, 401, "bearer token"),
        (json_body(), {"Authorization": "Basic eDp5"}, 401, "Bearer"),
    ):
        found = await asyncio.to_thread(http_ask, swarm.swarm, "/v2/models/swarm/infer", body, **headers)
        assert found[0] == code and helps in found[1]["error"], (body[:60], found)
    assert (await asyncio.to_thread(http_ask, swarm.swarm, "/v2/nothing"))[0] == 404
    assert (await asyncio.to_thread(http_ask, swarm.swarm, "/v2/models/swarm/infer"))[0] == 405
    assert (await asyncio.to_thread(http_ask, swarm.swarm, "/v2/models/swarm/infer", json_body()))[0] == 200


async def test_reflection_and_health_tell_of_the_protocol_beside_the_clients_own_copy(swarm: Served) -> None:
    def ask() -> Any:
        with grpc.insecure_channel(swarm.loopback_address) as channel:
            known = ProtoReflectionDescriptorDatabase(channel)
            services = known.get_services()
            file = known.FindFileContainingSymbol("inference.ModelInferRequest")
            health = health_pb2_grpc.HealthStub(channel)
            said = health.Check(
                health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=10
            )
            return services, file, said

    services, file, said = await asyncio.to_thread(ask)
    assert "inference.GRPCInferenceService" in services
    assert file.name == "inference/open_inference.proto"
    assert said.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_client_of_the_swarm_asks_by_its_certificate_until_it_is_revoked(
    swarm: Served, tmp_path: Path
) -> None:
    line, _ = await (await swarm.swarm.operator()).create_token("client")
    await asyncio.to_thread(join, line, NodeHome(tmp_path), name="app", role="client")

    def ask() -> Any:
        with triton_grpc.InferenceServerClient(**swarm.grpc_options(tmp_path / "identity")) as client:
            return client.infer("swarm", [grpc_input(rows("b"))]).as_numpy("label").tolist()

    assert await asyncio.to_thread(ask) == [b"b"]
    await (await swarm.swarm.operator()).revoke_node(NodeId("app"), "gone")
    error = await told(ask)
    assert error.status() == "StatusCode.UNAUTHENTICATED" and "revoked" in error.message()


async def test_the_loopback_serves_inference_alone_and_only_if_it_is_asked_for(swarm: Served) -> None:
    def ask() -> Any:
        with triton_grpc.InferenceServerClient(swarm.loopback_address) as client:
            return client.infer("swarm", [grpc_input(rows("b"))]).as_numpy("label").tolist()

    assert await asyncio.to_thread(ask) == [b"b"]

    def pry() -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(swarm.loopback_address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/swarm.v1.Membership/CreateToken")(b"", timeout=10)
            error: Any = caught.value
            return error.code(), error.details()

    code, said = await asyncio.to_thread(pry)
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert "service 'swarm.v1.Membership' is not served here" in said
    assert "inference.GRPCInferenceService" in said and "docs/serving.md" in said


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"line {example.line}")
async def test_the_documented_examples_do_what_is_printed(
    swarm: Served, example: Example, tmp_path: Path
) -> None:
    (tmp_path / "identity").symlink_to(swarm.swarm.home.operator / "identity")
    token, _ = await (await swarm.swarm.operator()).create_bearer(NodeId("reader"), 600.0, "docs")
    code = swarm.at_its_ports(example.code)
    environment = {"TOKEN": token, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if "swarm replay" in code:
        line, _ = await (await swarm.swarm.operator()).create_token("client")
        home = NodeHome(tmp_path / "home")
        await asyncio.to_thread(join, line, home, name="replayer", role="client")
        environment["SWARM_HOME"] = str(home.root)
    said = await asyncio.to_thread(ran, example.language, code, tmp_path, **environment)
    assert said == example.prints


async def test_the_documented_grpcurl_line_is_what_reflection_describes(swarm: Served) -> None:
    """As grpcurl does: descriptors by reflection, the message from JSON, the method by its name."""
    message, method = grpcurl_line(DOCUMENT)

    def ask() -> dict[str, Any]:
        with grpc.insecure_channel(swarm.loopback_address) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            service, _, name = method.rpartition("/")
            described = pool.FindServiceByName(service).methods_by_name[name]
            request = ParseDict(message, GetMessageClass(described.input_type)())
            reply = GetMessageClass(described.output_type)
            call = channel.unary_unary(f"/{method}", type(request).SerializeToString, reply.FromString)
            return MessageToDict(call(request, timeout=20))

    (label,) = (await asyncio.to_thread(ask))["outputs"]
    assert label["contents"]["bytesContents"] == [base64.b64encode(b"a").decode()]


async def test_a_withdrawn_expert_is_refused_by_its_reason(swarm: Served) -> None:
    eve = await swarm.swarm.node("eve", "ab")
    await eve.publish()
    found = None
    while found is None or "eve.e0" not in found:
        found = [
            each["name"]
            for each in (await asyncio.to_thread(http_ask, swarm.swarm, "/v2/repository/index"))[1]
        ]  # type: ignore[index]
    operator = await swarm.swarm.operator()
    await operator.revoke_node(NodeId("eve"), "gone")

    def ask() -> None:
        with swarm.grpc_client() as client:
            client.infer("eve.e0", [grpc_input(rows("a"))])

    error = await told(ask)
    assert error.status() == "StatusCode.NOT_FOUND" and "revoked" in error.message()
    assert "ask model swarm" in error.message()


async def test_http_beyond_the_loopback_needs_a_bearer_token_and_is_encrypted(swarm: Served) -> None:
    """The last: it starts the coordinator again."""
    operator = await swarm.swarm.operator()
    token, view = await operator.create_bearer(NodeId("app"), 3600.0, "once")
    assert (await operator.create_bearer(NodeId("app"), 3600.0, "once"))[0] == token
    assert view.bearer == "app" and view.id in [each.id for each in await operator.tokens()]
    kept = swarm.swarm.home.coordinator / "bearer-tokens" / f"{view.id}.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert token.rpartition(".")[2] not in kept.read_text()
    await swarm.swarm.stop_coordinator()
    await swarm.swarm.start_coordinator(http_listen="0.0.0.0", http_port=0)
    tls = ssl.create_default_context(cadata=swarm.swarm.ca_pem.decode())
    tls.check_hostname = False  # its names are those of the swarm, and this test dials an address

    async def ask(page: str = "/v2/models/swarm/infer", **headers: str) -> tuple[int, dict[str, Any]]:
        body = json_body() if page.endswith("infer") else None
        return await asyncio.to_thread(http_ask, swarm.swarm, page, body, tls, **headers)

    assert (await ask("/v2/health/live"))[0] == 200
    code, said = await ask()
    assert code == 401 and "swarm token create --bearer" in said["error"]
    code, said = await ask(Authorization=f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}")
    assert code == 401 and token[-20:] not in said["error"]
    assert (await ask(Authorization=f"Bearer {token}"))[0] == 200
    operator = await swarm.swarm.operator()
    await operator.revoke_token(view.id)
    code, said = await ask(Authorization=f"Bearer {token}")
    assert code == 401 and "revoked" in said["error"]
    assert "revoked" in str(await refusal(operator.create_bearer(NodeId("app"), 3600.0, "once")))


def _without_root(states: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    return {named: state for named, state in states.items() if named[0] != "coordinator.e0"}
