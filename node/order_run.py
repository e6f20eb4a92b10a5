"""One training order on its way, and how it is told to whoever asks."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from node.jobs import LearningResult
from node.outbox import Intent
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.contributions import Contribution
from swarm.domain.errors import SwarmError
from swarm.trust.statements import read_statement


class OrderRun:
    """An order's steps so far; everybody who asks with its key follows the same ones."""

    def __init__(self, key: str, order: TrainOrder) -> None:
        self.key, self.order = key, order
        self.steps: list[TrainStep] = []
        self.ended = False
        self.error: SwarmError | None = None
        self.learning = True
        """True until something is signed: so long, the run ends when nobody follows it any more."""
        self.task: asyncio.Task[None] | None = None
        self._followers = 0
        self._changed = asyncio.Condition()

    async def add(self, step: TrainStep) -> None:
        """Tell one more step."""
        async with self._changed:
            self.steps.append(step)
            self._changed.notify_all()

    async def end(self, error: SwarmError | None = None) -> None:
        """Tell that this was all, or what went wrong."""
        async with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    async def follow(self) -> AsyncIterator[TrainStep]:
        """Yield all steps, those of the past first; raise the error that ended the run."""
        self._followers += 1
        told = 0
        try:
            while not (self.ended and told == len(self.steps)):
                for step in self.steps[told:]:
                    told += 1
                    yield step
                await self._more_than(told)
        finally:
            self._followers -= 1
            if not self._followers and self.learning and not self.ended and self.task is not None:
                self.task.cancel()
        if self.error is not None:
            raise self.error

    async def _more_than(self, told: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.ended or len(self.steps) > told)


def is_kept_aside(intent: Intent) -> bool:
    """Return whether the coordinator keeps aside a contribution that would harm: one with sums, with which
    askers may agree, and none that carries a proposal out, which is put back instead."""
    if intent.kind != "contribute":
        return False
    contribution = read_statement(intent.envelope, Contribution).value
    return contribution.sums is not None and not contribution.proposal


def done_step(result: LearningResult, message: str, figures: Mapping[str, float]) -> TrainStep:
    """Return the last step of a run, with the figures that tell what it cost and brought."""
    own = {
        "experts": float(len(result.leaves) or len(result.refined)),
        "samples": float(result.samples),
        "validation_samples": float(result.validation_samples),
        "train_flops": float(result.train_flops),
        "features_flops": float(result.features_flops),
        "clustering_flops": float(result.clustering_flops),
        "sums_flops": float(result.sums_flops),
        "duration_s": result.duration_s,
    }
    if result.contribution is not None:
        own["contribution_bytes"] = float(result.contribution.size_bytes)
    own |= _averages(result)
    notes = "".join(f"; {note}" for note in result.notes)
    return TrainStep(
        stage="done",
        message=message + notes,
        fraction=1.0,
        listings=result.listings if result.dry_run else (),
        figures={**own, **figures},
    )


_OF_BORROWING = ("borrow_", "random_")


def _averages(result: LearningResult) -> dict[str, float]:
    """Return the leaves' validation metrics, each leaf weighted by its training samples."""
    leaves = [(leaf.class_counts, leaf.metrics) for leaf in result.leaves]
    leaves += [(leaf.class_counts, leaf.correction.metrics) for leaf in result.refined]
    weights = [sum(counts.values()) for counts, _ in leaves]
    names = ["validation_accuracy", "validation_nll", "root_validation_accuracy", "root_validation_nll"]
    # A leaf that was there before borrows nothing: the others' figures stand for themselves.
    borrowed = {name for _, metrics in leaves for name in metrics if name.startswith(_OF_BORROWING)}
    if len(leaves) == 1:
        names += sorted(borrowed)
    return {
        name: sum(weight * metrics[name] for weight, (_, metrics) in zip(weights, leaves, strict=True))
        / sum(weights)
        for name in names
        if sum(weights) and all(name in metrics for _, metrics in leaves)
    }
