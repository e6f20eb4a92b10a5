"""Routed answers: features, gate, plan, experts' owners, one mixture. Planned purely, executed here.

An owner that does not answer is replaced by another holder of the same version, then by the row's next
leaves (the answer says degraded), and only with nobody left is the query refused.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from coordinator.active_gate import ActiveGate
from coordinator.answer_board import AnswerBoard, Rows, merge_rows
from coordinator.expert_calls import Asked, ExpertCalls
from coordinator.feature_service import FeatureService
from coordinator.heads import Heads, KnownHead
from coordinator.query_checks import check_query
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query, Source
from swarm.domain.specification import Specification
from swarm.gating.combine import combine
from swarm.gating.routing import RoutePlan, plan_route

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """One expert's accepted answer for some rows."""

    leaf: int
    rows: Rows
    answer: Asked


class Router:
    """Implements `InferencePort`."""

    def __init__(
        self,
        *,
        active: Callable[[], ActiveGate | None],
        specification: Callable[[], Specification],
        heads: Heads,
        features: FeatureService,
        calls: ExpertCalls,
    ) -> None:
        self._active, self._specification = active, specification
        self._heads, self._features, self._calls = heads, features, calls

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the swarm's answer to a query of 1 to MAX_QUERY_ROWS rows.

        Raises InvalidInputError or ShapeMismatchError for what can never be answered, NotReadyError while
        there is no gate or nobody to answer, DeadlineError beyond timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        await asyncio.to_thread(check_query, query, self._specification())
        active = self._active()
        if active is None or active.gate is None:
            raise _no_gate(active)
        leaves = [self._heads.get(leaf.expert) for leaf in active.value.leaves]
        allowed = _allowed(query.owners, active, leaves)
        plan, flops = await self._plan(query, active, leaves, allowed)
        board = AnswerBoard(plan, len(leaves), uniform=query.uniform)
        parts, missing = await self._collect(query, active, leaves, board, deadline)
        unanswered = board.unanswered()
        if len(unanswered):
            silent = sorted(active.value.leaves[leaf].expert for leaf in missing)
            raise NotReadyError(
                f"answer for {len(unanswered)} of {len(query.inputs)} rows",
                found=f"no answer from {', '.join(silent[:5])}",
                expected="at least one expert whose owner is connected",
                remedy="see which owners are connected: swarm status",
            )
        return await asyncio.to_thread(_answer, query, active, leaves, board, parts, missing, flops)

    async def _plan(
        self, query: Query, active: ActiveGate, leaves: list[KnownHead | None], allowed: NDArray[np.bool_]
    ) -> tuple[RoutePlan, float]:
        """Return the route and what it costs per query in FLOPs; asking everyone evenly needs no features."""
        gate = active.gate
        assert gate is not None, "a gate without leaves is refused before"
        identities = [head.digest if head is not None else "" for head in leaves]
        distinct = len({identities[leaf] for leaf in np.flatnonzero(allowed)})
        if query.uniform:
            even = np.ones((len(query.inputs), len(leaves)))
            return plan_route(even, identities, distinct, allowed), 0.0
        features = await self._features.features(query.inputs)
        top_k = min(query.top_k or active.value.top_k, distinct)

        def planned() -> RoutePlan:
            return plan_route(gate.leaf_weights(features), identities, top_k, allowed)

        plan = await asyncio.to_thread(planned)
        return plan, float(self._features.flops_per_query + gate.flops_per_query)

    async def _collect(
        self,
        query: Query,
        active: ActiveGate,
        leaves: list[KnownHead | None],
        board: AnswerBoard,
        deadline: float,
    ) -> tuple[list[_Part], set[int]]:
        """Return the answers, and the leaves that gave none for some row."""
        parts: list[_Part] = []
        missing: set[int] = set()
        tried: dict[int, set[NodeId]] = {}
        pending = board.wanted()
        while pending:
            losses: dict[int, Rows] = {}
            asked: dict[NodeId, dict[int, Rows]] = {}
            for leaf, rows in pending.items():
                head = leaves[leaf]
                assert head is not None, "only leaves with a head are planned"
                holder = self._calls.holder(head, tried.setdefault(leaf, set()))
                if holder is None:
                    losses[leaf] = rows
                else:
                    asked.setdefault(holder, {})[leaf] = rows
            answers = await asyncio.gather(
                *(
                    self._calls.ask(node, query.inputs, wanted, leaves, active.value, deadline)
                    for node, wanted in asked.items()
                )
            )
            again: dict[int, Rows] = {}
            for (node, wanted), found in zip(asked.items(), answers, strict=True):
                for leaf, rows in wanted.items():
                    if leaf in found:
                        parts.append(_Part(leaf=leaf, rows=rows, answer=found[leaf]))
                    else:
                        tried[leaf].add(node)
                        again[leaf] = rows
            missing |= losses.keys()
            pending = merge_rows([again, board.failed(losses)])
        return parts, missing


