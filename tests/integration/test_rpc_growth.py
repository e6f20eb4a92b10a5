"""Growth over real sockets: who may propose what, orders and surveys on a node's stream, refusals by name."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swarm.domain.errors import ConflictError, InvalidInputError, NotAuthorisedError, NotFoundError
from swarm.domain.growth import GrowthReport
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.membership import Event, Heartbeat, Hello, Welcome
from swarm.rpc.channel import open_channel, open_local
from swarm.rpc.clients import ExpertClient
from swarm.rpc.node_stream import NodeStreamClient, NodeStreamServicer
from swarm.rpc.ports import NodeLink
from swarm.rpc.server import create_local_server
from swarm.rpc.servicers import expert_service, growth_service
from swarm.trust.identity import Identity
from tests.support.rpc import (
    Experts,
    Grower,
    Growth,
    Membership,
    asking,
    eventually,
    found_now,
    growth_order,
    hello,
    node,
    service,
    serving,
    survey,
)
from tests.support.trust import Founded

EXPERT = ExpertId("ada.e0")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found_now(tmp_path_factory.mktemp("swarm"))


@pytest.fixture(scope="module")
def ada(swarm: Founded) -> Identity:
    return node(swarm, "ada")


class Deaf:
    """A listener that hears nothing."""

    async def on_welcome(self, welcome: Welcome) -> None: ...
    async def on_gate(self, envelope: bytes) -> None: ...
    async def on_specification(self, envelope: bytes) -> None: ...
    async def on_revocations(self, envelope: bytes) -> None: ...
    async def on_event(self, event: Event) -> None: ...
    async def on_placement(self, manifests: object) -> None: ...
    async def on_disconnect(self, error: object) -> None: ...


@asynccontextmanager
async def linked(swarm: Founded, identity: Identity, grower: Grower | None) -> AsyncIterator[NodeLink]:
    """A coordinator's link to a node whose stream is open."""
    port = Membership()

    async def greet() -> Hello:
        return hello()

    def beat(fence: int) -> Heartbeat:
        return Heartbeat(fence=fence, socket_bytes=SocketBytes(), activity="", served=(), gate_version=0)

    async with (
        serving(swarm.coordinator, [NodeStreamServicer(port).service()]) as (_, address),
        open_channel(identity, address, "coordinator", NodeId("coordinator")) as connection,
    ):
        client = NodeStreamClient(
            connection,
            experts=Experts(),
            grower=grower,
            listener=Deaf(),
            hello=greet,
            beat=beat,
            jitter=random.Random(0),
        )
        running = asyncio.create_task(client.run())
        await eventually(lambda: identity.id in port.links)
        yield port.links[identity.id]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_operator_proposes_watches_cancels_and_sets_the_policy(swarm: Founded) -> None:
    port = Growth()
    operator = service(swarm, "operator")
    async with asking(swarm.coordinator, operator, growth_service(port)) as client:
        made = await client.propose("split", [EXPERT], {"gate": "learned"}, gate_version=3, key="k1")
        assert (made.kind, made.experts, made.by, made.options) == (
            "split",
            (EXPERT,),
            operator.id,
            {"gate": "learned"},
        )
        assert port.acts[0] == (
            "propose",
            operator.caller,
            "split",
            (EXPERT,),
            {"gate": "learned"},
            3,
            "k1",
        )
        other = await client.propose("merge", [EXPERT, ExpertId("bob.e1")], {"method": "ties"})
        assert [each.id for each in await client.proposals()] == [other.id, made.id]
        assert await client.proposals(made.id) == [made]
        with pytest.raises(NotFoundError, match="proposal p9"):
            await client.proposals("p9")
        ended = await client.cancel(made.id)
        assert (ended.state, ended.has_ended) == ("rolled-back", True)
        assert await client.growth_policy() == "manual"
        assert await client.growth_policy("eager") == await client.growth_policy() == "eager"
        with pytest.raises(NotAuthorisedError, match=r"Growth/Report; expected one of the roles node"):
            await client.report_growth(GrowthReport(proposal=made.id, stage="trained"))


async def test_a_node_proposes_and_reports_and_may_not_set_the_policy(swarm: Founded, ada: Identity) -> None:
    port = Growth()
    async with asking(swarm.coordinator, ada, growth_service(port)) as client:
        made = await client.propose("retrain", [EXPERT])
        report = GrowthReport(proposal=made.id, stage="failed", reason="out of memory")
        assert (await client.report_growth(report, key="k2")).id == made.id
        assert port.acts[-1] == ("report", ada.caller, report, "k2")
        with pytest.raises(NotAuthorisedError, match="Growth/Policy"):
            await client.growth_policy("eager")


async def test_a_refused_proposal_keeps_its_reason_and_bad_ones_do_not_reach_the_port(
    swarm: Founded, ada: Identity
) -> None:
    port = Growth()
    port.refusal = ConflictError("leaf ada.l0", found="proposal p1, which is open", expected="none on it")
    async with asking(swarm.coordinator, ada, growth_service(port)) as client:
        with pytest.raises(ConflictError, match=r"leaf ada\.l0: found proposal p1"):
            await client.propose("split", [EXPERT])
        port.acts.clear()
        for kind, experts, options, named in (
            ("grow", [EXPERT], {}, "kind: found 'grow'"),
            ("split", ["ada.l0"], {}, "expert id"),
            ("merge", [EXPERT, EXPERT], {}, "experts: found 2, 1"),
            ("split", [EXPERT], {"method": "mean"}, "split, option 'method'"),
            ("merge", [EXPERT], {"method": "best"}, "merge, method"),
        ):
            with pytest.raises(InvalidInputError, match=named):
                await client.propose(kind, experts, options)  # type: ignore[arg-type]
        for proposal in ("", "../p", "x" * 65):
            with pytest.raises(InvalidInputError, match="proposal: found"):
                await client.cancel(proposal)
    assert not port.acts


async def test_clients_may_look_and_change_nothing(swarm: Founded) -> None:
    port = Growth()
    async with asking(swarm.coordinator, service(swarm, "client"), growth_service(port)) as client:
        assert await client.proposals() == []
        for work in (client.propose("split", [EXPERT]), client.cancel("p1"), client.growth_policy()):
            with pytest.raises(NotAuthorisedError):
                await work


async def test_orders_and_surveys_travel_over_the_nodes_stream(swarm: Founded, ada: Identity) -> None:
    grower = Grower()
    async with linked(swarm, ada, grower) as link:
        assert await link.survey(b"gate", b"specification", 5.0) == survey()
        await link.carry_out(growth_order(), 5.0)
        assert grower.orders == [growth_order()]
        grower.refusal = ConflictError("ada.e0", found="a training of it", expected="none", remedy="wait")
        with pytest.raises(ConflictError, match=r"ada\.e0: found a training of it"):
            await link.carry_out(growth_order(), 5.0)


async def test_a_node_that_can_not_grow_says_so_by_name(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada, None) as link:
        with pytest.raises(NotFoundError, match=r"Grower/CarryOut: found a call this node does not know"):
            await link.carry_out(growth_order(), 5.0)


async def test_an_agent_surveys_through_its_expert_server(ada: Identity, tmp_path: Path) -> None:
    server = create_local_server(ada.caller, [expert_service(Experts())])
    tmp_path.chmod(0o700)
    socket = tmp_path / "s"
    server.add_socket(socket)
    await server.start()
    async with open_local(socket) as connection:
        assert await ExpertClient(connection).survey(b"gate", b"specification") == survey()
    await server.stop(0)
