"""The coordinator is killed while it is asked: clients and nodes route on, and follow it when it is back."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from coordinator.answer_trail import read_trail
from node.enrol import join
from swarm.answering.known_members import KnownMembers
from swarm.answering.owner_links import OwnerLinks
from swarm.cli.checks import start_again
from swarm.cli.up.supervisor import free_ports
from swarm.client import AsyncClient, Client
from swarm.client.routing_nodes import RoutingNodes
from swarm.config import NodeHome
from swarm.domain.errors import ExhaustedError, NotFoundError, NotReadyError, UnreachableError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.domain.replay import GivenAnswer
from swarm.rpc.credentials import IdentitySource
from swarm.trust.codec import canonical_json
from swarm.trust.identity import Identity
from swarm.trust.statements import open_statement
from tests.support.forked_processes import ENVIRONMENT, ROOT
from tests.support.garden import IMAGES, LABELS, Garden, garden, owners, same_answers
from tests.support.whole_swarm import until

GONE = NodeId("gone")
WAITING_HELPS = ExhaustedError | NotReadyError | UnreachableError


@pytest.fixture(autouse=True, scope="module")
def logs_as_before() -> Iterator[None]:
    """A client hands this process's log over to `logging`: not for other tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garden]:
    with garden(tmp_path_factory.mktemp("killed"), listens=True) as running:
        asyncio.run(until(lambda: all(routes(running, name) for name in running.homes), 60))
        yield running


def routes(swarm: Garden, name: str) -> bool:
    """Say whether a node knows all it takes to route: both experts, and where the other one listens."""
    folder = swarm.homes[name].state / "routing"
    found = len([*(folder / "manifest").glob("[!.]*.json")]), (folder / "nodes.json").exists()
    return found == (2, True) and set(json.loads((folder / "nodes.json").read_text())) == {"rose", "tulip"}


def client(swarm: Garden, cache: str, **options: object) -> AsyncClient:
    home = swarm.swarm.home.root
    return AsyncClient(credentials=home, cache=swarm.swarm.folder / cache, **options)  # type: ignore[arg-type]


async def asked_across(asking: AsyncClient, killed: asyncio.Event, count: int) -> list[Answer]:
    """Ask again and again until so many answers came that were asked for after the kill."""
    found: list[Answer] = []
    while count:
        count -= killed.is_set()
        found.append(await asking.predict(IMAGES, explain=True, top_k=1))
    return found


async def test_predictions_go_on_over_a_kill_of_the_coordinator(swarm: Garden) -> None:
    before = await swarm.ask()
    killed, nodes = asyncio.Event(), swarm.swarm.folder / "plain" / "nodes.json"
    async with client(swarm, "direct", direct=True) as direct, client(swarm, "plain") as plain:
        assert same_answers(await direct.predict(IMAGES, explain=True, top_k=1), before)
        await plain.predict(IMAGES[:1])
        await until(lambda: nodes.exists() and "tulip" in nodes.read_text())
        asking = [asyncio.create_task(asked_across(each, killed, 5)) for each in (direct, plain)]
        await asyncio.sleep(0)
        swarm.swarm.kill("coordinator")
        killed.set()
        for answers in await asyncio.gather(*asking):
            assert len(answers) >= 5 and all(same_answers(answer, before) for answer in answers)
            assert all(owners(answer) == {"rose", "tulip"} and not any(answer.degraded) for answer in answers)


async def test_the_doctor_starts_a_killed_coordinator_again_at_its_http_port(swarm: Garden) -> None:
    founder = swarm.swarm.home
    known = Identity.load(founder.operator / "identity")
    assert f"--http-port {swarm.swarm.http_port}" in start_again("coordinator", known, founder.root)


async def test_a_client_that_begins_without_a_coordinator_goes_by_what_it_kept(swarm: Garden) -> None:
    assert "coordinator" not in swarm.swarm.processes
    async with client(swarm, "direct", direct=True) as direct, client(swarm, "plain") as plain:
        answer = await direct.predict(IMAGES, top_k=1)
        assert accuracy(answer) > 0.9
        assert np.array_equal((await plain.predict(IMAGES, top_k=1)).probabilities, answer.probabilities)
    async with client(swarm, "new", timeout_s=3.0) as unknowing:
        with pytest.raises(UnreachableError, match="coordinator at"):
            await unknowing.predict(IMAGES)


