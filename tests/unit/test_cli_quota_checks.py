"""A delivery that the quota refuses shows: to its node in status and doctor, to the operator in doctor."""

from dataclasses import replace

import pytest

from swarm.cli.checks import agent_checks, registry_checks
from swarm.cli.observing import describe_agent
from swarm.domain.agent import AgentState
from swarm.domain.collection import OwnerBytes
from swarm.domain.ids import NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.membership import RegistryHealth

TROUBLE = "rose.e1@2: bytes of rose in the registry: found 90 and 20 more; expected at most 100"
AGENT = AgentState(
    node="rose", swarm="garden", connected=True, fence=1, gate_version=1, activity="", outbox=2,
    certificate_days=1.0, experts=(), socket_bytes=SocketBytes(), disk_free_bytes=10**12,
    clock_skew_s=0.0, expert_server_pid=0,
)  # fmt: skip
HEALTH = RegistryHealth(
    redis="ok", durability="always", blobs=1, blob_bytes=90, disk_free_bytes=10**12, certificate_days=6.0,
    socket_bytes=SocketBytes(),
)  # fmt: skip


def test_doctor_and_status_on_a_node_say_why_its_outbox_waits() -> None:
    (check,) = [each for each in agent_checks(AGENT) if each.name == "outbox"]
    assert check.ok and check.found == "2 waiting"
    stuck = replace(AGENT, outbox_trouble=TROUBLE)
    (check,) = [each for each in agent_checks(stuck) if each.name == "outbox"]
    assert not check.ok and TROUBLE in check.found
    assert f"the outbox waits: {TROUBLE}" in describe_agent(stuck)
    assert "waits" not in describe_agent(replace(stuck, outbox=0))


@pytest.mark.parametrize(
    ("size_bytes", "refused_bytes", "is_ok"),
    [(99_000, 0, True), (100_000, 0, False), (90_000, 20_000, False)],
)
def test_doctor_names_owners_at_their_quota_and_those_who_are_refused(
    size_bytes: int, refused_bytes: int, is_ok: bool
) -> None:
    rose = OwnerBytes(owner=NodeId("rose"), size_bytes=size_bytes, refused_bytes=refused_bytes)
    health = replace(HEALTH, owners=(rose,), node_quota_bytes=100_000)
    (check,) = [each for each in registry_checks(health) if each.name == "quota"]
    assert check.ok == is_ok and "100.0 kB" in check.found
    assert ("rose fills" in check.found) is not is_ok and ("20.0 kB more" in check.found) == bool(
        refused_bytes
    )


def test_a_node_is_told_of_its_own_quota_alone() -> None:
    full = OwnerBytes(owner=NodeId("rose"), size_bytes=100_000, refused_bytes=1)
    health = replace(HEALTH, owners=(full,), node_quota_bytes=100_000)
    for owner, is_ok in (("rose", False), ("ben", True)):
        (check,) = [each for each in registry_checks(health, owner) if each.name == "quota"]
        assert check.ok == is_ok and check.found.startswith(owner)


def test_without_a_quota_there_is_nothing_to_check() -> None:
    assert not [each for each in registry_checks(HEALTH) if each.name == "quota"]
