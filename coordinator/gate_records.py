"""What is known of the present gate: its contributions, and the outcomes of changes under their names."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

from coordinator.contributions import ContributionFiles
from coordinator.gate_files import oldest_with, versions_there
from coordinator.gate_publication import GatePublication
from coordinator.journal import Journal
from swarm.answering.active_gate import ActiveGate
from swarm.domain.contributions import Contribution
from swarm.domain.errors import NotFoundError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.membership import ContributionOutcome
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement


class GateRecords:
    """Which contributions count is what the newest gate's statement lists."""

    def __init__(
        self,
        store: MetadataStore,
        journal: Journal,
        contributions: ContributionFiles,
        publication: GatePublication,
    ) -> None:
        self._store, self._journal = store, journal
        self._contributions, self._publication = contributions, publication

    @property
    def active(self) -> ActiveGate | None:
        return self._publication.active

    @property
    def digests(self) -> tuple[Digest, ...]:
        """The contributions of the present gate."""
        return () if self.active is None else self.active.value.contributions

    async def present(self) -> list[Statement[Contribution]]:
        """Return what the owners of the present gate's contributions signed."""
        return await self.statements(self.digests)

    async def statements(self, digests: Sequence[Digest]) -> list[Statement[Contribution]]:
        """Return the statements of these contributions."""

        def read() -> list[Statement[Contribution]]:
            return [self._contributions.statement(digest) for digest in digests]

        return await asyncio.to_thread(read)

    async def check_kept(self, gate: GateStatement, subject: str) -> None:
        """Raise NotFoundError, naming the versions that are there, where a gate of old has contributions
        whose arrays were dropped."""

        def is_kept(version: int) -> bool:
            listed = self._publication.files.statement(version).value.contributions
            return not any(map(self._contributions.is_dropped, listed))

        def oldest() -> int:
            return oldest_with(self._publication.version, is_kept)

        if not any(
            [await asyncio.to_thread(self._contributions.is_dropped, each) for each in gate.contributions]
        ):
            return
        raise NotFoundError(
            subject,
            found="what its owners signed only: the arrays of contributions that old are dropped",
            expected=versions_there(await asyncio.to_thread(oldest), self._publication.version),
            remedy="take one of those; more are kept in future by SWARM_GATE_VERSIONS_KEPT",
        )

    async def first_with(self, digest: Digest) -> int:
        """Return the first gate version with a contribution, 0 if there is none."""
        return await asyncio.to_thread(self._publication.files.first_with, digest)

    async def recalled(self, name: str) -> ContributionOutcome | None:
        """Return the outcome that is remembered under name (empty: none is)."""
        known = await self._store.recall(name) if name else None
        return ContributionOutcome(**json.loads(known)) if known is not None else None

    async def remember(self, name: str, outcome: ContributionOutcome) -> None:
        """Remember an outcome under name, unless that is empty."""
        if name:
            await self._store.remember(name, json.dumps(asdict(outcome)))

    async def record_refusal(self, outcome: ContributionOutcome, reason: str) -> None:
        """Record a candidate that did not become the gate: for which change, and why not."""
        await self._journal.record(
            "gate.refused", gate_version=outcome.gate_version, reason=reason, because=outcome.reason
        )

    def unchanged(self, reason: str) -> ContributionOutcome:
        """Return the outcome of a change that there was no need for."""
        return ContributionOutcome(state="duplicate", gate_version=self._publication.version, reason=reason)
