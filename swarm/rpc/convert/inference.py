"""Queries, expert requests, gate trials and what answers them."""

from collections.abc import Iterable, Sequence
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from swarm.domain.combination import NAMES, Combination, TrialOption
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import digest, node_id
from swarm.domain.inference import (
    MAX_EXAMPLES,
    MAX_QUERY_ROWS,
    MAX_TASKS,
    Answer,
    Examples,
    ExpertAnswer,
    ExpertForm,
    ExpertRequest,
    ExpertTask,
    GateTrial,
    OwnerShare,
    Profile,
    Query,
    Source,
)
from swarm.domain.replay import AnswerRecord
from swarm.rpc.convert.scalars import digests, expert_id, finite, fraction, leaf_id
from swarm.rpc.convert.tensors import rows_from_pb, set_tensor, tensor_from_pb
from swarm.rpc.pb import expert_pb2, inference_pb2, types_pb2
from swarm.trust.codec import from_json, to_json

MAX_OPTIONS = 4096


def query_to_pb(query: Query) -> inference_pb2.PredictRequest:
    """Return the message; InvalidInputError for a number that it cannot hold."""
    for name, number, bits in (("top_k", query.top_k, 32), ("gate_version", query.gate_version, 64)):
        if not 0 <= number < 1 << bits:
            raise InvalidInputError(
                name, found=str(number), expected="a number from 0", remedy=f"leave {name} out"
            )
    message = inference_pb2.PredictRequest(
        top_k=query.top_k,
        explain=query.explain,
        owners=query.owners,
        uniform=query.uniform,
        combination=query.combination,
        profile=query.profile,
        gate_version=query.gate_version,
        min_confidence=query.min_confidence,
        replayable=query.replayable,
        request_id=query.request_id,
    )
    set_tensor(message.inputs, query.inputs, "inputs")
    return message


def query_from_pb(message: inference_pb2.PredictRequest) -> Query:
    """Return the query. Its inputs have 1 to MAX_QUERY_ROWS rows of at least one dimension."""
    if message.combination and message.combination not in NAMES:
        raise InvalidInputError(
            "combination", found=repr(message.combination[:40]), expected=", ".join(NAMES)
        )
    return Query(
        inputs=_inputs(message.inputs),
        top_k=message.top_k,
        explain=message.explain,
        owners=tuple(node_id(owner) for owner in message.owners),
        uniform=message.uniform,
        combination=message.combination,
        profile=digest(message.profile, "profile") if message.profile else "",
        gate_version=message.gate_version,
        min_confidence=fraction(message.min_confidence, "min_confidence"),
        replayable=message.replayable,
        request_id=message.request_id,
    )


def examples_to_pb(examples: Examples, key: str) -> inference_pb2.ProfileRequest:
    message = inference_pb2.ProfileRequest(labels=examples.labels, idempotency_key=key)
    set_tensor(message.inputs, examples.inputs, "inputs")
    return message


def examples_from_pb(message: inference_pb2.ProfileRequest) -> Examples:
    """Return the examples: as many labels as inputs, 1 to MAX_EXAMPLES."""
    inputs = _inputs(message.inputs)
    if len(inputs) != len(message.labels) or len(inputs) > MAX_EXAMPLES:
        raise InvalidInputError(
            "examples",
            found=f"{len(inputs)} inputs, {len(message.labels)} labels",
            expected=f"one label for each of 1 to {MAX_EXAMPLES} inputs",
        )
    return Examples(inputs=inputs, labels=tuple(message.labels))


def profile_to_pb(profile: Profile) -> inference_pb2.ProfileReply:
    return inference_pb2.ProfileReply(
        id=profile.id,
        owners=profile.owners,
        examples=profile.examples,
        accuracy=profile.accuracy,
        accuracy_all=profile.accuracy_all,
        gate_version=profile.gate_version,
    )


def profile_from_pb(message: inference_pb2.ProfileReply) -> Profile:
    return Profile(
        id=digest(message.id),
        owners=tuple(node_id(owner) for owner in message.owners),
        examples=message.examples,
        accuracy=finite(message.accuracy, "accuracy"),
        accuracy_all=finite(message.accuracy_all, "accuracy_all"),
        gate_version=message.gate_version,
    )