async def test_nodes_that_route_are_asked_until_one_answers(swarm: Garden) -> None:
    identity = Identity.load(swarm.swarm.home.operator / "identity")
    known = dict(KnownMembers(swarm.swarm.folder / "plain", identity).nodes)
    assert known.keys() == {"rose", "tulip"}
    known[GONE] = f"127.0.0.1:{free_ports(1)[0]}"
    links = OwnerLinks(
        IdentitySource(identity.folder), nodes=lambda: known, owners=tuple, is_revoked=lambda node: False
    )
    nodes, query = RoutingNodes(links, known.keys), Query(inputs=IMAGES[:2], top_k=1)
    try:
        for _ in range(6):
            name, answer = await nodes.predict(query, 30.0)
            assert name in ("rose", "tulip") and len(answer.probabilities) == 2
        with pytest.raises(NotFoundError, match="nobody"):
            await nodes.predict(replace(query, owners=(NodeId("nobody"),)), 30.0)
        known = {GONE: known[GONE]}
        with pytest.raises(UnreachableError, match="gone: nobody listens there"):
            await RoutingNodes(links, known.keys).predict(query, 30.0)
        known = {}
        assert not RoutingNodes(links, known.keys)
    finally:
        await links.close()


async def test_what_no_node_knows_is_said_at_once_and_not_that_the_coordinator_is_away(swarm: Garden) -> None:
    async with client(swarm, "plain") as plain:
        with pytest.raises(NotFoundError, match="nobody") as refused:
            await plain.predict(IMAGES[:2], owners="nobody")
        assert not getattr(refused.value, "__notes__", ()), "it was asked once"
        with capture_logs() as told:
            await plain.predict(IMAGES[:2])
        assert [line["node"] in ("rose", "tulip") for line in told if line["event"] == "answer.by_node"] == [
            True
        ]
        with pytest.raises(UnreachableError, match="coordinator at"):
            await plain.predict(IMAGES[:2], gate_version=999, timeout_s=2.0)


async def test_the_command_at_a_node_that_listens_answers_without_the_coordinator(swarm: Garden) -> None:
    np.save(swarm.swarm.folder / "x.npy", IMAGES[:4])
    home, file = swarm.homes["rose"], swarm.swarm.folder / "answer.json"
    inputs = str(swarm.swarm.folder / "x.npy")
    words = ("predict", inputs, "--save", str(file), "--json", "--home", str(home.root))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "swarm.cli", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    out, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    assert "this node routes" in told.decode()
    assert len(json.loads(out)["answer"]["probabilities"]) == 4
    signed = canonical_json(json.loads(file.read_text())["signed"])
    rose = Identity.load(home.identity).required_signer()
    assert open_statement(signed, GivenAnswer, rose.public_hex).value.given_by == "rose"


async def test_a_coordinator_that_is_back_is_followed(swarm: Garden) -> None:
    async with client(swarm, "direct", direct=True) as direct:
        before = await direct.predict(IMAGES, top_k=1)
        await asyncio.to_thread(swarm.swarm.start_coordinator)
        await swarm.settled()
        async with swarm.swarm.coordinator() as operator:
            await operator.rollback(before.gate_version)

        async def followed() -> bool:
            return (await direct.predict(IMAGES, top_k=1)).gate_version == before.gate_version + 1

        await until(followed)
    with Client(credentials=swarm.homes["tulip"].root) as at_a_node:
        answer = await asyncio.to_thread(at_a_node.predict, IMAGES, top_k=1)
        assert np.array_equal(answer.probabilities, before.probabilities)


async def test_the_guides_examples_run_word_by_word(swarm: Garden) -> None:
    guide = (ROOT / "docs" / "guides" / "python-client.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    async with swarm.swarm.coordinator() as operator:
        line, _ = await operator.create_token("client")
    home = NodeHome(swarm.swarm.folder / "app")
    await asyncio.to_thread(join, line, home, name="app", role="client")
    np.save(swarm.swarm.folder / "x.npy", IMAGES[:4])
    arguments = (str(home.root), str(swarm.swarm.folder / "x.npy"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "\n".join(examples), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    out, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    lines = out.decode().splitlines()
    assert len(lines) == 6 and all("e1" in line for line in lines[:4])
    assert lines[4].endswith(" 3") and lines[5].endswith(" False")


def accuracy(answer: Answer) -> float:
    names = np.array(answer.class_names)[answer.probabilities.argmax(axis=1)]
    return float((names == LABELS.astype(str)).mean())


async def test_a_coordinator_that_is_told_to_end_answers_what_it_has_taken_up(swarm: Garden) -> None:
    """No answer that it gives is lost on its way, and what it does not take up hears so at once."""
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    async with swarm.swarm.coordinator() as plain:
        ask = Query(inputs=IMAGES, top_k=1)
        asked = [asyncio.create_task(plain.predict(ask, timeout_s=60.0)) for _ in range(60)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        process = swarm.swarm.processes["coordinator"]
        process.terminate()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert await asyncio.to_thread(process.wait, 30) == 0
    answers = [each for each in found if isinstance(each, Answer)]
    refused = [each for each in found if not isinstance(each, Answer)]
    assert answers and all(isinstance(each, WAITING_HELPS) for each in refused), refused
    log = swarm.swarm.log("coordinator")
    assert "coordinator.stopping" in log and "coordinator.not_drained" not in log
    trail = [*read_trail(swarm.swarm.home.coordinator / "audit", since=began)]
    assert sum(line["outcome"] == "answered" for line in trail) == len(answers)
    del swarm.swarm.processes["coordinator"]
