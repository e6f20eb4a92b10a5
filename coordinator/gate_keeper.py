"""The gate's keeper: contributions in, signed gate versions out. One change at a time.

A change is committed by the store's `put_gate`; before it only content-addressed files are written, so a
crash at any point leaves the old gate or the new one. Which contributions count is what the newest gate's
statement lists.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import structlog

from coordinator.active_gate import ActiveGate, GateFiles
from coordinator.candidate import Candidate, Signable, assemble, gate_statement
from coordinator.contribution_checks import (
    MAX_CONTRIBUTION_BYTES,
    CheckedContribution,
    check_epoch,
    check_experts,
    check_statement,
    read_arrays,
)
from coordinator.contributions import ContributionFiles
from coordinator.gate_trials import TrialRound
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.members import Members
from coordinator.specifications import Specifications
from coordinator.trials import Verdict
from swarm.domain.errors import (
    ExhaustedError,
    HarmfulContributionError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Contribution, GateStatement
from swarm.domain.membership import LEASE_SECONDS, Caller, ContributionOutcome
from swarm.domain.specification import Specification
from swarm.gating.prototype_gate import temperature_grid
from swarm.registry.store import MetadataStore
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement

T = TypeVar("T")
log = structlog.get_logger()


class BlobRegistry(Protocol):
    """Where gates' arrays are published for the nodes (`swarm.rpc.clients.RegistryClient`)."""

    async def missing(self, digests: list[Digest]) -> list[Digest]: ...
    async def publish_blob(self, digest: Digest, data: bytes) -> object: ...
    async def fetch_blob(self, digest: Digest) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParts:
    """What the keeper works with."""

    store: MetadataStore
    registry: BlobRegistry
    members: Members
    heads: Heads
    live: LiveNodes
    journal: Journal
    specifications: Specifications
    contributions: ContributionFiles
    gates: GateFiles
    trials: TrialRound
    signer: Signer
    clock: Callable[[], float]
    top_k: int


