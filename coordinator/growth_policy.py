"""Growth of its own accord: survey the nodes now and then, plan, propose one thing at a time."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from coordinator.gate_keeper import GateKeeper
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth import Growth
from coordinator.growth_book import GrowthBook
from coordinator.growth_common import CommonRegions, FindRegions
from coordinator.growth_return import ReturningOwners
from coordinator.growth_settings import GrowthSettings
from coordinator.heads import Heads
from coordinator.live_nodes import LiveNode, LiveNodes
from coordinator.specifications import Specifications
from swarm.answering.active_gate import ActiveGate
from swarm.answering.known_head import KnownHead
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.growth import Criterion, Proposal, Survey
from swarm.domain.ids import Digest, LeafId, NodeId
from swarm.gating.growth import (
    ENOUGH_SAMPLES,
    STALE_AFTER_S,
    Intention,
    LeafFacts,
    Limits,
    next_look_s,
    plan_growth,
)
from swarm.gating.surveys import Surveyed, is_sound_survey, sum_surveys

EVERY_S = 300.0
SOON_S = 5.0
"""After a new gate the next look comes so soon, for one proposal's end is the next one's beginning."""
SURVEY_TIMEOUT_S = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyParts:
    """What the policy sees, and the growth that it proposes to."""

    growth: Growth
    returning: ReturningOwners
    keeper: GateKeeper
    book: GrowthBook
    settings: GrowthSettings
    publication: GatePublication
    records: GateRecords
    specifications: Specifications
    heads: Heads
    live: LiveNodes
    find_regions: FindRegions
    clock: Callable[[], float]


class GrowthPolicies:
    """Looks every `every_s`, and soon after `notice_gate`: of a new gate, or policy. Under `manual` it asks
    nobody anything."""

    def __init__(
        self,
        parts: PolicyParts,
        *,
        every_s: float = EVERY_S,
        criterion: Criterion = "loss",
        stale_after_s: float = STALE_AFTER_S,
        started_at: float = 0.0,
    ) -> None:
        """`started_at`: an owner that was never here since then counts as away from then on."""
        self._parts, self._every_s = parts, every_s
        self._criterion, self._stale_after_s = criterion, stale_after_s
        self._started_at = started_at
        self._common = CommonRegions(parts.find_regions)
        self._soon = asyncio.Event()
        self._unused: dict[LeafId, int] = {}
        self._counted_at = -math.inf
        self._judged_again: set[Digest] = set()

    def notice_gate(self) -> None:
        """Look again soon; never blocks."""
        self._soon.set()

    async def run(self) -> None:
        """Look after growth until cancelled; what fails is tried the next time."""
        while True:
            try:
                await asyncio.wait_for(self._soon.wait(), self._wait_s())
                await asyncio.sleep(min(SOON_S, self._every_s))
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self.readmit()
                await self.look()
            except (SwarmError, OSError) as error:
                log.warning("growth.not_planned", reason=str(error))
            except Exception:
                log.exception("growth.not_planned")

    def _wait_s(self) -> float:
        return next_look_s(self._parts.book.all(), self._every_s, self._parts.clock())

    async def readmit(self) -> None:
        """Let those who were retired as stale and are here again come back, under any policy; each once."""
        active = self._parts.publication.active
        present = [leaf.owner for leaf in active.value.leaves] if active is not None else []
        for owner, kept in self._parts.returning.retired(present).items():
            if self._parts.live.get(owner) is not None and kept not in self._judged_again:
                outcome = await self._parts.keeper.readmit(owner)
                if outcome.state == "refused":
                    self._judged_again.add(kept)

    async def look(self) -> Proposal | None:
        """Survey the nodes, plan, and return what was proposed; None where there was nothing to propose, or
        where another gate came meanwhile: the next look is at that."""
        parts = self._parts
        active, policy = parts.publication.active, parts.settings.policy
        if policy == "manual" or active is None or not active.value.leaves or parts.book.open():
            return None
        found = await self._survey(active)
        if parts.publication.active is not active:
            return None
        self._note_use(found, active.value)
        facts = await self._facts(active.value)
        if parts.publication.active is not active:
            return None
        intention = plan_growth(
            found,
            facts,
            policy,
            parts.book.all(),
            limits=self._limits(),
            criterion=self._criterion,
            now=parts.clock(),
        )
        if intention is None:
            return None
        regions = await self._common.of(intention)
        if parts.publication.active is not active or parts.book.open():
            return None
        return await self._propose(intention, active.version, regions)

    async def _propose(self, intention: Intention, gate_version: int, regions: bytes) -> Proposal:
        log.info("growth.intended", kind=intention.kind, owner=intention.owner, reason=intention.reason)
        return await self._parts.growth.propose_by_policy(intention, gate_version, regions)

    async def _survey(self, active: ActiveGate) -> Surveyed:
        specification = self._parts.specifications.current.envelope

        async def ask(node: LiveNode) -> tuple[NodeId, Survey | None]:
            name = node.link.node
            try:
                survey = await node.link.survey(active.envelope, specification, SURVEY_TIMEOUT_S)
            except SwarmError as error:
                log.warning("growth.not_surveyed", node=name, reason=str(error))
                return name, None
            if not is_sound_survey(survey, active.version, (leaf.leaf for leaf in active.value.leaves)):
                log.warning("growth.not_surveyed", node=name, reason="figures that cannot be true")
                return name, None
            return name, survey

        answers = await asyncio.gather(*(ask(node) for node in self._parts.live))
        return sum_surveys({name: survey for name, survey in answers if survey is not None})

    def _note_use(self, found: Surveyed, gate: GateStatement) -> None:
        """Count the surveys in a row in which a leaf was not used, where enough samples say so. Of those that
        come soon after one another, as new gates make them, one counts in `every_s`."""
        if found.samples < ENOUGH_SAMPLES:
            return
        now = self._parts.clock()
        counts = int(now - self._counted_at >= self._every_s)
        if counts:
            self._counted_at = now
        used = {leaf for leaf, each in found.leaves.items() if each.samples}
        names = [leaf.leaf for leaf in gate.leaves]
        self._unused = {name: 0 if name in used else self._unused.get(name, 0) + counts for name in names}

    async def _facts(self, gate: GateStatement) -> list[LeafFacts]:
        given = {each.value.owner: each.value for each in await self._parts.records.present()}
        # Another gate may have come by now: who has left has given nothing.
        leaves = [leaf for leaf in gate.leaves if leaf.owner in given]
        parents: Mapping[str, str] = {branch.leaf: branch.parent for branch in gate.branches}
        heads = {leaf.leaf: self._parts.heads.answering(leaf) for leaf in leaves}
        facts = []
        for leaf in leaves:
            own = given[leaf.owner]
            counts = next((each.class_counts for each in own.leaves if each.leaf == leaf.leaf), {})
            facts.append(
                LeafFacts(
                    leaf=leaf.leaf,
                    expert=leaf.expert,
                    owner=leaf.owner,
                    samples=sum(counts.values()),
                    classes=len(counts),
                    depth=_depth(leaf, parents),
                    changed_at=own.created_at,
                    computes=_computes(heads[leaf.leaf]),
                    parent=leaf.parent,
                    unused=self._unused.get(leaf.leaf, 0),
                    away_s=self._away_s(leaf.owner),
                )
            )
        return facts

    def _away_s(self, owner: NodeId) -> float:
        if self._parts.live.get(owner) is not None:
            return 0.0
        seen = self._parts.live.seen.get(owner)
        since = seen.last_seen if seen is not None else self._started_at
        return max(0.001, self._parts.clock() - since)

    def _limits(self) -> Limits:
        specification = self._parts.specifications.current.value
        return Limits(
            min_shard=specification.min_leaf_count,
            max_leaves=specification.max_leaves_per_owner,
            stale_after_s=self._stale_after_s,
        )


def _depth(leaf: GateLeaf, parents: Mapping[str, str]) -> int:
    depth, above = 0, leaf.parent
    while above:
        depth, above = depth + 1, parents.get(above, "")
    return depth


def _computes(head: KnownHead | None) -> str:
    return "" if head is None else head.identity
