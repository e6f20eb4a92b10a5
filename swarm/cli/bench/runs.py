"""Running a table: each case under each seed as a swarm of its own, kept as soon as it has ended."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swarm.cli.bench.cases import TABLES, Case, chosen_cases, reduced
from swarm.cli.bench.collections import found_at
from swarm.cli.bench.results import (
    RULES,
    Run,
    commit,
    figures_of,
    is_done,
    machine,
    missing_figures,
    read_runs,
    with_run,
    write_results,
)
from swarm.cli.bench.tables import read_tables, write_tables
from swarm.cli.destinations import check_destination
from swarm.cli.output import ENDINGS, emit, note, plain, progress, run_async
from swarm.cli.processes import remove_tree
from swarm.cli.up.command import Settings, facts_of, play, teller
from swarm.cli.up.comparisons import ALL
from swarm.cli.up.report import render
from swarm.domain.errors import SwarmError, UsageError

COMPARISONS = ("fedavg", "pooled_total_budget", "pooled_cnn")
QUICK_SAMPLES, QUICK_QUERIES, QUICK_STEPS, QUICK_ROUNDS = 300, 500, 100, 2
QUICK_TRUNK = "randconv-sqrt:50"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """The flags of `swarm bench`. `doc` None: no tables for people. `data_is_named`: the folder was given, so
    it has to be there even where all runs are in already."""

    table: str
    data_dir: Path
    seeds: tuple[int, ...]
    only: tuple[str, ...]
    out: Path
    doc: Path | None
    quick: bool
    fresh: bool
    full: bool
    data_is_named: bool = False


def run_bench(request: BenchRequest, *, as_json: bool) -> None:
    """Run what the results do not have yet; raise the first failure when everything else is through.

    Before anything runs: NotFoundError where the data of a case that has to run are not there (of any case
    that is asked for, where the folder was named); UsageError where no results or no tables could be written.
    """
    tell, failed = teller(), list[SwarmError]()
    runs = read_runs(request.out)
    cases = chosen_cases(request.table, request.only)
    waiting = [
        case for case in cases if not all(_is_kept(runs, case, seed, request) for seed in request.seeds)
    ]
    for case in cases if request.data_is_named else waiting:
        for name in case.collections:
            found_at(request.data_dir, name)
    if waiting:
        make_ready(request.out, "--out")
    if request.doc is not None:
        make_ready(request.doc, "--doc")
        read_tables({request.table: request.out}, request.out.parent)
    for case in cases:
        for seed in request.seeds:
            settings = settings_of(case, seed, quick=request.quick, full=request.full)
            if _is_kept(runs, case, seed, request):
                tell(f"{case.name}, seed {seed}: in {request.out} already")
                continue
            tell(f"{case.name}, seed {seed}: {case.title}")
            try:
                new = _run(case, seed, settings, request, tell)
            except SwarmError as error:
                progress(f"{case.name}, seed {seed} failed: {error}")
                failed.append(error)
                continue
            runs = with_run(read_runs(request.out), new)
            write_results(request.out, runs, figure_rows(request.table))
    if request.doc is not None and runs:
        write_tables({request.table: request.out}, request.out.parent, request.doc)
        tell(f"{request.doc} is written")
    figures = figures_of(runs, figure_rows(request.table))
    for name, reason in missing_figures(runs, figure_rows(request.table)).items():
        progress(f"figure {name} is missing: {reason}")
    if not (failed and as_json):  # the error is the one object then
        text = "\n".join(f"{name} {value:.4f}" for name, value in figures.items())
        emit("bench-table", {"table": request.table, "figures": figures}, as_json=as_json, text=text)
    if failed:
        raise failed[0]


def make_ready(file: Path, flag: str) -> None:
    """Make a file's folder; UsageError, naming the flag, where no file can be written there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_file() and not os.access(file, os.W_OK):
            raise PermissionError("a file that may not be changed")
    except OSError as error:
        raise UsageError(
            f"{flag} {file}",
            found=error.strerror or str(error),
            expected="a path that can be written",
            remedy=f"name another: {flag} FILE",
        ) from error
    check_destination(file, flag)


def _is_kept(runs: list[Run], case: Case, seed: int, request: BenchRequest) -> bool:
    settings = settings_of(case, seed, quick=request.quick, full=request.full)
    return not request.fresh and is_done(runs, case.name, seed, plain(asdict(settings)))


def figure_rows(table: str) -> dict[str, dict[str, str]]:
    """Return for each case of a table which rows its figures are of."""
    return {case.name: dict(case.figures) for case in TABLES[table]}


def settings_of(case: Case, seed: int, *, quick: bool, full: bool) -> Settings:
    """Return how a case's nodes learn and what they are compared with."""
    return Settings(
        net=case.net,
        trunk=QUICK_TRUNK if quick else "auto",
        steps=min(case.steps, QUICK_STEPS) if quick else case.steps,
        seed=seed,
        sums=case.sums,
        sums_mb=case.sums_mb,
        fedavg_rounds=QUICK_ROUNDS if quick else 20,
        comparisons=ALL if full else COMPARISONS,
    )


def _run(
    case: Case, seed: int, settings: Settings, request: BenchRequest, tell: Callable[[str], None]
) -> Run:
    dealt = case.deal(request.data_dir, seed)
    if request.quick:
        dealt = reduced(dealt, QUICK_SAMPLES, QUICK_QUERIES, seed)
    made_by = commit()
    root = Path(tempfile.mkdtemp(prefix="swarm-bench-"))
    with _signals_as_before():
        try:
            outcome = run_async(play(dealt, settings, root, tell))
        finally:
            remove_tree(root)
    note(render(outcome.rows))
    facts: dict[str, Any] = plain(facts_of(outcome))
    return {
        "case": case.name,
        "seed": seed,
        "rules": RULES,
        "settings": plain(asdict(settings)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": made_by,
        "machine": machine(),
        "nodes": {name: data.class_counts() for name, data in dealt.nodes.items()},
        "left_out": dict(dealt.left_out),
        **facts,
    }


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Undo what a swarm's clean-up does to signals: the next run can be interrupted like the first."""
    before = {ending: signal.getsignal(ending) for ending in (signal.SIGINT, *ENDINGS)}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
