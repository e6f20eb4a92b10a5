"""How one query is answered, from its combination to its mixture: pure.

Where the gate has sums, the root stands in for an expert that does not answer, with the weight that the gate
gave it: it knows more of the row than an expert that the gate did not choose (docs/adr/0013). The root is a
source like any other: in `root` and in rows that no expert answered, it is the only one; in `poe` and
`corrected` it stands first with weight 1, because it answers every row whole, and the experts follow with
their leaf weights; in rows that lack one expert of several it has that one's weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.answer_board import Rows, Shares
from swarm.answering.expert_calls import Asked
from swarm.answering.known_head import KnownHead
from swarm.domain.combination import USES_EXPERTS, USES_SUMS, Combination
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, ROOT_LEAF, ROOT_OWNER
from swarm.domain.inference import ExpertForm, OwnerShare, Query, Source
from swarm.gating.calibration import calibrated
from swarm.gating.combinations import expert_weights, mix
from swarm.gating.indexed_prototypes import IndexedPrototypes
from swarm.gating.out_of_distribution import flops_of_distances, out_of_distribution
from swarm.gating.regions import region_columns
from swarm.gating.shortlist import Shortlist
from swarm.gating.tiles import in_tiles

OF_SOME_OWNERS = ("gate", "prototypes")
"""The combinations that can be restricted to some owners: class scores are of all owners' sums."""
LEAST_SHARE = 0.01
"""Owners that give less of an answer are not named."""
EVENLY = Combination(name="prototypes")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One query's combination. `evenly`: all experts alike, no gate; `falls_back`: to the root at need."""

    combination: Combination
    evenly: bool = False
    falls_back: bool = False

    @property
    def label(self) -> str:
        """A name for people: `gate top-2`, `uniform`."""
        return "uniform" if self.evenly else self.combination.label

    @property
    def form(self) -> ExpertForm:
        return "corrections" if self.combination.name == "corrected" else "probabilities"

    @property
    def asks_experts(self) -> bool:
        return self.evenly or self.combination.name in USES_EXPERTS

    @property
    def uses_sums(self) -> bool:
        return not self.evenly and self.combination.name in USES_SUMS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the gate says of B rows: leaf weights [B, L]; where the way uses sums, the scores of targets
    [B, T] and of classes [B, C].

    `features` float32 [B, D] are None where nobody needed them; `flops` are the gate's, per query. Where
    there are very many leaves, `weights` list some of them, and in_full(rows) gives all of theirs, [n, L].
    """

    weights: NDArray[np.floating] | Shortlist
    scores: Floats | None = None
    class_scores: Floats | None = None
    features: Floats | None = None
    flops: int = 0
    in_full: Callable[[Rows], NDArray[np.floating]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """One expert's believed answer for some rows. `speaker` is the leaf that gave it: `leaf`, which the gate
    weighs, or one with an exact copy of its expert."""

    leaf: int
    rows: Rows
    answer: Asked
    speaker: int


def choose_way(query: Query, active: ActiveGate) -> Way:
    """Return how to answer the query with this gate.

    Among some owners only `gate` and `prototypes` mean anything; where the gate serves another combination,
    `gate` takes its place, or `prototypes` where those owners gave no sums. Raises InvalidInputError for
    what does not go together, NotFoundError for a combination that this gate has not.
    """
    gate = active.value
    if query.uniform:
        if query.combination:
            raise InvalidInputError(
                f"combination {query.combination}",
                found="together with uniform",
                expected="one of them: uniform asks all experts alike",
            )
        return Way(combination=EVENLY, evenly=True)
    if not query.owners:
        return Way(
            combination=gate.combination(query.combination, query.top_k),
            falls_back=active.analytic is not None,
        )
    if query.combination and query.combination not in OF_SOME_OWNERS:
        raise InvalidInputError(
            f"combination {query.combination}",
            found=f"together with owners {', '.join(query.owners[:5])}",
            expected=f"{' or '.join(OF_SOME_OWNERS)}: class scores are of all owners' sums",
            remedy="leave out the owners or the combination",
        )
    with_sums = not active.leaf_index.with_columns.isdisjoint(query.owners)
    if query.combination == "gate" and not with_sums:
        raise InvalidInputError(
            "combination gate",
            found=f"no sums of {', '.join(query.owners[:5])} in gate {active.version}",
            expected="owners that gave sums, or prototypes",
        )
    # Validation data spoke of all owners together.
    return Way(combination=replace(_among_owners(query, gate, with_sums), calibration=0.0))


def _among_owners(query: Query, gate: GateStatement, with_sums: bool) -> Combination:
    """Without a name, their own mixture: the served one if it is theirs to give, else by the most experts."""
    served = gate.combination().name
    if query.combination or served == "prototypes" or (served == "gate" and with_sums):
        return gate.combination(query.combination, query.top_k)
    names = {each.name for each in gate.combinations}
    name = "gate" if with_sums and "gate" in names else "prototypes"
    widest = max((each.top_k for each in gate.combinations if each.name == name), default=0)
    return gate.combination(name, query.top_k or widest)


def read_gate(way: Way, active: ActiveGate, features: Floats) -> Reading:
    """Return what the gate says of features float32 [B, D]: the analytic gate is asked once."""
    if not way.uses_sums:
        if active.indexed is not None:
            return _read_listed(way, active, active.indexed, features)
        weights = expert_weights(way.combination, None, active.prototypes, None, features)
        flops = 0 if active.prototypes is None else active.prototypes.flops_per_query
        return Reading(weights=weights, features=features, flops=flops)
    analytic = active.analytic
    if analytic is None:
        raise _no_sums(active)
    scores = analytic.scores(features)
    weights = (
        expert_weights(way.combination, analytic, active.prototypes, scores, features)
        if way.asks_experts
        else np.zeros((len(features), len(active.value.leaves)), dtype=np.float32)
    )
    return Reading(
        weights=weights,
        scores=scores,
        class_scores=analytic.class_scores(scores),
        features=features,
        flops=analytic.flops_per_query,
    )


def _read_listed(way: Way, active: ActiveGate, indexed: IndexedPrototypes, features: Floats) -> Reading:
    regions = features[:, region_columns(features.shape[1])]
    return Reading(
        weights=indexed.shortlist(regions, way.combination.temperature),
        features=features,
        flops=indexed.flops_per_query,
        in_full=in_full(way, active, features),
    )


def in_full(way: Way, active: ActiveGate, features: Floats) -> Callable[[Rows], NDArray[np.floating]]:
    """Return what gives all leaves' weights of some of the rows, [n, L], to the bit whichever they are."""

    def weights_of(rows: Rows) -> NDArray[np.floating]:
        def weights(tile: NDArray[np.generic]) -> NDArray[np.floating]:
            return expert_weights(way.combination, None, active.prototypes, None, tile)

        return in_tiles(weights, features[rows])

    return weights_of


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


