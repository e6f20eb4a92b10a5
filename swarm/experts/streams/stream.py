"""A stream of mega-batches, and how a learner that may wait goes through it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.domain.streams import Flops, MegaBatchRecord
from swarm.experts.samples import Samples

VALIDATION_SHARE = 0.1


class StreamLearner(Protocol):
    """What learns from a stream. It keeps no samples: what it is to learn from is given each time."""

    @property
    def parameters(self) -> int:
        """How many numbers the present model consists of; 0 before anything was learned."""

    def learn(self, train: Samples, validation: Samples) -> Flops:
        """Learn from a stage's samples and return what that took."""

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return class probabilities float32 [N, classes] of raw inputs [N, *shape]; not before learning."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MegaBatch:
    """What arrives at one time, its validation samples held out before anything learns."""

    train: Samples
    validation: Samples

    def __len__(self) -> int:
        return len(self.train) + len(self.validation)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """Mega-batches in their order, and the test samples, which no learner sees the labels of."""

    mega_batches: Sequence[MegaBatch]
    test: Samples
    classes: int


def make_stream(samples: Samples, test: Samples, *, classes: int, count: int, seed: int) -> Stream:
    """Deal samples to `count` mega-batches of one size, in an order drawn by seed; a remainder is left out.

    A tenth of each, at least one sample, is held out for validation. Raises InvalidInputError for fewer than
    two samples a mega-batch.
    """
    size = len(samples) // count if count > 0 else 0
    if size < 2:
        raise InvalidInputError(
            "stream",
            found=f"{len(samples)} samples for {count} mega-batches",
            expected="at least 2 samples for each",
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    held = max(1, round(VALIDATION_SHARE * size))
    parts = [order[start : start + size] for start in range(0, size * count, size)]
    return Stream(
        mega_batches=[
            MegaBatch(train=samples.at(part[held:]), validation=samples.at(part[:held])) for part in parts
        ],
        test=test,
        classes=classes,
    )


def run_stream(
    learner: StreamLearner,
    stream: Stream,
    *,
    wait: int,
    replay: bool,
    clock: Callable[[], float] = time.monotonic,
) -> list[MegaBatchRecord]:
    """Lead learner through the stream; return a record of every mega-batch.

    It learns after every `wait`-th mega-batch from what has gathered since it last did, or with replay from
    everything so far; else the old model answers. Before the first learning a random answer does, whose error
    is 1 - 1/classes. Raises InvalidInputError for a wait below 1.
    """
    if wait < 1:
        raise InvalidInputError("waiting time", found=str(wait), expected="1 mega-batch or more")
    error, since, records = 1 - 1 / stream.classes, 0, []
    for number, arrived in enumerate(stream.mega_batches, start=1):
        waits, spent, started = number % wait != 0, Flops(0, 0), clock()
        if not waits:
            gathered = stream.mega_batches[0 if replay else since : number]
            since = number
            spent = learner.learn(
                joined([each.train for each in gathered]), joined([each.validation for each in gathered])
            )
        seconds = clock() - started
        if not waits:
            answers = learner.probabilities(stream.test.inputs).argmax(axis=1)
            error = float(np.mean(answers != stream.test.labels))
        records.append(
            MegaBatchRecord(
                number=number,
                samples=len(arrived),
                error=error,
                waited=waits,
                parameters=learner.parameters,
                flops_forward=spent.forward,
                flops_total=spent.total,
                seconds=seconds,
            )
        )
    return records


def joined(parts: Sequence[Samples]) -> Samples:
    """Return the samples of all parts, in order; they share the first one's preprocessing."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
