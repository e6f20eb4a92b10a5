"""Asking many queries at once, and what the answers are worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.cli.up.report import Scores
from swarm.data.dataset import Dataset
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.rpc.clients import CoordinatorClient

ASK_SECONDS = 60.0
BATCH = 512
EXAMPLES = 3


async def ask(
    client: CoordinatorClient,
    inputs: NDArray[np.generic],
    *,
    top_k: int = 0,
    owners: tuple[NodeId, ...] = (),
    uniform: bool = False,
    explain: bool = False,
) -> Answer:
    """Return the answers to all inputs, asked in batches, as one."""
    parts = [
        await client.predict(
            Query(
                inputs=inputs[start : start + BATCH],
                top_k=top_k,
                owners=owners,
                uniform=uniform,
                explain=explain,
            ),
            ASK_SECONDS,
        )
        for start in range(0, len(inputs), BATCH)
    ]
    if len({part.gate_version for part in parts}) > 1:
        return await ask(client, inputs, top_k=top_k, owners=owners, uniform=uniform, explain=explain)
    return Answer(
        class_names=parts[0].class_names,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        gate_version=parts[0].gate_version,
        degraded=tuple(flag for part in parts for flag in part.degraded),
        sources=tuple(sources for part in parts for sources in part.sources),
        missing_experts=tuple(dict.fromkeys(name for part in parts for name in part.missing_experts)),
        flops_per_query=parts[0].flops_per_query,
    )


def truths(data: Dataset) -> list[str]:
    """Return each sample's class name."""
    return [data.class_names[label] for label in data.labels]


def pick_examples(
    answer: Answer, truth: Sequence[str], scores: Scores, count: int = EXAMPLES
) -> list[tuple[str, Answer, int]]:
    """Return a few rows to show, of different owners; the last a wrong answer, where there is one."""
    chosen: dict[str, int] = {}
    for index, sources in enumerate(answer.sources):
        if sources and scores[index] and sources[0].owner not in chosen:
            chosen[sources[0].owner] = index
    wrong = [int(index) for index in np.flatnonzero(scores == 0)[:1]]
    rows = [*list(chosen.values())[: count - len(wrong)], *wrong]
    return [(truth[index], answer, index) for index in rows]
