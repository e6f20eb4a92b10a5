"""The comparison that no swarm can make: one net on everybody's data in one place, at a given budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.experts.flops import forward_flops, training_flops
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.nets import MAX_WIDTH, build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.training import TrainSettings, train_expert

__all__ = ["Baseline", "train_baseline", "widened_mlp"]

WIDENED_DEPTH = 2
_EVALUATION_ROWS = 4096
_PATIENCE_EPOCHS, _PATIENCE_STEPS = 10, 4000
_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A pooled net's answers to the queries, float32 [Q, C], and its cost in FLOPs."""

    probabilities: NDArray[np.float32]
    train_flops: int
    inference_flops: int
    steps: int


def train_baseline(
    training: Samples,
    validation: Samples,
    queries: NDArray[np.generic],
    *,
    net: str,
    classes: int,
    budget_flops: float,
    seed: int,
    import_paths: Sequence[str] = (),
) -> Baseline:
    """Train net for at most budget_flops, keep the weights that were best on validation, answer the queries.

    `net` is any factory, built in or importable: the experts' own, `cnn`, or what `widened_mlp` names. It is
    judged at least once an epoch by its validation accuracy, and ends before the budget does once that has
    not risen for 10 epochs (and 4,000 steps).
    """
    torch.manual_seed(seed)
    reference = net_reference(net, training.input_shape, classes, import_paths)
    module = build_net(reference, import_paths)
    batch = TrainSettings().batch
    one_step = training_flops(forward_flops(module, training.input_shape), batch)
    steps, epoch = max(round(budget_flops / one_step), 1), math.ceil(len(training) / batch)
    interval = max(10, min(steps // 20, epoch))
    settings = TrainSettings(
        steps=steps,
        batch=batch,
        seed=seed,
        evaluate_every=interval,
        evaluation_rows=_EVALUATION_ROWS,
        by_accuracy=True,
        patience=math.ceil(max(_PATIENCE_EPOCHS * epoch, _PATIENCE_STEPS) / interval),
    )
    result = train_expert(module, training, validation, settings)
    answers = []
    with torch.inference_mode():
        for start in range(0, len(queries), _BATCH):
            raw = as_tensor(queries[start : start + _BATCH])
            outputs = result.net(preprocessed(raw, training.scale, training.offset))
            answers.append(torch.softmax(outputs.float(), dim=1).numpy())
    return Baseline(
        probabilities=np.concatenate(answers),
        train_flops=result.train_flops,
        inference_flops=result.forward_flops,
        steps=result.steps,
    )


def widened_mlp(
    input_shape: Sequence[int], classes: int, target_flops: float, depth: int = WIDENED_DEPTH
) -> str:
    """Return `mlp:WIDTHxDEPTH` whose forward pass costs as near to target_flops as whole widths allow.

    A budget below width 1 gives width 1, one beyond MAX_WIDTH gives that. Only products count, as in
    `swarm.experts.flops`, and the ReLU's one FLOP per unit.
    """
    inputs = math.prod(input_shape)
    if not 0 < target_flops < math.inf or inputs < 1 or classes < 1 or depth < 1:
        raise InvalidInputError(
            "widened net",
            found=f"{target_flops} FLOPs for {list(input_shape)} and {classes} classes at depth {depth}",
            expected="a positive budget, and sizes from 1",
        )
    # 2 (depth - 1) w^2 + (2 inputs + 2 classes + depth) w = target
    square, linear = 2.0 * (depth - 1), 2.0 * (inputs + classes) + depth
    width = target_flops / linear
    if square:
        width = 2 * target_flops / (linear + math.sqrt(linear**2 + 4 * square * target_flops))
    return f"mlp:{min(max(round(width), 1), MAX_WIDTH)}x{depth}"
