"""kill -9 of a coordinator at every named step of a join, an adoption, a proposal, a lease and a leave."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos_registry.coordinator_checks import check, check_root, check_stale, count_orphans
from benchmarks.chaos_registry.coordinator_site import CoordinatorSite, CutShortError, ToldNode
from benchmarks.chaos_registry.site import Tally
from swarm.domain.errors import NotAuthorisedError, SwarmError, UnauthenticatedError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import GrowthReport, Proposal
from swarm.domain.ids import ROOT_EXPERT
from swarm.domain.manifests import Manifest
from swarm.domain.membership import ContributionOutcome
from swarm.fault_points import FAULT_POINTS
from swarm.trust.statements import read_statement, statement_digest

COORDINATOR_POINTS = tuple(name for name, side in FAULT_POINTS.items() if side == "coordinator")
PASSED: dict[str, int] = {
    "coordinator.gate": 2,
    "coordinator.specification": 2,
    "coordinator.root": 2,
    "coordinator.fence": 4,
    "coordinator.growth.recorded": 2,
    "coordinator.growth.remembered": 2,
}
"""How often a member's life passes a point, by the beginning of its name; once where none is said."""
MOST_LOOKS = 5000
TRIES = 3
ROOT = "coordinator.root.committed"
GROWS = "coordinator.growth."


async def coordinator_at_every_point(
    folder: Path, times: int, seed: int, points: tuple[str, ...] = ()
) -> Tally:
    """Kill the coordinator at each point so many times, each amid the life of one member: it joins, publishes
    and is adopted, comes back for another lease, and leaves or is revoked; for a proposal's points its expert
    is trained anew and retired. What was cut short is called again with the same words."""
    tally, site, chance = Tally(), CoordinatorSite(folder), random.Random(seed)
    await site.start()
    try:
        ada = await Life(site, "ada", "ab", "", chance).settled()
        number = 0
        for point in points or COORDINATOR_POINTS:
            killed = 0
            for _ in range(TRIES * times):
                number += 1
                killed += await _one(site, ada, point, number, chance, tally)
                if killed == times:
                    break
            else:
                tally.missed.append(f"{point}: killed {killed} times, not {times}")
            tally.trials += killed
            await check(site, tally, everything=True)
        await count_orphans(site, tally)
    finally:
        await site.stop()
    return tally


async def _one(
    site: CoordinatorSite, ada: ToldNode, point: str, number: int, chance: random.Random, tally: Tally
) -> bool:
    """Say whether the coordinator died at the point."""
    await site.end_coordinator()
    passes = next((count for name, count in PASSED.items() if point.startswith(name)), 1)
    await site.start_coordinator(f"{point}:{chance.randint(1, passes)}")
    life = Life(site, f"n{number}", "ce", point, chance, ada)
    is_killed = True
    try:
        await life.go_on()
        is_killed = False
        tally.note(f"not reached: {point}")
        await site.end_coordinator()
    except CutShortError:
        tally.note(f"killed at {point}")
    tally.recoveries.append(await site.start_coordinator())
    await check(site, tally)
    await life.go_on()
    await check(site, tally)
    await check_root(site, tally)
    await check_stale(site, ada.id, tally)
    if not await site.is_locked_out(life.member):
        tally.acked_lost += 1
        tally.note("one that left is let in")
    return is_killed


