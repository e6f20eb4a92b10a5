"""What a candidate gate may cost the incumbents, by the figures of their own trials (docs/adr/0010, 0011).

Among its own classes, harm is a net loss beyond chance and above a small share of the incumbent's samples,
which is what a fair prior costs. Classes of others may take from it what similar classes take from each
other, but not as much as another name for its own class would; those that are new to the swarm a little more.
All incumbents together may lose less than one of them may.
"""

import math
from dataclasses import dataclass

import numpy as np

from coordinator.weighing import Trials, summed, weighed
from swarm.domain.inference import GateTrial

CHANCE = 1 / 20
"""An incumbent's loss that is at least this likely without any harm does not refuse a candidate."""
TOLERATED = 0.05
"""Nor does a net loss of at most this share of its samples among its own classes: one that others bring more
samples of gains weight, and those next to it lose a little, however honest everybody is."""
MOST_CEDED = 1 / 5
"""What it may lose to all classes that the swarm has. Two names for one class would share it evenly: an owner
of two, one of which is called by another's name, would lose a quarter."""
MOST_TAKEN = 1 / 3
"""What classes that are new to the swarm may take of an incumbent's samples: the first ones that look like
its own cost it more than later ones."""
SIMILAR = 1 / 7
"""The most that honest neighbours among the benchmarks' classes take from each other."""
FOR_ALL = 0.05
"""What all incumbents together may lose to classes that the swarm has. Where they are few it is more: what
all lose where one of them loses MOST_CEDED, for a newcomer may look like one of them, but not like all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """Who would lose, an incumbent or all of them, and in words how."""

    who: str
    words: str

    def __str__(self) -> str:
        return f"{self.who} would lose {self.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harms:
    """The incumbents' own figures; `by_now`: those that compare with the present gate, where these do not."""

    trials: Trials
    by_now: Trials

    def of(self, row: int) -> tuple[Harm, ...]:
        """Return whom an option harms, each by itself and all together."""
        found = {node: harm(trial, row) for node, trial in self.trials.items()}
        harmed = [
            Harm(who=node, words=words)
            for node, words in found.items()
            if words and (node not in self.by_now or is_worse(self.by_now[node], row))
        ]
        words = harm_to_all(self.trials, row)
        if words and not self._none_is_worse(row):
            harmed.append(Harm(who=f"{len(self.trials)} incumbents together", words=words))
        return tuple(harmed)

    def _none_is_worse(self, row: int) -> bool:
        return self.trials.keys() <= self.by_now.keys() and not any(
            is_worse(self.by_now[node], row) for node in self.trials
        )


def is_beyond_chance(gained: int, lost: int) -> bool:
    """Return whether a harmless candidate would cost this much in fewer than 5 of 100 trials.

    Exact one-sided sign test on the samples that exactly one of both gates gets right (McNemar 1947).
    """
    return at_least(lost, gained + lost, 0.5) < CHANCE


def harm(trial: GateTrial, row: int) -> str:
    """Return what an incumbent would lose by an option beyond what may be asked of it; empty: nothing."""
    among_own = trial.gained_among_own[row], trial.lost_among_own[row]
    among_known = trial.gained[row], trial.lost[row]
    of = f"of {trial.samples} validation samples"
    if _loses(trial.samples, *among_own, TOLERATED):
        return f"{among_own[1]} and gain {among_own[0]} {of} among its own classes"
    if _loses(trial.samples, *among_known, MOST_CEDED):
        return f"{among_known[1]} and gain {among_known[0]} {of} among the swarm's classes"
    if _takes(trial.samples, trial.taken[row]):
        return f"{trial.taken[row]} {of} to classes new to the swarm"
    return ""


def is_worse(trial: GateTrial, row: int) -> bool:
    """Return whether an incumbent loses anything at all by an option, in any of the comparisons of `harm`."""
    net_own = trial.lost_among_own[row] - trial.gained_among_own[row]
    return max(net_own, trial.lost[row] - trial.gained[row], trial.taken[row]) > 0


def harm_to_all(trials: Trials, row: int) -> str:
    """Return what incumbents would lose together beyond what may be asked of them; empty: nothing."""
    if len(trials) < 2:
        return ""
    counted = weighed(trials)
    samples = sum(trial.samples for trial in counted.values())
    gained, lost = summed(counted, "gained", row), summed(counted, "lost", row)
    if not _loses(samples, gained, lost, max(FOR_ALL, MOST_CEDED / len(trials))):
        return ""
    return f"{lost} and gain {gained} of {samples} validation samples among the swarm's classes"


def _loses(samples: int, gained: int, lost: int, tolerated: float) -> bool:
    return lost - gained > tolerated * samples and is_beyond_chance(gained, lost)


def _takes(samples: int, taken: int) -> bool:
    """Return whether this many are more than MOST_TAKEN, and more than similar classes take by chance.

    Of four samples, two say little.
    """
    return taken > MOST_TAKEN * samples and at_least(taken, samples, SIMILAR) < CHANCE


def at_least(count: int, of: int, share: float) -> float:
    """Return how likely so many or more are, where each has this share of a chance (binomial, exact).

    Not by scipy.special: its import takes the coordinator longer than its own modules.
    """
    if count <= 0:
        return 1.0
    if count > of:
        return 0.0
    more = np.arange(count, of)
    ratios = np.log((of - more) / (more + 1) * share / (1 - share))
    ways = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
    first = ways + count * math.log(share) + (of - count) * math.log1p(-share)
    return min(1.0, float(np.exp(first + np.append(0.0, np.cumsum(ratios))).sum()))
