"""Training: it learns, stops, restores the best, resumes exactly, counts its cost, and refuses nonsense."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Feed, Samples
from swarm.experts.training import TrainProgress, TrainResult, TrainSettings, train_expert
from swarm.experts.weights import zero_head
from tests.support.learning import digits_like

CPU = torch.device("cpu")


class Interrupted(Exception):
    """Stands for a kill at an evaluation."""


def data(count: int = 300, classes: int = 3, seed: int = 0) -> Samples:
    images, labels = digits_like(count, classes, seed)
    return Samples(inputs=images, labels=labels, scale=1 / 16)


def net(factory: str = "mlp:16x1", classes: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return build_net(net_reference(factory, (8, 8), classes))


class Dropping(nn.Module):
    """A net that draws random numbers in training and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.body(inputs)


def weights(result: TrainResult) -> list[torch.Tensor]:
    return list(result.net.state_dict().values())


def equal(one: TrainResult, other: TrainResult) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_an_expert_learns_its_shard_and_reports_its_cost() -> None:
    seen: list[TrainProgress] = []
    settings = TrainSettings(steps=200, batch=32)
    result = train_expert(net(), data(), data(60, seed=1), settings, on_progress=seen.append, device=CPU)
    assert result.validation_accuracy is not None and result.validation_accuracy > 0.9
    forward = 2 * (64 * 16 + 16 * 3) + 16
    assert result.forward_flops == forward
    assert result.samples_seen == result.steps * 32
    assert result.train_flops == 3 * forward * result.samples_seen
    evaluations = len(seen) + 1
    assert result.evaluation_flops == forward * 60 * evaluations
    assert seen[-1].fraction == 1.0
    assert not result.net.training


def test_training_is_a_function_of_its_seed() -> None:
    runs = [
        train_expert(net(), data(), data(60), TrainSettings(steps=60, seed=seed), device=CPU)
        for seed in (1, 1, 2)
    ]
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    settings = TrainSettings(steps=60, evaluate_every=10, checkpoint_every_s=0.0)
    checkpoint = tmp_path / "run.checkpoint"
    evaluations = 0

    def interrupt(progress: TrainProgress) -> None:
        nonlocal evaluations
        evaluations += 1
        if evaluations > stop_at:
            raise Interrupted

    torch.manual_seed(3)
    whole = train_expert(Dropping(), data(), data(60), settings, device=CPU)
    torch.manual_seed(3)
    with pytest.raises(Interrupted):
        train_expert(
            Dropping(), data(), data(60), settings, checkpoint=checkpoint, on_progress=interrupt, device=CPU
        )
    seen: list[TrainProgress] = []
    torch.manual_seed(3)
    resumed = train_expert(
        Dropping(), data(), data(60), settings, checkpoint=checkpoint, on_progress=seen.append, device=CPU
    )
    assert seen[0].resumed and seen[0].step == 10 * stop_at
    assert equal(whole, resumed)
    assert (whole.samples_seen, whole.evaluation_flops) == (resumed.samples_seen, resumed.evaluation_flops)
    assert whole.validation_nll == resumed.validation_nll


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    settings, path = TrainSettings(steps=40), tmp_path / "run.checkpoint"
    first = train_expert(net(), data(), data(60), settings, checkpoint=path, device=CPU)
    seen: list[TrainProgress] = []
    again = train_expert(
        net(), data(), data(60), settings, checkpoint=path, on_progress=seen.append, device=CPU
    )
    assert len(seen) == 1 and seen[0].resumed and seen[0].fraction == 1.0
    assert equal(first, again)


@pytest.mark.parametrize("damage", ["other data", "other settings", "cut", "garbage"])
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.checkpoint"
    settings, samples = TrainSettings(steps=20), data()
    train_expert(net(), samples, data(60), settings, checkpoint=path, device=CPU)
    if damage == "other data":
        samples = data(seed=9)
    elif damage == "other settings":
        settings = TrainSettings(steps=20, learning_rate=1e-2)
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"garbage" * 10)
    seen: list[TrainProgress] = []
    train_expert(net(), samples, data(60), settings, checkpoint=path, on_progress=seen.append, device=CPU)
    assert not any(progress.resumed for progress in seen)


def test_patience_ends_training_and_the_best_weights_are_restored() -> None:
    images, labels = digits_like(40, 2)
    noise = np.random.default_rng(0).permutation(labels)
    train = Samples(inputs=images, labels=noise, scale=1 / 16)
    held_out = Samples(
        inputs=images[:20], labels=np.random.default_rng(1).permutation(labels[:20]), scale=1 / 16
    )
    settings = TrainSettings(steps=5000, evaluate_every=10, patience=3, learning_rate=1e-2)
    result = train_expert(net("mlp:64x2", 2), train, held_out, settings, device=CPU)
    assert result.steps == result.best_step + 30 < 5000
    without = TrainSettings(steps=result.best_step, evaluate_every=10, patience=3, learning_rate=1e-2)
    again = train_expert(net("mlp:64x2", 2), train, held_out, without, device=CPU)
    assert equal(result, again)


def test_a_budget_ends_training_by_the_clock() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.01
        return now

    settings = TrainSettings(budget_s=5.0, steps=1, patience=10_000)
    result = train_expert(net(), data(), data(60), settings, clock=clock, device=CPU)
    assert 50 < result.steps < 600
    assert result.duration_s >= 5.0


