"""Queries, expert requests, gate trials and what answers them."""

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import digest, node_id
from swarm.domain.inference import (
    MAX_QUERY_ROWS,
    Answer,
    ExpertAnswer,
    ExpertRequest,
    ExpertTask,
    GateTrial,
    Query,
    Source,
)
from swarm.rpc.convert.scalars import digests, expert_id, finite, leaf_id
from swarm.rpc.convert.tensors import rows_from_pb, tensor_from_pb, tensor_to_pb
from swarm.rpc.pb import expert_pb2, inference_pb2, types_pb2


def query_to_pb(query: Query) -> inference_pb2.PredictRequest:
    return inference_pb2.PredictRequest(
        inputs=tensor_to_pb(query.inputs, "inputs"),
        top_k=query.top_k,
        explain=query.explain,
        owners=query.owners,
        uniform=query.uniform,
    )


def query_from_pb(message: inference_pb2.PredictRequest) -> Query:
    """Return the query. Its inputs have 1 to MAX_QUERY_ROWS rows of at least one dimension."""
    return Query(
        inputs=_inputs(message.inputs),
        top_k=message.top_k,
        explain=message.explain,
        owners=tuple(node_id(owner) for owner in message.owners),
        uniform=message.uniform,
    )


def answer_to_pb(answer: Answer) -> inference_pb2.PredictReply:
    explanations = [
        inference_pb2.RowExplanation(sources=[_source_to_pb(source) for source in row])
        for row in answer.sources
    ]
    return inference_pb2.PredictReply(
        class_names=answer.class_names,
        probabilities=tensor_to_pb(answer.probabilities, "probabilities"),
        gate_version=answer.gate_version,
        degraded=answer.degraded,
        explanations=explanations,
        missing_experts=answer.missing_experts,
        flops_per_query=answer.flops_per_query,
    )


def answer_from_pb(message: inference_pb2.PredictReply) -> Answer:
    """Return the answer; its rows, classes and explanations fit one another."""
    rows = len(message.degraded)
    if message.explanations and len(message.explanations) != rows:
        raise ShapeMismatchError("explanations", found=f"{len(message.explanations)}", expected=f"{rows}")
    return Answer(
        class_names=tuple(message.class_names),
        probabilities=rows_from_pb(message.probabilities, rows, len(message.class_names), "probabilities"),
        gate_version=message.gate_version,
        degraded=tuple(message.degraded),
        sources=tuple(tuple(map(_source_from_pb, row.sources)) for row in message.explanations),
        missing_experts=tuple(map(expert_id, message.missing_experts)),
        flops_per_query=finite(message.flops_per_query, "flops_per_query"),
    )


def expert_request_to_pb(request: ExpertRequest) -> expert_pb2.ExpertRequest:
    return expert_pb2.ExpertRequest(
        inputs=tensor_to_pb(request.inputs, "inputs"),
        tasks=[
            expert_pb2.ExpertTask(expert=task.expert, manifest=task.manifest, rows=task.rows.tolist())
            for task in request.tasks
        ],
        trunk=request.trunk,
        gate_version=request.gate_version,
    )


def expert_request_from_pb(message: expert_pb2.ExpertRequest) -> ExpertRequest:
    """Return the request; every task's rows exist among its inputs."""
    inputs = _inputs(message.inputs)
    if not message.tasks:
        raise InvalidInputError("tasks", found="none", expected="at least one expert to ask")
    return ExpertRequest(
        inputs=inputs,
        tasks=tuple(_task(task, len(inputs)) for task in message.tasks),
        trunk=digest(message.trunk),
        gate_version=message.gate_version,
    )


def expert_answers_to_pb(answers: list[ExpertAnswer]) -> expert_pb2.ExpertReply:
    return expert_pb2.ExpertReply(
        answers=[
            expert_pb2.ExpertAnswer(
                expert=answer.expert,
                version=answer.version,
                manifest=answer.manifest,
                class_names=answer.class_names,
                probabilities=tensor_to_pb(answer.probabilities, f"probabilities of {answer.expert}"),
                module_digests=answer.module_digests,
                flops_per_query=answer.flops_per_query,
            )
            for answer in answers
        ]
    )


def expert_answers_from_pb(message: expert_pb2.ExpertReply, request: ExpertRequest) -> list[ExpertAnswer]:
    """Return one answer per task of request, in its order; each fits its task's expert, manifest and rows."""
    if len(message.answers) != len(request.tasks):
        raise ShapeMismatchError(
            "answers", found=f"{len(message.answers)}", expected=f"{len(request.tasks)}, one for each task"
        )
    return [_expert_answer(answer, task) for answer, task in zip(message.answers, request.tasks, strict=True)]


def gate_trial_to_pb(trial: GateTrial) -> expert_pb2.TryGateReply:
    return expert_pb2.TryGateReply(
        samples=trial.samples,
        temperatures=trial.temperatures,
        nll_sum=trial.nll_sum,
        correct_top1=trial.correct_top1,
        correct_top2=trial.correct_top2,
        correct_top4=trial.correct_top4,
        incumbent_correct=trial.incumbent_correct,
        gained=trial.gained,
        lost=trial.lost,
        experts_missing=trial.experts_missing,
        flops=trial.flops,
    )


def gate_trial_from_pb(message: expert_pb2.TryGateReply) -> GateTrial:
    """Return the trial; it has one entry per temperature, finite sums, and counts within its samples."""
    size = len(message.temperatures)
    counts = (
        message.correct_top1,
        message.correct_top2,
        message.correct_top4,
        message.gained,
        message.lost,
    )
    lengths = [len(message.nll_sum), *map(len, counts)]
    if any(length != size for length in lengths):
        raise ShapeMismatchError("gate trial", found=f"lists of {lengths}", expected=f"{size} each")
    flat = [message.incumbent_correct, *(count for counted in counts for count in counted)]
    if message.samples < 0 or any(not 0 <= count <= message.samples for count in flat):
        raise InvalidInputError("gate trial", found="a count outside its samples", expected="0 to samples")
    return GateTrial(
        samples=message.samples,
        temperatures=tuple(finite(value, "temperature") for value in message.temperatures),
        nll_sum=tuple(finite(value, "nll_sum") for value in message.nll_sum),
        correct_top1=tuple(message.correct_top1),
        correct_top2=tuple(message.correct_top2),
        correct_top4=tuple(message.correct_top4),
        incumbent_correct=message.incumbent_correct,
        gained=tuple(message.gained),
        lost=tuple(message.lost),
        experts_missing=message.experts_missing,
        flops=message.flops,
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
    return ExpertTask(expert=expert_id(message.expert), manifest=digest(message.manifest), rows=rows)


def _expert_answer(message: expert_pb2.ExpertAnswer, task: ExpertTask) -> ExpertAnswer:
    if message.expert != task.expert or message.manifest != task.manifest:
        raise InvalidInputError(
            f"answer of {task.expert}",
            found=f"{message.expert[:80]} at {message.manifest[:12]}",
            expected=f"{task.expert} at {task.manifest[:12]}",
        )
    subject = f"probabilities of {task.expert}"
    return ExpertAnswer(
        expert=task.expert,
        version=message.version,
        manifest=task.manifest,
        class_names=tuple(message.class_names),
        probabilities=rows_from_pb(message.probabilities, len(task.rows), len(message.class_names), subject),
        module_digests=digests(message.module_digests),
        flops_per_query=finite(message.flops_per_query, f"flops of {task.expert}"),
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
    )
