"""Growth: proposals to change the gate, what nodes are asked for them, and what a survey finds.

A proposal is tried before it counts: accepted as a new gate version, or rolled back, by evidence at counted
cost. Its record is the coordinator's; every change of its state is an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, get_args

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.domain.tensors import FORBID_UNKNOWN

ProposalKind = Literal["add", "split", "merge", "remove", "retrain"]
ProposalState = Literal["open", "working", "trying", "accepted", "refused", "rolled-back", "failed"]
GrowthPolicy = Literal["manual", "conservative", "eager"]
Criterion = Literal["loss", "usage"]
POLICY = NodeId("policy")
"""Who proposes what the coordinator proposes of its own accord: no member takes this name any more."""
KINDS: tuple[ProposalKind, ...] = get_args(ProposalKind)
POLICIES: tuple[GrowthPolicy, ...] = get_args(GrowthPolicy)
ENDED: frozenset[ProposalState] = frozenset({"accepted", "refused", "rolled-back", "failed"})
MAX_EXPERTS = 64
"""The most experts that one proposal may name."""
NO_LEAF_HERE = "no leaf of it on this node"
"""An owner's word for an expert of its own that it no longer has, though the registry lists it still."""
SPLIT_GATES = ("means", "learned")
MERGE_METHODS = ("magmax", "ties", "mean")
NODE_OPTIONS: Mapping[ProposalKind, Mapping[str, tuple[str, ...]]] = {
    "add": {"k": (), "steps": (), "net": ()},
    "split": {"gate": SPLIT_GATES, "steps": ()},
    "merge": {"method": MERGE_METHODS, "steps": ()},
    "remove": {},
    "retrain": {"steps": ()},
}
"""The options of each kind, and their values where there are few."""
_NUMBERS: Mapping[str, int] = {"steps": 10**9, "k": 4096}
_LONGEST_NET = 80
MAX_REGIONS_BYTES = 1 << 20
"""The most bytes of the regions that an add may bring along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One change of the gate on its way. `by` is who made it: `policy`, or a member's id.

    `why` is what the policy saw, `reason` why it is in its state.

    open: recorded; working: its owner carries it out; trying: nodes judge it; accepted, refused (never came
    into a gate), rolled-back (came in for a while) and failed (could not be carried out) are ends. `before`
    is the owner's contribution when it was made, to which a rollback returns; `gate_version` the version that
    it was made against and `gate_versions` those that it led to. `evidence` and `cost` are by name.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    id: str
    kind: ProposalKind
    experts: tuple[ExpertId, ...]
    owner: NodeId
    gate_version: int
    by: str
    created_at: float
    changed_at: float
    options: Mapping[str, str] = field(default_factory=dict)
    state: ProposalState = "open"
    why: str = ""
    reason: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    before: str = ""
    gate_versions: tuple[int, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_wish(self) -> bool:
        """Whether its owner made it. What is by `policy` is not: a node may be called so from before the name
        was reserved."""
        return self.by == self.owner != POLICY

    @property
    def subject(self) -> str:
        """A name for people: `split of ada.e1 (p3)`."""
        return f"{self.kind} of {' and '.join(self.experts) or self.owner} ({self.id})"

    def now(self, state: ProposalState, at: float, reason: str = "") -> Self:
        """Return the proposal in its next state."""
        return replace(self, state=state, changed_at=at, reason=reason or self.reason)


def checked_options(kind: ProposalKind, options: Mapping[str, str]) -> dict[str, str]:
    """Return a proposal's options; InvalidInputError for one that its kind does not have."""
    known = NODE_OPTIONS[kind]
    for name, value in options.items():
        if name not in known:
            raise InvalidInputError(
                f"{kind}, option {name[:40]!r}",
                found="an option of another kind",
                expected=", ".join(known) or "no options",
            )
        if known[name] and value not in known[name]:
            raise InvalidInputError(
                f"{kind}, {name}", found=repr(value[:40]), expected=" or ".join(known[name])
            )
        most = _NUMBERS.get(name, 0)
        is_number = value.isascii() and value.isdecimal() and len(value) <= len(str(most))
        if most and not (is_number and 1 <= int(value) <= most):
            raise InvalidInputError(f"{kind}, {name}", found=repr(value[:40]), expected=f"1 to {most}")
        if name == "net" and not (value.isprintable() and 0 < len(value) <= _LONGEST_NET):
            raise InvalidInputError(f"{kind}, net", found=ascii(value[:40]), expected="mlp:128x2 or cnn")
    return dict(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthOrder:
    """What the coordinator asks of the owner that carries out a proposal.

    `experts` are the owner's, for `merge` possibly two owners' (the first is its own). `before` is the digest
    of the contribution that the gate has of it: what it changes is compared with that. `regions`, for `add`,
    are those that several nodes' novel samples have in common (`swarm.gating.common_regions`), empty without.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    proposal: str
    kind: ProposalKind
    experts: tuple[ExpertId, ...]
    gate_version: int
    before: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    regions: bytes = b""


GrowthStage = Literal["started", "split", "trained", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthReport:
    """What an owner says of a proposal that it carries out; `reason` in words where it failed, or, as it
    starts, which unused experts it withdrew to make room."""

    proposal: str
    stage: GrowthStage
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafSurvey:
    """What one node's validation samples that are routed to one leaf (top-1) come to.

    `nll_sum` is summed over them, of what the leaf's expert says; `novel` are those beyond the .99 radius of
    their nearest prototype.
    """

    leaf: LeafId
    samples: int
    nll_sum: float
    correct: int
    novel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What one node found on its own data under a gate; only sums leave it.

    `fresh` counts its newest training samples, `fresh_novel` those of them beyond every prototype's .99
    radius: what an `add` could be made of.
    """

    gate_version: int
    leaves: tuple[LeafSurvey, ...]
    fresh: int = 0
    fresh_novel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How a proposal did against what it replaces, over all judges: paired on the same samples.

    `gained` are right only with the proposal, `lost` only without it.
    """

    samples: int
    gained: int
    lost: int
    compared: str

    @property
    def standard_errors(self) -> float:
        """(gained - lost) / sqrt(gained + lost); 0 where nothing differs. Source: McNemar 1947."""
        differing = self.gained + self.lost
        return (self.gained - self.lost) / differing**0.5 if differing else 0.0


BEYOND = 1.0
"""A proposal must beat what it replaces by more than so many standard errors."""
