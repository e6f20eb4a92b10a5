"""An answer that can be computed again to the bit: how its gate is read, what is kept of it, and doing it
again.

Pure: features and experts' values come from whoever has trunk and modules.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.answer_board import AnswerBoard
from swarm.answering.combining import Floats, Reply, is_silent, mixed, sources
from swarm.answering.gate_reading import Reading, distances_out, in_full, read_gate
from swarm.answering.known_head import KnownHead
from swarm.answering.roster import Roster
from swarm.answering.ways import Way
from swarm.domain.errors import VerificationError
from swarm.domain.inference import Answer, Query
from swarm.domain.replay import AnswerRecord, Said
from swarm.gating.shortlist import Shortlist
from swarm.gating.tiles import TILE, in_tiles

Planned = Callable[[Way, Reading], AnswerBoard]


def read_in_tiles(way: Way, active: ActiveGate, features: Floats) -> Reading:
    """Return what the gate says of features float32 [B, D], computed TILE rows at a time."""
    if way.evenly:
        return Reading(weights=np.ones((len(features), len(active.value.leaves))), features=features)
    read = [read_gate(way, active, tile) for tile in _tiles(features)]

    def joined(parts: Sequence[NDArray[np.floating] | None]) -> NDArray[np.floating] | None:
        there = [part for part in parts if part is not None]
        return np.concatenate(there)[: len(features)] if there else None

    dense = [each.weights for each in read if not isinstance(each.weights, Shortlist)]
    listed = [each.weights for each in read if isinstance(each.weights, Shortlist)]
    weights = Shortlist.joined(listed).first(len(features)) if listed else joined(dense)
    assert weights is not None, "a query has rows"
    return Reading(
        weights=weights,
        in_full=in_full(way, active, features) if listed else None,
        scores=joined([each.scores for each in read]),
        class_scores=joined([each.class_scores for each in read]),
        features=features,
        flops=read[0].flops,
    )


def distances_in_tiles(active: ActiveGate, features: Floats) -> Floats | None:
    """Return how far out each row lies, computed TILE rows at a time."""
    if active.prototypes is None:
        return None

    def far(tile: NDArray[np.generic]) -> Floats:
        found = distances_out(
            active, Reading(weights=np.empty(0), features=tile.astype(np.float32, copy=False))
        )
        assert found is not None, "there are prototypes and features"
        return found

    return in_tiles(far, features)


def record_of(
    active: ActiveGate,
    way: Way,
    leaves: Roster,
    replies: Sequence[Reply],
    computed_on: str,
) -> AnswerRecord:
    """Return what an answer came from."""
    said = []
    for reply in replies:
        head = leaves.heads[reply.speaker]
        assert head is not None, "an answer comes from a leaf with a head"
        said.append(
            Said(
                leaf=reply.leaf,
                speaker=reply.speaker,
                manifest=head.digest,
                served_by=reply.answer.served_by,
                rows=tuple(map(int, reply.rows)),
                computed_on=reply.answer.computed_on,
            )
        )
    return AnswerRecord(
        specification=active.value.specification,
        gate=active.statement.digest,
        gate_version=active.version,
        combination=way.combination,
        evenly=way.evenly,
        falls_back=way.falls_back,
        heads=leaves.digests,
        said=tuple(said),
        computed_on=computed_on,
    )


def in_order(replies: Sequence[Reply]) -> list[Reply]:
    """Return replies in the order in which they are added up, whoever was first to answer."""
    return sorted(replies, key=lambda reply: (reply.leaf, int(reply.rows[0])))


def answered_again(
    record: AnswerRecord,
    query: Query,
    active: ActiveGate,
    features: Floats,
    replies: Sequence[Reply],
    leaves: Sequence[KnownHead | None],
    planned: Planned,
) -> Answer:
    """Return a recorded answer, computed again from features float32 [B, D] and experts' replies. Its sources
    are without the root's owners, and the root's manifest is the gate's statement.

    Raises VerificationError where the gate would have asked others than the record says.
    """
    way = Way(combination=record.combination, evenly=record.evenly, falls_back=record.falls_back)
    reading = read_in_tiles(way, active, features)
    board = planned(way, reading)
    _lose_again(board, record.said, lambda leaf: is_silent(way, leaves[leaf]))
    fallen = board.unanswered() if way.asks_experts else np.empty(0, dtype=np.int64)
    board.degraded[fallen] = True
    root_shares = board.root_shares() if way.asks_experts else np.zeros(len(features))
    shares, ordered = board.all_shares(), in_order(replies)
    return Answer(
        class_names=active.value.class_names,
        probabilities=mixed(way, active, reading, shares, ordered, root_shares),
        gate_version=active.version,
        degraded=tuple(bool(flag) for flag in board.degraded),
        sources=sources(way, active, leaves, None, shares, ordered, root_shares, [()] * len(features)),
        combination=way.label,
        calibration=way.combination.calibration,
        out_of_distribution=None if way.evenly else distances_in_tiles(active, features),
        record=record,
    ).at_least(query.min_confidence)


def _lose_again(board: AnswerBoard, said: Sequence[Said], silent: Callable[[int], bool]) -> None:
    """Take from a board what nobody answered at the time; who was asked instead must be who answered."""
    given: dict[int, set[int]] = {}
    for each in said:
        given.setdefault(each.leaf, set()).update(each.rows)
    while True:
        wanted = {leaf: rows for leaf, rows in board.wanted().items() if not silent(leaf)}
        lost = {
            leaf: np.array([r for r in rows if r not in given.get(leaf, ())]) for leaf, rows in wanted.items()
        }
        lost = {leaf: rows.astype(np.int64) for leaf, rows in lost.items() if len(rows)}
        if not lost:
            break
        board.failed(lost)
    if {leaf: set(rows.tolist()) for leaf, rows in wanted.items()} != given:
        raise VerificationError(
            "experts of the answer",
            found=f"answers for leaves {sorted(given)}",
            expected=f"for leaves {sorted(wanted)}, as the recorded gate routes these inputs",
        )


def _tiles(features: Floats) -> list[Floats]:
    parts = [features[start : start + TILE] for start in range(0, len(features), TILE)]
    lacking = TILE - len(parts[-1])
    return [*parts[:-1], np.concatenate([parts[-1], np.repeat(parts[-1][-1:], lacking, axis=0)])]