def answer_to_pb(answer: Answer) -> inference_pb2.PredictReply:
    explanations = [
        inference_pb2.RowExplanation(sources=[_source_to_pb(source) for source in row])
        for row in answer.sources
    ]
    message = inference_pb2.PredictReply(
        class_names=answer.class_names,
        gate_version=answer.gate_version,
        degraded=answer.degraded,
        explanations=explanations,
        missing_experts=answer.missing_experts,
        flops_per_query=answer.flops_per_query,
        combination=answer.combination,
        confidence=answer.confidence.tolist(),
        calibration=answer.calibration,
        out_of_distribution=None
        if answer.out_of_distribution is None
        else answer.out_of_distribution.tolist(),
        unknown=answer.unknown if any(answer.unknown) else (),
        record=to_json(answer.record) if answer.record is not None else b"",
        gate_entropy=answer.gate_entropy,
        signed=answer.signed,
    )
    set_tensor(message.probabilities, answer.probabilities, "probabilities")
    return message


def answer_from_pb(message: inference_pb2.PredictReply) -> Answer:
    """Return the answer; its rows, classes and explanations fit one another.

    One without confidences, of an earlier coordinator, has those of its probabilities.
    """
    rows = len(message.degraded)
    for name in ("explanations", "confidence", "out_of_distribution", "unknown", "gate_entropy"):
        found = len(getattr(message, name))
        if found not in (0, rows):
            raise ShapeMismatchError(name, found=f"{found}", expected=f"{rows}")
    distances = np.array(message.out_of_distribution, dtype=np.float32)
    if not np.isfinite(distances).all() or (distances < 0).any():
        raise InvalidInputError("out_of_distribution", found="a distance that is negative or not finite")
    confidence = [fraction(each, "confidence") for each in message.confidence]
    return Answer(
        class_names=tuple(message.class_names),
        probabilities=rows_from_pb(message.probabilities, rows, len(message.class_names), "probabilities"),
        gate_version=message.gate_version,
        degraded=tuple(message.degraded),
        sources=tuple(tuple(map(_source_from_pb, row.sources)) for row in message.explanations),
        missing_experts=tuple(map(expert_id, message.missing_experts)),
        flops_per_query=finite(message.flops_per_query, "flops_per_query"),
        combination=message.combination[:80],
        confidence=np.array(confidence, dtype=np.float32),
        calibration=finite(message.calibration, "calibration"),
        out_of_distribution=distances if len(distances) else None,
        unknown=tuple(message.unknown),
        record=from_json(AnswerRecord, message.record) if message.record else None,
        gate_entropy=tuple(finite(each, "gate_entropy") for each in message.gate_entropy),
        signed=message.signed,
    )


def expert_request_to_pb(request: ExpertRequest) -> expert_pb2.ExpertRequest:
    message = expert_pb2.ExpertRequest(
        tasks=[
            expert_pb2.ExpertTask(
                expert=task.expert, manifest=task.manifest, rows=task.rows.tolist(), form=task.form
            )
            for task in request.tasks
        ],
        trunk=request.trunk,
        gate_version=request.gate_version,
        replayable=request.replayable,
    )
    set_tensor(message.inputs, request.inputs, "inputs")
    return message


def expert_request_from_pb(message: expert_pb2.ExpertRequest) -> ExpertRequest:
    """Return the request of 1 to MAX_TASKS tasks; every task's rows exist among its inputs, each once."""
    inputs = _inputs(message.inputs)
    if not 1 <= len(message.tasks) <= MAX_TASKS:
        found = str(len(message.tasks) or "none")
        raise InvalidInputError("tasks", found=found, expected=f"1 to {MAX_TASKS} experts to ask")
    return ExpertRequest(
        inputs=inputs,
        tasks=tuple(_task(task, len(inputs)) for task in message.tasks),
        trunk=digest(message.trunk),
        gate_version=message.gate_version,
        replayable=message.replayable,
    )


