"""`swarm bench alma` and `swarm bench hard-moe`: from flags to results, figures, a section and a plot."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swarm.cli.bench.collections import found_at
from swarm.cli.bench.growth import alma, alma_report, hard_moe, hard_moe_report
from swarm.cli.bench.growth.document import write_section
from swarm.cli.bench.growth.jobs import (
    Job,
    Run,
    cores,
    done,
    read_growth_runs,
    with_growth_run,
    write_growth_results,
)
from swarm.cli.bench.runs import make_ready
from swarm.cli.output import emit
from swarm.cli.plots import Panel, check_figure, write_figure
from swarm.cli.up.command import teller


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRequest:
    """The flags. `doc` None: no section for people. `data_is_named`: the folder was given, so it has to be
    there even where all runs are in already."""

    name: str
    data_dir: Path
    data_is_named: bool
    seeds: tuple[int, ...]
    only: tuple[str, ...]
    out: Path
    doc: Path | None
    quick: bool
    full: bool
    fresh: bool

    def command(self, seeds: Iterable[int]) -> str:
        """Return what makes all the runs of this scale, without the paths of this machine."""
        flags = [f" --{flag}" for flag in ("quick", "full") if getattr(self, flag)]
        return f"swarm bench {self.name} --seeds {','.join(map(str, sorted(set(seeds))))}{''.join(flags)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What one benchmark has of its own; `cases` are the settings of all, also of those not asked for."""

    jobs: list[Job]
    cases: Mapping[str, Mapping[str, Any]]
    collections: Sequence[str]
    needed: Sequence[str]
    figures: Callable[[Sequence[Run]], dict[str, float]]
    section: Callable[[Sequence[Run], str], str]
    panels: Callable[[Sequence[Run]], list[Panel]]
    told: Callable[[Run], str]


def run_growth(request: GrowthRequest, *, as_json: bool) -> None:
    """Run what the results do not have yet, each kept as it ends; then write figures, section and plot.

    Runs with other settings than a case has now are dropped: one file is one scale.

    Before anything runs: NotFoundError for missing data or matplotlib, UsageError where nothing could be
    written, InvalidInputError for results of another kind.
    """
    bench, tell = _bench(request), teller()
    plot = request.out.with_suffix(".svg")
    check_figure(plot)
    make_ready(request.out, "--out")
    if request.doc is not None:
        make_ready(request.doc, "--doc")
    kept = read_growth_runs(request.out, bench.needed)
    runs = [run for run in kept if run["settings"] == bench.cases.get(run["case"])]
    waiting = [job for job in bench.jobs if request.fresh or not job.is_in(runs)]
    if waiting or request.data_is_named:
        for name in bench.collections:
            found_at(request.data_dir, name)
    tell(f"{len(waiting)} of {len(bench.jobs)} runs to do")
    for count, run in enumerate(done(waiting, 1 if request.quick else cores()), start=1):
        tell(f"{count}/{len(waiting)} {run['case']}, seed {run['seed']}: {bench.told(run)}")
        runs = with_growth_run(runs, run)
        write_growth_results(request.out, runs, bench.figures(runs), _made_by(request, runs))
    figures = bench.figures(runs)
    if runs:
        write_figure(plot, bench.panels(runs))
        if request.doc is not None:
            write_section(request.doc, request.name, _section(request, bench, runs))
    text = "\n".join(f"{name} {value:.4g}" for name, value in figures.items())
    emit("bench-table", {"table": request.name, "figures": figures}, as_json=as_json, text=text)


def _made_by(request: GrowthRequest, runs: Sequence[Run]) -> str:
    return request.command(int(run["seed"]) for run in runs)


def _section(request: GrowthRequest, bench: _Bench, runs: Sequence[Run]) -> str:
    """Return the section for people; it says so where runs of its seeds are missing."""
    section = bench.section(runs, _made_by(request, runs))
    wanted = len(bench.cases) * len({run["seed"] for run in runs})
    if len(runs) == wanted:
        return section
    return f"{section}\n\n{len(runs)} of {wanted} runs are in; the same command makes the others."


def _bench(request: GrowthRequest) -> _Bench:
    if request.name == "alma":
        scale = alma.QUICK if request.quick else alma.FULL if request.full else alma.DEFAULT
        filters = alma.QUICK_FILTERS if request.quick else alma.FILTERS
        asked = partial(alma.alma_jobs, scale, data_dir=request.data_dir, filters=filters)
        jobs = asked(seeds=request.seeds, only=request.only)
        return _Bench(
            jobs=jobs,
            cases={job.case: job.settings for job in asked(seeds=(0,), only=())},
            collections=sorted({str(job.settings["collection"]) for job in jobs}),
            needed=alma.NEEDED,
            figures=alma_report.alma_figures,
            section=alma_report.render_alma,
            panels=alma_report.alma_panels,
            told=lambda run: f"CER {run['cer']:.2f}, {run['cpu_s']:.0f} CPU s",
        )
    regimes = hard_moe.QUICK if request.quick else hard_moe.FULL if request.full else hard_moe.DEFAULT
    wanted = partial(hard_moe.hard_moe_jobs, regimes, data_dir=request.data_dir)
    return _Bench(
        jobs=wanted(seeds=request.seeds, only=request.only),
        cases={job.case: job.settings for job in wanted(seeds=(0,), only=())},
        collections=[hard_moe.COLLECTION],
        needed=hard_moe.NEEDED,
        figures=hard_moe_report.hard_moe_figures,
        section=hard_moe_report.render_hard_moe,
        panels=hard_moe_report.hard_moe_panels,
        told=lambda run: f"{run['cpu_s']:.0f} CPU s",
    )
