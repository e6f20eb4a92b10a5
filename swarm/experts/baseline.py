"""The comparison that no swarm can make: one net on everybody's data in one place, at a given budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.experts.flops import forward_flops, training_flops
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.training import TrainSettings, train_expert

__all__ = ["Baseline", "train_baseline"]

_NO_PATIENCE = 1 << 30
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
    """Train net for budget_flops, keep the weights that were best on validation, answer the queries.

    The steps are the budget's, to the nearest whole step; there is no early stopping.
    """
    torch.manual_seed(seed)
    reference = net_reference(net, training.input_shape, classes, import_paths)
    module = build_net(reference, import_paths)
    batch = TrainSettings().batch
    one_step = training_flops(forward_flops(module, training.input_shape), batch)
    settings = TrainSettings(
        steps=max(round(budget_flops / one_step), 1), batch=batch, seed=seed, patience=_NO_PATIENCE
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