def distances_out(active: ActiveGate, reading: Reading) -> Floats | None:
    """Return how far out each row lies, float32 [B]; None where nobody computed features."""
    if active.prototypes is None or reading.features is None:
        return None
    regions = reading.features[:, region_columns(reading.features.shape[1])]
    return out_of_distribution(active.prototypes, regions, active.reach, active.indexed)


def _by_root(active: ActiveGate, reading: Reading, rows: Rows) -> Floats:
    gate = active.value
    scores = _scores_of(active, reading, rows)
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


def gate_flops(active: ActiveGate, reading: Reading, root_shares: NDArray[np.float64]) -> float:
    """Return the gate's FLOPs per query, those rows included that asked the root after all, and how far out
    they lie."""
    distances = 0
    if reading.features is not None and active.prototypes is not None:
        distances = flops_of_distances(active.prototypes, active.indexed)
    if reading.class_scores is not None or active.analytic is None:
        return float(reading.flops + distances)
    helped = np.count_nonzero(root_shares) / max(len(root_shares), 1)
    return reading.flops + distances + active.analytic.flops_per_query * helped


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
    scores = active.analytic.scores(reading.features) if reading.scores is None else reading.scores
    shares = active.analytic.region_shares(scores, probabilities.argmax(axis=1))
    names, owner_of = active.leaf_index.owner_names, active.leaf_index.region_owners
    by_owner = np.zeros((len(shares), len(names)), dtype=shares.dtype)
    for own, row in zip(by_owner, shares, strict=True):
        np.add.at(own, owner_of, row)
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


def _scores_of(active: ActiveGate, reading: Reading, rows: Rows) -> Floats:
    if reading.class_scores is not None:
        return reading.class_scores[rows]
    if active.analytic is None or reading.features is None:
        raise _no_sums(active)
    return active.analytic.class_scores(active.analytic.scores(reading.features[rows]))


def _no_sums(active: ActiveGate) -> NotReadyError:
    return NotReadyError(
        f"gate {active.version}",
        found="no owner's sums",
        expected="a contribution with sums",
        remedy="on a node: swarm train DATA",
    )
