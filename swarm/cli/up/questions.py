"""Asking many queries at once, and what the answers are worth."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from swarm.cli.up.report import Scores
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.rpc.clients import CoordinatorClient

ASK_SECONDS = 120.0
BATCH = 512
EXAMPLES = 3
TRIES = 3


class How(TypedDict, total=False):
    """The fields of a Query but its inputs."""

    top_k: int
    owners: tuple[NodeId, ...]
    uniform: bool
    explain: bool
    combination: str
    profile: str


async def ask(client: CoordinatorClient, inputs: NDArray[np.generic], **how: Unpack[How]) -> Answer:
    """Return the answers to all inputs, asked in batches, as one: of one gate version, asked anew if not."""
    starts = range(0, len(inputs), BATCH)
    for _ in range(TRIES):
        parts = [
            await client.predict(Query(inputs=inputs[start : start + BATCH], **how), ASK_SECONDS)
            for start in starts
        ]
        if len({part.gate_version for part in parts}) == 1:
            break
    return Answer(
        class_names=parts[0].class_names,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        gate_version=parts[0].gate_version,
        degraded=tuple(flag for part in parts for flag in part.degraded),
        sources=tuple(sources for part in parts for sources in part.sources),
        missing_experts=tuple(dict.fromkeys(name for part in parts for name in part.missing_experts)),
        flops_per_query=float(
            np.average([p.flops_per_query for p in parts], weights=list(map(_rows, parts)))
        ),
        combination=parts[0].combination,
        calibration=parts[0].calibration,
        out_of_distribution=_joined([part.out_of_distribution for part in parts]),
    )


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _rows(answer: Answer) -> int:
    return len(answer.probabilities)


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
