"""A node in a running swarm: what it learns is served, also over outages, restarts, expired certificates."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from node.outbound import OutboundLog
from node.outbox import Outbox
from swarm.cli.up.supervisor import free_ports
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import (
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    TrunkMismatchError,
)
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.inference import Answer, ExpertAnswer, ExpertRequest, ExpertTask, Query
from swarm.domain.manifests import Manifest
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import AgentClient, ExpertClient
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity, create_service_identity, replace_certificate
from swarm.trust.statements import read_statement
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

IMAGES, LABELS = digits_like(40, 4, seed=77)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("nodes")) as running:
        yield running


def order(folder: Path, only: tuple[int, ...], seed: int = 0) -> TrainOrder:
    data = write_digits(folder / f"{only}-{seed}.npz", count=400, seed=seed, only=only)
    return TrainOrder(data=str(data), net="mlp:16x1", steps=150, seed=seed)


async def connected(client: AgentClient) -> bool:
    return (await client.state()).connected


async def ask(swarm: WholeSwarm, only: tuple[int, ...], **how: object) -> tuple[float, Answer]:
    """Ask about held-out samples of some classes; return accuracy and answer."""
    kept = np.isin(LABELS, only)
    async with swarm.coordinator() as client:
        answer = await client.predict(Query(inputs=IMAGES[kept], explain=True, **how))  # type: ignore[arg-type]
    names = np.array(answer.class_names)[answer.probabilities.argmax(axis=1)]
    return float((names == LABELS[kept].astype(str)).mean()), answer


async def test_what_a_node_learns_is_published_contributed_listed_and_served(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = swarm.joined("rose")
    swarm.agent(home)
    async with agent_of(home) as client:
        done = await carried_out(client, order(tmp_path, (0, 1)))
        assert done.figures["activated"] == 1.0 and done.figures["outbox"] == 0.0
        assert done.figures["train_flops"] > 0 and done.figures["gate_version"] == 1
        state = await client.state()
        assert state.experts and state.connected and state.socket_bytes.sent > 0
    left = OutboundLog(home.outbound).read()
    assert {"blob", "manifest", "contribution"} <= {item.what for item in left}
    (contribution,) = (item for item in left if item.what == "contribution")
    assert contribution.recipient == "coordinator" and contribution.attributes
    accuracy, answer = await ask(swarm, (0, 1), combination="gate")
    assert accuracy > 0.9
    assert {source.served_by for row in answer.sources for source in row} == {"rose"}


async def test_a_second_owner_is_judged_on_the_first_ones_data_and_both_are_routed_to(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = swarm.joined("tulip")
    swarm.agent(home)
    async with agent_of(home) as client:
        done = await carried_out(client, order(tmp_path, (2, 3)))
        assert done.figures["activated"] == 1.0
    first = OutboundLog(NodeHome(swarm.folder / "rose").outbound).read()
    sums = [item for item in first if item.what == "trial sums"]
    assert sums and sums[-1].recipient == "coordinator"
    accuracy, answer = await ask(swarm, (0, 1, 2, 3), combination="gate")
    assert accuracy > 0.9
    assert {source.served_by for row in answer.sources for source in row} == {"rose", "tulip"}

    def holds_each_others() -> bool:  # what a trial fetched goes, what a node stands in for stays
        for node, other in (("rose", "tulip"), ("tulip", "rose")):
            manifests = [
                read_statement(file.read_bytes(), Manifest).value
                for file in (NodeHome(swarm.folder / node).cache / "manifests").glob("*.json")
            ]
            if {manifest.owner for manifest in manifests} != {other}:
                return False
        return True

    await until(holds_each_others)


async def test_a_killed_expert_server_is_back_before_long(swarm: WholeSwarm) -> None:
    async with agent_of(NodeHome(swarm.folder / "rose")) as client:
        psutil.Process((await client.state()).expert_server_pid).kill()

    async def answers() -> bool:
        return (await ask(swarm, (0, 1), top_k=1))[0] > 0.9

    await until(answers)


async def test_training_while_the_registry_is_away_is_delivered_once_when_it_returns(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = swarm.joined("lily")
    agent = swarm.agent(home)
    async with agent_of(home) as client:
        await until(lambda: connected(client))
        swarm.kill("registry")
        what = order(tmp_path, (1, 2))
        with pytest.raises(SwarmError):
            async for step in client.train(what):
                if step.stage == "publish":
                    agent.kill()
    waiting = len(Outbox(home.outbox).pending())
    assert waiting >= 2
    swarm.agent(home)
    swarm.start_registry()
    await until(lambda: not Outbox(home.outbox).pending())
    async with agent_of(home) as client:
        experts = (await client.state()).experts
    assert len(experts) == waiting - 1 and all(name.endswith("@1") for name in experts)
    async with swarm.coordinator() as client:
        history = (await client.history()).envelopes
    assert len(history) == 3


async def test_the_same_data_again_make_the_next_version_of_the_same_leaf(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    async with agent_of(NodeHome(swarm.folder / "tulip")) as client:
        before = (await client.state()).experts
        await carried_out(client, order(tmp_path, (2, 3), seed=1))
        after = (await client.state()).experts
    assert {name.partition("@")[0] for name in before} <= {name.partition("@")[0] for name in after}
    assert any(name.endswith("@2") for name in after)


async def test_a_coordinator_that_comes_back_finds_its_nodes_with_newer_leases(swarm: WholeSwarm) -> None:
    async with agent_of(NodeHome(swarm.folder / "rose")) as client:
        before = (await client.state()).fence
        swarm.kill("coordinator")

        async def alone() -> bool:
            return not (await client.state()).connected

        await until(alone)
        swarm.start_coordinator()

        async def back() -> bool:
            state = await client.state()
            return state.connected and state.fence > before

        await until(back)

    async def answers() -> bool:
        try:
            return (await ask(swarm, (0, 1)))[0] > 0.9
        except SwarmError:
            return False

    await until(answers)


async def test_a_node_that_slept_past_its_certificate_renews_and_comes_back(swarm: WholeSwarm) -> None:
    home = NodeHome(swarm.folder / "rose")
    for agent in swarm.agents:
        if agent.poll() is None and str(home.root) in agent.args:
            agent.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(agent.wait, 20) == 0
    identity = Identity.load(home.identity)
    past = datetime.now(UTC) - timedelta(days=7)
    expired = CertificateAuthority.load(swarm.home.ca).issue(
        identity.renewal_csr(), role="node", member=identity.id, lifetime=timedelta(hours=24), now=past
    )
    replace_certificate(home.identity, expired)
    swarm.agent(home)
    async with agent_of(home) as client:
        await until(lambda: connected(client))
        assert (await client.state()).certificate_days > 0.9
    accuracy, _ = await ask(swarm, (0, 1))
    assert accuracy > 0.9


async def test_an_advertised_listener_answers_who_may_ask_and_refuses_others(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    home = swarm.joined("iris", advertise=address)
    swarm.agent(home)
    async with agent_of(home) as client:
        await carried_out(client, order(tmp_path, (0, 3)))
        (head,) = (await client.state()).experts
    async with swarm.registry() as registry:
        manifest = read_statement(await registry.manifest(expert=head.partition("@")[0]), Manifest)
    rows = np.arange(len(IMAGES))
    task = ExpertTask(expert=manifest.value.expert, manifest=manifest.digest, rows=rows)
    request = ExpertRequest(inputs=IMAGES, tasks=(task,), trunk=manifest.value.trunk, gate_version=1)

    async def asked_as(folder: Path, request: ExpertRequest) -> list[ExpertAnswer]:
        async with open_channel(Identity.load(folder), address, "node", NodeId("iris")) as channel:
            return await ExpertClient(channel).predict(request)

    (answer,) = await asked_as(swarm.home.coordinator / "identity", request)
    assert answer.values.shape == (len(IMAGES), len(manifest.value.class_names))
    assert await asked_as(NodeHome(swarm.folder / "rose").identity, request)
    assert await asked_as(swarm.home.operator / "identity", request)
    with pytest.raises(NotAuthorisedError):
        await asked_as(swarm.home.registry / "identity", request)
    for folder in (swarm.home.operator / "identity", NodeHome(swarm.folder / "rose").identity):
        async with open_channel(Identity.load(folder), address, "node", NodeId("iris")) as channel:
            with pytest.raises(NotAuthorisedError):
                await ExpertClient(channel).survey(b"", b"")
    with pytest.raises(TrunkMismatchError):
        await asked_as(home.identity, replace(request, trunk=manifest.digest))
    with pytest.raises(NotFoundError, match="no expert at this version"):
        await asked_as(home.identity, replace(request, tasks=(replace(task, manifest=request.trunk),)))
    with pytest.raises(InvalidInputError, match="float32"):
        await asked_as(home.identity, replace(request, inputs=IMAGES.astype(np.float32)))


async def test_a_node_that_leaves_is_out_of_the_gate_and_its_agent_ends(swarm: WholeSwarm) -> None:
    home = NodeHome(swarm.folder / "tulip")
    agent = next(one for one in swarm.agents if one.poll() is None and str(home.root) in one.args)
    async with agent_of(home) as client:
        _, withdrawn = await client.leave("moved away")
        assert withdrawn and all(name.startswith("tulip.") for name in withdrawn)
    assert await asyncio.to_thread(agent.wait, 20) == 0
    _, answer = await ask(swarm, (0, 1))
    assert "tulip" not in {source.owner for row in answer.sources for source in row}
    log = home.run / "agent.log"
    before = len(log.read_text())
    swarm.agent(home)
    async with agent_of(home) as client:
        await until(lambda: "revoked" in log.read_text()[before:])
        assert not await connected(client)


async def test_the_log_of_each_service_says_why_a_strangers_handshake_failed(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    """gRPC's core refuses it, in a line of its own."""
    twin = CertificateAuthority.create(tmp_path / "ca", SwarmId("garden"), now=datetime.now(UTC))
    stranger = create_service_identity(twin, tmp_path / "twin", role="coordinator", now=datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(stranger.folder / "certificate.pem", stranger.folder / "key.pem")

    def knock(port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 5)
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain) as sealed:
            sealed.recv(1)

    for name in ("registry", "coordinator"):
        await asyncio.to_thread(knock, swarm.port(name))
        await until(lambda name=name: "CERTIFICATE_VERIFY_FAILED" in swarm.log(name))  # type: ignore[misc]
