"""Askers' profiles: the root over the owners whose sums agree with an asker's labelled examples.

Owners whose contributions are kept aside (`coordinator.aside`) take part; who answers is chosen in
`coordinator.profile_choice`. Only the root's columns and a few facts are kept, never the examples. A profile
outlives its gate, and ends with its trunk or with any of its owners: what was withdrawn answers nobody.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from coordinator.aside import AsideContributions
from coordinator.contributions import ContributionFiles
from coordinator.profile_choice import choose
from coordinator.profile_files import KnownProfile, ProfileFiles
from coordinator.profile_turns import Turns
from coordinator.solver_jobs import Group, Solution
from swarm.answering.active_gate import ActiveGate
from swarm.answering.combining import root_combination
from swarm.digests import blake3
from swarm.domain.combination import Combination
from swarm.domain.errors import DeadlineError, NotFoundError, NotReadyError, TrunkMismatchError
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.ids import ROOT_EXPERT, ROOT_LEAF, ROOT_OWNER, Digest, NodeId
from swarm.domain.inference import Answer, Examples, Profile, Query, Source
from swarm.domain.specification import TrunkReference
from swarm.gating.analytic_gate import in_fixed_point
from swarm.gating.class_columns import ClassColumns, whole
from swarm.gating.combinations import mix
from swarm.gating.gate_arrays import target_rows
from swarm.gating.sums import quantised

LABEL = "asker"
REMEDY = "make it again from your examples: swarm predict INPUT --examples FILE.npz"

log = structlog.get_logger()


class GateSolver(Protocol):
    """What is asked of the solver's child process (`coordinator.solver_process.Solver`)."""

    async def solve(
        self,
        groups: Sequence[Group],
        class_names: tuple[str, ...],
        ridges: tuple[float, ...],
        trunk: TrunkReference,
    ) -> list[Solution]: ...


