"""What the answering thread does: the rows of several requests in one forward pass, each answered apart."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from node.expert_store import ExpertStore
from node.request_checks import check_finite
from swarm.domain.errors import SwarmError
from swarm.domain.inference import ExpertAnswer, ExpertForm, ExpertTask
from swarm.experts.expert import LoadedExpert
from swarm.experts.one_thread import computed_on, one_thread
from swarm.gating.tiles import in_tiles

Inputs = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertJob:
    """Tasks of one request, on its inputs [B, *input_shape]; task rows are known to lie within.

    `expert`: what answers all of them, where it was loaded for them alone. `replayable`: computed with nobody
    else's rows, in tiles and in one thread.
    """

    inputs: Inputs
    tasks: tuple[ExpertTask, ...]
    expert: LoadedExpert | None = None
    replayable: bool = False


Answers = list[ExpertAnswer | None]
"""One for each task of a job; None where its expert is not in memory any more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a task's answer goes: into which job's answers, and at which place of them."""

    job: int
    task: int


class ExpertJobs:
    """Answers batches of jobs with what is in memory. For one thread."""

    def __init__(self, store: ExpertStore) -> None:
        self._store = store

    def answers(self, jobs: Sequence[ExpertJob]) -> list[Answers | Exception]:
        """Return each job's answers, or its own error."""
        found: list[Answers | Exception] = [[None] * len(job.tasks) for job in jobs]
        for places in self._alike(jobs):
            self._answer_alike(jobs, places, found)
        self._answer_replayable(jobs, found)
        return found

    def _alike(self, jobs: Sequence[ExpertJob]) -> list[list[_Place]]:
        """Return the tasks whose rows can go together: same manifest, form and type of input."""
        groups: dict[tuple[object, ...], list[_Place]] = {}
        for number, job in enumerate(jobs):
            if job.replayable:
                continue
            kind = (job.inputs.dtype, job.inputs.shape[1:])
            for place, task in enumerate(job.tasks):
                groups.setdefault((task.manifest, task.form, *kind), []).append(_Place(number, place))
        return list(groups.values())

    def _answer_alike(
        self, jobs: Sequence[ExpertJob], places: Sequence[_Place], found: list[Answers | Exception]
    ) -> None:
        first = jobs[places[0].job]
        task = first.tasks[places[0].task]
        held = next((jobs[place.job].expert for place in places if jobs[place.job].expert), None)
        expert = held if held is not None else self._store.in_memory(task.manifest)
        if expert is None:
            return
        parts = [jobs[place.job].inputs[jobs[place.job].tasks[place.task].rows] for place in places]
        try:
            values = _computed(expert, task.form, parts)
        except Exception as error:
            if len(places) > 1:
                # One request's rows may be at fault: each alone says which.
                for place in places:
                    self._answer_alike(jobs, [place], found)
                return
            found[places[0].job] = _named(error, task)
            return
        for place, part in zip(places, values, strict=True):
            answers = found[place.job]
            if isinstance(answers, list):
                answers[place.task] = answer_of(expert, jobs[place.job].tasks[place.task], part)

    def _answer_replayable(self, jobs: Sequence[ExpertJob], found: list[Answers | Exception]) -> None:
        numbers = [number for number, job in enumerate(jobs) if job.replayable]
        with one_thread() if numbers else nullcontext():
            for number in numbers:
                job, answers = jobs[number], list[ExpertAnswer | None]()
                try:
                    check_finite(job.inputs)
                    for task in job.tasks:
                        expert = job.expert or self._store.in_memory(task.manifest)
                        answers.append(None if expert is None else _answered_again(expert, task, job.inputs))
                except Exception as error:
                    found[number] = _named(error, job.tasks[len(answers)])
                    continue
                found[number] = answers


def answer_of(
    expert: LoadedExpert, task: ExpertTask, values: NDArray[np.float32], computed: str = ""
) -> ExpertAnswer:
    """Return an expert's values float32 [len(task.rows), C] as its answer."""
    manifest = expert.manifest
    return ExpertAnswer(
        expert=manifest.expert,
        version=manifest.version,
        manifest=task.manifest,
        class_names=manifest.class_names,
        values=values,
        module_digests=expert.module_digests(task.form),
        flops_per_query=float(expert.flops_per_query(task.form)),
        form=task.form,
        computed_on=computed,
    )


def _computed(expert: LoadedExpert, form: ExpertForm, parts: Sequence[Inputs]) -> list[NDArray[np.float32]]:
    """Return the values of each part's rows, from one pass over all of them."""
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    check_finite(rows)
    values = expert.values(rows, form)
    if len(parts) == 1:
        return [values]
    return np.split(values, np.cumsum([len(part) for part in parts])[:-1])


def _answered_again(expert: LoadedExpert, task: ExpertTask, inputs: Inputs) -> ExpertAnswer:
    """Return a task's answer as anybody computes it again, to the bit."""
    rows = inputs[task.rows]
    asked = partial(expert.values, form=task.form)
    values = in_tiles(asked, rows) if len(rows) else asked(rows)
    return answer_of(expert, task, values, computed_on(expert.device))


def _named(error: Exception, task: ExpertTask) -> Exception:
    if isinstance(error, SwarmError):
        return error
    return SwarmError(f"expert {task.expert}", found=f"{type(error).__name__}: {error}"[:400])
