"""Whether growth pays: a proposal against what it replaces, paired on all judges' samples; and what it costs.

Pure arithmetic on trials and statements (docs/adr/0012).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from coordinator.trials import accuracy_of
from coordinator.weighing import Trials, summed, weighed
from swarm.domain.combination import USES_EXPERTS, USES_SUMS, Combination
from swarm.domain.gates import GateLeaf
from swarm.domain.growth import BEYOND, Tried
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.prototype_gate import PrototypeGate

Wanted = Literal["gain", "no-loss", "nothing"]
Answering = Callable[[GateLeaf], tuple[Digest, Manifest] | None]
"""The version that answers for a leaf: the pinned one, else the head; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighing:
    """A gate whose cost is told: its leaves, and what weighs them; None where it has none of that kind."""

    leaves: Sequence[GateLeaf]
    prototypes: PrototypeGate | None
    analytic: AnalyticGate | None

    def flops_per_query(self, combination: Combination) -> int:
        """Return the FLOPs of routing one query: the very figure that its answer tells."""
        gate = self.analytic if combination.name in USES_SUMS else self.prototypes
        return 0 if gate is None else gate.flops_per_query


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """What a trial of a proposal found. `pays`: by the rule of its kind."""

    tried: Tried
    pays: bool
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def evidence(self) -> dict[str, float]:
        return {
            "tried_samples": float(self.tried.samples),
            "tried_gained": float(self.tried.gained),
            "tried_lost": float(self.tried.lost),
            "tried_z": self.tried.standard_errors,
        }

    @property
    def reason(self) -> str:
        """For people: `gate top-1 of 200 samples: +12 -3, 2.3 standard errors`."""
        tried = self.tried
        return (
            f"{tried.compared} on {tried.samples} validation samples: +{tried.gained} -{tried.lost},"
            f" {tried.standard_errors:.2g} standard errors"
        )


def speaking(
    combinations: Sequence[Combination],
    served: int,
    evidence: Mapping[str, float],
    *,
    has_sums: bool,
    has_corrections: bool,
) -> Combination:
    """Return the combination that a proposal is tried in: the served one if it asks experts, else the one of
    the highest accuracy in the gate's evidence that does; `prototypes` at its defaults where none is known.

    `has_sums`, `has_corrections`: what the candidate has; nothing is compared in what only one gate can do.
    """

    def makes_sense(each: Combination) -> bool:
        return (
            each.name in USES_EXPERTS
            and (has_sums or each.name not in USES_SUMS)
            and (has_corrections or each.name != "corrected")
        )

    if makes_sense(combinations[served]):
        return combinations[served]
    found = [each for each in combinations if makes_sense(each)]
    if not found:
        return Combination(name="prototypes")
    return max(found, key=lambda each: evidence.get(accuracy_of(each), 0.0))


def tried(trials: Trials, compared: str, row: int = 0) -> Tried:
    """Return what one option comes to over all judges, nobody's samples drowning everybody else's.

    Trials compare among the classes of the present gate. What classes that are new take counts as lost, and
    what is right beyond that as gained: an `add` may bring the first expert of a class. The difference is
    exact; where new classes take samples that were wrong before, both sides are counted too large by those.
    """
    counted = weighed(trials)
    lost = summed(counted, "lost", row) + summed(counted, "taken", row)
    before = sum(trial.incumbent_correct for trial in counted.values())
    return Tried(
        samples=sum(trial.samples for trial in counted.values()),
        gained=max(0, summed(counted, "correct", row) - before + lost),
        lost=lost,
        compared=compared,
    )


def pays(found: Tried, wanted: Wanted) -> bool:
    """Return whether a proposal is to be accepted: better by more than BEYOND standard errors, not worse by
    more than that (`no-loss`: it saves cost), or whatever it does (`nothing`: its owner wishes it)."""
    if wanted == "nothing":
        return True
    return found.standard_errors > BEYOND if wanted == "gain" else found.standard_errors >= -BEYOND


def cost_of(
    combination: Combination, before: Weighing, after: Weighing, answering: Answering
) -> dict[str, float]:
    """Return what a change takes, FLOPs: `train_flops` of the versions that answer newly, and for a query in
    this combination `gate_flops_` and `expert_flops_`, `before` and `after`.

    A query asks the combination's top_k experts; which ones is up to the query, so they count at the mean
    over all leaves' experts.
    """
    old, new = (_versions(gate.leaves, answering) for gate in (before, after))
    trained = [manifest for digest, manifest in new.items() if digest not in old]
    cost = {"train_flops": float(sum(map(_train_flops, trained)))}
    for when, gate, versions in (("before", before, old), ("after", after, new)):
        cost[f"gate_flops_{when}"] = float(gate.flops_per_query(combination))
        cost[f"expert_flops_{when}"] = _expert_flops(combination, versions.values())
    return cost


def _versions(leaves: Iterable[GateLeaf], answering: Answering) -> dict[Digest, Manifest]:
    return dict(found for leaf in leaves if (found := answering(leaf)) is not None)


def _train_flops(manifest: Manifest) -> int:
    correction = manifest.correction
    return manifest.cost.train_flops + (correction.cost.train_flops if correction is not None else 0)


def _expert_flops(combination: Combination, manifests: Iterable[Manifest]) -> float:
    if combination.name not in USES_EXPERTS:
        return 0.0
    each = [
        manifest.correction.cost.inference_flops
        if combination.name == "corrected" and manifest.correction is not None
        else manifest.cost.inference_flops
        for manifest in manifests
    ]
    return sum(each) / len(each) * min(combination.top_k, len(each)) if each else 0.0
