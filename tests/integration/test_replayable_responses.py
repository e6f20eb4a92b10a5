"""Answers that came over the Open Inference Protocol are computed again from what they say, and checked."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from typer.testing import CliRunner

from swarm.cli.app import build
from swarm.cli.replaying import NOT_THE_SAME
from swarm.domain.errors import InvalidInputError, SwarmError, UsageError
from tests.support.learning import digits_like
from tests.support.trained_pair import train_pair
from tests.support.whole_swarm import WholeSwarm, whole_swarm

IMAGES, _ = digits_like(40, 4, seed=77)
INPUTS = IMAGES[:19].astype(np.uint8)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    """rose knows 0 and 1, tulip 2 and 3; both are trained, and inputs lie in x.npy."""
    folder = tmp_path_factory.mktemp("responses")
    np.save(folder / "x.npy", INPUTS)
    with whole_swarm(folder) as running:
        asyncio.run(train_pair(running, folder))
        yield running


def replayed(swarm: WholeSwarm, *words: Any) -> tuple[int, dict[str, Any], Exception | None]:
    arguments = ["replay", *map(str, words), "--json", "--home", str(swarm.home.root)]
    done = CliRunner().invoke(build(), arguments)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    error = done.exception if isinstance(done.exception, SwarmError) else None
    return done.exit_code, json.loads(lines[-1]) if lines else {}, error


def request_of(*, id: str = "", outputs: Any = None, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "inputs", "datatype": "UINT8", "shape": list(INPUTS.shape)}
    body: dict[str, Any] = {"inputs": [tensor | {"data": INPUTS.tolist()}], "parameters": parameters}
    body |= {"id": id} if id else {}
    return body | ({"outputs": outputs} if outputs else {})


def answered(swarm: WholeSwarm, body: dict[str, Any], model: str = "swarm") -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON that a plain HTTP client gets."""
    url = f"http://127.0.0.1:{swarm.http_port}/v2/models/{model}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def saved(swarm: WholeSwarm, folder: Path, body: dict[str, Any]) -> tuple[Path, Path, dict[str, Any]]:
    """Return a request's file, its response's file, and the response."""
    code, response = answered(swarm, body)
    assert code == 200, response
    asked, got = folder / "request.json", folder / "response.json"
    asked.write_text(json.dumps(body))
    got.write_text(json.dumps(response))
    return asked, got, response


@pytest.mark.parametrize(
    "body",
    [
        request_of(replayable=True, id="walk-7"),
        request_of(replayable=True, combination="gate", top_k=2, class_names=True),
        request_of(replayable=True, combination="poe", route=False, id="no route"),
        request_of(replayable=True, combination="prototypes", top_k=1, min_confidence=0.9),
        request_of(replayable=True, owners="tulip"),
        request_of(replayable=True, uniform=True, id="ü" * 256),
        request_of(
            replayable=True,
            combination="gate",
            min_confidence=0.6,
            outputs=[{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "label"}],
        ),
    ],
    ids=lambda body: " ".join(body["parameters"]),
)
def test_a_response_over_http_is_the_same_to_the_bit_when_it_is_computed_again(
    swarm: WholeSwarm, tmp_path: Path, body: dict[str, Any]
) -> None:
    asked, got, response = saved(swarm, tmp_path, body)
    code, found, error = replayed(swarm, got, "--input", asked)
    assert (code, found["verdict"], found["differences"]) == (0, "same", []), (found, error)
    assert (found["signed_by"], found["not_as_signed"]) == ("coordinator", [])
    assert found["signed_for"] == body.get("id", "")
    assert found["rows"] == len(INPUTS) and response.get("id", "") == body.get("id", "")
    code, found, error = replayed(swarm, got, "--input", swarm.folder / "x.npy")
    assert (code, found["verdict"]) == (0, "same"), error


def test_a_response_over_grpc_is_computed_again_from_its_parameter(swarm: WholeSwarm, tmp_path: Path) -> None:
    identity = swarm.home.operator / "identity"
    client = triton_grpc.InferenceServerClient(
        f"127.0.0.1:{swarm.port('coordinator')}",
        ssl=True,
        root_certificates=str(identity / "ca.pem"),
        private_key=str(identity / "key.pem"),
        certificate_chain=str(identity / "certificate.pem"),
        channel_args=[("grpc.ssl_target_name_override", "coordinator.garden")],
    )
    tensor = triton_grpc.InferInput("inputs", list(INPUTS.shape), "UINT8")
    tensor.set_data_from_numpy(INPUTS)
    with client:
        asked = {"combination": "gate", "top_k": 2, "replayable": True}
        result = client.infer("swarm", [tensor], request_id="over grpc", parameters=asked)
    file = tmp_path / "answer.json"
    file.write_text(result.get_response().parameters["swarm_answer"].string_param)
    assert json.loads(file.read_text())["record"]["said"], "experts answered"
    words = (file, "--input", swarm.folder / "x.npy")
    code, found, error = replayed(swarm, *words, "--request-id", "over grpc")
    assert (code, found["verdict"], found["signed_for"]) == (0, "same", "over grpc"), error
    code, found, _ = replayed(swarm, *words, "--request-id", "another")
    assert (code, found["not_as_signed"]) == (NOT_THE_SAME, ["request"])
    error = replayed(swarm, file)[2]
    assert isinstance(error, UsageError) and "--input REQUEST.json" in error.remedy