def _no_gate(active: ActiveGate | None) -> NotReadyError:
    return NotReadyError(
        "gate",
        found="none yet" if active is None else f"version {active.version}, which has no leaves",
        expected="a contribution of at least one node",
        remedy="on a node: swarm train DATA",
    )


def _allowed(
    owners: tuple[NodeId, ...], active: ActiveGate, leaves: list[KnownHead | None]
) -> NDArray[np.bool_]:
    known = {leaf.owner for leaf in active.value.leaves}
    strangers = sorted(set(owners) - known)
    if strangers:
        raise NotFoundError(
            f"owner {strangers[0][:60]}",
            found=f"no leaf in gate {active.version}",
            expected=f"some of {', '.join(sorted(known)[:20])}",
        )
    allowed = np.array(
        [
            head is not None and (not owners or leaf.owner in owners)
            for leaf, head in zip(active.value.leaves, leaves, strict=True)
        ],
        dtype=bool,
    )
    if not allowed.any():
        raise NotReadyError(
            "experts",
            found=f"none of gate {active.version} has a published version",
            expected="at least one",
            remedy="list them: swarm experts",
        )
    return allowed


def _answer(
    query: Query,
    active: ActiveGate,
    leaves: list[KnownHead | None],
    board: AnswerBoard,
    parts: list[_Part],
    missing: set[int],
    flops: float,
) -> Answer:
    shares = board.shares()
    names = active.value.class_names
    mixed = []
    expert_flops = 0.0
    for part in parts:
        known = [column for column, name in enumerate(part.answer.class_names) if name in names]
        kept = tuple(part.answer.class_names[column] for column in known)
        mixed.append((part.rows, shares[part.rows, part.leaf], kept, part.answer.probabilities[:, known]))
        expert_flops += part.answer.flops_per_query * len(part.rows)
    try:
        probabilities = combine(names, mixed, batch=len(query.inputs))
    except InvalidInputError as error:
        raise NotReadyError("answer", found=str(error), remedy="try again") from error
    return Answer(
        class_names=names,
        probabilities=probabilities,
        gate_version=active.version,
        degraded=tuple(bool(flag) for flag in board.degraded),
        sources=_sources(len(query.inputs), active, leaves, shares, parts) if query.explain else (),
        missing_experts=tuple(sorted(active.value.leaves[leaf].expert for leaf in missing)),
        flops_per_query=flops + expert_flops / len(query.inputs),
    )


def _sources(
    rows: int,
    active: ActiveGate,
    leaves: list[KnownHead | None],
    shares: NDArray[np.float64],
    parts: list[_Part],
) -> tuple[tuple[Source, ...], ...]:
    by_row: list[list[Source]] = [[] for _ in range(rows)]
    for part in parts:
        leaf, head = active.value.leaves[part.leaf], leaves[part.leaf]
        assert head is not None, "an answer comes from a leaf with a head"
        for row in part.rows:
            by_row[row].append(
                Source(
                    leaf=leaf.leaf,
                    expert=leaf.expert,
                    version=head.manifest.version,
                    manifest=head.digest,
                    owner=leaf.owner,
                    served_by=part.answer.served_by,
                    weight=float(shares[row, part.leaf]),
                    module_digests=head.module_digests,
                )
            )
    return tuple(tuple(sorted(found, key=lambda s: (-s.weight, s.leaf))) for found in by_row)
