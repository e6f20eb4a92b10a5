"""How what experts and root say is mixed into one answer, and whose it is: pure.

Where the gate has sums, the root stands in for an expert that does not answer, with the weight that the gate
gave it: it knows more of the row than an expert that the gate did not choose (docs/adr/0013). The root is a
source like any other: in `root` and in rows that no expert answered, it is the only one; in `poe` and
`corrected` it stands first with weight 1, because it answers every row whole, and the experts follow with
their leaf weights; in rows that lack one expert of several it has that one's weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.answer_board import Rows, Shares
from swarm.answering.expert_calls import Asked
from swarm.answering.gate_reading import Reading, class_scores, region_shares
from swarm.answering.known_head import KnownHead
from swarm.answering.ways import Way
from swarm.domain.combination import Combination
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, ROOT_LEAF, ROOT_OWNER
from swarm.domain.inference import OwnerShare, Source
from swarm.gating.calibration import calibrated
from swarm.gating.combinations import mix

LEAST_SHARE = 0.01
"""Owners that give less of an answer are not named."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """One expert's believed answer for some rows. `speaker` is the leaf that gave it: `leaf`, which the gate
    weighs, or one with an exact copy of its expert."""

    leaf: int
    rows: Rows
    answer: Asked
    speaker: int


def class_rows(class_names: Sequence[str], gate: GateStatement) -> NDArray[np.int64]:
    """Return the gate's column of each class name, int64 [C_own], -1 for one that the gate lacks."""
    column = {name: row for row, name in enumerate(gate.class_names)}
    return np.array([column.get(name, -1) for name in class_names], dtype=np.int64)


def mixed(
    way: Way,
    active: ActiveGate,
    reading: Reading,
    shares: Shares,
    replies: Sequence[Reply],
    root_shares: NDArray[np.float64],
) -> Floats:
    """Return the answer's calibrated probabilities float32 [B, C]; the root has its share [B] of them, 1:
    all.

    Raises NotReadyError where what experts said cannot be mixed.
    """
    gate = active.value
    parts = []
    for reply in replies:
        rows = class_rows(reply.answer.class_names, gate)
        known = rows >= 0
        weights = shares.of(reply.leaf, reply.rows)
        parts.append((reply.rows, weights, rows[known], reply.answer.values[:, known]))
    batch, classes = len(root_shares), len(gate.class_names)
    helped = np.flatnonzero(root_shares)
    by_root = _by_root(active, reading, helped) if len(helped) else np.empty((0, classes), dtype=np.float32)
    if len(helped) and way.form == "probabilities":
        parts.append((helped, root_shares[helped], np.arange(classes), by_root))
    try:
        found = mix(
            way.combination, class_scores=reading.class_scores, parts=parts, batch=batch, classes=classes
        )
    except InvalidInputError as error:
        raise NotReadyError("answer", found=str(error), remedy="try again") from error
    found = calibrated(found, way.combination.calibration)
    alone = root_shares[helped] >= 1
    found[helped[alone]] = calibrated(by_root[alone], root_combination(gate).calibration)
    return found


def _by_root(active: ActiveGate, reading: Reading, rows: Rows) -> Floats:
    gate = active.value
    scores = class_scores(active, reading, rows)
    return mix(
        root_combination(gate),
        class_scores=scores,
        parts=(),
        batch=len(rows),
        classes=len(gate.class_names),
    )


def root_combination(gate: GateStatement) -> Combination:
    """Return the gate's combination `root`, at its default temperature where none was chosen."""
    return next((each for each in gate.combinations if each.name == "root"), Combination(name="root"))


def sources(
    way: Way,
    active: ActiveGate,
    leaves: Sequence[KnownHead | None],
    root: KnownHead | None,
    shares: Shares,
    replies: Sequence[Reply],
    root_shares: NDArray[np.float64],
    owners: Sequence[tuple[OwnerShare, ...]],
) -> tuple[tuple[Source, ...], ...]:
    """Return who gave each row's answer, in falling weight, by the rule above; `owners` are the root's."""
    by_row: list[list[Source]] = [[] for _ in range(len(root_shares))]
    for reply in replies:
        leaf, head = active.value.leaves[reply.speaker], leaves[reply.speaker]
        assert head is not None, "an answer comes from a leaf with a head"
        modules = head.module_digests
        if way.form == "corrections" and head.manifest.correction is not None:
            modules = tuple(module.digest for module in head.manifest.correction.modules)
        given = shares.of(reply.leaf, reply.rows)
        for row, weight in zip(reply.rows, given, strict=True):
            by_row[row].append(
                Source(
                    leaf=leaf.leaf,
                    expert=leaf.expert,
                    version=head.manifest.version,
                    manifest=head.digest,
                    owner=leaf.owner,
                    served_by=reply.answer.served_by,
                    weight=float(weight),
                    module_digests=modules,
                )
            )
    whole = root_source(active, root)
    stands_first = way.uses_sums and way.combination.name != "gate"
    for row in map(int, np.flatnonzero(root_shares)):
        if not stands_first:
            by_row[row].append(replace(whole, weight=float(root_shares[row]), owners=owners[row]))
    ordered = [sorted(found, key=lambda source: (-source.weight, source.leaf)) for found in by_row]
    if stands_first:
        ordered = [
            [replace(whole, owners=shares), *found] for shares, found in zip(owners, ordered, strict=True)
        ]
    for row in map(int, np.flatnonzero(root_shares >= 1)):
        ordered[row] = [replace(whole, owners=owners[row])]
    return tuple(tuple(found) for found in ordered)


def root_owners(active: ActiveGate, reading: Reading, probabilities: Floats) -> list[tuple[OwnerShare, ...]]:
    """Return on whose sums the root's score for each row's answer rests; nothing where the gate has none."""
    if active.analytic is None or reading.features is None:
        return [()] * len(probabilities)
    names, owner_of = active.leaf_index.owner_names, active.leaf_index.region_owners
    by_owner = np.zeros((len(probabilities), len(names)), dtype=np.float32)
    shares = region_shares(active, reading, probabilities.argmax(axis=1))
    for own, (regions, given) in zip(by_owner, shares, strict=True):
        np.add.at(own, owner_of[regions], given)
    return [
        tuple(
            OwnerShare(owner=names[place], weight=float(own[place]))
            for place in sorted(
                np.flatnonzero(own >= LEAST_SHARE).tolist(), key=lambda place: (-own[place], names[place])
            )
        )
        for own in by_owner
    ]


def root_source(active: ActiveGate, root: KnownHead | None) -> Source:
    """Return the root as a source: its expert's manifest where it is of this gate, else the gate's digest."""
    of_gate = root is not None and root.manifest.gate_version_seen == active.version
    return Source(
        leaf=ROOT_LEAF,
        expert=ROOT_EXPERT,
        version=root.manifest.version if root is not None and of_gate else active.version,
        manifest=root.digest if root is not None and of_gate else active.statement.digest,
        owner=ROOT_OWNER,
        served_by=ROOT_OWNER,
        weight=1.0,
        module_digests=root.module_digests if root is not None and of_gate else (),
    )


def is_silent(way: Way, head: KnownHead | None) -> bool:
    """Say whether a leaf with this version is not asked although chosen: it has no correction to add."""
    return way.form == "corrections" and head is not None and head.manifest.correction is None
