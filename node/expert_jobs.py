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
from swarm.domain.inference import ExpertAnswer, ExpertTask
from swarm.experts.expert import LoadedExpert
from swarm.experts.grouped import architecture
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


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One expert's pass over rows of several places; `task` is one of theirs, `parts` are their rows."""

    expert: LoadedExpert
    task: ExpertTask
    places: list[_Place]
    parts: list[Inputs]

    def kind(self) -> object | None:
        """Return what passes share that can be computed as one; None for one that goes alone."""
        net = architecture(self.expert, self.task.form)
        inputs = self.parts[0]
        return None if net is None else (net, self.task.form, inputs.dtype, inputs.shape[1:])

    def split(self, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return each place's part of the pass's values float32 [B, C]."""
        if len(self.parts) == 1:
            return [values]
        return np.split(values, np.cumsum([len(part) for part in self.parts])[:-1])


class ExpertJobs:
    """Answers batches of jobs with what is in memory. For one thread."""

    def __init__(self, store: ExpertStore) -> None:
        self._store = store

    def answers(self, jobs: Sequence[ExpertJob]) -> list[Answers | Exception]:
        """Return each job's answers, or its own error."""
        found: list[Answers | Exception] = [[None] * len(job.tasks) for job in jobs]
        passes = [made for places in self._alike(jobs) if (made := self._pass(jobs, places)) is not None]
        for together in self._grouped(passes):
            if not (len(together) > 1 and self._answer_stacked(jobs, together, found)):
                for each in together:
                    self._answer_alike(jobs, each, found)
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

    def _pass(self, jobs: Sequence[ExpertJob], places: list[_Place]) -> _Pass | None:
        """Return the pass of one expert over these tasks' rows; None where it is not in memory any more."""
        task = jobs[places[0].job].tasks[places[0].task]
        held = next((jobs[place.job].expert for place in places if jobs[place.job].expert), None)
        expert = held if held is not None else self._store.in_memory(task.manifest)
        if expert is None:
            return None
        parts = [jobs[place.job].inputs[jobs[place.job].tasks[place.task].rows] for place in places]
        return _Pass(expert, task, places, parts)

    def _grouped(self, passes: Sequence[_Pass]) -> list[list[_Pass]]:
        """Return passes with those together whose experts may be computed as one."""
        groups: dict[object, list[_Pass]] = {}
        for number, each in enumerate(passes):
            kind = each.kind() if len(passes) > 1 else None
            groups.setdefault(number if kind is None else kind, []).append(each)
        return list(groups.values())

    def _answer_stacked(
        self, jobs: Sequence[ExpertJob], passes: Sequence[_Pass], found: list[Answers | Exception]
    ) -> bool:
        """Answer passes of one kind as one computation; False, and nothing done, where that cannot be or does
        not pay."""
        first = passes[0]
        kind = (first.expert.manifest.net, first.task.form)
        stack = self._store.stack(kind, [each.task.manifest for each in passes])
        if stack is None:
            return False
        asked = {each.task.manifest: np.concatenate(each.parts) for each in passes}
        inputs = [asked.get(member, first.parts[0][:0]) for member in stack.members]
        if not stack.group.pays([len(rows) for rows in inputs]):
            return False
        values = stack.group.values(inputs)
        if not all(np.isfinite(rows).all() for rows in (*asked.values(), *values) if rows.dtype.kind == "f"):
            return False  # each alone says what is wrong, and with which
        by_manifest = dict(zip(stack.members, values, strict=True))
        for each in passes:
            _hand_out(jobs, each, each.split(by_manifest[each.task.manifest]), found)
        return True

    def _answer_alike(self, jobs: Sequence[ExpertJob], one: _Pass, found: list[Answers | Exception]) -> None:
        try:
            rows = one.parts[0] if len(one.parts) == 1 else np.concatenate(one.parts)
            check_finite(rows)
            values = one.split(one.expert.values(rows, one.task.form))
        except Exception as error:
            if len(one.places) > 1:
                # One request's rows may be at fault: each alone says which.
                for place, part in zip(one.places, one.parts, strict=True):
                    self._answer_alike(jobs, _Pass(one.expert, one.task, [place], [part]), found)
                return
            found[one.places[0].job] = _named(error, one.task)
            return
        _hand_out(jobs, one, values, found)

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


def _hand_out(
    jobs: Sequence[ExpertJob],
    one: _Pass,
    values: Sequence[NDArray[np.float32]],
    found: list[Answers | Exception],
) -> None:
    """Put each place's part of a pass's values into the answers of its job, unless that has failed."""
    for place, part in zip(one.places, values, strict=True):
        answers = found[place.job]
        if isinstance(answers, list):
            answers[place.task] = answer_of(one.expert, jobs[place.job].tasks[place.task], part)


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
