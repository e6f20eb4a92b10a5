"""Weights from the nodes that live, the likeliest to hold them first."""

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from node.outbound import OutboundLog
from node.standing_in import stand_ins
from swarm.cli.up.supervisor import free_ports
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import UnreachableError
from swarm.domain.ids import NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.manifests import Manifest
from swarm.domain.membership import NodeView
from swarm.modules.blobs import BlobFiles
from swarm.rpc.peers import MOST_PEERS, LivingPeers
from swarm.trust.statements import read_statement
from tests.support.node_homes import write_digits
from tests.support.rpc import found_now, node
from tests.support.trust import manifest
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

NODES = [NodeId(f"n{number}") for number in range(20)]
EXPERT = manifest("n7")


def view(name: NodeId, **changes: Any) -> NodeView:
    plain = NodeView(
        id=name,
        alive=True,
        revoked=False,
        fence=1,
        advertise=f"{name}:7073",
        activity="",
        last_seen=time.time(),
        experts=(),
        socket_bytes=SocketBytes(sent=0, received=0),
        software="",
    )
    return replace(plain, **changes)


@dataclass
class Status:
    nodes: list[NodeView]


class Coordinator:
    def __init__(self, *nodes: NodeView) -> None:
        self.nodes = list(nodes)
        self.is_away = False

    async def status(self) -> Status:
        if self.is_away:
            raise UnreachableError("coordinator")
        return Status(self.nodes)


async def asked(coordinator: Coordinator, folder: Path) -> list[str]:
    identity = node(found_now(folder), "n3")
    find = LivingPeers(identity, identity.id, cast(Any, coordinator))
    async with AsyncExitStack() as stack:
        holders = await stack.enter_async_context(find(EXPERT))
        return [holder.name for holder in holders]


async def test_the_owner_is_asked_first_then_who_stands_in_for_it(tmp_path: Path) -> None:
    names = await asked(Coordinator(*map(view, NODES)), tmp_path)
    assert len(names) == MOST_PEERS
    assert names[0] == "node n7 at n7:7073"
    first, second = stand_ins(EXPERT.expert, NodeId("n7"), set(NODES) - {NodeId("n3")}, 2)
    assert names[1:3] == [f"node {name} at {name}:7073" for name in (first, second)]


@pytest.mark.parametrize("changes", [{"alive": False}, {"revoked": True}, {"advertise": ""}])
async def test_who_is_gone_revoked_or_has_no_listener_is_not_asked_nor_is_who_asks(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    nodes = [view(NodeId("n7"), **changes), view(NodeId("n3")), view(NodeId("n5"))]
    assert await asked(Coordinator(*nodes), tmp_path) == ["node n5 at n5:7073"]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path / "s") as running:
        yield running


async def test_an_agent_gets_what_it_holds_of_others_from_their_owner_where_the_registry_lost_it(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    rose = swarm.joined("rose", advertise=f"127.0.0.1:{free_ports(1)[0]}")
    swarm.agent(rose)
    async with agent_of(rose) as client:
        data = write_digits(tmp_path / "rose.npz", count=300, only=(0, 1))
        done = await carried_out(client, TrainOrder(data=str(data), net="mlp:512x1", steps=50))
        assert done.figures["activated"] == 1.0
    stored = BlobFiles(swarm.home.registry / "blobs")
    (head,) = (rose.state / "accepted").glob("*.json")
    blobs = read_statement(head.read_bytes(), Manifest).value.blobs()
    lost = max(blobs, key=stored.size)  # one tensor alone: several in one blob come from the registry alone
    stored.remove(lost)
    lily = swarm.joined("lily")
    swarm.agent(lily)
    await until(lambda: (lily.cache / "manifests" / head.name).exists())
    assert BlobFiles(lily.cache).missing(blobs) == []
    sent = [line for line in OutboundLog(rose.outbound).read() if line.recipient == "node lily"]
    assert {line.digest for line in sent} == {lost}


async def test_without_the_coordinator_nobody_is_asked_besides_the_registry(tmp_path: Path) -> None:
    coordinator = Coordinator(view(NodeId("n7")))
    coordinator.is_away = True
    assert await asked(coordinator, tmp_path) == []