def expert_answers_to_pb(answers: list[ExpertAnswer]) -> expert_pb2.ExpertReply:
    message = expert_pb2.ExpertReply()
    for answer in answers:
        one = message.answers.add(
            expert=answer.expert,
            version=answer.version,
            manifest=answer.manifest,
            class_names=answer.class_names,
            form=answer.form,
            module_digests=answer.module_digests,
            flops_per_query=answer.flops_per_query,
            computed_on=answer.computed_on,
        )
        set_tensor(one.values, answer.values, f"{answer.form} of {answer.expert}")
    return message


def expert_answers_from_pb(message: expert_pb2.ExpertReply, request: ExpertRequest) -> list[ExpertAnswer]:
    """Return one answer per task of request, in its order; each fits its task's expert, manifest and rows."""
    if len(message.answers) != len(request.tasks):
        raise ShapeMismatchError(
            "answers", found=f"{len(message.answers)}", expected=f"{len(request.tasks)}, one for each task"
        )
    return [_expert_answer(answer, task) for answer, task in zip(message.answers, request.tasks, strict=True)]


def combination_to_pb(combination: Combination) -> expert_pb2.Combination:
    return expert_pb2.Combination(
        name=combination.name,
        temperature=combination.temperature,
        top_k=combination.top_k,
        strength=combination.strength,
        class_temperature=combination.class_temperature,
    )


def trial_options_to_pb(options: Sequence[TrialOption]) -> list[expert_pb2.TrialOption]:
    return [
        expert_pb2.TrialOption(
            combination=combination_to_pb(option.combination),
            weights=option.weights,
            against_root=option.against_root,
        )
        for option in options
    ]


def trial_options_from_pb(messages: Iterable[expert_pb2.TrialOption]) -> tuple[TrialOption, ...]:
    """Return the options under trial, 1 to MAX_OPTIONS, each a combination that can be."""
    options = tuple(
        TrialOption(
            combination=Combination(
                name=message.combination.name,  # type: ignore[arg-type]  # it checks itself
                temperature=message.combination.temperature,
                top_k=message.combination.top_k,
                strength=message.combination.strength,
                class_temperature=message.combination.class_temperature,
            ),
            weights=message.weights[:40],
            against_root=message.against_root,
        )
        for message in messages
    )
    if not 1 <= len(options) <= MAX_OPTIONS:
        raise InvalidInputError("options", found=f"{len(options)}", expected=f"1 to {MAX_OPTIONS}")
    return options


def gate_trial_to_pb(trial: GateTrial) -> expert_pb2.TryGateReply:
    return expert_pb2.TryGateReply(
        samples=trial.samples,
        nll_sum=trial.nll_sum,
        correct=trial.correct,
        gained=trial.gained,
        lost=trial.lost,
        gained_among_own=trial.gained_among_own,
        lost_among_own=trial.lost_among_own,
        taken=trial.taken,
        gained_on_root=trial.gained_on_root,
        lost_on_root=trial.lost_on_root,
        incumbent_correct=trial.incumbent_correct,
        experts_missing=trial.experts_missing,
        flops=trial.flops,
        nll_by_calibration=trial.nll_by_calibration,
    )


def gate_trial_from_pb(message: expert_pb2.TryGateReply) -> GateTrial:
    """Return the trial; its lists are equally long, its sums finite, its counts within its samples."""
    counts = (
        message.correct,
        message.gained,
        message.lost,
        message.gained_among_own,
        message.lost_among_own,
        message.taken,
        message.gained_on_root,
        message.lost_on_root,
    )
    lengths = [len(message.nll_sum), *map(len, counts)]
    if len(set(lengths)) > 1:
        raise ShapeMismatchError("gate trial", found=f"lists of {lengths}", expected="equal lengths")
    flat = [message.incumbent_correct, *(count for counted in counts for count in counted)]
    if message.samples < 0 or any(not 0 <= count <= message.samples for count in flat):
        raise InvalidInputError("gate trial", found="a count outside its samples", expected="0 to samples")
    return GateTrial(
        samples=message.samples,
        nll_sum=tuple(finite(value, "nll_sum") for value in message.nll_sum),
        correct=tuple(message.correct),
        gained=tuple(message.gained),
        lost=tuple(message.lost),
        gained_among_own=tuple(message.gained_among_own),
        lost_among_own=tuple(message.lost_among_own),
        taken=tuple(message.taken),
        gained_on_root=tuple(message.gained_on_root),
        lost_on_root=tuple(message.lost_on_root),
        incumbent_correct=message.incumbent_correct,
        experts_missing=message.experts_missing,
        flops=message.flops,
        nll_by_calibration=tuple(finite(v, "nll_by_calibration") for v in message.nll_by_calibration),
    )


