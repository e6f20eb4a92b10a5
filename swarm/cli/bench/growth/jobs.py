"""Runs of a growth benchmark: what is missing, in parallel processes of one thread each, kept as they end."""

import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swarm.cli.bench.results import SCHEMA, commit, machine
from swarm.domain.errors import InvalidInputError

Run = dict[str, Any]
"""One case under one seed: `case`, `seed`, `settings`, `date`, `commit`, `machine`, what was measured."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to make: work(**settings) in a process of its own returns what it measured.

    work is a function at the top of a module; settings are JSON's own types and say all that matters.
    """

    case: str
    seed: int
    work: Callable[..., Run]
    settings: Mapping[str, Any]
    data_dir: str

    def is_in(self, runs: Sequence[Run]) -> bool:
        """Say whether runs have this case and seed, made with these very settings."""
        return any(_key(run) == (self.case, self.seed) and run["settings"] == self.settings for run in runs)

    def run(self) -> Run:
        """Do the work; return the run."""
        measured = self.work(data_dir=Path(self.data_dir), seed=self.seed, **self.settings)
        return {
            "case": self.case,
            "seed": self.seed,
            "settings": dict(self.settings),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            **measured,
        }


def done(jobs: Sequence[Job], workers: int) -> Iterator[Run]:
    """Yield each job's run as it ends; with one worker in this process. The first failure ends the others."""
    if workers <= 1:
        yield from (job.run() for job in jobs)
        return
    with _one_thread_each():
        spawning = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=spawning, initializer=_end_with_parent)
        try:
            for future in as_completed([pool.submit(job.run) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have processes that start now compute in one thread: they are as many as cores, and comparable."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_growth_runs(path: Path, needed: Sequence[str]) -> list[Run]:
    """Return the runs in a results file, none where there is no file.

    Raises InvalidInputError for another file, and for a run that lacks one of the `needed` fields.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}")
        runs: list[Run] = list(found["runs"])
        for run in runs:
            missing = [name for name in ("case", "seed", "settings", *needed) if name not in run]
            if missing:
                raise ValueError(f"a run without {missing[0]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            str(path),
            found=f"no results of a growth benchmark: {error}",
            expected=f"schema {SCHEMA} with runs",
            remedy="remove it, or name another file: --out FILE",
        ) from error
    return runs


def with_growth_run(runs: Sequence[Run], new: Run) -> list[Run]:
    """Return runs with one more; it takes the place of an earlier one of its case and seed."""
    return sorted([*(run for run in runs if _key(run) != _key(new)), new], key=_key)


def write_growth_results(path: Path, runs: Sequence[Run], figures: Mapping[str, float], command: str) -> None:
    """Write runs and their figures; the file is whole at every moment. InvalidInputError for a figure that
    is not finite."""
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        raise InvalidInputError(f"figure {bad[0]}", found=str(figures[bad[0]]), expected="a finite number")
    result = {
        "schema": SCHEMA,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "commits": sorted({run["commit"] for run in runs}),
        "seeds": sorted({run["seed"] for run in runs}),
        "figures": dict(figures),
        "runs": list(runs),
    }
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(
        json.dumps(result, allow_nan=False, separators=(",", ":")).replace('{"case"', '\n{"case"') + "\n"
    )
    draft.replace(path)


def _key(run: Run) -> tuple[str, int]:
    return str(run["case"]), int(run["seed"])
