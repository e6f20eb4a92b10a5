"""The coordinator's own looks at growth: what comes in between does no harm, and nothing ends them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from coordinator.growth_policy import GrowthPolicies, PolicyParts
from swarm.domain.errors import ConflictError
from swarm.domain.growth import LeafSurvey, Proposal, Survey
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.gating.growth import Intention
from tests.support.answers import KNOWS, gate

OWNERS = tuple(KNOWS)
VERSION = 7


class Swarm:
    """A gate of four owners' leaves, the first of which loses, and the policy that looks at it."""

    def __init__(self) -> None:
        self.publication = SimpleNamespace(active=gate(version=VERSION))
        self.owners = list(OWNERS)
        self.proposed: list[Intention] = []
        self.looks = 0
        self.history: list[Proposal] = []
        self.now = 100.0
        self.found = LeafSurvey(leaf=LeafId("ada.l0"), samples=20, nll_sum=9.0, correct=0, novel=0)
        self.while_surveyed: Callable[[], None] = lambda: None
        self.while_read: Callable[[], None] = lambda: None
        self.refusal: Exception | None = None
        self.ends: Mapping[str, Any] = {}
        nodes = [SimpleNamespace(link=self._link(owner)) for owner in OWNERS]
        self.limits = SimpleNamespace(min_leaf_count=10, max_leaves_per_owner=8)
        specification = SimpleNamespace(envelope=b"", value=self.limits)
        parts = {
            "growth": SimpleNamespace(propose_by_policy=self._propose),
            "returning": SimpleNamespace(retired=lambda present: {}),
            "keeper": None,
            "book": SimpleNamespace(open=list, all=lambda: self.history),
            "settings": SimpleNamespace(policy="eager"),
            "publication": self.publication,
            "records": SimpleNamespace(present=self._present),
            "specifications": SimpleNamespace(current=specification),
            "heads": SimpleNamespace(answering=lambda leaf: None),
            "live": _Live(nodes),
            "find_regions": None,
            "clock": lambda: self.now,
        }
        self.policies = GrowthPolicies(PolicyParts(**cast(Any, parts)), every_s=0.001)

    def have_another_leaf(self, owner: str) -> None:
        """Let an owner have a second leaf, that nobody uses."""
        active = self.publication.active
        own = next(leaf for leaf in active.value.leaves if leaf.owner == owner)
        more = replace(own, leaf=LeafId(f"{owner}.l1"), expert=ExpertId(f"{owner}.e1"))
        value = replace(active.value, leaves=(*active.value.leaves, more))
        self.publication.active = replace(active, statement=replace(active.statement, value=value))

    def leave(self, owner: str) -> None:
        """Let an owner leave: the next version of the gate is without it."""
        active = self.publication.active
        value = replace(
            active.value,
            version=active.version + 1,
            leaves=tuple(leaf for leaf in active.value.leaves if leaf.owner != owner),
        )
        self.publication.active = replace(active, statement=replace(active.statement, value=value))
        self.owners.remove(owner)

    def _link(self, owner: str) -> Any:
        async def survey(envelope: bytes, specification: bytes, timeout_s: float) -> Survey:
            self.looks += 1
            self.while_surveyed()
            found = replace(self.found, leaf=LeafId(f"{owner}.l0"))
            return Survey(gate_version=VERSION, leaves=(found,) if owner == OWNERS[0] else ())

        return SimpleNamespace(node=NodeId(owner), survey=survey)

    async def _present(self) -> list[Any]:
        self.while_read()
        return [
            SimpleNamespace(
                value=SimpleNamespace(
                    owner=owner,
                    created_at=1.0,
                    leaves=[SimpleNamespace(leaf=f"{owner}.l0", class_counts={"a": 200})],
                )
            )
            for owner in self.owners
        ]

    async def _propose(self, intention: Intention, gate_version: int, regions: bytes) -> Proposal:
        self.proposed.append(intention)
        if self.refusal is not None:
            raise self.refusal
        return Proposal(
            id="p1",
            kind=intention.kind,
            experts=intention.experts,
            owner=intention.owner,
            gate_version=gate_version,
            by="policy",
            created_at=100.0,
            changed_at=100.0,
            **self.ends,
        )


class _Live(list[Any]):
    def get(self, owner: NodeId) -> Any:
        return next(node for node in self if node.link.node == owner)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_losing_leaf_is_proposed() -> None:
    swarm = Swarm()
    assert await swarm.policies.look() is not None
    assert [(each.kind, each.experts) for each in swarm.proposed] == [("split", (ExpertId("ada.e0"),))]


@pytest.mark.parametrize("who", ["ada", "bob"])
@pytest.mark.parametrize("when", ["while_surveyed", "while_read"])
async def test_who_leaves_while_the_nodes_are_surveyed_does_no_harm(who: str, when: str) -> None:
    swarm = Swarm()

    def leave() -> None:
        if who in swarm.owners:
            swarm.leave(who)

    setattr(swarm, when, leave)
    assert await swarm.policies.look() is None
    assert not swarm.proposed  # what was surveyed is not the gate any more


@pytest.mark.parametrize("refusal", [ConflictError("gate", found="another one"), KeyError("ada")])
async def test_whatever_fails_the_next_look_comes(refusal: Exception) -> None:
    swarm = Swarm()
    swarm.refusal = refusal
    with capture_logs() as logs:
        looking = asyncio.create_task(swarm.policies.run())
        await until(lambda: len(swarm.proposed) > 1)
        assert not looking.done()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert {entry["event"] for entry in logs} >= {"growth.intended", "growth.not_planned"}


async def test_surveys_soon_after_one_another_count_once_for_what_nobody_uses() -> None:
    swarm = Swarm()
    swarm.found = replace(swarm.found, samples=200)
    swarm.limits.min_leaf_count = 1000  # nothing is large enough to be split
    swarm.have_another_leaf("ada")
    for _ in range(5):
        await swarm.policies.look()
    assert not swarm.proposed
    for _ in range(2):
        swarm.now += 1.0
        await swarm.policies.look()
    assert [(each.kind, each.reason) for each in swarm.proposed] == [
        ("remove", "ada.l1 was not used in 3 surveys")
    ]
