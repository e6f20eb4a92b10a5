"""What the paper claims about streams, and what the runs of `swarm bench alma` say to it, claim by claim."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm.cli.bench.growth.alma import GROWING, LARGE, SMALL, TITLES
from swarm.cli.bench.growth.evidence import Difference, difference, spread, verdict
from swarm.cli.bench.growth.jobs import Run

FIXED, OURS = ("sm", "ens", "umix"), ("root", "swarm")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """One case's runs, by seed, and their means."""

    case: str
    runs: Mapping[int, Run]

    def of(self, name: str) -> dict[int, float]:
        return {seed: float(run[name]) for seed, run in self.runs.items()}

    def mean(self, name: str) -> float:
        return statistics.fmean(self.of(name).values())

    def sd(self, name: str) -> float:
        return spread(list(self.of(name).values()))

    @property
    def any_run(self) -> Run:
        return next(iter(self.runs.values()))

    @property
    def title(self) -> str:
        run = self.any_run
        width = f"-{run['width']}" if run["width"] else ""
        return f"{TITLES[run['learner']]}{width}{' with replay' if run['replay'] else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim of the paper on one collection, what speaks for it, and the verdict."""

    text: str
    verdict: str
    evidence: str


def points_of(runs: Sequence[Run], collection: str) -> list[Point]:
    """Return a collection's cases."""
    cases: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run["collection"] == collection:
            cases.setdefault(run["case"], {})[run["seed"]] = run
    return [Point(case=case, runs=found) for case, found in cases.items()]


def claims_of(points: Sequence[Point]) -> list[Claim]:
    """Return the paper's claims as far as the points reach."""
    plain = [point for point in points if not point.any_run["replay"]]
    found = [
        _waiting(plain, SMALL),
        _not_waiting(plain, LARGE),
        _ensemble(plain, LARGE),
        _coordinated(plain, SMALL, "UMix is better than Ens for small nets", ("ens", "umix")),
        _coordinated(plain, LARGE, "Ens is better than UMix for large nets", ("umix", "ens")),
        _replay(points),
        _growing(plain, "flops_total", "FLOPs"),
        _growing(plain, "memory_sum", "memory"),
        _ours(plain),
    ]
    return [claim for claim in found if claim is not None]


def _waiting(points: Sequence[Point], width: int) -> Claim | None:
    own = sorted(those(points, ("sm",), width), key=wait_of)
    if len(own) < 3:
        return None
    best = _least(own[1:-1])
    gaps = [_gap(own[0], best), _gap(own[-1], best)]
    return Claim(
        text=f"An intermediate waiting time is best for small nets (SM, width {width})",
        verdict=verdict([gap.sign for gap in gaps[:1]]) if gaps[1].sign > 0 else "undecided",
        evidence=f"CER at w = {wait_of(own[0])} less that at w = {wait_of(best)}: {gaps[0]};"
        f" at w = {wait_of(own[-1])} less that: {gaps[1]}",
    )


def _not_waiting(points: Sequence[Point], width: int) -> Claim | None:
    own = sorted(those(points, ("sm",), width), key=wait_of)
    if len(own) < 2:
        return None
    rival = _least(own[1:])
    gap = _gap(rival, own[0])
    return Claim(
        text=f"Larger nets need not wait (SM, width {width})",
        verdict=verdict([gap.sign]),
        evidence=f"CER at w = {wait_of(rival)}, the next best, less that at w = {wait_of(own[0])}: {gap}",
    )


def _ensemble(points: Sequence[Point], width: int) -> Claim | None:
    own = those(points, ("ens",), width)
    rivals = [point for point in points if point.any_run["learner"] in (*GROWING, "sm", "umix")]
    if not own or not rivals:
        return None
    best, rival = _least(own), _least(rivals)
    cheaper = [point for point in rivals if point.mean("flops_total") <= best.mean("flops_total")]
    gaps = [_gap(rival, best)] + ([_gap(_least(cheaper), best)] if cheaper else [])
    within = f"; best within its FLOPs ({_named(_least(cheaper))}) less it: {gaps[1]}" if cheaper else ""
    return Claim(
        text=f"Ens is the best trade-off for larger nets (width {width})",
        verdict=verdict([gap.sign for gap in gaps]),
        evidence=f"CER of the best other net ({_named(rival)}) less that of {_named(best)}:"
        f" {gaps[0]}{within}",
    )


