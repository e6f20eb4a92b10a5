"""What a gate should try next: a pure plan from surveys, the gate's leaves, the policy and what was tried.

It only proposes: whether a change pays is for the judges (docs/adr/0012). Source of the losing expert, the
one of the largest SUMMED validation loss: ALMA (Caccia et al.); the most used one is what their code takes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from swarm.domain.growth import Criterion, GrowthPolicy, Proposal, ProposalKind
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.gating.surveys import Surveyed
from swarm.gating.tree import MAX_DEPTH

SPLIT_SAMPLES: Mapping[GrowthPolicy, int] = {"conservative": 4, "eager": 2}
"""A leaf may be split that was contributed with so many times the least samples of a leaf."""
WELL_ABOVE = 1.5
"""Conservative: a leaf's mean loss must be so many times the mean of all leaves' mean losses."""
RESTS_S: Mapping[GrowthPolicy, float] = {"conservative": 24 * 3600.0, "eager": 3600.0}
"""A leaf, or an owner's add, whose proposal did not pay rests so long, unless its contribution changes."""
FAILED_RESTS_S = 300.0
"""What its owner could not carry out, because it was busy or broke, is proposed again after so long."""
NOT_NOW_RESTS_S = 30.0
"""An owner that could not take the policy's proposal just then is asked again after so long, in a row after
twice as long each time, at most as what failed; at once where it has contributed since."""
NOT_NOW = "not_now"
"""The evidence of a proposal by the policy whose owner could not take it just then: it learned a mega-batch,
or carried another one out."""
CANCELLED = "cancelled"
"""The evidence of a proposal that somebody ended by hand: it rests as one that did not pay."""
UNDONE_IN = "undone_in"
"""The evidence of an accepted proposal that says which gate version, a rollback by hand, is without it: from
then on it rests as one that did not pay."""
GROWN = 1.5
"""A leaf whose split did not pay rests until it stands for so many times the samples that it stood for then:
a stream changes its contribution with every mega-batch. So does an owner's add, by its novel samples."""
LEAF_SAMPLES = "leaf_samples"
"""The evidence of a proposal that says how many samples its leaves stood for when it was made; of an add by
the policy, how many were novel."""
NOVEL_SHARE = 0.01
"""What lies beyond the .99 radii by definition; more of it, by more than chance, is novelty."""
NOVEL_DEVIATIONS = 2.0
UNUSED_SURVEYS, ENOUGH_SAMPLES = 3, 100
"""A leaf that none of at least so many samples was routed to, in so many surveys in a row, is not used."""
STALE_AFTER_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafFacts:
    """What the coordinator knows of one leaf of the present gate.

    `samples` and `classes` as contributed; `depth` counts the branches above it; `changed_at` is when its
    owner signed the present contribution. `computes` names what its expert computes (equal for exact
    copies), `parent` its branch. `unused` counts the last surveys in a row in which it was not used, `away_s`
    is for how long its owner has had no lease.
    """

    leaf: LeafId
    expert: ExpertId
    owner: NodeId
    samples: int
    classes: int
    depth: int
    changed_at: float
    computes: str = ""
    parent: str = ""
    unused: int = 0
    away_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The specification's `min_leaf_count` and `max_leaves_per_owner`, and when an owner is stale."""

    min_shard: int
    max_leaves: int
    stale_after_s: float = STALE_AFTER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Intention:
    """What to propose: of whom, which experts, and in words why. Of an add, `samples` are its novel ones, and
    `together` are those whose novel samples its prototypes are to be found on, itself among them; empty: it
    alone has some."""

    kind: ProposalKind
    owner: NodeId
    experts: tuple[ExpertId, ...]
    reason: str
    samples: int = 0
    together: tuple[NodeId, ...] = ()


def plan_growth(
    found: Surveyed,
    leaves: Sequence[LeafFacts],
    policy: GrowthPolicy,
    history: Sequence[Proposal],
    *,
    limits: Limits,
    criterion: Criterion = "loss",
    now: float,
) -> Intention | None:
    """Return the one change to propose next, None where nothing is called for.

    In this order: remove what is stale, a copy that another leaf makes superfluous, or what nobody uses; add
    where enough is novel; split the losing leaf. Nothing while a proposal is open, and never what rests.
    """
    if policy == "manual" or any(not each.has_ended for each in history):
        return None
    rests = _Rests(history, RESTS_S[policy], now)
    return (
        _stale(leaves, limits, rests)
        or _superfluous(leaves, rests)
        or _unused(leaves, rests)
        or _novel(found, leaves, limits, rests)
        or _losing(found, leaves, policy, limits, criterion, rests)
    )