class Profiles:
    """Makes profiles, one at a time and callers in turn, and answers by them."""

    def __init__(
        self,
        *,
        files: ProfileFiles,
        contributions: ContributionFiles,
        aside: AsideContributions,
        solver: GateSolver,
        trunk: Callable[[], TrunkReference],
    ) -> None:
        self._files, self._contributions, self._aside = files, contributions, aside
        self._solver, self._trunk = solver, trunk
        self._turns = Turns()

    async def make(
        self,
        asker: NodeId,
        active: ActiveGate,
        examples: Examples,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        timeout_s: float,
    ) -> Profile:
        """Return the profile of checked examples: features float32 [N, D], labels int64 [N].

        The same examples under the same gate are solved once. Raises NotReadyError where the gate has no
        sums, ExhaustedError where too many requests of this caller wait, DeadlineError beyond timeout_s, and
        what solving raises.
        """
        if active.analytic is None:
            raise NotReadyError(
                f"gate {active.version}",
                found="no owner's sums",
                expected="contributions with sums: a profile is solved from them",
                remedy="on a node: swarm train DATA",
            )
        id = await asyncio.to_thread(profile_id, active, examples, self._beside(active))
        began = time.monotonic()
        known = await asyncio.to_thread(self._known, id, active)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(timeout_s), self._turns.of(asker):
                known = await asyncio.to_thread(self._known, id, active)  # made while this one waited
                if known is not None:
                    return known
                made = await self._solved(id, asker, active, features, labels)
        except TimeoutError as error:
            raise DeadlineError(
                f"profile of {len(labels)} examples",
                found=f"no solution within {timeout_s:.0f} s",
                remedy="try again: other solutions may have been under way",
            ) from error
        log.info(
            "profile.made",
            profile=id[:12],
            owners=made.owners,
            examples=made.examples,
            duration_s=round(time.monotonic() - began, 3),
        )
        return made

    def get(self, id: str, active: ActiveGate) -> KnownProfile:
        """Return a profile that still holds. Reads files: call it outside the event loop.

        Raises NotFoundError for one that is unknown, was not used for long or lost an owner,
        TrunkMismatchError for one of another trunk.
        """
        known = self._files.get(id)
        subject = f"profile {id[:12]}"
        if known is None:
            raise NotFoundError(
                subject,
                found="none here",
                expected="a profile that this swarm made and that was used lately",
                remedy=REMEDY,
            )
        if known.facts.trunk != active.value.trunk:
            raise TrunkMismatchError(
                subject,
                found=f"trunk {known.facts.trunk[:12]}",
                expected=f"trunk {active.value.trunk[:12]}",
                remedy=REMEDY,
            )
        if not self._holds(known, active):
            self._files.remove(id)
            held = self._held(active)
            left = [owner for owner, digest in known.facts.given() if digest not in held]
            raise NotFoundError(
                subject,
                found=f"sums of {', '.join(left[:5])}, who withdrew or replaced them",
                expected="owners whose sums are still here",
                remedy=REMEDY,
            )
        return known

    def answer(
        self, known: KnownProfile, query: Query, features: NDArray[np.float32], trunk_flops: int
    ) -> Answer:
        """Return the profile's answer to features float32 [B, D]: its root alone, no expert is asked."""
        facts, root, trunk = known.facts, known.root, self._trunk()
        size = len(root.weights) - (not trunk.has_constant)
        scores = root.scores(in_fixed_point(features, size, trunk.fixed_point, trunk.has_constant))
        rows, classes = scores.shape
        by_root = Combination(name="root", class_temperature=facts.class_temperature)
        version = facts.profile.gate_version
        source = Source(
            leaf=ROOT_LEAF,
            expert=ROOT_EXPERT,
            version=version,
            manifest=facts.profile.id,
            owner=ROOT_OWNER,
            served_by=ROOT_OWNER,
            weight=1.0,
            module_digests=(),
        )
        return Answer(
            class_names=facts.answered,
            probabilities=mix(by_root, class_scores=scores, parts=(), batch=rows, classes=classes),
            gate_version=version,
            degraded=(False,) * rows,
            sources=((source,),) * rows if query.explain else (),
            flops_per_query=float(trunk_flops + root.flops_per_query + 2 * len(root.weights)),
            combination=LABEL,
        ).at_least(query.min_confidence)

    async def _solved(
        self,
        id: Digest,
        asker: NodeId,
        active: ActiveGate,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
    ) -> Profile:
        gate, trunk = active.value, self._trunk()
        beside = self._aside.beside(gate)
        given = await asyncio.to_thread(self._by_owner, gate.contributions)
        given |= {owner: group.contributions[0] for owner, group in beside.items()}
        leaves = [*gate.leaves, *(leaf for group in beside.values() for leaf in group.leaves)]
        branches = [*gate.branches, *(branch for group in beside.values() for branch in group.branches)]
        q = await asyncio.to_thread(quantised, features, trunk.fixed_point, trunk.has_constant)

        async def roots(groups: Sequence[Sequence[NodeId]]) -> list[ClassColumns]:
            jobs = [_group(names, given, leaves, branches) for names in groups]
            solved = await self._solver.solve(jobs, gate.class_names, (gate.ridge,), trunk)
            return [
                await asyncio.to_thread(_root_of, job, solution, gate.class_names)
                for job, solution in zip(jobs, solved, strict=True)
            ]

        chosen = await choose(active, [*beside], roots, q, labels)
        profile = Profile(
            id=id,
            owners=chosen.owners,
            examples=len(labels),
            accuracy=float(chosen.right.mean()),
            accuracy_all=float(chosen.right_by_all.mean()),
            gate_version=active.version,
        )
        await asyncio.to_thread(
            self._files.put,
            profile,
            chosen.root,
            asker=asker,
            contributions=tuple(given[owner] for owner in chosen.owners),
            class_names=tuple(gate.class_names[row] for row in chosen.root.rows),
            class_temperature=root_combination(gate).answer_temperature,
            trunk=gate.trunk,
        )
        return profile

    def _known(self, id: Digest, active: ActiveGate) -> Profile | None:
        known = self._files.get(id)
        return known.facts.profile if known is not None and self._holds(known, active) else None

    def _held(self, active: ActiveGate) -> set[Digest]:
        return {*active.value.contributions, *self._beside(active)}

    def _holds(self, known: KnownProfile, active: ActiveGate) -> bool:
        return self._held(active).issuperset(known.facts.contributions)

    def _beside(self, active: ActiveGate) -> list[Digest]:
        return sorted(group.contributions[0] for group in self._aside.beside(active.value).values())

    def _by_owner(self, contributions: Sequence[Digest]) -> dict[NodeId, Digest]:
        return {self._contributions.statement(digest).value.owner: digest for digest in contributions}


def profile_id(active: ActiveGate, examples: Examples, beside: Sequence[Digest]) -> Digest:
    """Return the name of what examples give under this gate and what is kept beside it: blake3 of all."""
    hasher = blake3(active.statement.digest.encode())
    hasher.update("".join(beside).encode())
    for label in examples.labels:
        hasher.update(len(label.encode()).to_bytes(4, "big") + label.encode())
    inputs = np.ascontiguousarray(examples.inputs)
    hasher.update(f"{inputs.dtype.str}{inputs.shape}".encode())
    hasher.update(inputs.tobytes())
    return Digest(hasher.hexdigest())


def _group(
    owners: Sequence[NodeId],
    given: dict[NodeId, Digest],
    leaves: Sequence[GateLeaf],
    branches: Sequence[GateBranch],
) -> Group:
    return Group(
        contributions=tuple(given[owner] for owner in sorted(owners)),
        leaves=tuple(leaf for leaf in leaves if leaf.owner in owners),
        branches=tuple(branch for branch in branches if branch.owner in owners),
    )


def _root_of(group: Group, solution: Solution, class_names: Sequence[str]) -> ClassColumns:
    assert solution.weights is not None, "only owners with sums are solved"
    if solution.class_targets is not None:
        assert solution.roots is not None and solution.scales is not None, "columns come with their scales"
        return ClassColumns(
            weights=whole(solution.roots[0], solution.scales[0]),
            rows=np.array(solution.class_targets),
            classes=len(class_names),
            owners=None if solution.class_owners is None else np.array(solution.class_owners),
        )
    _, class_rows = target_rows(group.leaves, class_names)
    return ClassColumns.summing(solution.weights[0], class_rows, len(class_names))
