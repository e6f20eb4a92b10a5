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
from swarm.answering.combining import (
    Floats,
    Reading,
    Reply,
    Way,
    choose_way,
    distances_out,
    gate_flops,
    mixed,
    read_gate,
    root_owners,
    silent_leaves,
    sources,
)
from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.feature_service import FeatureService
from swarm.answering.gate_entropy import gate_entropy
from swarm.answering.gathering import Asking, Gathering
from swarm.answering.known_head import KnownHead, KnownHeads
from swarm.answering.listed_planning import planned_listed
from swarm.answering.query_checks import check_answer_size, check_query
from swarm.answering.replaying import distances_in_tiles, read_in_tiles, record_of
from swarm.domain.errors import NotFoundError, NotReadyError
from swarm.domain.ids import ROOT_EXPERT, NodeId
from swarm.domain.inference import Answer, Query, Source
from swarm.domain.specification import Specification
from swarm.gating.combinations import may_speak
from swarm.gating.routing import plan_route
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
        self._older = older

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the swarm's answer to a query of 1 to MAX_QUERY_ROWS rows, fewer where classes are many.

        Raises InvalidInputError or ShapeMismatchError for what can never be answered, NotFoundError for a
        combination, gate version or owner that is not there, NotReadyError while there is no gate or
        nobody to answer, DeadlineError beyond timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        await asyncio.to_thread(check_query, query, self._specification())
        active = await self._asked(query.gate_version)
        check_answer_size(len(query.inputs), active.value.class_names)
        way = choose_way(query, active)
        leaves = [self._heads.answering(leaf) for leaf in active.value.leaves]
        allowed = allowed_leaves(query.owners, way, active, leaves)
        reading, computed_on = await self._read(query, way, active)
        board = await asyncio.to_thread(planned, way, reading, leaves, allowed)
        replies, missing = await self._collect(query, way, active, leaves, allowed, board, deadline)
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
                explained = sources(way, active, leaves, root, shares, replies, root_shares, owners)
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
                record=record_of(active, way, leaves, replies, computed_on) if query.replayable else None,
            ).at_least(query.min_confidence)

        return await asyncio.to_thread(answered)

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
        return await asyncio.to_thread(read_gate, way, active, features), ""

    def _distances(self, query: Query, active: ActiveGate, reading: Reading) -> Floats | None:
        if query.replayable and not query.uniform and reading.features is not None:
            return distances_in_tiles(active, reading.features)
        return None if query.uniform else distances_out(active, reading)

    async def _collect(
        self,
        query: Query,
        way: Way,
        active: ActiveGate,
        leaves: Sequence[KnownHead | None],
        allowed: NDArray[np.bool_],
        board: AnswerBoard,
        deadline: float,
    ) -> tuple[list[Reply], set[int]]:
        """Return the answers, and the leaves that gave none for some row."""
        missing: set[int] = set()
        silent, stand_ins = silent_leaves(way, leaves), _stand_ins(leaves, allowed)

        def asked(wanted: Mapping[int, Rows]) -> dict[int, Rows]:
            return {leaf: rows for leaf, rows in wanted.items() if leaf not in silent}

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
        gathering = Gathering(self._calls, asking, stand_ins.__getitem__, lost)
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


def _stand_ins(
    leaves: Sequence[KnownHead | None], allowed: NDArray[np.bool_]
) -> list[list[tuple[int, KnownHead]]]:
    """Return for each allowed leaf who can speak for it: itself first, then those that compute the same."""
    alike: dict[str, list[tuple[int, KnownHead]]] = {}
    for row, head in enumerate(leaves):
        if head is not None and allowed[row]:
            alike.setdefault(head.identity, []).append((row, head))
    found: list[list[tuple[int, KnownHead]]] = [[] for _ in leaves]
    for group in alike.values():
        for row, head in group:
            found[row] = [(row, head), *(each for each in group if each[0] != row)]
    return found


def planned(
    way: Way, reading: Reading, leaves: Sequence[KnownHead | None], allowed: NDArray[np.bool_]
) -> AnswerBoard:
    """Return who is asked what, before anybody has answered."""
    weights = reading.weights
    if isinstance(weights, Shortlist):
        return planned_listed(
            weights, reading.in_full, leaves, way.combination.top_k, allowed, root_stands_in=way.falls_back
        )
    identities = [head.identity if head is not None else "" for head in leaves]
    distinct = len({identities[leaf] for leaf in np.flatnonzero(allowed)})
    top_k = distinct if way.evenly else min(way.combination.top_k, distinct)
    plan = plan_route(weights, identities, max(top_k, 1), allowed)
    return AnswerBoard(plan, len(leaves), uniform=way.evenly, root_stands_in=way.falls_back)


def allowed_leaves(
    owners: tuple[NodeId, ...], way: Way, active: ActiveGate, leaves: Sequence[KnownHead | None]
) -> NDArray[np.bool_]:
    """Return the leaves that may be asked, bool [L]: none where the way asks no expert."""
    known = {leaf.owner for leaf in active.value.leaves}
    strangers = sorted(set(owners) - known)
    if strangers:
        raise NotFoundError(
            f"owner {strangers[0][:60]}",
            found=f"no leaf in gate {active.version}",
            expected=f"some of {', '.join(sorted(known)[:20])}",
        )
    if not way.asks_experts:
        return np.zeros(len(leaves), dtype=bool)
    there = np.array(
        [
            head is not None and (not owners or leaf.owner in owners)
            for leaf, head in zip(active.value.leaves, leaves, strict=True)
        ],
        dtype=bool,
    )
    allowed = there if way.evenly else there & may_speak(way.combination, active.analytic, len(leaves))
    if not allowed.any() and not way.falls_back:
        raise NotReadyError(
            "experts",
            found=f"none of gate {active.version} has a published version",
            expected="at least one",
            remedy="list them: swarm experts",
        )
    return allowed


def _nobody(active: ActiveGate, query: Query, fallen: Rows, missing: set[int]) -> NotReadyError:
    silent = sorted(active.value.leaves[leaf].expert for leaf in missing)
    return NotReadyError(
        f"answer for {len(fallen)} of {len(query.inputs)} rows",
        found=f"no answer from {', '.join(silent[:5])}",
        expected="at least one expert whose owner is connected",
        remedy="see which owners are connected: swarm status",
    )
