"""The gate's keeper: contributions in, signed gate versions out. One change at a time.

Before a version counts only content-addressed files are written, so a crash at any point leaves the old
gate or the new one. Which contributions count is what the newest gate's statement lists.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import structlog

from coordinator.active_gate import ActiveGate
from coordinator.candidate import Candidate, assemble
from coordinator.contribution_checks import (
    MAX_CONTRIBUTION_BYTES,
    CheckedContribution,
    check_epoch,
    check_experts,
    check_statement,
    read_arrays,
)
from coordinator.contributions import ContributionFiles
from coordinator.gate_publication import GatePublication
from coordinator.gate_trials import TrialRound
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.members import Members
from coordinator.specifications import Specifications
from coordinator.trials import Verdict
from swarm.domain.errors import ExhaustedError, HarmfulContributionError
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Contribution
from swarm.domain.membership import LEASE_SECONDS, Caller, ContributionOutcome
from swarm.domain.specification import Specification
from swarm.gating.prototype_gate import temperature_grid
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement

NO_EVIDENCE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParts:
    """What the keeper works with."""

    store: MetadataStore
    members: Members
    heads: Heads
    live: LiveNodes
    journal: Journal
    specifications: Specifications
    contributions: ContributionFiles
    publication: GatePublication
    trials: TrialRound


log = structlog.get_logger()


class GateKeeper:
    """Implements `GatePort`. Changes run to their end even when their caller goes away."""

    def __init__(self, parts: GateParts) -> None:
        self._parts, self._publication = parts, parts.publication
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def active(self) -> ActiveGate | None:
        """The gate that queries are routed by; None before the first."""
        return self._publication.active

    async def contribute(
        self, caller: Caller, envelope: bytes, arrays: bytes, fence: int, key: str
    ) -> ContributionOutcome:
        """Take an owner's contribution into the gate, replacing its last one.

        Raises HarmfulContributionError where an incumbent would lose, and the named refusals of
        `coordinator.contribution_checks`; the old gate stays then.
        """
        if len(arrays) > MAX_CONTRIBUTION_BYTES:
            raise ExhaustedError(
                f"contribution of {caller.id}",
                found=f"{len(arrays)} bytes",
                expected=f"at most {MAX_CONTRIBUTION_BYTES}",
            )
        name = f"contribute:{caller.id}:{key}" if key else ""
        outcome = await self._change(name, lambda: self._contribute(caller, envelope, arrays, fence))
        if outcome.state == "refused":
            raise HarmfulContributionError(
                f"contribution of {caller.id}",
                found=outcome.reason,
                expected="no incumbent to lose more than one standard error and more than chance",
                remedy="train longer or on cleaner labels, then contribute again",
            )
        return outcome

    async def gate(self, version: int) -> bytes:
        """Return a version's signed statement, the newest for 0."""
        if version == 0:
            return self._publication.required().envelope
        return self._publication.files.statement(version).envelope

    async def history(self) -> tuple[list[bytes], int]:
        """Return all versions' signed statements, oldest first, and the number of the newest."""
        current = self._publication.version
        found = (self._publication.files.envelope(version) for version in range(1, current + 1))
        return [envelope for envelope in found if envelope is not None], current

    async def rollback(self, version: int, key: str) -> bytes:
        """Make a new version with the content of an older one; owners that left meanwhile stay away."""
        name = f"rollback:{key}" if key else ""
        outcome = await self._change(name, lambda: self._rollback(version))
        return self._publication.files.statement(outcome.gate_version).envelope

    async def fit(self, key: str) -> ContributionOutcome:
        """Recompute the gate from its contributions and choose its temperature anew."""
        return await self._change(f"fit:{key}" if key else "", self._fit)

    async def withdraw_owner(self, owner: NodeId, reason: str) -> int:
        """Return the version of a gate without owner, made where there is none; forget its contributions."""
        outcome = await self._change("", lambda: self._withdraw(owner, reason))
        return outcome.gate_version

    async def drop_withdrawn(self) -> None:
        """Make a gate without the leaves of withdrawn experts, where the active one has some."""
        if self._withdrawn_experts():
            await self._change("", self._drop_withdrawn)

    def notice_withdrawal(self) -> None:
        """Begin `drop_withdrawn` and do not wait: a trial under way may hold the gate for a while."""
        task = asyncio.create_task(self.drop_withdrawn(), name="drop withdrawn experts")
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def synchronise(self) -> None:
        """Bring store and registry up to our newest gate, or ours up to the store's."""
        async with self._changing:
            await self._publication.synchronise()

    async def stop(self) -> None:
        """End changes that are under way, as a crash would: their callers try again."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # Changes; all run under the lock.

    async def _contribute(
        self, caller: Caller, envelope: bytes, arrays: bytes, fence: int
    ) -> ContributionOutcome:
        parts = self._parts
        statement = await parts.members.open(envelope, Contribution)
        contribution = statement.value
        check_statement(contribution, parts.specifications.current.value, caller)
        await parts.store.renew_lease(caller.id, fence, LEASE_SECONDS)
        if statement.digest in self._digests():
            first = await asyncio.to_thread(self._publication.files.first_with, statement.digest)
            return ContributionOutcome(state="duplicate", gate_version=first, reason="in the gate already")
        found = [await parts.heads.committed(leaf.expert) for leaf in contribution.leaves]
        check_experts(
            contribution, {head.manifest.expert: head.manifest for head in found if head is not None}
        )
        checked = await asyncio.to_thread(read_arrays, statement.digest, contribution, arrays)
        present = await self._checked(self._digests())
        last = [c.contribution.epoch for c in present if c.contribution.owner == contribution.owner]
        check_epoch(contribution, max(last, default=0))
        specification = parts.specifications.next_with(contribution.class_names())
        await asyncio.to_thread(parts.contributions.put, statement.digest, envelope, arrays)
        others = [c for c in present if c.contribution.owner != contribution.owner]
        reason = f"contribution of {contribution.owner}, epoch {contribution.epoch}"
        outcome = await self._judge_and_activate([*others, checked], specification, reason)
        if outcome.state == "refused":
            await asyncio.to_thread(parts.contributions.remove, statement.digest)
        return outcome

    async def _fit(self) -> ContributionOutcome:
        self._publication.required()
        contributions = await self._checked(self._digests())
        return await self._judge_and_activate(
            contributions, self._parts.specifications.current, "fitted anew"
        )

    async def _rollback(self, version: int) -> ContributionOutcome:
        older = self._publication.files.statement(version).value
        kept = [digest for digest in older.contributions if self._parts.contributions.has(digest)]
        gone = len(older.contributions) - len(kept)
        reason = f"rollback to gate {version}" + (f", without {gone} owners that left" if gone else "")
        return await self._activate_as_is(await self._checked(kept), older.temperature, reason)

    async def _withdraw(self, owner: NodeId, reason: str) -> ContributionOutcome:
        parts = self._parts
        present = await self._checked(self._digests())
        others = [c for c in present if c.contribution.owner != owner]
        outcome = ContributionOutcome(
            state="duplicate", gate_version=self._publication.version, reason="not in the gate"
        )
        if len(others) < len(present):
            temperature = self._publication.required().value.temperature
            outcome = await self._activate_as_is(others, temperature, f"{owner} left: {reason}")
        await asyncio.to_thread(parts.contributions.remove_owner, owner)
        return outcome

    def _withdrawn_experts(self) -> list[ExpertId]:
        leaves = self.active.value.leaves if self.active is not None else ()
        return [leaf.expert for leaf in leaves if self._parts.heads.is_withdrawn(leaf.expert)]

    async def _drop_withdrawn(self) -> ContributionOutcome:
        gone = ", ".join(self._withdrawn_experts())
        if not gone:
            return ContributionOutcome(
                state="duplicate", gate_version=self._publication.version, reason="not in the gate"
            )
        temperature = self._publication.required().value.temperature
        contributions = await self._checked(self._digests())
        return await self._activate_as_is(contributions, temperature, f"{gone} withdrawn")

    async def _activate_as_is(
        self, contributions: Sequence[CheckedContribution], temperature: float, reason: str
    ) -> ContributionOutcome:
        """Activate without a trial: what is taken back must not depend on who is connected."""
        candidate = await asyncio.to_thread(
            assemble, contributions, self._parts.heads.manifests(), temperature
        )
        specification = self._parts.specifications.current
        return await self._activate(candidate, specification, candidate.temperature, reason, NO_EVIDENCE)

    async def _judge_and_activate(
        self,
        contributions: Sequence[CheckedContribution],
        specification: Statement[Specification],
        reason: str,
    ) -> ContributionOutcome:
        candidate = await asyncio.to_thread(assemble, contributions, self._parts.heads.manifests())
        if candidate.gate is None:
            return await self._activate(candidate, specification, candidate.temperature, reason, NO_EVIDENCE)
        verdict = await self._try(candidate, specification, reason)
        if not verdict.harmed:
            return await self._activate(
                candidate, specification, verdict.temperature, reason, verdict.evidence
            )
        harm, version = "; ".join(map(str, verdict.harmed)), self._publication.version
        await self._parts.journal.record("gate.refused", gate_version=version, reason=reason, harm=harm)
        return ContributionOutcome(state="refused", gate_version=version, reason=harm)

    async def _try(
        self, candidate: Candidate, specification: Statement[Specification], reason: str
    ) -> Verdict:
        assert candidate.gate is not None, "an empty gate is not tried"
        envelope = await self._publication.sign(
            candidate, specification, candidate.temperature, reason, NO_EVIDENCE
        )
        active = self.active if self.active is not None and self.active.gate is not None else None
        incumbents = frozenset(leaf.owner for leaf in active.value.leaves) if active else frozenset()
        return await self._parts.trials.run(
            asked=candidate.owners | incumbents,
            incumbents=incumbents,
            candidate=envelope,
            incumbent=b"" if active is None else active.envelope,
            temperatures=await asyncio.to_thread(temperature_grid, candidate.gate),
            default_temperature=candidate.temperature,
            specification=specification.envelope,
        )

    async def _activate(
        self,
        candidate: Candidate,
        specification: Statement[Specification],
        temperature: float,
        reason: str,
        evidence: Mapping[str, float],
    ) -> ContributionOutcome:
        parts = self._parts
        envelope = await self._publication.sign(
            candidate, specification, temperature, reason, evidence, may_publish_later=not evidence
        )
        is_new_specification = await parts.specifications.accept(specification)
        active = await self._publication.activate(envelope)
        if is_new_specification:
            parts.live.announce(specification=specification.envelope)
            names = ", ".join(specification.value.class_names)
            await parts.journal.record(
                "specification.changed", version=specification.value.version, class_names=names[:1000]
            )
        parts.live.announce(gate=envelope)
        await parts.journal.record(
            "gate.activated", gate_version=active.version, leaves=len(active.value.leaves), reason=reason
        )
        return ContributionOutcome(state="activated", gate_version=active.version, reason=reason)

    async def _checked(self, digests: Sequence[Digest]) -> list[CheckedContribution]:
        def read() -> list[CheckedContribution]:
            found = []
            for digest in digests:
                statement, arrays = self._parts.contributions.read(digest)
                found.append(read_arrays(digest, statement.value, arrays))
            return found

        return await asyncio.to_thread(read)

    def _digests(self) -> tuple[Digest, ...]:
        return () if self.active is None else self.active.value.contributions

    async def _change(
        self, name: str, work: Callable[[], Coroutine[Any, Any, ContributionOutcome]]
    ) -> ContributionOutcome:
        """Run work under the lock, once per name (empty: always), whether or not its caller stays."""

        async def once() -> ContributionOutcome:
            async with self._changing:
                known = await self._parts.store.recall(name) if name else None
                if known is not None:
                    return ContributionOutcome(**json.loads(known))
                outcome = await work()
                if name:
                    await self._parts.store.remember(name, json.dumps(asdict(outcome)))
                return outcome

        task = asyncio.create_task(once())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Its caller may be gone; looking at the error keeps it from being reported as forgotten.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("gate.unchanged", reason=str(error))