def _inputs(message: types_pb2.Tensor) -> NDArray[np.generic]:
    inputs = tensor_from_pb(message, "inputs")
    if inputs.ndim < 2 or inputs.size == 0:
        raise ShapeMismatchError(
            "inputs", found=f"shape {list(inputs.shape)}", expected="[batch, *input_shape], at least one row"
        )
    if len(inputs) > MAX_QUERY_ROWS:
        raise InvalidInputError(
            "inputs",
            found=f"{len(inputs)} rows",
            expected=f"at most {MAX_QUERY_ROWS} in one query",
            remedy="ask in smaller batches",
        )
    return inputs


def _task(message: expert_pb2.ExpertTask, batch: int) -> ExpertTask:
    rows = np.asarray(message.rows, dtype=np.int64)
    if not len(rows) or rows.max() >= batch:
        raise InvalidInputError(
            f"rows of {message.expert[:80]}",
            found=f"row {rows.max()}" if len(rows) else "no rows",
            expected=f"rows 0 to {batch - 1}",
        )
    if len(rows) > batch or len(np.unique(rows)) < len(rows):
        raise InvalidInputError(
            f"rows of {message.expert[:80]}", found="one of them twice", expected="each at most once"
        )
    return ExpertTask(
        expert=expert_id(message.expert),
        manifest=digest(message.manifest),
        rows=rows,
        form=_form(message.form, message.expert),
    )


def _form(text: str, expert: str) -> ExpertForm:
    if text not in get_args(ExpertForm):
        raise InvalidInputError(
            f"form of {expert[:80]}", found=repr(text[:40]), expected=", ".join(get_args(ExpertForm))
        )
    return cast(ExpertForm, text)


def _expert_answer(message: expert_pb2.ExpertAnswer, task: ExpertTask) -> ExpertAnswer:
    if message.expert != task.expert or message.manifest != task.manifest:
        raise InvalidInputError(
            f"answer of {task.expert}",
            found=f"{message.expert[:80]} at {message.manifest[:12]}",
            expected=f"{task.expert} at {task.manifest[:12]}",
        )
    if message.form != task.form:
        raise InvalidInputError(f"answer of {task.expert}", found=repr(message.form[:40]), expected=task.form)
    subject = f"{task.form} of {task.expert}"
    return ExpertAnswer(
        expert=task.expert,
        version=message.version,
        manifest=task.manifest,
        class_names=tuple(message.class_names),
        values=rows_from_pb(message.values, len(task.rows), len(message.class_names), subject),
        form=task.form,
        module_digests=digests(message.module_digests),
        flops_per_query=finite(message.flops_per_query, f"flops of {task.expert}"),
        computed_on=message.computed_on[:200],
    )


def _source_to_pb(source: Source) -> inference_pb2.Source:
    return inference_pb2.Source(
        leaf=source.leaf,
        expert=source.expert,
        version=source.version,
        manifest=source.manifest,
        owner=source.owner,
        served_by=source.served_by,
        weight=source.weight,
        module_digests=source.module_digests,
        owners=[inference_pb2.OwnerShare(owner=each.owner, weight=each.weight) for each in source.owners],
    )


def _source_from_pb(message: inference_pb2.Source) -> Source:
    return Source(
        leaf=leaf_id(message.leaf),
        expert=expert_id(message.expert),
        version=message.version,
        manifest=digest(message.manifest),
        owner=node_id(message.owner),
        served_by=node_id(message.served_by),
        weight=finite(message.weight, f"weight of {message.expert[:80]}"),
        module_digests=digests(message.module_digests),
        owners=tuple(
            OwnerShare(owner=node_id(each.owner), weight=finite(each.weight, "an owner's share"))
            for each in message.owners
        ),
    )
