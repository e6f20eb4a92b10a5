"""Routed answers: features, gate, plan, experts' owners, one mixture. Planned purely, executed here.

An owner that does not answer is replaced by another holder of the same version or of an exact copy, then by
the root (the answer says degraded). Where the gate has no sums, or the query names owners, the row's next
leaves take its place; where none is left, the query is refused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.answer_board import AnswerBoard, Rows
from swarm.answering.combining import Floats, Reply, is_silent, mixed, root_owners, sources
from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.feature_service import FeatureService
from swarm.answering.gate_entropy import gate_entropy
from swarm.answering.gate_reading import Reading, distances_out, gate_flops, read_gate
from swarm.answering.gathering import Asking, Gathering
from swarm.answering.known_head import KnownHead, KnownHeads
from swarm.answering.listed_planning import planned_listed
from swarm.answering.query_checks import check_answer_size, check_query
from swarm.answering.replaying import distances_in_tiles, read_in_tiles, record_of
from swarm.answering.roster import Allowed, Roster, Rosters, Speaking
from swarm.answering.short_work import is_short, is_small, worked
from swarm.answering.ways import Way, choose_way
from swarm.domain.errors import NotReadyError
from swarm.domain.ids import ROOT_EXPERT, NodeId
from swarm.domain.inference import Answer, Query, Source
from swarm.domain.specification import Specification
from swarm.gating.routing import plan_among
from swarm.gating.shortlist import Shortlist

log = structlog.get_logger()


class Router:
    """Answers by a gate and the experts that it chooses, wherever that runs."""

    def __init__(
        self,
        *,
        active: Callable[[], ActiveGate | None],
        specification: Callable[[], Specification],
        heads: KnownHeads,
        features: FeatureService,
        calls: ExpertCalls,
        older: Callable[[int], Awaitable[ActiveGate]],
    ) -> None:
        self._active, self._specification = active, specification
        self._heads, self._features, self._calls = heads, features, calls
        self._rosters = Rosters(heads)
        self._older = older

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the swarm's answer to a query of 1 to MAX_QUERY_ROWS rows, fewer where classes are many.

        Raises InvalidInputError or ShapeMismatchError for what can never be answered, NotFoundError for a
        combination, gate version or owner that is not there, NotReadyError while there is no gate or
        nobody to answer, DeadlineError beyond timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        await worked(is_small(query), check_query, query, self._specification())
        active = await self._asked(query.gate_version)
        check_answer_size(len(query.inputs), active.value.class_names)
        way = choose_way(query, active)
        roster = self._rosters.of(active)
        allowed = allowed_among(query.owners, way, active, roster)
        reading, computed_on = await self._read(query, way, active)
        short = is_short(query, active)
        board = await worked(short, planned_among, way, reading, allowed)
        replies, missing = await self._collect(query, way, active, allowed, board, deadline)
        fallen = board.unanswered() if way.asks_experts else np.empty(0, dtype=np.int64)
        if len(fallen) and not way.falls_back:
            raise _nobody(active, query, fallen, missing)
        board.degraded[fallen] = True

        def answered() -> Answer:
            shares = board.all_shares()
            root_shares = board.root_shares() if way.asks_experts else np.zeros(len(query.inputs))
            root = self._heads.get(ROOT_EXPERT)
            asked = sum(reply.answer.flops_per_query * len(reply.rows) for reply in replies)
            trunk = 0 if reading.features is None else self._features.flops_per_query
            probabilities = mixed(way, active, reading, shares, replies, root_shares)
            explained: tuple[tuple[Source, ...], ...] = ()
            entropy: tuple[float, ...] = ()
            if query.explain:
                owners = root_owners(active, reading, probabilities)
                explained = sources(way, active, roster.heads, root, shares, replies, root_shares, owners)
                entropy = gate_entropy(way, active, reading)
            return Answer(
                class_names=active.value.class_names,
                probabilities=probabilities,
                gate_version=active.version,
                degraded=tuple(bool(flag) for flag in board.degraded),
                sources=explained,
                missing_experts=tuple(sorted(active.value.leaves[leaf].expert for leaf in missing)),
                flops_per_query=trunk + gate_flops(active, reading, root_shares) + asked / len(query.inputs),
                combination=way.label,
                gate_entropy=entropy,
                calibration=way.combination.calibration,
                out_of_distribution=self._distances(query, active, reading),
                record=record_of(active, way, roster, replies, computed_on) if query.replayable else None,
            ).at_least(query.min_confidence)

        return await worked(short and not query.replayable, answered)

    async def _asked(self, version: int) -> ActiveGate:
        active = self._active()
        if version == 0 or (active is not None and version == active.version):
            return with_leaves(active)
        return with_leaves(await self._older(version))

    async def _read(self, query: Query, way: Way, active: ActiveGate) -> tuple[Reading, str]:
        """Return what the gate says and, of a replayable query, on what that was computed."""
        if query.replayable:
            features, computed_on = await self._features.replayable(query.inputs)
            return await asyncio.to_thread(read_in_tiles, way, active, features), computed_on
        if way.evenly:
            return Reading(weights=np.ones((len(query.inputs), len(active.value.leaves)))), ""
        features = await self._features.features(query.inputs)
        return await worked(is_short(query, active), read_gate, way, active, features), ""

    def _distances(self, query: Query, active: ActiveGate, reading: Reading) -> Floats | None:
        if query.replayable and not query.uniform and reading.features is not None:
            return distances_in_tiles(active, reading.features)
        return None if query.uniform else distances_out(active, reading)

    async def _collect(
        self,
        query: Query,
        way: Way,
        active: ActiveGate,
        allowed: Allowed,
        board: AnswerBoard,
        deadline: float,
    ) -> tuple[list[Reply], set[int]]:
        """Return the answers, and the leaves that gave none for some row."""
        missing: set[int] = set()

        def asked(wanted: Mapping[int, Rows]) -> dict[int, Rows]:
            return {leaf: rows for leaf, rows in wanted.items() if not is_silent(way, allowed.heads[leaf])}

        def lost(losses: Mapping[int, Rows]) -> dict[int, Rows]:
            missing.update(losses)
            return asked(board.failed(losses))

        asking = Asking(
            inputs=query.inputs,
            gate=active.value,
            form=way.form,
            deadline=deadline,
            replayable=query.replayable,
        )
        gathering = Gathering(self._calls, asking, allowed.speakers, lost)
        return await gathering.replies(asked(board.wanted())), missing


def with_leaves(gate: ActiveGate | None) -> ActiveGate:
    """Return a gate that can answer; NotReadyError where there is none, or it has no leaves."""
    if gate is None or gate.prototypes is None:
        raise NotReadyError(
            "gate",
            found="none yet" if gate is None else f"version {gate.version}, which has no leaves",
            expected="a contribution of at least one node",
            remedy="on a node: swarm train DATA",
        )
    return gate


def planned(
    way: Way, reading: Reading, leaves: Sequence[KnownHead | None], allowed: NDArray[np.bool_]
) -> AnswerBoard:
    """Return who is asked what, before anybody has answered."""
    return planned_among(way, reading, Allowed.of(leaves, allowed))


def planned_among(way: Way, reading: Reading, allowed: Allowed) -> AnswerBoard:
    """Return who is asked what of the leaves that may be, before anybody has answered."""
    weights = reading.weights
    if isinstance(weights, Shortlist):
        return planned_listed(
            weights, reading.in_full, way.combination.top_k, allowed, root_stands_in=way.falls_back
        )
    distinct = len(allowed.experts)
    top_k = distinct if way.evenly else min(way.combination.top_k, distinct)
    plan = plan_among(weights, allowed.experts, max(top_k, 1))
    return AnswerBoard(plan, len(allowed.leaves), uniform=way.evenly, root_stands_in=way.falls_back)


def allowed_leaves(
    owners: tuple[NodeId, ...], way: Way, active: ActiveGate, leaves: Sequence[KnownHead | None]
) -> NDArray[np.bool_]:
    """Return the leaves that may be asked, bool [L]: none where the way asks no expert."""
    return allowed_among(owners, way, active, Roster(active, list(leaves))).leaves


def allowed_among(owners: tuple[NodeId, ...], way: Way, active: ActiveGate, roster: Roster) -> Allowed:
    """Return what may be asked of the versions that answer: nothing where the way asks no expert.

    Raises NotFoundError for an owner without leaves, NotReadyError where nothing is left that could answer.
    """
    speaking: Speaking = "with columns" if way.uses_sums else "all"
    found = roster.allowed(owners, speaking if way.asks_experts else "none")
    if way.asks_experts and found.is_empty and not way.falls_back:
        raise NotReadyError(
            "experts",
            found=f"none of gate {active.version} has a published version",
            expected="at least one",
            remedy="list them: swarm experts",
        )
    return found


def _nobody(active: ActiveGate, query: Query, fallen: Rows, missing: set[int]) -> NotReadyError:
    silent = sorted(active.value.leaves[leaf].expert for leaf in missing)
    return NotReadyError(
        f"answer for {len(fallen)} of {len(query.inputs)} rows",
        found=f"no answer from {', '.join(silent[:5])}",
        expected="at least one expert whose owner is connected",
        remedy="see which owners are connected: swarm status",
    )
