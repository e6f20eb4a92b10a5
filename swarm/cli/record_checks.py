"""Whether the gate that a record names could have answered so: who made the file, or signed it, may lie."""

from collections.abc import Sequence
from dataclasses import replace

from swarm.answering.active_gate import ActiveGate
from swarm.answering.known_head import KnownHead
from swarm.answering.ways import Way, choose_way
from swarm.domain.errors import SwarmError, VerificationError
from swarm.domain.inference import Query
from swarm.domain.replay import AnswerRecord


def check_way(record: AnswerRecord, query: Query, active: ActiveGate) -> None:
    """Raise VerificationError where a record's combination, with all its temperatures, is none of its gate's
    for such a query."""
    recorded = record.combination
    said = Way(combination=recorded, evenly=record.evenly, falls_back=record.falls_back)
    name = "" if record.evenly else recorded.name
    asked = replace(query, uniform=record.evenly, combination=name, top_k=recorded.top_k)
    try:
        is_the_gates = choose_way(asked, active) == said
    except SwarmError as error:
        raise _not_the_gates(said, active) from error
    if not is_the_gates:
        raise _not_the_gates(said, active)


def check_parts(record: AnswerRecord, rows: int, leaves: int) -> None:
    """Raise VerificationError for parts of a record that no answer to so many rows by so many leaves has."""
    heads = len(record.heads)
    if heads != leaves:
        raise VerificationError("heads of the answer", found=f"{heads} of them", expected=f"{leaves}")
    for each in record.said:
        leaf_is_there = 0 <= each.leaf < leaves and 0 <= each.speaker < leaves
        if not leaf_is_there or not each.rows or not all(0 <= row < rows for row in each.rows):
            raise VerificationError(
                f"rows for leaf {each.leaf} in the answer",
                found="other rows or another leaf than there are" if each.rows else "none",
                expected=f"some of {rows} rows, for one of {leaves} leaves",
            )


def check_heads(record: AnswerRecord, active: ActiveGate, heads: Sequence[KnownHead | None]) -> None:
    """Raise VerificationError where a leaf is answered for by another expert than its own, another version
    than the gate pins, or an expert that computes something else."""
    for leaf, head in zip(active.value.leaves, heads, strict=True):
        if head is None:
            continue
        if head.manifest.expert != leaf.expert or leaf.manifest not in ("", head.digest):
            raise VerificationError(
                f"leaf {leaf.leaf} of gate {active.version}",
                found=f"{head.manifest.expert}@{head.manifest.version} in the answer",
                expected=f"{leaf.expert}{', the version that the gate pins' if leaf.manifest else ''}",
            )
    for each in record.said:
        own, spoken = heads[each.leaf], heads[each.speaker]
        if own is None or spoken is None or own.identity != spoken.identity:
            leaves = active.value.leaves
            raise VerificationError(
                f"leaf {leaves[each.leaf].leaf} of gate {active.version}",
                found=f"{leaves[each.speaker].expert} spoke for it in the answer",
                expected=f"{leaves[each.leaf].expert}, or one that computes the same",
            )


def _not_the_gates(said: Way, active: ActiveGate) -> VerificationError:
    return VerificationError(
        f"combination {said.label} of the answer",
        found=f"parameters that gate {active.version} does not have for it",
        expected="one of that gate's combinations, with its temperatures",
        remedy="whoever gave the answer did not answer as the gate says: swarm gate show",
    )
