"""What `swarm status` says on a node of the experts in memory."""

from dataclasses import replace

from swarm.cli.observing import describe_agent
from swarm.domain.agent import AgentState, ExpertMemory
from swarm.domain.inference import SocketBytes

AGENT = AgentState(
    node="rose", swarm="garden", connected=True, fence=1, gate_version=1, activity="", outbox=0,
    certificate_days=1.0, experts=(), socket_bytes=SocketBytes(), disk_free_bytes=10**12,
    clock_skew_s=0.0, expert_server_pid=7,
)  # fmt: skip


def test_status_says_what_is_in_memory_and_how_often_it_had_to_be_loaded() -> None:
    memory = ExpertMemory(loaded=2, size_bytes=3_000_000, budget_bytes=1 << 22, hits=40, loads=5)
    said = describe_agent(replace(AGENT, memory=memory))
    assert "2 experts in memory" in said and "asked for 45 times, 5 times loaded" in said


def test_nothing_is_said_of_memory_before_the_expert_server_runs() -> None:
    assert "in memory" not in describe_agent(AGENT)
