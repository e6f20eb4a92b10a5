"""What the nodes' own validation data say about a candidate gate: its temperature, and whether it may come.

Nobody degrades the others: a temperature is taken at which no incumbent loses more than one standard error of
the paired difference. Where there is none, one at which no incumbent loses more than chance would explain;
where there is none either, the candidate is refused (docs/adr/0007).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial

CHANCE = 0.05
"""An incumbent's loss that is at least this likely without any harm does not refuse a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """An incumbent that would lose: of `samples`, the candidate alone gets `gained`, the incumbent `lost`."""

    node: NodeId
    samples: int
    gained: int
    lost: int

    def __str__(self) -> str:
        return (
            f"{self.node} would lose {self.lost} and gain {self.gained} of {self.samples} validation samples"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`harmed` empty: the candidate may come, at `temperature`. `evidence` says what the figures cover."""

    temperature: float
    harmed: tuple[Harm, ...]
    evidence: Mapping[str, float]


def is_sound(trial: GateTrial, temperatures: Sequence[float]) -> bool:
    """Return whether a trial's figures can be true: one per temperature, finite, within its samples."""
    columns = (
        trial.nll_sum, trial.correct_top1, trial.correct_top2, trial.correct_top4, trial.gained, trial.lost,
    )  # fmt: skip
    if trial.samples < 1 or any(len(column) != len(temperatures) for column in columns):
        return False
    counts = [*columns[1], *columns[2], *columns[3], *columns[4], *columns[5], trial.incumbent_correct]
    return all(math.isfinite(nll) and nll >= 0 for nll in trial.nll_sum) and all(
        0 <= count <= trial.samples for count in counts
    )


def is_harmed(gained: int, lost: int) -> bool:
    """Return whether the loss exceeds one standard error of a paired comparison (McNemar)."""
    return lost - gained > math.sqrt(lost + gained)


def is_beyond_chance(gained: int, lost: int) -> bool:
    """Return whether a harmless candidate would cost this much in fewer than 5 of 100 trials.

    Exact one-sided sign test on the samples that exactly one of both gates gets right (McNemar 1947).
    """
    differing = gained + lost
    as_bad = sum(math.comb(differing, count) for count in range(lost, differing + 1))
    return is_harmed(gained, lost) and as_bad < CHANCE * 2**differing


def judge_trials(
    trials: Mapping[NodeId, GateTrial],
    incumbents: frozenset[NodeId],
    temperatures: Sequence[float],
    default_temperature: float,
) -> Verdict:
    """Return the verdict of sound trials. The temperature has the lowest summed negative log likelihood
    among those that harm nobody, else among those that harm nobody beyond chance; without trials it is the
    default. The evidence counts the incumbents that lose more than one standard error within chance."""
    samples = sum(trial.samples for trial in trials.values())
    coverage = {
        "judges": float(len(trials)),
        "incumbents": float(len(incumbents)),
        "incumbents_heard": float(len(incumbents & trials.keys())),
        "validation_samples": float(samples),
    }
    if not trials:
        return Verdict(temperature=default_temperature, harmed=(), evidence=coverage)
    rows = sorted(range(len(temperatures)), key=lambda row: sum(t.nll_sum[row] for t in trials.values()))
    harms = {row: _harmed(trials, incumbents, row) for row in rows}
    refused = {row: tuple(h for h in harms[row] if is_beyond_chance(h.gained, h.lost)) for row in rows}
    harmless = [row for row in rows if not harms[row]] or [row for row in rows if not refused[row]]
    row = harmless[0] if harmless else rows[0]
    evidence = coverage | {
        "nll": sum(t.nll_sum[row] for t in trials.values()) / samples,
        "accuracy_top1": sum(t.correct_top1[row] for t in trials.values()) / samples,
        "accuracy_top2": sum(t.correct_top2[row] for t in trials.values()) / samples,
        "accuracy_top4": sum(t.correct_top4[row] for t in trials.values()) / samples,
        "incumbent_accuracy": sum(t.incumbent_correct for t in trials.values()) / samples,
        "experts_missing": float(max(t.experts_missing for t in trials.values())),
        "losing_within_chance": float(len(harms[row]) - len(refused[row])),
        "flops": float(sum(t.flops for t in trials.values())),
    }
    return Verdict(temperature=float(temperatures[row]), harmed=refused[row], evidence=evidence)


def _harmed(trials: Mapping[NodeId, GateTrial], incumbents: frozenset[NodeId], row: int) -> tuple[Harm, ...]:
    return tuple(
        Harm(node=node, samples=trial.samples, gained=trial.gained[row], lost=trial.lost[row])
        for node, trial in sorted(trials.items())
        if node in incumbents and is_harmed(trial.gained[row], trial.lost[row])
    )
