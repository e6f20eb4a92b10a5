"""Train one expert on one shard, alone: Adam on cross entropy, early stopping on validation, checkpoints.

All randomness derives from (seed, step), so a run that was killed and resumed gives the same weights as one
that was not (on a CPU, by steps). A GPU is used where there is one, in bfloat16 autocast.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import Digest
from swarm.experts.checkpoints import Checkpoint, read_checkpoint, run_fingerprint, write_checkpoint
from swarm.experts.flops import forward_flops, training_flops
from swarm.experts.inputs import best_device
from swarm.experts.samples import Feed, Samples, derived_seed
from swarm.experts.updating.memory import Memory
from swarm.experts.updating.port import Update
from swarm.experts.weights import load_tensors, state_tensors

NO_LIMIT = 1 << 40
EVALUATION_BATCH = 1024
LOSS_AMONG_EQUALS = 1e-3
"""Of evaluations with equal accuracies the lower loss is the better one."""
SAVING_SHARE = 0.05
"""Checkpoints take at most about this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train. `budget_s` > 0 limits by wall-clock seconds instead of `steps`.

    Validation runs every `evaluate_every` steps (0: 20 times in `steps`, every 100 with a budget), on at most
    `evaluation_rows` samples; training ends after `patience` evaluations without a better loss, or, with
    `by_accuracy`, without fewer errors (among equals: a better loss). Checkpoints follow evaluations,
    `checkpoint_every_s` seconds or more apart (0: every evaluation).
    """

    steps: int = 1000
    budget_s: float = 0.0
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    patience: int = 8
    by_accuracy: bool = False
    evaluate_every: int = 0
    evaluation_rows: int = 1024
    checkpoint_every_s: float = 0.5

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.patience, self.evaluation_rows)
        if min(counts) < 1 or self.evaluate_every < 0 or not 0 <= self.budget_s < math.inf:
            raise InvalidInputError(
                "training",
                found=f"{self.steps} steps, batch {self.batch}, patience {self.patience},"
                f" budget {self.budget_s} s",
                expected="at least 1 each, and a budget of 0 or more seconds",
            )
        if not 0 < self.learning_rate < math.inf:
            raise InvalidInputError("learning rate", found=str(self.learning_rate), expected="above 0")

    @property
    def last_step(self) -> int:
        return NO_LIMIT if self.budget_s else self.steps

    @property
    def interval(self) -> int:
        """Steps between two evaluations."""
        return self.evaluate_every or (100 if self.budget_s else max(10, self.steps // 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """Where training is: `fraction` 0..1 of the steps or the budget; None where nothing was measured."""

    step: int
    fraction: float
    loss: float | None
    validation_accuracy: float | None
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """The network that was best on validation (the last one without validation), on the CPU in eval mode.

    `train_flops` is 3 forward passes per sample seen, replayed ones among them, plus `update_flops`: what an
    update added (a teacher's passes, penalties, importances, the choice of what to remember).
    `evaluation_flops` is one pass per validation sample and evaluation, remembered ones among them. Without
    validation samples accuracy and loss are None. `duration_s` spans resumed parts. `memory` is for the
    next update.
    """

    net: nn.Module
    steps: int
    best_step: int
    samples_seen: int
    forward_flops: int
    train_flops: int
    evaluation_flops: int
    validation_accuracy: float | None
    validation_nll: float | None
    validation_samples: int
    duration_s: float
    device: str
    update_flops: int = 0
    memory: Memory | None = None


def train_expert(
    net: nn.Module,
    train: Samples,
    validation: Samples,
    settings: TrainSettings,
    *,
    update: Update | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[TrainProgress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
    device: torch.device | None = None,
) -> TrainResult:
    """Train net on train and return the weights that were best on validation (which may be empty).

    With base logits, losses and accuracies are of base plus net. update: what is done against forgetting
    what net learned before (`swarm.experts.updating`); the best weights are then chosen by validation and
    remembered samples together, and accuracy and loss are still those on validation. checkpoint: a file to
    resume from, if it is of this very run, and to save to. Raises InvalidInputError for no samples, labels
    beyond the net's classes, no trainable weights, a loss that is not finite, or an update that does not fit.
    """
    device = device or best_device()
    _check(net, train, validation)
    flops = forward_flops(net, train.input_shape)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        net.to(device)
        if update:
            update.begin(net, train, batch=settings.batch, forward_flops=flops)
        run = _Run(net, train, validation, settings, update=update, device=device, clock=clock)
        if checkpoint:
            run.resume(checkpoint, validation, on_progress)
        run.train(checkpoint, on_progress)
        memory = update.end(net, train, validation) if update else None
        accuracy, nll = run.scores(Feed(validation, device, EVALUATION_BATCH, 0))
    added = update.step_flops * run.state.step + update.end_flops if update else 0
    return TrainResult(
        net=net.cpu().eval(),
        steps=run.state.step,
        best_step=run.state.best_step,
        samples_seen=run.state.samples_seen,
        forward_flops=flops,
        train_flops=training_flops(flops, run.state.samples_seen) + added,
        evaluation_flops=flops * (run.state.evaluated + len(validation)),
        validation_accuracy=accuracy,
        validation_nll=nll,
        validation_samples=len(validation),
        duration_s=run.elapsed_s(),
        device=str(device),
        update_flops=added,
        memory=memory,
    )


class _Run:
    """One training run: its state, and its steps."""

    def __init__(
        self,
        net: nn.Module,
        train: Samples,
        validation: Samples,
        settings: TrainSettings,
        *,
        update: Update | None,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self.state = Checkpoint(fingerprint=Digest(""))
        self.net, self.settings, self.device, self.clock = net, settings, device, clock
        self.update = update
        self.feed = Feed(train, device, settings.batch, settings.seed)
        watched = validation.few(settings.evaluation_rows, settings.seed)
        if update:
            watched = update.watched(watched)
        self.watched = Feed(watched, device, EVALUATION_BATCH, 0)
        trainable = [weights for weights in net.parameters() if weights.requires_grad]
        self.optimiser = torch.optim.Adam(trainable, lr=settings.learning_rate)
        self.best = _copied(state_tensors(net))
        self.best_update = self._tracked()
        self.started = self.saved_at = clock()
        self.saving_s = self.elapsed_before_s = 0.0

    def elapsed_s(self) -> float:
        return self.elapsed_before_s + self.clock() - self.started

    def resume(self, path: Path, validation: Samples, on_progress: Callable[[TrainProgress], None]) -> None:
        """Continue from path if it holds a checkpoint of this run, which has not begun yet."""
        train = self.feed.samples
        description = f"{self.net!r} {self.settings!r} {train.scale} {train.offset}"
        if self.update:
            description += f" {self.update.fingerprint}"
        arrays = {
            f"{part}/{name}": array
            for part, samples in (("train", train), ("validation", validation))
            for name, array in samples.arrays().items()
        }
        fingerprint = run_fingerprint(description, arrays, state_tensors(self.net))
        self.state = Checkpoint(fingerprint=fingerprint)
        found = read_checkpoint(path, fingerprint)
        if found is None:
            return
        self.state, tensors = found
        load_tensors(self.net, tensors["net"])
        self.best = {name: tensor.to(self.device) for name, tensor in tensors["best"].items()}
        _load_optimiser(self.optimiser, tensors["optimiser"])
        self.best_update = {name: tensor.to(self.device) for name, tensor in tensors["best_update"].items()}
        if self.update:
            self.update.restore(tensors["update"])
        self.elapsed_before_s = self.state.elapsed_s
        on_progress(self._progress(None, None, resumed=True))

    def train(self, path: Path | None, on_progress: Callable[[TrainProgress], None]) -> None:
        """Step until the limit, the budget or the end of patience; then take the best weights."""
        settings = self.settings
        while not self.state.finished:
            loss = self._step()
            over = self.state.step >= settings.last_step or 0 < settings.budget_s <= self.elapsed_s()
            if over or self.state.step % settings.interval == 0:
                accuracy = self._evaluate(float(loss))
                self.state.finished = over or self.state.stale >= settings.patience
                on_progress(self._progress(float(loss), accuracy))
                if path:
                    self._save(path)
        load_tensors(self.net, self.best)
        if self.update:
            self.update.restore(self.best_update)

    def scores(self, feed: Feed) -> tuple[float | None, float | None]:
        """Return accuracy and mean loss of the present weights in float32; None without samples."""
        if not len(feed.samples):
            return None, None
        right = loss = weight = 0.0
        self.net.eval()
        with torch.no_grad():
            for batch in feed:
                totals = batch.totals(self.net(batch.inputs))
                right, loss, weight = right + totals[0], loss + totals[1], weight + totals[2]
        return right / weight, loss / weight

    def _step(self) -> torch.Tensor:
        # Dropout and whatever else draws random numbers: the same whether or not the run was interrupted.
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.state.step))
        batch, update = self.feed.batch(self.state.step), self.update
        if update:
            batch = update.mixed(self.state.step, batch)
        self.net.train()
        self.optimiser.zero_grad(set_to_none=True)
        try:
            with self._autocast():
                logits = self.net(batch.inputs)
            loss = update.loss(batch, logits) if update else batch.loss(logits)
            loss.backward()  # type: ignore[no-untyped-call]
            if update:
                update.observe()
                penalty = update.penalty()
                if penalty is not None:
                    penalty.backward()  # type: ignore[no-untyped-call]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InvalidInputError(
                "net in training",
                found=f"{type(error).__name__}: {error}",
                expected=f"a forward and a backward pass over {len(batch.labels)} samples",
                remedy="try one training step of the net by itself",
            ) from error
        self.optimiser.step()
        if update:
            update.stepped()
        self.state.step += 1
        self.state.samples_seen += len(batch.labels)
        return loss.detach()

    def _evaluate(self, loss: float) -> float | None:
        """Judge the present weights and keep them if they are the best; return the validation accuracy."""
        accuracy, validation_loss = self.scores(self.watched)
        self.state.evaluated += len(self.watched.samples)
        judged = loss if validation_loss is None else validation_loss
        if self.settings.by_accuracy and accuracy is not None:
            judged = 1 - accuracy + LOSS_AMONG_EQUALS * judged
        if not math.isfinite(loss) or not math.isfinite(judged):
            raise InvalidInputError(
                "training",
                found=f"a loss that is not finite at step {self.state.step}",
                expected="a falling loss",
                remedy="check the inputs' range and preprocessing, or the net's initial weights",
            )
        best = self.state.best_loss
        if validation_loss is None or best is None or judged < best:
            self.best, self.best_update = _copied(state_tensors(self.net)), self._tracked()
            self.state.best_loss, self.state.best_step, self.state.stale = judged, self.state.step, 0
        else:
            self.state.stale += 1
        return accuracy

    def _save(self, path: Path) -> None:
        """Write a checkpoint, unless the last one is recent; always when training is over."""
        now, pause_s = self.clock(), self.settings.checkpoint_every_s
        if pause_s:
            pause_s = max(pause_s, self.saving_s / SAVING_SHARE)
        if not self.state.finished and now - self.saved_at < pause_s:
            return
        self.state.elapsed_s = self.elapsed_s()
        tensors = {
            "net": state_tensors(self.net),
            "best": self.best,
            "optimiser": _flat(self.optimiser),
            "update": self._tracked(),
            "best_update": self.best_update,
        }
        write_checkpoint(path, self.state, tensors)
        self.saved_at = self.clock()
        self.saving_s = self.saved_at - now

    def _progress(self, loss: float | None, accuracy: float | None, resumed: bool = False) -> TrainProgress:
        settings = self.settings
        done = self.elapsed_s() / settings.budget_s if settings.budget_s else self.state.step / settings.steps
        return TrainProgress(
            step=self.state.step,
            fraction=1.0 if self.state.finished else min(1.0, done),
            loss=loss,
            validation_accuracy=accuracy,
            resumed=resumed,
        )

    def _tracked(self) -> dict[str, torch.Tensor]:
        return _copied(self.update.tracked()) if self.update else {}

    def _autocast(self) -> AbstractContextManager[object]:
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()


def _check(net: nn.Module, train: Samples, validation: Samples) -> None:
    if not len(train):
        raise InvalidInputError("training", found="no samples", expected="at least one")
    if train.input_shape != validation.input_shape:
        raise ShapeMismatchError(
            "validation inputs",
            found=str(list(validation.input_shape)),
            expected=str(list(train.input_shape)),
        )
    if not any(weights.requires_grad for weights in net.parameters()):
        raise InvalidInputError("net", found="no trainable weights", expected="at least one")
    net.eval()
    with torch.no_grad():
        classes = net.cpu()(torch.zeros(1, *train.input_shape)).shape[1]
    train.check_classes(classes, "training")
    validation.check_classes(classes, "validation")


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _flat(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{index}/{key}": value for index, member in state.items() for key, value in member.items()}


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