def next_look_s(history: Sequence[Proposal], every_s: float, now: float) -> float:
    """Return in how many seconds to look again: `every_s`, or sooner where an owner could not take its last
    proposal and is asked again then."""
    newest = sorted(history, key=lambda each: each.changed_at, reverse=True)
    again = (_asked_again_at(newest, owner) - now for owner in {each.owner for each in newest})
    return min([every_s, *(wait_s for wait_s in again if wait_s > 0)])


def _asked_again_at(newest_first: Sequence[Proposal], owner: NodeId) -> float:
    """Return when an owner whose last proposals it could not take may be asked again, 0 where it could."""
    own = [each for each in newest_first if each.owner == owner]
    row = list(takewhile(lambda each: NOT_NOW in each.evidence, own))
    if not row:
        return 0.0
    doubled = min(len(row) - 1, 8)
    return row[0].changed_at + min(FAILED_RESTS_S, NOT_NOW_RESTS_S * 2.0**doubled)


class _Rests:
    """What of the proposals that were made keeps from making another one."""

    def __init__(self, history: Sequence[Proposal], rest_s: float, now: float) -> None:
        self._newest = sorted(history, key=lambda each: each.changed_at, reverse=True)
        self._rest_s, self._now = rest_s, now

    def of(
        self,
        kind: ProposalKind,
        owner: NodeId,
        experts: Iterable[ExpertId],
        changed_at: float,
        samples: int = 0,
    ) -> bool:
        """Return whether the last such proposal came to nothing, lately, and too little has changed since; or
        its owner could not take its last one, whatever that was."""
        if self._is_asked_later(owner, changed_at):
            return True
        wanted = set(experts)
        for each in self._newest:
            if each.kind != kind or NOT_NOW in each.evidence:
                continue
            is_same = bool(wanted & set(each.experts)) if wanted else each.owner == owner and not each.experts
            if is_same:
                stays = each.state == "accepted" and UNDONE_IN not in each.evidence
                if stays or self._now - each.changed_at >= self._rest_s:
                    return False
                if each.state == "failed" and CANCELLED not in each.evidence:
                    return self._now - each.changed_at < FAILED_RESTS_S
                then = each.evidence.get(LEAF_SAMPLES, 0.0)
                return samples < GROWN * then if samples and then else changed_at <= each.changed_at
        return False

    def _is_asked_later(self, owner: NodeId, changed_at: float) -> bool:
        last = next((each.changed_at for each in self._newest if each.owner == owner), 0.0)
        return changed_at <= last and self._now < _asked_again_at(self._newest, owner)


def _stale(leaves: Sequence[LeafFacts], limits: Limits, rests: _Rests) -> Intention | None:
    owners = {leaf.owner for leaf in leaves if leaf.away_s <= limits.stale_after_s}
    for leaf in sorted(leaves, key=lambda leaf: (-leaf.away_s, leaf.leaf)):
        if not owners or leaf.owner in owners:
            continue
        experts = tuple(each.expert for each in leaves if each.owner == leaf.owner)
        if not rests.of("remove", leaf.owner, experts, leaf.changed_at):
            reason = f"{leaf.owner} has had no lease for {leaf.away_s / 86_400:.1f} days"
            return Intention(kind="remove", owner=leaf.owner, experts=experts, reason=reason)
    return None


def _superfluous(leaves: Sequence[LeafFacts], rests: _Rests) -> Intention | None:
    kept: dict[tuple[NodeId, str, str], LeafFacts] = {}
    for leaf in sorted(leaves, key=lambda leaf: (-leaf.samples, leaf.leaf)):
        if not leaf.computes:
            continue
        first = kept.setdefault((leaf.owner, leaf.parent, leaf.computes), leaf)
        if first is not leaf and _may_go(leaf, leaves, rests):
            return _remove(leaf, f"{leaf.expert} computes what {first.expert} does")
    return None


