"""A node whose coordinator and registry are away: it trains, keeps its work, and leaves no process behind."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from node.control import agent_socket
from node.outbound import OutboundLog
from node.outbox import Outbox
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, InvalidInputError, SwarmError
from swarm.rpc.clients import AgentClient
from tests.support.node_homes import member_home, start_agent_anew, write_digits
from tests.support.whole_swarm import agent_of

Agents = Callable[[NodeHome], "subprocess.Popen[bytes]"]
Running = tuple[NodeHome, "subprocess.Popen[bytes]"]


@pytest.fixture
def agents() -> Iterator[Agents]:
    """Start agents; what still runs at the end of a test is killed, with its children."""
    started: list[subprocess.Popen[bytes]] = []

    def start(home: NodeHome) -> "subprocess.Popen[bytes]":
        started.append(start_agent_anew(home))
        return started[-1]

    yield start
    for agent in started:
        end(agent)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent for tests that leave it as it was."""
    home, _ = member_home(tmp_path_factory.mktemp("running"))
    agent = start_agent_anew(home)
    yield home, agent
    end(agent)


def end(agent: "subprocess.Popen[bytes]") -> None:
    if agent.poll() is None:
        agent.kill()
    agent.wait()


async def expert_server_pid(client: AgentClient) -> int:
    for _ in range(1200):
        if pid := (await client.state()).expert_server_pid:
            return pid
        await asyncio.sleep(0.05)
    raise AssertionError("no expert server")


async def until_gone(pid: int, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        await asyncio.sleep(0.05)


async def test_killing_the_agent_leaves_no_child_and_the_next_agent_starts(
    tmp_path: Path, agents: Agents
) -> None:
    home, _ = member_home(tmp_path)
    agent = agents(home)
    async with agent_of(home) as client:
        child = await expert_server_pid(client)
        sockets = agent_socket(home)
    agent.kill()
    agent.wait()
    await until_gone(child)
    agents(home)
    async with agent_of(home) as client:
        assert (await client.state()).node == "rose"
    assert sockets is not None and not sockets.parent.exists()


async def test_a_second_agent_in_one_home_is_refused_and_names_the_first(
    running: Running, agents: Agents
) -> None:
    home, first = running
    async with agent_of(home):
        second = agents(home)
        assert second.wait(30) == 1
    assert f"process {first.pid}" in (home.run / "agent.log").read_text()


async def test_an_agent_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path, agents: Agents) -> None:
    home, _ = member_home(tmp_path)
    agent = agents(home)
    async with agent_of(home) as client:
        child = await expert_server_pid(client)
        socket = agent_socket(home)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(20) == 0, (home.run / "agent.log").read_text()
    await until_gone(child)
    assert socket is not None and not socket.parent.exists()
    assert not (home.run / "agent.json").exists()


async def test_a_crashed_expert_server_is_started_again(running: Running) -> None:
    home, _ = running
    async with agent_of(home) as client:
        first = await expert_server_pid(client)
        psutil.Process(first).kill()
        for _ in range(200):
            if (pid := (await client.state()).expert_server_pid) not in (0, first):
                return
            await asyncio.sleep(0.05)
    raise AssertionError(f"still process {pid}")


async def test_training_ends_with_everything_in_the_outbox_also_over_a_kill(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = member_home(tmp_path)
    order = TrainOrder(
        data=str(write_digits(tmp_path / "d.npz")), net="mlp:16x1", steps=60, idempotency_key="once"
    )
    agent = agents(home)
    steps: list[TrainStep] = []
    async with agent_of(home) as client:
        with pytest.raises(SwarmError):
            async for step in client.train(order):
                steps.append(step)
                if step.stage == "publish":
                    agent.kill()
    assert {"train", "publish"} <= {step.stage for step in steps}
    before = Outbox(home.outbox).pending()
    assert [intent.kind for intent in before] == ["publish"] * (len(before) - 1) + ["contribute"]
    agents(home)
    async with agent_of(home) as client:
        state = await client.state()
        assert (state.outbox, state.connected, state.experts) == (len(before), False, ())
    assert OutboundLog(home.outbound).read() == []


async def test_a_killed_agent_takes_its_training_up_again(tmp_path: Path, agents: Agents) -> None:
    home, _ = member_home(tmp_path)
    order = TrainOrder(
        data=str(write_digits(tmp_path / "d.npz")), net="mlp:16x1", steps=400, idempotency_key="once"
    )
    agent = agents(home)
    async with agent_of(home) as client:
        with pytest.raises(SwarmError):
            async for step in client.train(order):
                if step.stage == "train":
                    agent.kill()
    assert Outbox(home.outbox).pending() == []
    agents(home)
    for _ in range(600):
        if any(intent.kind == "contribute" for intent in Outbox(home.outbox).pending()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError((home.run / "agent.log").read_text())


async def test_a_dry_run_lists_what_would_leave_and_keeps_nothing(running: Running, tmp_path: Path) -> None:
    home, _ = running
    order = TrainOrder(data=str(write_digits(tmp_path / "d.npz")), net="mlp:16x1", dry_run=True)
    async with agent_of(home) as client:
        steps = [step async for step in client.train(order)]
    assert {listing.recipient for listing in steps[-1].listings} >= {"registry", "coordinator"}
    assert not Outbox(home.outbox).pending() and not list((home.state / "jobs").iterdir())


async def test_bad_data_are_refused_by_name_and_the_agent_goes_on(running: Running, tmp_path: Path) -> None:
    home, _ = running
    one_class = write_digits(tmp_path / "one.npz", classes=1)
    async with agent_of(home) as client:
        with pytest.raises(InvalidInputError, match="one class"):
            async for _ in client.train(TrainOrder(data=str(one_class))):
                pass
        assert (await client.state()).activity == "idle"


async def test_who_goes_away_ends_the_learning_and_a_second_order_meanwhile_is_refused(
    running: Running, tmp_path: Path
) -> None:
    home, _ = running
    order = TrainOrder(data=str(write_digits(tmp_path / "d.npz")), net="mlp:16x1", steps=100_000)
    async with agent_of(home) as client:
        learning = client.train(order)
        first = await anext(aiter(learning))
        assert first.stage
        with pytest.raises(ConflictError, match="not done yet"):
            async for _ in client.train(order):
                pass
        await learning.aclose()  # type: ignore[attr-defined]
        for _ in range(200):
            if (await client.state()).activity == "idle":
                break
            await asyncio.sleep(0.05)
        assert (await client.state()).activity == "idle"
    assert Outbox(home.outbox).pending() == []