def test_without_validation_the_last_weights_are_kept() -> None:
    none = data().at(np.array([], dtype=np.int64))
    result = train_expert(net(), data(), none, TrainSettings(steps=30), device=CPU)
    assert (result.validation_accuracy, result.validation_samples, result.best_step) == (None, 0, 30)


def test_one_class_trains_without_fault() -> None:
    images, _ = digits_like(30, 1)
    samples = Samples(inputs=images, labels=np.zeros(30, dtype=np.int64), scale=1 / 16)
    result = train_expert(net(classes=1), samples, samples, TrainSettings(steps=50), device=CPU)
    assert result.validation_accuracy == 1.0


def test_nonsense_is_refused() -> None:
    none = data().at(np.array([], dtype=np.int64))
    with pytest.raises(InvalidInputError, match="no samples"):
        train_expert(net(), none, none, TrainSettings(), device=CPU)
    with pytest.raises(InvalidInputError, match="0 to 1, the net's outputs"):
        train_expert(net(classes=2), data(), none, TrainSettings(), device=CPU)
    with pytest.raises(InvalidInputError, match="steps"):
        TrainSettings(steps=0)
    frozen = net().requires_grad_(False)
    with pytest.raises(InvalidInputError, match="no trainable weights"):
        train_expert(frozen, data(), none, TrainSettings(), device=CPU)
    huge = Samples(inputs=data().inputs.astype(np.float32), labels=data().labels, scale=3e38)
    with pytest.raises(InvalidInputError, match="not finite"):
        train_expert(net(), huge, none, TrainSettings(steps=10), device=CPU)


def test_a_net_that_fails_only_in_training_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            values = self.head(inputs.flatten(1))
            return values.detach() if self.training else values

    with pytest.raises(InvalidInputError, match="net in training"):
        train_expert(Detached(), data(), data(60), TrainSettings(steps=5), device=CPU)


def test_every_epoch_gives_each_sample_once_in_a_new_order() -> None:
    samples = Samples(inputs=np.arange(12, dtype=np.float32).reshape(12, 1), labels=np.arange(12))
    feed = Feed(samples, CPU, 4, seed=1)
    epochs = [torch.cat([feed.batch(3 * epoch + k)[1] for k in range(3)]).tolist() for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert feed.batch(4)[1].tolist() == Feed(samples, CPU, 4, seed=1).batch(4)[1].tolist()


def on_base(samples: Samples, seed: int = 5) -> Samples:
    """Return samples with base logits that know the answer about half of the time."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, (len(samples), 3)).astype(np.float32)
    base[np.arange(len(samples)), samples.labels] += 1
    return replace(samples, base_logits=base)


def test_a_net_that_starts_from_zero_on_a_base_begins_with_the_bases_own_loss() -> None:
    samples = on_base(data(60, seed=1))
    zeroed = net()
    assert zero_head(zeroed, 3)
    zeroed.requires_grad_(False)
    next(iter(zeroed.parameters())).requires_grad_(True)
    settings = TrainSettings(steps=1, learning_rate=1e-12)
    result = train_expert(zeroed, samples, samples, settings, device=CPU)
    logits, labels = torch.from_numpy(samples.base_logits), torch.from_numpy(samples.labels)
    assert result.validation_nll == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels)), rel=1e-5
    )
    assert result.validation_accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_training_on_a_base_learns_what_the_base_lacks() -> None:
    zeroed = net()
    zero_head(zeroed, 3)
    result = train_expert(zeroed, on_base(data()), on_base(data(60, seed=1)), TrainSettings(), device=CPU)
    assert result.validation_accuracy is not None and result.validation_accuracy > 0.95


def test_another_base_is_another_run(tmp_path: Path) -> None:
    settings, path = TrainSettings(steps=20), tmp_path / "run.checkpoint"
    seen: list[TrainProgress] = []
    for samples in (on_base(data()), on_base(data(), seed=6), data(), on_base(data(), seed=6)):
        seen.clear()
        checked = on_base(data(60)) if samples.base_logits is not None else data(60)
        train_expert(net(), samples, checked, settings, checkpoint=path, on_progress=seen.append, device=CPU)
        assert not any(progress.resumed for progress in seen)


def test_a_base_follows_its_samples() -> None:
    samples = on_base(data(12))
    picked = samples.at(np.array([7, 2], dtype=np.int64))
    np.testing.assert_array_equal(picked.base_logits, samples.base_logits[[7, 2]])
    batch = Feed(samples, CPU, 4, seed=1).batch(1)
    rows = [int(np.flatnonzero((samples.base_logits == row.numpy()).all(1))[0]) for row in batch.base]
    assert batch.labels.tolist() == samples.labels[rows].tolist()


@pytest.mark.parametrize(
    "base", [np.zeros((5, 3), np.float32), np.zeros((300, 3)), np.zeros(300, np.float32)]
)
def test_a_base_that_does_not_fit_is_refused(base: np.ndarray) -> None:
    with pytest.raises(ShapeMismatchError, match="base logits"):
        replace(data(), base_logits=base)
    with pytest.raises(ShapeMismatchError, match="2 columns"):
        narrow = replace(data(), base_logits=np.zeros((300, 2), np.float32))
        train_expert(net(), narrow, data(60), TrainSettings(), device=CPU)
    with pytest.raises(InvalidInputError, match="finite"):
        replace(data(), base_logits=np.full((300, 3), np.nan, np.float32))
