"""What a node may start a new expert from: peers' experts near its data, brought into its cache.

The training process knows the features, so it says which leaves are nearest; the agent, which talks to the
registry, brings their experts. Between them lie files in the job's folder: `wanted.json`, then `loans.json`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import structlog

from node.jobs import JobRecord, Lender
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest, NetReference
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry
from swarm.experts.factories import buildable, can_build
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import Statement

CONNECTION_TIMEOUT_S = 5.0
MOST_LOANS = 4
MOST_WANTED = 3 * MOST_LOANS
"""So many experts are named: some of them are not lent."""
LOANS_TIMEOUT_S = 60.0
"""All loans of a job together take no longer."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(JobRecord):
    """The experts whose prototypes are nearest to the shards: each one's nearest, then each one's second."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "wanted.json"

    experts: tuple[ExpertId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """One expert version to start from; its modules lie in the job's blob folder, verified."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    manifest: Digest
    expert: ExpertId
    version: int
    net: NetReference
    class_names: tuple[str, ...]
    modules: tuple[ModuleEntry, ...]

    @property
    def name(self) -> str:
        return f"{self.expert}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loans(JobRecord):
    """What came of a wish: the loans, and why the others stayed away."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "loans.json"

    loans: tuple[Loan, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


class Lending:
    """The agent's side: asks the registry for what this node may hold and can build."""

    def __init__(
        self, node: NodeId, registry: VerifiedRegistry, settled: Callable[[], bool] = lambda: True
    ) -> None:
        self._node, self._registry, self._settled = node, registry, settled

    async def until_settled(self) -> None:
        """Wait a little for the coordinator, or until it is known to be away: who has just joined does not
        know the gate yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECTION_TIMEOUT_S):
                while not self._settled():  # noqa: ASYNC110 - a flag of the agent's, not an event
                    await asyncio.sleep(0.05)

    async def lenders(self, gate: GateStatement | None) -> tuple[Lender, ...]:
        """Return the peers' leaves of a gate, their prototypes brought into the cache; none where that fails:
        borrowing is never a reason not to train."""
        if gate is None:
            return ()
        entries = {entry.name: entry for entry in gate.arrays}
        found = [
            Lender(leaf=leaf.leaf, expert=leaf.expert, prototypes=entries[f"prototypes.{row}"])
            for row, leaf in enumerate(gate.leaves)
            if leaf.owner != self._node and f"prototypes.{row}" in entries
        ]
        try:
            await self._registry.fetch([lender.prototypes for lender in found], of=gate.arrays)
        except SwarmError as error:
            _log.warning("borrowing.no_prototypes", gate_version=gate.version, because=str(error))
            return ()
        return tuple(found)

    async def lend(self, wanted: Sequence[ExpertId], import_paths: Sequence[str]) -> Loans:
        """Return the first MOST_LOANS wanted experts that their owners share and this node can build, and the
        root: as far as they come within LOANS_TIMEOUT_S."""
        loans: list[Loan] = []
        refused: dict[str, str] = {}
        deadline = asyncio.get_running_loop().time() + LOANS_TIMEOUT_S
        peers = [expert for expert in dict.fromkeys(wanted) if expert != ROOT_EXPERT][:MOST_WANTED]
        for expert in (*peers, ROOT_EXPERT):
            if len(loans) == MOST_LOANS and expert != ROOT_EXPERT:
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    statement = await self._registry.manifest(expert)
                    why_not = _why_not(statement.value, import_paths)
                    if not why_not:
                        await self._registry.blobs(statement.value)
            except (SwarmError, TimeoutError) as error:
                why_not = str(error) or "no answer in time"
            if why_not:
                refused[str(expert)] = why_not
            else:
                loans.append(_loan(statement))
        return Loans(loans=tuple(loans), refused=refused)


def _why_not(manifest: Manifest, import_paths: Sequence[str]) -> str:
    factory = manifest.net.factory
    if manifest.share not in ("borrow", "public"):
        return f"its owner says {manifest.share}"
    if not can_build(factory, buildable((factory,), import_paths)):
        return f"its net {factory[:80]} cannot be built here"
    return ""


def _loan(statement: Statement[Manifest]) -> Loan:
    manifest = statement.value
    return Loan(
        manifest=statement.digest,
        expert=manifest.expert,
        version=manifest.version,
        net=manifest.net,
        class_names=manifest.class_names,
        modules=manifest.modules,
    )
