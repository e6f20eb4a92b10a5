"""What seeds say: means with their spread, and whether a difference is one."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean difference over seeds with its standard deviation; sd 0 for one seed, which decides nothing."""

    mean: float
    sd: float
    seeds: int

    @property
    def sign(self) -> int:
        """-1 or 1 where a one-sided paired t test at CONFIDENCE says below or above 0, else 0."""
        from scipy.stats import t

        if self.seeds < 2:
            return 0
        limit = float(t.ppf(CONFIDENCE, self.seeds - 1)) * self.sd / math.sqrt(self.seeds)
        return 0 if abs(self.mean) <= limit else int(math.copysign(1, self.mean))

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.sd:.3f}"


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return first - second, paired over the seeds that both have; None where they share none."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    gaps = [first[seed] - second[seed] for seed in shared]
    return Difference(mean=statistics.fmean(gaps), sd=spread(gaps), seeds=len(gaps))


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation between values, 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def verdict(signs: Sequence[int]) -> str:
    """Return what differences say that the claim wants above 0: each sign is -1, 0 or 1.

    reproduced: some above, none below. refuted: some below, none above. mixed: both. undecided: neither.
    """
    above, below = 1 in signs, -1 in signs
    if above and below:
        return "mixed"
    return "reproduced" if above else "refuted" if below else "undecided"
