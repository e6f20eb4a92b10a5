"""Training one leaf's net as a stage of a job, told step by step, and what of it a manifest states."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from node.jobs import ExistingLeaf
from node.preparing import Bench, update_strategy
from node.recalling import Recalled, recall
from swarm.domain.ids import LeafId, number_of
from swarm.domain.manifests import Cost
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.training import TrainProgress, TrainResult, TrainSettings, train_expert
from swarm.experts.updating.memory import write_memory
from swarm.experts.updating.port import Update

TRAIN_FRACTION = 0.25
"""How far a job is when training begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A leaf's part of a job's training: its `share` of all samples, and those of the leaves `before` it."""

    share: float
    before: float

    def done(self, fraction: float) -> float:
        """Return how far the job is when this fraction of the turn is done."""
        return TRAIN_FRACTION + (1 - TRAIN_FRACTION) * (self.before + self.share * fraction)


def turns(samples: list[int]) -> list[Turn]:
    """Return the turns of leaves with these numbers of samples, in their order."""
    total = sum(samples)
    return [Turn(share=own / total, before=sum(samples[:row]) / total) for row, own in enumerate(samples)]


def update_of(
    bench: Bench, leaf: LeafId, class_names: Sequence[str], continued: ExistingLeaf | None
) -> tuple[Update | None, int]:
    """Return what keeps a leaf from forgetting what it learned before, by the order (None: nothing does), and
    the FLOPs that it took to find out.

    continued: the leaf's last version where the net goes on from it, of which it then remembers.
    """
    order, number = bench.job.order, number_of(leaf)
    strategy = update_strategy(order)
    if strategy is None:
        return None, 0

    def tell(message: str) -> None:
        bench.report("train", message, TRAIN_FRACTION)

    version = continued.version if continued else 0
    # Each update draws numbers of its own, so that a reservoir stays a fair choice.
    seed = derived_seed(derived_seed(order.seed, "update", number), "version", version)
    found = Recalled(memory=None)
    if continued is not None:
        found = recall(bench, continued, strategy, seed=derived_seed(seed, "recall", 0), tell=tell)
    return strategy.update(found.memory, class_names, seed=seed), found.flops


def keep_memory(bench: Bench, leaf: LeafId, result: TrainResult) -> str:
    """Keep what the leaf's next update needs in the job's folder, and return the file's name; empty where
    there is nothing to keep. It holds raw samples and never leaves the node."""
    if result.memory is None:
        return ""
    name = f"leaf-{number_of(leaf)}.memory"
    write_memory(bench.folder / name, result.memory)
    return name


def head_note(bench: Bench, leaf: LeafId, class_names: Sequence[str], result: TrainResult) -> str:
    """Return what to say where a leaf was to end in the nearest-mean head and does not, because it remembers
    no sample of some class; else nothing."""
    if bench.job.order.head != "nearest-mean" or result.memory is None or result.memory.samples is None:
        return ""
    known = set(result.memory.samples.labels.tolist())
    missing = [name for place, name in enumerate(class_names) if place not in known]
    if not missing:
        return ""
    return f"{leaf} keeps its own head: nothing is remembered of {', '.join(missing[:5])}"


def train_leaf(
    bench: Bench,
    leaf: LeafId,
    net: nn.Module,
    training: Samples,
    validation: Samples,
    turn: Turn,
    update: Update | None = None,
) -> TrainResult:
    """Train a leaf's net by the order, resuming from its checkpoint in the job's folder."""
    order, number = bench.job.order, number_of(leaf)

    def say(progress: TrainProgress) -> None:
        message = f"{leaf}, step {progress.step}"
        if progress.resumed:
            message += ", resumed"
        if progress.loss is not None:
            message += f", loss {progress.loss:.3f}"
        if progress.validation_accuracy is not None:
            message += f", validation accuracy {progress.validation_accuracy:.3f}"
        bench.report("train", message, turn.done(progress.fraction))

    return train_expert(
        net,
        training,
        validation,
        TrainSettings(
            steps=order.steps,
            budget_s=order.budget_s * turn.share,
            seed=derived_seed(order.seed, "train", number),
        ),
        update=update,
        checkpoint=bench.folder / f"leaf-{number}.checkpoint",
        on_progress=say,
        clock=bench.clock,
    )


def cost_of(result: TrainResult) -> Cost:
    """Return what a training cost, evaluations included."""
    return Cost(
        train_flops=result.train_flops + result.evaluation_flops,
        inference_flops=result.forward_flops,
        samples_seen=result.samples_seen,
        duration_s=result.duration_s,
    )


def metrics_of(result: TrainResult) -> dict[str, float]:
    """Return the metrics that the manifest states; all are on the leaf's own validation samples."""
    metrics = {"validation_samples": float(result.validation_samples), "steps": float(result.steps)}
    if result.validation_accuracy is not None and result.validation_nll is not None:
        metrics["validation_accuracy"] = result.validation_accuracy
        metrics["validation_nll"] = result.validation_nll
    return metrics
