"""A proposal that is recorded reaches its owner, whatever becomes of who made it and of the store."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from coordinator.envelope_files import EnvelopeFiles
from coordinator.growth import Growth
from coordinator.growth_book import GrowthBook
from coordinator.growth_making import GrowthParts
from coordinator.journal import Journal
from swarm.domain.errors import ConflictError, NotAuthorisedError, NotReadyError, SwarmError, UnreachableError
from swarm.domain.growth import GrowthOrder, Proposal
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.membership import Caller
from swarm.gating.growth import CANCELLED, NOT_NOW, Intention
from swarm.registry.memory_store import MemoryStore
from tests.support.answers import gate

E0 = ExpertId("ada.e0")
OPERATOR = Caller(role="operator", id=NodeId("operator"))
INTENTION = Intention(kind="split", owner=NodeId("ada"), experts=(E0,), reason="it loses")


class SlowStore(MemoryStore):
    """Remembers once it is let, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.error: SwarmError | None = None

    async def remember(self, name: str, value: str) -> None:
        self.asked.set()
        await self.let.wait()
        if self.error is not None:
            raise self.error
        await super().remember(name, value)


class Office:
    """Growth over a gate of four owners, who take every order unless they refuse it."""

    def __init__(self, folder: Path) -> None:
        self.now = 5.0
        self.store = SlowStore()
        self.book = GrowthBook(EnvelopeFiles(folder / "proposals"), Journal(self.store, lambda: self.now))
        self.orders: list[GrowthOrder] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.refusal: SwarmError | None = None
        live = SimpleNamespace(
            seen={}, get=lambda owner: SimpleNamespace(link=SimpleNamespace(carry_out=self._take))
        )
        parts = {
            "book": self.book,
            "changes": SimpleNamespace(is_retirement=lambda proposal: False),
            "keeper": SimpleNamespace(end_growth=self._end),
            "publication": SimpleNamespace(required=gate),
            "records": SimpleNamespace(present=self._present),
            "specifications": SimpleNamespace(current=SimpleNamespace(value=None)),
            "heads": None,
            "live": live,
            "store": self.store,
            "journal": None,
            "registry": None,
            "settings": None,
            "clock": lambda: self.now,
        }
        self.growth = Growth(GrowthParts(**cast(Any, parts)), patience_s=100.0)

    async def propose(self) -> Proposal:
        return await self.growth.propose(OPERATOR, "split", [E0], {}, 0, "key")

    async def ordered(self) -> None:
        async with asyncio.timeout(10):
            while [each.state for each in self.book.all()] != ["working"]:
                await asyncio.sleep(0.001)
        assert [order.proposal for order in self.orders] == ["p1"]

    async def _take(self, order: GrowthOrder, timeout_s: float) -> None:
        self.orders.append(order)
        await self.taking.wait()
        if self.refusal is not None:
            raise self.refusal

    async def _end(self, id: str, reason: str, evidence: Mapping[str, float] | None) -> Proposal:
        return await self.book.change(id, "failed", self.now, reason, evidence=evidence)

    async def _present(self) -> list[Any]:
        return []


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@asynccontextmanager
async def gone_caller(work: Any) -> AsyncIterator[None]:
    """Begin work, and let its caller go away at the end of the block."""
    caller = asyncio.create_task(work)
    await asyncio.sleep(0)
    yield
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()


async def test_a_caller_that_goes_away_leaves_no_proposal_that_nobody_was_asked_for(office: Office) -> None:
    async with gone_caller(office.propose()):
        await office.store.asked.wait()
    assert [each.state for each in office.book.all()] == ["open"]
    office.store.let.set()
    await office.ordered()
    assert (await office.propose()).id == "p1"  # the same call again


async def test_what_the_policy_proposes_is_ordered_though_its_caller_goes(office: Office) -> None:
    office.taking.clear()
    async with gone_caller(office.growth.propose_by_policy(INTENTION, 7)):
        async with asyncio.timeout(10):
            while not office.orders:
                await asyncio.sleep(0.001)
    office.taking.set()
    await office.ordered()


async def test_a_store_that_is_away_keeps_no_proposal_from_its_owner(office: Office) -> None:
    office.store.let.set()
    office.store.error = UnreachableError("store")
    with capture_logs() as logs:
        found = await office.propose()
    assert found.state == "working" and [order.proposal for order in office.orders] == ["p1"]
    assert "growth.not_remembered" in [entry["event"] for entry in logs]


async def test_a_node_that_is_called_policy_of_old_speaks_for_itself_only(office: Office) -> None:
    office.store.let.set()
    found = await office.growth.propose_by_policy(INTENTION, 7)
    assert (found.by, found.is_wish) == ("policy", False)
    assert not replace(found, owner=NodeId("policy")).is_wish
    with pytest.raises(NotAuthorisedError, match="asked by node policy"):
        await office.growth.cancel(Caller(role="node", id=NodeId("policy")), found.id, "")
    assert (await office.growth.cancel(OPERATOR, found.id, "")).state == "failed"


async def test_an_owner_that_cannot_take_it_now_is_told_apart_where_the_policy_asks(office: Office) -> None:
    office.store.let.set()
    office.refusal = ConflictError("split of ada.e0", found="a mega-batch that is being learned")
    found = await office.growth.propose_by_policy(INTENTION, 7)
    assert (found.state, found.evidence) == ("failed", {NOT_NOW: 1.0})
    assert found.reason.startswith("ada could not take it just now, and is asked again soon: split of ada.e0")
    found = await office.propose()
    assert (found.state, found.evidence) == ("failed", {})
    assert found.reason.startswith("ada did not take it: split of ada.e0")
    office.refusal = NotReadyError("split of ada.e0", found="no record of where its samples are")
    assert not (await office.growth.propose_by_policy(INTENTION, 7)).evidence


async def test_what_is_cancelled_says_so_in_its_evidence(office: Office) -> None:
    office.store.let.set()
    found = await office.propose()
    assert (await office.growth.cancel(OPERATOR, found.id, "")).evidence == {CANCELLED: 1.0}


async def test_a_refusal_reaches_the_caller(office: Office) -> None:
    office.store.let.set()
    with pytest.raises(SwarmError, match="gate 3"):
        await office.growth.propose(OPERATOR, "split", [E0], {}, 3, "")
    assert not office.book.all()