def _coordinated(points: Sequence[Point], width: int, text: str, pair: tuple[str, str]) -> Claim | None:
    worse, better = (those(points, (name,), width) for name in pair)
    if not worse or not better:
        return None
    gap = _gap(_least(worse), _least(better))
    return Claim(
        text=f"{text} (width {width})",
        verdict=verdict([gap.sign]),
        evidence=f"CER of {_named(_least(worse))} less that of {_named(_least(better))}: {gap}",
    )


def _replay(points: Sequence[Point]) -> Claim | None:
    plain = [p for p in points if not p.any_run["replay"] and p.any_run["learner"] in FIXED]
    gaps = {
        point: gap
        for point in points
        if point.any_run["replay"] and (gap := _to_front(point, plain, "flops_total")) is not None
    }
    if not gaps:
        return None
    told = "; ".join(f"{_named(point)} {gap}{_beside_itself(point, plain)}" for point, gap in gaps.items())
    return Claim(
        text="Replay gives no better CER per compute",
        verdict=verdict([gap.sign for gap in gaps.values()]),
        evidence="CER less that of the best fixed net without replay for no more FLOPs (in brackets less"
        f" that of the same net and waiting time without replay, and its FLOPs beside those): {told}",
    )


def _beside_itself(point: Point, plain: Sequence[Point]) -> str:
    run = point.any_run
    same = [each for each in those(plain, (run["learner"],), run["width"]) if wait_of(each) == run["wait"]]
    if not same:
        return ""
    times = point.mean("flops_total") / same[0].mean("flops_total")
    return f" ({_gap(point, same[0])}, {times:.1f} times)"


def _growing(points: Sequence[Point], cost: str, called: str) -> Claim | None:
    fixed = [point for point in points if point.any_run["learner"] in FIXED]
    gaps = {
        point: gap
        for point in points
        if point.any_run["learner"] in GROWING and (gap := _to_front(point, fixed, cost)) is not None
    }
    if not gaps:
        return None
    signs = [gap.sign for gap in gaps.values()]
    best = min(gaps.items(), key=lambda item: item[1].mean)
    return Claim(
        text=f"Growing does not beat the best fixed net for no more {called}",
        verdict=verdict(signs),
        evidence=f"of {len(signs)} growing learners {signs.count(1)} are worse, {signs.count(-1)} better,"
        f" {signs.count(0)} neither; the best of them, {_named(best[0])}: {best[1]}",
    )


def _ours(points: Sequence[Point]) -> Claim | None:
    own = [point for point in points if point.any_run["learner"] in OURS]
    nets = [point for point in points if point.any_run["learner"] not in OURS]
    if not own or not nets:
        return None
    best = _least(own)
    rival = _least(nets)
    gap = _gap(rival, best)
    ratio = best.mean("flops_total") / rival.mean("flops_total")
    return Claim(
        text="(Not the paper's.) This swarm's root has a lower CER than every net",
        verdict=verdict([gap.sign]),
        evidence=f"CER of {_named(rival)} less that of {_named(best)}, which takes {ratio:.2f} of its FLOPs:"
        f" {gap}",
    )


def _to_front(point: Point, fixed: Iterable[Point], cost: str) -> Difference | None:
    """Return a point's CER less that of the best fixed point that costs no more; None where none is."""
    within = [each for each in fixed if each.mean(cost) <= point.mean(cost)]
    return _gap(point, _least(within)) if within else None


def _gap(first: Point, second: Point) -> Difference:
    found = difference(first.of("cer"), second.of("cer"))
    return found or Difference(mean=first.mean("cer") - second.mean("cer"), sd=0.0, seeds=1)


def those(points: Iterable[Point], learners: Sequence[str], width: int) -> list[Point]:
    """Return the points of some learners of one width."""
    runs = ((point, point.any_run) for point in points)
    return [point for point, run in runs if run["learner"] in learners and run["width"] == width]


def _least(points: Iterable[Point]) -> Point:
    return min(points, key=lambda point: point.mean("cer"))


def wait_of(point: Point) -> int:
    """Return a point's waiting time, in mega-batches."""
    return int(point.any_run["wait"])


def _named(point: Point) -> str:
    return f"{point.title}, w = {wait_of(point)}"