def test_what_a_response_says_otherwise_than_the_answer_in_it_is_named(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    asked, got, _ = saved(swarm, tmp_path, request_of(replayable=True, combination="gate", id="1"))
    whole = got.read_text()

    def output(response: dict[str, Any], name: str) -> dict[str, Any]:
        return next(each for each in response["outputs"] if each["name"] == name)

    for change, named in (
        (lambda it: output(it, "label")["data"].__setitem__(3, "9"), "output label"),
        (lambda it: output(it, "probabilities")["data"].__setitem__(0, 0.5), "output probabilities"),
        (lambda it: output(it, "confidence")["data"].pop(), "output confidence"),
        (lambda it: output(it, "confidence").pop("data"), "output confidence"),
        (lambda it: it["outputs"].insert(0, dict(output(it, "label"), data=["x"])), "output label"),
        (lambda it: it["outputs"].append({"name": "advice", "data": [1]}), "output advice"),
        (lambda it: it["outputs"].append(7), "output that is none"),
        (lambda it: it["parameters"].update(swarm_combination="root"), "parameter swarm_combination"),
        (lambda it: it["parameters"].update(swarm_gate_version=9), "parameter swarm_gate_version"),
        (
            lambda it: it["parameters"].update(
                swarm_route=it["parameters"]["swarm_route"].replace("rose", "tulip")
            ),
            "parameter swarm_route",
        ),
        (lambda it: it["parameters"].update(swarm_blessed=True), "parameter swarm_blessed"),
        (lambda it: it.update(model_name="rose.e0"), "model_name"),
        (lambda it: it.update(model_version="9"), "model_version"),
        (lambda it: it.update(id="2"), "id"),
    ):
        response = json.loads(whole)
        change(response)
        got.write_text(json.dumps(response))
        code, found, error = replayed(swarm, got, "--input", asked)
        assert (code, found.get("verdict")) == (NOT_THE_SAME, "different"), (named, error)
        assert found["differences"] == [f"{named}: other than the answer that the response has"]
    # What is left out says nothing that is wrong.
    response = json.loads(whole)
    response["outputs"].pop()
    del response["parameters"]["swarm_route"], response["id"]
    got.write_text(json.dumps(response))
    assert replayed(swarm, got, "--input", asked)[0] == 0


def test_an_older_answer_does_not_pass_for_that_to_a_new_request(swarm: WholeSwarm, tmp_path: Path) -> None:
    asked, got, response = saved(swarm, tmp_path, request_of(replayable=True, id="monday"))
    asked.write_text(json.dumps(request_of(replayable=True, id="tuesday")))
    code, found, _ = replayed(swarm, got, "--input", asked)
    assert (code, found["verdict"], found["not_as_signed"]) == (NOT_THE_SAME, "same", ["request"])
    # Nor by writing the new name into it.
    document = json.loads(response["parameters"]["swarm_answer"])
    document["query"]["request_id"] = response["id"] = "tuesday"
    response["parameters"]["swarm_answer"] = json.dumps(document)
    got.write_text(json.dumps(response))
    code, found, _ = replayed(swarm, got, "--input", asked)
    assert (code, found["differences"], found["not_as_signed"]) == (NOT_THE_SAME, [], ["request"])
    # Nor without a signature.
    del document["signed"]
    response["parameters"]["swarm_answer"] = json.dumps(document)
    got.write_text(json.dumps(response))
    code, found, _ = replayed(swarm, got, "--input", asked)
    assert (code, found["signed_by"], found["not_as_signed"]) == (NOT_THE_SAME, "", ["request"])


def test_what_cannot_be_replayed_is_refused_by_its_reason(swarm: WholeSwarm, tmp_path: Path) -> None:
    _, got, response = saved(swarm, tmp_path, request_of(combination="gate"))
    assert "swarm_answer" not in response["parameters"]
    error = replayed(swarm, got)[2]
    assert isinstance(error, InvalidInputError) and "replayable true" in error.remedy, error
    for body, model, part in (
        (request_of(replayable=True), "rose.e1", "parameter replayable"),
        (request_of(replayable="yes"), "swarm", "parameter replayable"),
        (request_of(replayable=True, profile="0" * 64), "swarm", "profile"),
        (request_of(replayable=True, id="x" * 257), "swarm", "id of the request"),
    ):
        code, said = answered(swarm, body, model)
        assert code in (400, 404) and part in said["error"], said
    assert answered(swarm, request_of(id="x" * 257))[0] == 200, (
        "an id that nobody signs is as long as it likes"
    )


def test_a_response_that_is_broken_is_refused_and_no_fault(swarm: WholeSwarm, tmp_path: Path) -> None:
    asked, got, whole = saved(swarm, tmp_path, request_of(replayable=True))
    document = json.loads(whole["parameters"]["swarm_answer"])
    wrong: list[Any] = [
        whole | {"outputs": 7},
        whole | {"parameters": []},
        whole | {"parameters": whole["parameters"] | {"swarm_answer": "\ud800"}},
        whole | {"parameters": whole["parameters"] | {"swarm_answer": "{}"}},
        whole | {"parameters": whole["parameters"] | {"swarm_answer": "[[["}},
    ]
    for name in document["answer"]:
        for value in (None, [], "x", [[]], 1e300):
            changed = json.dumps(document | {"answer": document["answer"] | {name: value}})
            wrong.append(whole | {"parameters": whole["parameters"] | {"swarm_answer": changed}})
    for response in wrong:
        got.write_text(json.dumps(response))
        done = CliRunner().invoke(
            build(), ["replay", str(got), "--input", str(asked), "--home", str(swarm.home.root)]
        )
        is_told = isinstance(done.exception, SystemExit | SwarmError) and done.exit_code != 0
        # What a version before did not say, or nobody looks at, may be anything.
        assert is_told or (done.exception is None and done.exit_code == 0), (response, done.exception)