class GateKeeper:
    """Implements `GatePort`. Changes run to their end even when their caller goes away."""

    def __init__(self, parts: GateParts) -> None:
        self._parts = parts
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self.active: ActiveGate | None = None

    async def load(self) -> None:
        """Take over the newest version of the coordinator's own folder, if there is one."""
        gates = self._parts.gates
        if gates.newest():
            self.active = await asyncio.to_thread(gates.load, gates.statement(gates.newest()))

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
                expected="no incumbent to lose more than one standard error",
                remedy="train longer or on cleaner labels, then contribute again",
            )
        return outcome

    async def gate(self, version: int) -> bytes:
        """Return a version's signed statement, the newest for 0."""
        if version == 0:
            return self._required().envelope
        return self._parts.gates.statement(version).envelope

    async def history(self) -> tuple[list[bytes], int]:
        """Return all versions' signed statements, oldest first, and the number of the newest."""
        current = 0 if self.active is None else self.active.version
        found = (self._parts.gates.envelope(version) for version in range(1, current + 1))
        return [envelope for envelope in found if envelope is not None], current

    async def rollback(self, version: int, key: str) -> bytes:
        """Make a new version with the content of an older one; owners that left meanwhile stay away."""
        name = f"rollback:{key}" if key else ""
        outcome = await self._change(name, lambda: self._rollback(version))
        return self._parts.gates.statement(outcome.gate_version).envelope

    async def fit(self, key: str) -> ContributionOutcome:
        """Recompute the gate from its contributions and choose its temperature anew."""
        return await self._change(f"fit:{key}" if key else "", self._fit)

    async def withdraw_owner(self, owner: NodeId, reason: str) -> int:
        """Return the version of a gate without owner, made where there is none; forget its contributions."""
        outcome = await self._change("", lambda: self._withdraw(owner, reason))
        return outcome.gate_version

    async def synchronise(self) -> None:
        """Bring store and registry up to our newest gate, or ours up to the store's."""
        async with self._changing:
            await self._synchronise()

    # Changes; all run under the lock.

    async def _contribute(
        self, caller: Caller, envelope: bytes, arrays: bytes, fence: int
    ) -> ContributionOutcome:
        parts = self._parts
        statement = await parts.members.open(envelope, Contribution)
        contribution = statement.value
        check_statement(contribution, parts.specifications.current.value, caller)
        await parts.store.renew_lease(caller.id, fence, LEASE_SECONDS)
        if self.active is not None and statement.digest in self.active.value.contributions:
            first = await asyncio.to_thread(parts.gates.first_with, statement.digest)
            return ContributionOutcome(state="duplicate", gate_version=first, reason="it is in the gate already")
        for leaf in contribution.leaves:
            await parts.heads.refresh_expert(leaf.expert)
        check_experts(contribution, parts.heads.manifests())
        checked = await asyncio.to_thread(read_arrays, statement.digest, contribution, arrays)
        others = await self._checked(self._digests())
        mine = [c for c in others if c.contribution.owner == contribution.owner]
        check_epoch(contribution, max((c.contribution.epoch for c in mine), default=0))
        specification = parts.specifications.next_with(contribution.class_names())
        await asyncio.to_thread(parts.contributions.put, statement.digest, envelope, arrays)
        outcome = await self._judge_and_activate(
            [*(c for c in others if c.contribution.owner != contribution.owner), checked],
            specification,
            f"contribution of {contribution.owner}, epoch {contribution.epoch}",
        )
        if outcome.state == "refused":
            await asyncio.to_thread(parts.contributions.remove, statement.digest)
        return outcome

    async def _fit(self) -> ContributionOutcome:
        contributions = await self._checked(self._digests())
        self._required()
        return await self._judge_and_activate(contributions, self._parts.specifications.current, "fitted anew")

    async def _rollback(self, version: int) -> ContributionOutcome:
        older = self._parts.gates.statement(version).value
        kept = [digest for digest in older.contributions if self._parts.contributions.has(digest)]
        gone = len(older.contributions) - len(kept)
        reason = f"rollback to gate {version}" + (f", without {gone} owners that left" if gone else "")
        candidate = await asyncio.to_thread(
            assemble, await self._checked(kept), self._parts.heads.manifests(), older.temperature
        )
        return await self._activate(candidate, self._parts.specifications.current, candidate.temperature, reason, {})

    async def _withdraw(self, owner: NodeId, reason: str) -> ContributionOutcome:
        parts = self._parts
        version = 0 if self.active is None else self.active.version
        outcome = ContributionOutcome(state="duplicate", gate_version=version, reason="it has no leaf in the gate")
        checked = await self._checked(self._digests())
        if self.active is not None and any(c.contribution.owner == owner for c in checked):
            candidate = await asyncio.to_thread(
                assemble,
                [c for c in checked if c.contribution.owner != owner],
                parts.heads.manifests(),
                self.active.value.temperature,
            )
            outcome = await self._activate(
                candidate, parts.specifications.current, candidate.temperature, f"{owner} left: {reason}", {}
            )
        for digest in parts.contributions.digests():
            if (await asyncio.to_thread(parts.contributions.read, digest))[0].value.owner == owner:
                await asyncio.to_thread(parts.contributions.remove, digest)
        return outcome

    async def _judge_and_activate(
        self, contributions: list[CheckedContribution], specification: Statement[Specification], reason: str
    ) -> ContributionOutcome:
        candidate = await asyncio.to_thread(assemble, contributions, self._parts.heads.manifests())
        if candidate.gate is None:
            return await self._activate(candidate, specification, candidate.temperature, reason, {})
        verdict = await self._try(candidate, specification, reason)
        if not verdict.harmed:
            return await self._activate(candidate, specification, verdict.temperature, reason, verdict.evidence)
        harm = "; ".join(map(str, verdict.harmed))
        current = 0 if self.active is None else self.active.version
        await self._parts.journal.record("gate.refused", gate_version=current, reason=reason, harm=harm)
        return ContributionOutcome(state="refused", gate_version=current, reason=harm)

    async def _try(self, candidate: Candidate, specification: Statement[Specification], reason: str) -> Verdict:
        assert candidate.gate is not None, "an empty gate is not tried"
        statement, envelope = await self._published(candidate, specification, candidate.temperature, reason, {})
        incumbents = frozenset(leaf.owner for leaf in self.active.value.leaves) if self.active else frozenset()
        temperatures = await asyncio.to_thread(temperature_grid, candidate.gate)
        return await self._parts.trials.run(
            asked=candidate.owners | incumbents,
            incumbents=incumbents,
            candidate=envelope,
            incumbent=self.active.envelope if self.active is not None and self.active.gate is not None else b"",
            temperatures=temperatures,
            default_temperature=statement.temperature,
            specification=specification.envelope,
        )

    async def _activate(
        self,
        candidate: Candidate,
        specification: Statement[Specification],
        temperature: float,
        reason: str,
        evidence: Any,
    ) -> ContributionOutcome:
        parts = self._parts
        statement, envelope = await self._published(candidate, specification, temperature, reason, evidence)
        is_new_specification = await parts.specifications.accept(specification)
        try:
            await parts.store.put_gate(statement.version, envelope)
        except SwarmError:
            # The store may have another newest version, or this one from an attempt whose answer was lost.
            await self._synchronise()
            raise
        await self._take(envelope)
        if is_new_specification:
            parts.live.announce(specification=specification.envelope)
            await parts.journal.record(
                "specification.changed",
                version=specification.value.version,
                classes=len(specification.value.class_names),
            )
        parts.live.announce(gate=envelope)
        await parts.journal.record(
            "gate.activated", version=statement.version, leaves=len(statement.leaves), reason=reason
        )
        return ContributionOutcome(state="activated", gate_version=statement.version, reason=reason)

    # Parts of changes

    async def _published(
        self,
        candidate: Candidate,
        specification: Statement[Specification],
        temperature: float,
        reason: str,
        evidence: Any,
    ) -> tuple[GateStatement, bytes]:
        """Return the next version's statement and its signed envelope, its arrays kept here and published."""
        says = Signable(
            version=(0 if self.active is None else self.active.version) + 1,
            specification=specification.value,
            specification_digest=specification.digest,
            temperature=temperature,
            top_k=self._parts.top_k,
            reason=reason,
            created_at=self._parts.clock(),
            evidence=evidence,
        )
        statement, blobs = gate_statement(candidate, says)
        for data in blobs.values():
            await asyncio.to_thread(self._parts.gates.blobs.put, data)
        for digest in await self._parts.registry.missing(list(blobs)):
            await self._parts.registry.publish_blob(digest, blobs[digest])
        return statement, sign_statement(statement, self._parts.signer)

    async def _synchronise(self) -> None:
        parts = self._parts
        newest = await parts.store.gate()
        in_store = read_statement(newest, GateStatement).value.version if newest else 0
        own = 0 if self.active is None else self.active.version
        for version in range(in_store + 1, own + 1):
            envelope = parts.gates.envelope(version)
            if envelope is not None:
                await parts.store.put_gate(version, envelope)
        for version in range(own + 1, in_store + 1):
            envelope = await parts.store.gate(version)
            if envelope is not None:
                await self._take(envelope)
                log.warning("gate.adopted", version=version)
        await self._publish_arrays()

    async def _publish_arrays(self) -> None:
        if self.active is None:
            return
        digests = list(dict.fromkeys(entry.blob for entry in self.active.value.arrays))
        try:
            for digest in await self._parts.registry.missing(digests):
                data = await asyncio.to_thread(self._parts.gates.blobs.open_verified, digest)
                await self._parts.registry.publish_blob(digest, bytes(data))
        except UnreachableError as error:
            log.warning("gate.not_published", version=self.active.version, reason=str(error))

    async def _take(self, envelope: bytes) -> None:
        """Make a version that the store has accepted the active one."""
        parts = self._parts
        statement = await parts.members.open(envelope, GateStatement)
        for digest in parts.gates.blobs.missing(entry.blob for entry in statement.value.arrays):
            data = await parts.registry.fetch_blob(digest)
            await asyncio.to_thread(parts.gates.blobs.put, data)
        loaded = await asyncio.to_thread(parts.gates.load, statement)
        await asyncio.to_thread(parts.gates.put, statement.value.version, envelope)
        self.active = loaded

    async def _checked(self, digests: tuple[Digest, ...] | list[Digest]) -> list[CheckedContribution]:
        def read() -> list[CheckedContribution]:
            found = []
            for digest in digests:
                statement, arrays = self._parts.contributions.read(digest)
                found.append(read_arrays(digest, statement.value, arrays))
            return found

        return await asyncio.to_thread(read)

    def _digests(self) -> tuple[Digest, ...]:
        return () if self.active is None else self.active.value.contributions

    def _required(self) -> ActiveGate:
        if self.active is None:
            raise NotReadyError(
                "gate",
                found="none yet",
                expected="a contribution of at least one node",
                remedy="on a node: swarm train DATA",
            )
        return self.active

    async def _change(
        self, name: str, work: Callable[[], Coroutine[Any, Any, ContributionOutcome]]
    ) -> ContributionOutcome:
        """Run work under the lock, once per name (empty: always); a caller that goes away does not stop it."""

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
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)
