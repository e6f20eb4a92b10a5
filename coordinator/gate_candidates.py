"""Candidates for the next gate: planned and solved from contributions, and what they say before any trial."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from coordinator.candidate import Candidate, Signable, can_correct, plan_group
from coordinator.gate_publication import GatePublication
from coordinator.heads import Heads
from coordinator.solver_jobs import Group, Solution
from coordinator.solver_process import Solver
from coordinator.specifications import Specifications
from coordinator.trials import Defaults, defaults_for, still_sensible
from swarm.answering.active_gate import ActiveGate
from swarm.domain.contributions import Contribution
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification, TrunkReference
from swarm.trust.statements import Statement

DEFAULT_RIDGE = 300.0
"""The middle of the grid, where nobody has validation data."""
NO_EVIDENCE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Equations:
    """What a solution follows from, all of it: contributions are named by their digests."""

    group: Group
    class_names: tuple[str, ...]
    ridges: tuple[float, ...]
    trunk: TrunkReference


class Candidates:
    """Solves gates in the child; `top_k` is how many experts a new gate without sums asks."""

    def __init__(
        self,
        *,
        heads: Heads,
        specifications: Specifications,
        publication: GatePublication,
        solver: Solver,
        top_k: int,
    ) -> None:
        self._heads, self._specifications, self._publication = heads, specifications, publication
        self._solver, self._top_k = solver, top_k
        self._last_solved: tuple[_Equations, Solution] | None = None

    @property
    def present(self) -> ActiveGate | None:
        """The active gate where it has leaves."""
        active = self._publication.active
        return active if active is not None and active.value.leaves else None

    @property
    def incumbents(self) -> frozenset[NodeId]:
        """The owners of the present gate's leaves."""
        active = self.present
        return frozenset(leaf.owner for leaf in active.value.leaves) if active else frozenset()

    async def solved(
        self,
        contributions: Sequence[Statement[Contribution]],
        ridges: Sequence[float],
        specification: Statement[Specification],
    ) -> Candidate:
        """Return the gate of these contributions, solved for each ridge."""
        manifests, value = self._heads.manifests(), specification.value
        group = plan_group(contributions, manifests)
        equations = _Equations(
            group=group, class_names=value.class_names, ridges=tuple(ridges), trunk=value.trunk
        )
        return Candidate(
            group=group,
            ridges=equations.ridges,
            solution=await self._solution(equations) if group.leaves else None,
            has_corrections=can_correct(group.leaves, manifests),
        )

    async def _solution(self, asked: "_Equations") -> Solution:
        """Return the solution; the last one again where nothing but the experts has changed since."""
        if self._last_solved is None or self._last_solved[0] != asked:
            found = await self._solver.solve([asked.group], asked.class_names, asked.ridges, asked.trunk)
            self._last_solved = asked, found[0]
        return self._last_solved[1]

    async def defaults(self, candidate: Candidate) -> Defaults:
        """Return how a candidate answers without evidence."""
        _, temperature = await asyncio.to_thread(candidate.prototype_temperatures)
        return defaults_for(
            temperature,
            has_sums=candidate.has_sums,
            has_corrections=candidate.has_corrections,
            top_k=self._top_k,
        )

    async def like(
        self,
        like: GateStatement,
        contributions: Sequence[Statement[Contribution]],
        specification: Statement[Specification],
        reason: str,
    ) -> tuple[Candidate, Signable]:
        """Return a gate of these contributions that answers as another one does, as far as it can."""
        ridge = like.ridge or DEFAULT_RIDGE
        candidate = await self.solved(contributions, (ridge,), specification)
        kept = still_sensible(
            like.combinations,
            like.served,
            await self.defaults(candidate),
            has_sums=candidate.has_sums,
            has_corrections=candidate.has_corrections,
        )
        return candidate, says(specification, kept, ridge, reason)

    async def compared_with(self, untouched: Sequence[Statement[Contribution]] | None) -> bytes:
        """Return the signed gate that a candidate is compared with: the present one, or where owners in it
        have newer contributions, that of all others; empty: none has leaves."""
        active = self.present
        if active is None or untouched is None:
            return b"" if active is None else active.envelope
        specification = self._specifications.current
        candidate, words = await self.like(active.value, untouched, specification, "for comparison")
        return await self._publication.sign(candidate, words) if candidate.leaves else b""


def says(
    specification: Statement[Specification],
    defaults: Defaults,
    ridge: float,
    reason: str,
    *,
    is_trial: bool = False,
) -> Signable:
    """Return what a candidate says that answers by these defaults."""
    return Signable(
        specification=specification.value,
        specification_digest=specification.digest,
        combinations=defaults.combinations,
        served=defaults.served,
        ridge=ridge,
        reason=reason,
        evidence=NO_EVIDENCE,
        is_trial=is_trial,
    )