def _unused(leaves: Sequence[LeafFacts], rests: _Rests) -> Intention | None:
    for leaf in sorted(leaves, key=lambda leaf: (-leaf.unused, leaf.leaf)):
        if leaf.unused >= UNUSED_SURVEYS and _may_go(leaf, leaves, rests):
            return _remove(leaf, f"{leaf.leaf} was not used in {leaf.unused} surveys")
    return None


def _may_go(leaf: LeafFacts, leaves: Sequence[LeafFacts], rests: _Rests) -> bool:
    """Say whether a leaf may be removed: not the last one of its owner, who is here, and not at rest."""
    is_last = sum(each.owner == leaf.owner for each in leaves) < 2
    return (
        not is_last and not leaf.away_s and not rests.of("remove", leaf.owner, [leaf.expert], leaf.changed_at)
    )


def _remove(leaf: LeafFacts, reason: str) -> Intention:
    return Intention(kind="remove", owner=leaf.owner, experts=(leaf.expert,), reason=reason)


def _novel(found: Surveyed, leaves: Sequence[LeafFacts], limits: Limits, rests: _Rests) -> Intention | None:
    """Add to who has the most novel samples, by regions in common where several have enough."""
    given = Counter[NodeId]()
    for leaf in leaves:
        given[leaf.owner] += leaf.samples
    found = found.believed(given)
    owners, first = list[NodeId](), ""
    for owner in sorted(found.novel, key=lambda owner: (-found.novel[owner], owner)):
        own = [leaf for leaf in leaves if leaf.owner == owner]
        fresh, novel = found.fresh.get(owner, 0), found.novel[owner]
        chance = NOVEL_SHARE * fresh + NOVEL_DEVIATIONS * math.sqrt(NOVEL_SHARE * (1 - NOVEL_SHARE) * fresh)
        changed_at = max((leaf.changed_at for leaf in own), default=0.0)
        if (
            own
            and len(own) < limits.max_leaves
            and novel >= limits.min_shard
            and novel > chance
            and not rests.of("add", owner, (), changed_at, novel)
        ):
            samples = f"{novel} of {fresh} new samples of {owner}"
            first = first or f"{samples} lay beyond every leaf's .99 radius when they came"
            owners.append(owner)
    if not owners:
        return None
    together = tuple(owners) if len(owners) > 1 else ()
    return Intention(
        kind="add",
        owner=owners[0],
        experts=(),
        reason=first,
        samples=found.novel[owners[0]],
        together=together,
    )


def _losing(
    found: Surveyed,
    leaves: Sequence[LeafFacts],
    policy: GrowthPolicy,
    limits: Limits,
    criterion: Criterion,
    rests: _Rests,
) -> Intention | None:
    """Split the leaf that loses most, or is used most, of those that may be split and do not rest."""
    used = [leaf for leaf in leaves if leaf.leaf in found.leaves and found.leaves[leaf.leaf].samples]

    def weight(leaf: LeafFacts) -> float:
        survey = found.leaves[leaf.leaf]
        return survey.nll_sum if criterion == "loss" else float(survey.samples)

    means = [found.leaves[leaf.leaf].nll_sum / found.leaves[leaf.leaf].samples for leaf in used]
    mean = sum(means) / max(1, len(means))
    for leaf in sorted(used, key=lambda leaf: (-weight(leaf), leaf.leaf)):
        survey = found.leaves[leaf.leaf]
        own = sum(each.owner == leaf.owner for each in leaves)
        loses = policy == "eager" or survey.nll_sum / survey.samples > WELL_ABOVE * mean
        may_split = (
            leaf.samples >= SPLIT_SAMPLES[policy] * limits.min_shard
            and own < limits.max_leaves
            and leaf.depth < MAX_DEPTH
            and not leaf.away_s
        )
        if (
            may_split
            and loses
            and not rests.of("split", leaf.owner, [leaf.expert], leaf.changed_at, leaf.samples)
        ):
            words = f"a loss of {survey.nll_sum:.4g} over {survey.samples} samples routed to it"
            return Intention(kind="split", owner=leaf.owner, experts=(leaf.expert,), reason=words)
    return None
