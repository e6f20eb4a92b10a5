"""A table's results on disk: every run as it ended, and the figures made of them.

`{"schema": "swarm.bench/1", "machine", "date", "seeds", "figures": {name: value}, "runs": [...]}`.
Runs come from several commits, so each says its own.
"""

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swarm.domain.errors import InvalidInputError

SCHEMA = "swarm.bench/1"
RULES = 2
"""Raised whenever what a gate serves or accepts changes: runs under other rules are run again."""
Run = dict[str, Any]
"""One case under one seed: `case`, `seed`, `rules`, `settings`, `date`, `commit`, `machine`, the report's
fields. One without `rules` is from before they were counted."""


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _RowForm(_Checked):
    name: str
    accuracy: float
    bytes_sent: float


class _GateForm(_Checked):
    serves: str


class _RunForm(_Checked):
    """What figures and tables are made of; a run has more."""

    case: str
    seed: int
    settings: dict[str, Any]
    rows: list[_RowForm]
    contribution_mb: Annotated[dict[str, float], Field(min_length=1)]
    gate: _GateForm
    seconds: dict[str, float]
    curves: dict[str, list[Annotated[list[float], Field(min_length=2)]]] = {}
    commit: str = ""


def read_runs(path: Path) -> list[Run]:
    """Return the runs in a results file; none where there is no file. Errors as in `read_results`."""
    return list(read_results(path)["runs"]) if path.exists() else []


def read_results(path: Path) -> dict[str, Any]:
    """Return what `write_results` wrote; InvalidInputError for another file, and for a damaged run."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}")
        runs = list(found["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            str(path),
            found=f"no results of a benchmark: {error}",
            expected=f"schema {SCHEMA} with runs",
            remedy="remove it, or name another file: --out FILE",
        ) from error
    for place, run in enumerate(runs):
        fault = _fault(run)
        if fault:
            raise InvalidInputError(
                f"{path}, runs[{place}]",
                found=fault,
                expected="a run as swarm bench writes it",
                remedy="take this entry out of the file, and it is run again; or name another: --out FILE",
            )
    return found


def _fault(run: object) -> str:
    """Return what keeps an entry from being a run; empty where it is one."""
    try:
        rows = _RunForm.model_validate(run).rows
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return "" if any(row.name == "swarm" for row in rows) else "rows: none is named swarm"


def with_run(runs: Sequence[Run], new: Run) -> list[Run]:
    """Return runs with one more; it takes the place of an earlier one of its case and seed."""
    kept = [run for run in runs if _key(run) != _key(new)]
    return sorted([*kept, new], key=_key)


def is_done(runs: Sequence[Run], case: str, seed: int, settings: Mapping[str, Any]) -> bool:
    """Say whether a case has been run under a seed with these very settings and under the present rules."""
    return any(
        _key(run) == (case, seed) and run["settings"] == dict(settings) and not is_stale(run) for run in runs
    )


def is_stale(run: Mapping[str, Any]) -> bool:
    """Say whether a run was made under other rules than the present ones."""
    return bool(run.get("rules") != RULES)


def figures_of(runs: Sequence[Run], rows_of: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return `<case>_<figure>`, its mean over seeds, and `<case>_<row>_sd` for every row of the case.

    rows_of: for each case which row a figure is of. `<case>_mb_per_node` is the mean contribution of a node
    in 10^6 bytes, `<case>_sent_mb_per_node` all bytes between machines by node. A figure whose row is missing
    in a run is left out: `missing_figures` names it.
    """
    figures: dict[str, float] = {}
    for case, rows in rows_of.items():
        own = [run for run in runs if run["case"] == case]
        if not own:
            continue
        figures[f"{case}_seeds"] = float(len(own))
        accuracies = [{row["name"]: float(row["accuracy"]) for row in run["rows"]} for run in own]
        for figure, row in rows.items():
            if all(row in each for each in accuracies):
                figures[f"{case}_{figure}"] = statistics.fmean(each[row] for each in accuracies)
                figures[f"{case}_{figure}_sd"] = _spread([each[row] for each in accuracies])
        for row in accuracies[0]:
            if ":" not in row and all(row in each for each in accuracies):
                figures.setdefault(f"{case}_{row}", statistics.fmean(each[row] for each in accuracies))
                figures.setdefault(f"{case}_{row}_sd", _spread([each[row] for each in accuracies]))
        contributed = [statistics.fmean(run["contribution_mb"].values()) for run in own]
        figures[f"{case}_mb_per_node"] = statistics.fmean(contributed)
        sent = [_row(run, "swarm")["bytes_sent"] / len(run["contribution_mb"]) / 1e6 for run in own]
        figures[f"{case}_sent_mb_per_node"] = statistics.fmean(sent)
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        raise InvalidInputError(f"figure {bad[0]}", found=str(figures[bad[0]]), expected="a finite number")
    return figures


def missing_figures(runs: Sequence[Run], rows_of: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return by name the figures that finished runs lack, and of each the row and the seeds without it."""
    missing: dict[str, str] = {}
    for case, rows in rows_of.items():
        own = [
            (int(run["seed"]), {row["name"] for row in run["rows"]}) for run in runs if run["case"] == case
        ]
        for figure, row in rows.items():
            seeds = [str(seed) for seed, names in own if row not in names]
            if seeds:
                missing[f"{case}_{figure}"] = f"no row {row} under seed {', '.join(seeds)}"
    return missing


def write_results(path: Path, runs: Sequence[Run], rows_of: Mapping[str, Mapping[str, str]]) -> None:
    """Write runs and their figures; the file is whole at every moment."""
    result = {
        "schema": SCHEMA,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": sorted({run["seed"] for run in runs}),
        "figures": figures_of(runs, rows_of),
        "runs": list(runs),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    draft.replace(path)


def machine() -> str:
    """Return what runs are measured on: cores, processor, system, Python, torch."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        processor = next((value.strip() for name, _, value in lines if "model name" in name), processor)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    python = platform.python_version()
    return f"{cores} cores of {processor}, {platform.system()}, Python {python}, torch {torch}"


def commit() -> str:
    """Return the commit that runs here, with `+` where the tree has changes; empty without a repository."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}{'+' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _key(run: Run) -> tuple[str, int]:
    return str(run["case"]), int(run["seed"])


def _row(run: Run, name: str) -> dict[str, Any]:
    return next(row for row in run["rows"] if row["name"] == name)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