class Life:
    """What one member does, step by step; `go_on` begins with the step that was cut short."""

    def __init__(
        self,
        site: CoordinatorSite,
        name: str,
        classes: str,
        point: str,
        chance: random.Random,
        beside: ToldNode | None = None,
    ) -> None:
        self._site, self._name, self._classes, self._beside = site, name, tuple(classes), beside
        self._count = 60 + chance.randrange(200)  # other sums, so another root than the last one's
        self._by_operator = chance.random() < 0.5
        grows = [self._train_anew, self._retire] if point.startswith(GROWS) else []
        self._steps: list[Callable[[], Awaitable[None]]] = [
            self._get_token, self._join, self._connect, self._publish, self._contribute, self._see_root,
            *(grows or [self._connect]), self._leave,
            *([self._see_root] if point == ROOT else []),
        ]  # fmt: skip
        self._proposed: dict[str, int] = {}

    async def settled(self) -> ToldNode:
        """Do all but leave; return the node."""
        self._steps.pop()
        await self.go_on()
        return self.member

    async def go_on(self) -> None:
        """Do the steps that are left; CutShortError where the coordinator is killed."""
        if hasattr(self, "member") and self._steps:
            self._is_connected = False
        while self._steps:
            await self._steps[0]()
            self._steps.pop(0)
        if self._beside is not None:
            with suppress(SwarmError):
                await self.member.disconnect()

    # Steps

    async def _get_token(self) -> None:
        token = await self._site.answered(self._site.token(f"for {self._name}"))
        self._request = self._site.request(self._name, token)

    async def _join(self) -> None:
        self.member = await self._site.answered(self._site.join(*self._request))
        self.member.classes, self.member.count = self._classes, self._count

    async def _connect(self) -> None:
        for node in (self._beside, self.member):
            if node is not None:
                await self._site.connected(node)
        self._is_connected = True

    async def _publish(self) -> None:
        await self._reconnect()
        await self._site.answered(self.member.publish())
        self._contribution = await self._site.answered(self.member.contribution())

    async def _contribute(self) -> None:
        await self._reconnect()
        outcome: ContributionOutcome = await self._site.answered(
            self.member.coordinator.contribute(*self._contribution, self.member.fence, f"of {self._name}")
        )
        envelope = await self._site.answered(self._site.client_of_operator.gate(outcome.gate_version))
        self._site.told_gate(envelope)
        gate = read_statement(envelope, GateStatement).value
        if outcome.state == "refused" or self.member.id not in {leaf.owner for leaf in gate.leaves}:
            raise AssertionError(f"{self._name} was not adopted: {outcome}")
        if statement_digest(self._contribution[0]) not in gate.contributions:
            raise AssertionError(f"{self._name} has another contribution in the gate")

    async def _see_root(self) -> None:
        """Wait until the gate's root is published; that no call asks for."""
        site = self._site

        async def is_published() -> None:
            for _ in range(MOST_LOOKS):
                active = read_statement(await site.store.gate() or b"", GateStatement).value
                head = await site.store.head(ROOT_EXPERT)
                if head is not None and (site.kept.own_versions / f"{head.version}.json").exists():
                    made = read_statement(await site.store.manifest(head.manifest) or b"", Manifest).value
                    if made.gate_version_seen >= active.version:
                        return
                await asyncio.sleep(0.02)
            raise AssertionError("the root is not published")

        await site.answered(is_published())

    async def _train_anew(self) -> None:
        proposal = await self._propose("retrain")
        report = GrowthReport(proposal=proposal.id, stage="trained")
        await self._site.answered(self.member.coordinator.report_growth(report))

    async def _retire(self) -> None:
        proposal = await self._propose("remove")
        while not proposal.has_ended:
            await asyncio.sleep(0.02)
            (proposal,) = await self._site.answered(self.member.coordinator.proposals(proposal.id))
        if proposal.state != "accepted":
            raise AssertionError(f"{proposal.subject}: {proposal.reason}")

    async def _propose(self, kind: str) -> Proposal:
        """Propose by the same key again after a cut, and anew where that one ended for it."""
        await self._reconnect()
        while True:
            attempt = self._proposed.setdefault(kind, 1)
            proposal: Proposal = await self._site.answered(
                self.member.coordinator.propose(
                    kind, (self.member.expert,), key=f"{kind} {attempt} of {self._name}"
                )
            )
            if proposal.state not in ("failed", "rolled-back"):
                return proposal
            self._proposed[kind] = attempt + 1
            if attempt > 3:
                raise AssertionError(f"{proposal.subject}: {proposal.reason}")

    async def _leave(self) -> None:
        site, member = self._site, self.member
        site.tried_to_go.add(member.id)
        key = f"leave of {self._name}"
        if self._by_operator:
            version, _ = await site.answered(site.client_of_operator.revoke_node(member.id, "stolen", key))
        else:
            await self._reconnect_unless_gone()
            try:
                version, _ = await site.answered(member.coordinator.leave("moved", key))
            except (NotAuthorisedError, UnauthenticatedError):
                # It was cut short after its last durable step; the operator sees what it came to.
                version, _ = await site.answered(site.client_of_operator.revoke_node(member.id, "moved", key))
        site.gone.add(member.id)
        envelope = await site.answered(site.client_of_operator.gate(version))
        site.told_gate(envelope)
        if member.id in {leaf.owner for leaf in read_statement(envelope, GateStatement).value.leaves}:
            raise AssertionError(f"{self._name} left, and gate {version} has it")

    async def _reconnect(self) -> None:
        if not self._is_connected:
            await self._connect()

    async def _reconnect_unless_gone(self) -> None:
        if not self._is_connected and not await self._site.is_locked_out(self.member):
            await self._connect()
