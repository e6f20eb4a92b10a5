"""Updates of an expert: every strategy against arithmetic by hand, and in training, stopped and resumed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Batch, Samples, WeightedBatch
from swarm.experts.training import TrainProgress, TrainResult, TrainSettings, train_expert
from swarm.experts.updating import (
    DEFAULT_UPDATE,
    STRATEGIES,
    Ewc,
    FineTune,
    LearningWithoutForgetting,
    Memory,
    Replay,
    SynapticIntelligence,
    UpdateStrategy,
    strategy_named,
)
from swarm.experts.updating.distillation import distillation
from swarm.experts.updating.last_layer import aligned
from swarm.experts.updating.penalties import diagonal_fisher
from tests.support.learning import digits_like

CPU = torch.device("cpu")
ALL = [
    FineTune(),
    Replay(capacity=40, select="reservoir"),
    Replay(capacity=40, select="coreset"),
    Replay(capacity=40, select="herding", head="nearest-mean"),
    Ewc(rows=20),
    SynapticIntelligence(),
    LearningWithoutForgetting(),
]
LN3 = math.log(3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Nets this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Interrupted(Exception):
    """Stands for a kill at an evaluation."""


class TwoWeights(nn.Module):
    """Logistic regression: logits (0, w . x) of inputs [B, 2]."""

    def __init__(self, first: float = LN3, second: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([first, second]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answers = inputs @ self.w
        return torch.stack([torch.zeros_like(answers), answers], dim=1)


def two_rows() -> Samples:
    return Samples(inputs=np.array([[1, 2], [0, 1]], np.float32), labels=np.array([0, 1]))


def data(labels: Sequence[int] = (0, 1, 2), count: int = 240, seed: int = 0) -> Samples:
    """Return samples of some of six classes."""
    images, truth = digits_like(6 * count // len(labels), 6, seed)
    rows = np.flatnonzero(np.isin(truth, labels))[:count]
    return Samples(inputs=images[rows], labels=truth[rows], scale=1 / 16)


def net(classes: int = 6, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build_net(net_reference("mlp:16x1", (8, 8), classes))


def accuracy(trained: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        answers = trained(torch.from_numpy(samples.inputs).float() / 16).argmax(1).numpy()
    return float((answers == samples.labels).mean())


def names(count: int = 6) -> list[str]:
    return list("abcdef"[:count])


def trained(
    strategy: UpdateStrategy,
    module: nn.Module,
    samples: Samples,
    memory: Memory | None = None,
    steps: int = 60,
    **options: object,
) -> TrainResult:
    settings = TrainSettings(steps=steps, evaluate_every=10, checkpoint_every_s=0.0, batch=32)
    labels = sorted(set(samples.labels.tolist()))
    validation = data(labels, 30, seed=7)
    update = strategy.update(memory, names(), seed=3)
    return train_expert(module, samples, validation, settings, update=update, device=CPU, **options)  # type: ignore[arg-type]


def test_fisher_information_of_a_logistic_model_is_its_variance_times_the_squared_inputs() -> None:
    # w = (ln 3, 0). x = (1, 2): p = 3/4, p (1 - p) = 3/16. x = (0, 1): p = 1/2, p (1 - p) = 1/4.
    # F_1 = (3/16 * 1 + 1/4 * 0) / 2 = 3/32;  F_2 = (3/16 * 4 + 1/4 * 1) / 2 = 1/2. Labels play no part.
    fisher = diagonal_fisher(TwoWeights(), two_rows())
    assert fisher["w"].tolist() == pytest.approx([3 / 32, 1 / 2])


def test_the_ewc_penalty_is_half_the_strength_times_fisher_times_the_squared_way() -> None:
    strategy, model = Ewc(strength=4.0, rows=2), TwoWeights()
    first = strategy.update(None, ["no", "yes"], seed=0)
    first.begin(model, two_rows(), batch=2, forward_flops=5)
    assert first.penalty() is None
    memory = first.end(model, two_rows(), two_rows())
    # Two samples, a forward pass each and a backward pass for each of two classes: 2 * 5 * (1 + 2 * 2).
    assert first.end_flops == 50
    second = strategy.update(memory, ["no", "yes"], seed=0)
    moved = TwoWeights(LN3 + 1, 2.0)
    second.begin(moved, two_rows(), batch=2, forward_flops=5)
    penalty = second.penalty()
    # 4 / 2 * (3/32 * 1^2 + 1/2 * 2^2) = 4.1875; its gradient is 4 F (w - anchor) = (4 * 3/32, 4 * 1/2 * 2).
    assert penalty is not None and penalty.item() == pytest.approx(4.1875)
    penalty.backward()
    assert moved.w.grad is not None and moved.w.grad.tolist() == pytest.approx([0.375, 4.0])
    # The importances of two updates add up: at (ln 3 + 1, 2) the net is nearly sure, so little is added.
    later = second.end(moved, two_rows(), two_rows())
    added = diagonal_fisher(moved, two_rows())["w"].numpy()
    np.testing.assert_allclose(later.importance["w"], memory.importance["w"] + added, rtol=1e-6)
    np.testing.assert_allclose(later.anchor["w"], [LN3 + 1, 2.0])


def test_si_importance_is_the_loss_that_a_weights_way_saved_over_the_squared_distance() -> None:
    strategy, model = SynapticIntelligence(strength=2.0, damping=0.5), TwoWeights(0.0, 0.0)
    update = strategy.update(None, ["no", "yes"], seed=0)
    update.begin(model, two_rows(), batch=2, forward_flops=5)
    for gradient, way in (([1.0, -2.0], [-0.5, 0.5]), ([2.0, 1.0], [-0.5, 0.5])):
        model.w.grad = torch.tensor(gradient)
        update.observe()
        with torch.no_grad():
            model.w += torch.tensor(way)
        update.stepped()
    # Path: (1 * 0.5 + 2 * 0.5, 2 * 0.5 - 1 * 0.5) = (1.5, 0.5); distance (-1, 1); 1^2 + 0.5 = 1.5.
    memory = update.end(model, two_rows(), two_rows())
    assert memory.importance["w"].tolist() == pytest.approx([1.0, 1 / 3])
    following = strategy.update(memory, ["no", "yes"], seed=0)
    moved = TwoWeights(0.0, 4.0)
    following.begin(moved, two_rows(), batch=2, forward_flops=5)
    penalty = following.penalty()
    # 2 * (1 * (0 - -1)^2 + 1/3 * (4 - 1)^2) = 8.
    assert penalty is not None and penalty.item() == pytest.approx(8.0)


def test_a_way_that_raised_the_loss_is_no_importance() -> None:
    model = TwoWeights(0.0, 0.0)
    update = SynapticIntelligence().update(None, ["no", "yes"], seed=0)
    update.begin(model, two_rows(), batch=2, forward_flops=5)
    model.w.grad = torch.tensor([1.0, 1.0])
    update.observe()
    with torch.no_grad():
        model.w += 1.0
    update.stepped()
    assert update.end(model, two_rows(), two_rows()).importance["w"].tolist() == [0.0, 0.0]


def test_si_looks_at_the_gradient_of_the_loss_without_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = SynapticIntelligence(strength=1e4)
    first = trained(strategy, net(), data())
    update = strategy.update(first.memory, names(), seed=0)
    observed, penalties = [], []
    look, add = update.observe, update.penalty

    def observe() -> None:
        look()
        observed.append(update.gradients["head.weight"].norm().item())  # type: ignore[attr-defined]

    def penalty() -> torch.Tensor | None:
        found = add()
        penalties.append(found)
        return found

    monkeypatch.setattr(update, "observe", observe)
    monkeypatch.setattr(update, "penalty", penalty)
    settings = TrainSettings(steps=5, evaluate_every=5)
    train_expert(first.net, data([3, 4, 5]), data([3], 20), settings, update=update, device=CPU)
    plain_limit = 10.0  # gradients of a mean cross entropy over inputs of at most 1 are small
    assert max(observed) < plain_limit
    assert penalties[-1].item() > 0


def test_distillation_at_temperature_two_is_four_times_the_divergence() -> None:
    # Teacher (0, 0) / 2 gives (1/2, 1/2); student (0, 2 ln 3) / 2 gives (1/4, 3/4).
    # KL = 1/2 ln 2 + 1/2 ln (2/3) = 1/2 ln (4/3); times 2^2 is 2 ln (4/3).
    student, teacher = torch.tensor([[0.0, 2 * LN3]]), torch.zeros(1, 2)
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(2 * math.log(4 / 3))
    assert float(distillation(teacher, teacher, 2.0)) == 0.0


def test_distillation_has_the_gradient_of_li_and_hoiems_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 3, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 3, generator=generator)
    (ours,) = torch.autograd.grad(distillation(student, teacher, 2.0), student)
    recorded = torch.softmax(teacher / 2, 1)
    theirs = -(recorded * torch.log_softmax(student / 2, 1)).sum(1).mean()
    (expected,) = torch.autograd.grad(4 * theirs, student)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_lwf_distils_the_old_classes_only() -> None:
    update = LearningWithoutForgetting(weight=3.0).update(Memory(class_names=("yes",)), ["no", "yes"], seed=0)
    model = TwoWeights()
    update.begin(model, two_rows(), batch=2, forward_flops=5)
    batch = Batch(
        inputs=torch.from_numpy(two_rows().inputs), labels=torch.from_numpy(two_rows().labels), base=None
    )
    logits = torch.randn(2, 2)
    # One old class: a softmax over one output is always 1, so nothing can differ.
    assert float(update.loss(batch, logits)) == pytest.approx(float(batch.loss(logits)))
    assert update.step_flops == 2 * 5


def test_a_first_lwf_update_has_no_teacher() -> None:
    first = trained(LearningWithoutForgetting(), net(), data())
    assert first.update_flops == 0


def test_replayed_samples_weigh_what_they_stand_for() -> None:
    # 30 samples before, remembered as two that stand for 20 and 10; 10 new ones: three quarters are old.
    kept = replace(data([0, 1], 2), weights=np.array([20, 10], np.float32))
    memory = Memory(class_names=tuple(names()), seen=30, samples=kept)
    update = Replay(capacity=10).update(memory, names(), seed=0)
    new = data([2], 10)
    update.begin(net(), new, batch=5, forward_flops=1)
    images = torch.from_numpy(new.inputs[:5]).float() / 16
    mixed = update.mixed(0, Batch(inputs=images, labels=torch.from_numpy(new.labels[:5]), base=None))
    assert isinstance(mixed, WeightedBatch)
    assert mixed.weights[:5].tolist() == pytest.approx([0.05] * 5)
    assert sorted(mixed.weights[5:].tolist()) == pytest.approx([0.25, 0.5])
    logits = torch.randn(7, 6)
    losses = nn.functional.cross_entropy(logits, mixed.labels, reduction="none")
    assert float(mixed.loss(logits)) == pytest.approx(float((mixed.weights * losses).sum()))


def test_the_best_weights_are_chosen_by_old_and_new_samples() -> None:
    held_out = data([0, 1], 4)
    memory = Memory(
        class_names=tuple(names()), seen=30, held_out_seen=9, samples=data([0, 1], 4), held_out=held_out
    )
    update = Replay().update(memory, names(), seed=0)
    update.begin(net(), data([2], 10), batch=5, forward_flops=1)
    watched = update.watched(data([2], 20))
    assert watched.weights is not None
    assert watched.weights[:4].sum() == pytest.approx(0.75)
    assert watched.weights[4:].sum() == pytest.approx(0.25)


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_a_first_update_trains_as_if_there_were_none(strategy: UpdateStrategy) -> None:
    settings = TrainSettings(steps=60, evaluate_every=10, checkpoint_every_s=0.0, batch=32)
    plain = train_expert(net(), data(range(6)), data(range(6), 30, seed=7), settings, device=CPU)
    updated = trained(strategy, net(), data(range(6)))
    last = {"head.weight", "head.bias"} if getattr(strategy, "head", "own") != "own" else set()
    for name, tensor in plain.net.state_dict().items():
        if name not in last:
            assert torch.equal(tensor, updated.net.state_dict()[name])
    assert plain.memory is None and plain.update_flops == 0
    assert updated.memory is not None and updated.memory.seen == 240


@pytest.mark.parametrize("strategy", ALL, ids=repr)
@pytest.mark.parametrize("stop_at", [1, 4])
def test_an_interrupted_update_resumes_to_the_same_weights_and_memory(
    tmp_path: Path, strategy: UpdateStrategy, stop_at: int
) -> None:
    before = trained(strategy, net(), data(range(3)))
    start = {name: tensor.clone() for name, tensor in before.net.state_dict().items()}
    evaluations = 0

    def continued() -> nn.Module:
        module = net()
        module.load_state_dict(start)
        return module

    def interrupt(progress: TrainProgress) -> None:
        nonlocal evaluations
        evaluations += 1
        if evaluations > stop_at:
            raise Interrupted

    new, path = data(range(6), 200, seed=2), tmp_path / "run.checkpoint"
    whole = trained(strategy, continued(), new, before.memory)
    with pytest.raises(Interrupted):
        trained(strategy, continued(), new, before.memory, checkpoint=path, on_progress=interrupt)
    seen: list[TrainProgress] = []
    resumed = trained(strategy, continued(), new, before.memory, checkpoint=path, on_progress=seen.append)
    assert seen[0].resumed and seen[0].step == 10 * stop_at
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name
    assert whole.memory is not None and resumed.memory is not None
    assert whole.memory.digest() == resumed.memory.digest()
    assert (whole.train_flops, whole.update_flops) == (resumed.train_flops, resumed.update_flops)
    again = trained(strategy, continued(), new, before.memory, checkpoint=path)
    assert again.memory is not None and again.memory.digest() == whole.memory.digest()


def test_si_remembers_the_path_to_the_best_weights_not_to_the_last() -> None:
    strategy = SynapticIntelligence()
    samples = data(range(3), 60)
    wrong = replace(data(range(3), 30, seed=7), labels=(data(range(3), 30, seed=7).labels + 1) % 3)
    settings = TrainSettings(steps=50, evaluate_every=5)
    result = train_expert(
        net(), samples, wrong, settings, update=strategy.update(None, names(), seed=0), device=CPU
    )
    assert result.best_step < result.steps
    shorter = TrainSettings(steps=result.best_step, evaluate_every=5)
    exact = train_expert(
        net(), samples, wrong, shorter, update=strategy.update(None, names(), seed=0), device=CPU
    )
    assert result.memory is not None and exact.memory is not None
    for name, values in exact.memory.importance.items():
        np.testing.assert_array_equal(result.memory.importance[name], values)


def test_another_update_does_not_resume_this_ones_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    samples = data(range(6))
    memory = trained(Ewc(rows=20), net(), samples).memory
    runs: list[tuple[UpdateStrategy, Memory | None]] = [
        (Ewc(rows=20), None),
        (Ewc(rows=20), memory),
        (Ewc(rows=20, strength=7.0), memory),
        (SynapticIntelligence(), memory),
    ]
    for strategy, remembered in runs:
        seen: list[TrainProgress] = []
        trained(strategy, net(), samples, remembered, checkpoint=path, on_progress=seen.append)
        assert not any(progress.resumed for progress in seen)


@pytest.mark.parametrize("select", ["reservoir", "coreset", "herding"])
@pytest.mark.parametrize("head", ["own", "nearest-mean"])
def test_replay_keeps_old_classes_that_fine_tuning_forgets(select: str, head: str) -> None:
    strategies = {"replay": Replay(capacity=60, select=select, head=head), "fine-tune": FineTune()}  # type: ignore[arg-type]
    old, new = data(range(3), 240, seed=1), data(range(3, 6), 240, seed=2)
    found = {}
    for name, strategy in strategies.items():
        first = trained(strategy, net(), old, steps=100)
        second = trained(strategy, first.net, new, first.memory, steps=150)
        found[name] = accuracy(second.net, data(range(3), 120, seed=5))
        assert second.memory is not None and second.memory.seen == 480
        assert second.memory.samples is None or len(second.memory.samples) <= 48
        assert second.memory.held_out is None or len(second.memory.held_out) <= 12
    assert found["replay"] > 0.8 > found["fine-tune"]


@pytest.mark.parametrize(
    "strategy", [Ewc(strength=1e6, rows=50), SynapticIntelligence(strength=1e4)], ids=repr
)
def test_a_strong_penalty_holds_the_weights_that_mattered(strategy: UpdateStrategy) -> None:
    first = trained(strategy, net(), data(range(3)))
    assert first.memory is not None
    before = {name: tensor.clone() for name, tensor in first.net.state_dict().items()}
    kept = trained(strategy, first.net, data(range(3), seed=4), first.memory)

    def way(result: TrainResult, weighted: bool) -> float:
        assert first.memory is not None
        return sum(
            float(
                (
                    (torch.from_numpy(first.memory.importance[name]) if weighted else 1.0)
                    * (result.net.state_dict()[name] - tensor) ** 2
                ).sum()
            )
            for name, tensor in before.items()
        )

    loose = net()
    loose.load_state_dict(before)
    free = trained(FineTune(), loose, data(range(3), seed=4))
    assert way(kept, weighted=True) < 0.2 * way(free, weighted=True)


def test_importance_follows_a_growing_head_by_class_name() -> None:
    old = {"head.weight": np.array([[1, 2], [3, 4]], np.float32), "head.bias": np.array([5, 6], np.float32)}
    old["hidden1.weight"] = np.array([[7, 8], [9, 10]], np.float32)
    old["gone"] = np.ones(3, np.float32)
    grown = build_net(net_reference("mlp:2x1", (2,), 3))
    assert {name for name, _ in grown.named_parameters()} == {*old, "hidden1.bias"} - {"gone"}
    found = aligned(old, grown, ["cat", "dog"], ["dog", "emu", "cat"])
    assert found["head.weight"].tolist() == [[3, 4], [0, 0], [1, 2]]
    assert found["head.bias"].tolist() == [6, 0, 5]
    assert found["hidden1.weight"].tolist() == [[7, 8], [9, 10]]
    assert found["hidden1.bias"].tolist() == [0, 0]
    wider = build_net(net_reference("mlp:4x1", (2,), 2))
    reshaped = aligned(old, wider, ["cat", "dog"], ["cat", "dog"])
    assert not reshaped["hidden1.weight"].any() and not reshaped["head.weight"].any()


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_an_update_with_new_classes_goes_on_from_a_smaller_nets_memory(strategy: UpdateStrategy) -> None:
    small = net(3)
    settings = TrainSettings(steps=40, batch=32)
    update = strategy.update(None, names(3), seed=0)
    first = train_expert(small, data(range(3)), data(range(3), 30), settings, update=update, device=CPU)
    second = trained(strategy, net(6), data(range(3, 6)), first.memory)
    assert second.memory is not None and second.memory.class_names == tuple(names(6))
    if second.memory.samples is not None:
        assert set(second.memory.samples.labels.tolist()) == set(range(6))
    for array in second.memory.importance.values():
        assert np.isfinite(array).all()


def test_remembered_labels_follow_their_class_names() -> None:
    kept = replace(data([0, 1, 2], 6), weights=np.array([5, 5, 5, 5, 5, 5], np.float32))
    memory = Memory(class_names=("x", "y", "z"), seen=30, samples=kept)
    recalled = memory.recalled(["z", "new", "x"])
    assert recalled.samples is not None and recalled.seen == 20
    renamed = {0: 2, 2: 0}
    assert recalled.samples.labels.tolist() == [
        renamed[label] for label in kept.labels.tolist() if label in renamed
    ]
    assert memory.recalled(["other"]).samples is None


def test_replay_after_another_strategy_stands_for_what_it_keeps() -> None:
    before = trained(FineTune(), net(), data(range(3)))
    assert before.memory is not None and before.memory.seen == 240
    after = trained(Replay(), before.net, data(range(3), 200), before.memory)
    assert after.memory is not None and after.memory.samples is not None
    assert after.memory.seen == 200
    assert after.memory.samples.arrays()["weights"].sum() == pytest.approx(200)


@pytest.mark.parametrize("select", ["herding", "coreset"])
def test_replay_counts_as_seen_what_its_samples_stand_for_where_classes_find_no_place(select: str) -> None:
    """Six classes of 40, places for four: what is of the other two stands for nothing any more."""
    strategy = Replay(capacity=5, select=select)  # type: ignore[arg-type]
    memory = trained(strategy, net(), data(range(6))).memory
    assert memory is not None and memory.samples is not None
    kept = memory.samples.labels.tolist()
    assert len(set(kept)) <= 4
    assert memory.seen == 40 * len(set(kept))
    assert memory.samples.arrays()["weights"].sum() == pytest.approx(memory.seen)
    again = strategy.update(memory, names(), seed=0)
    again.begin(net(), data(range(6)), batch=8, forward_flops=1)
    assert again.old_share == pytest.approx(memory.seen / (memory.seen + 240))  # type: ignore[attr-defined]
    after = trained(strategy, net(), data(range(6)), memory).memory
    assert after is not None and after.samples is not None
    assert after.samples.arrays()["weights"].sum() == pytest.approx(after.seen)


def test_what_an_update_adds_is_counted() -> None:
    old, new = data(range(3), 240, seed=1), data(range(3, 6), 240, seed=2)
    forward = 2 * (64 * 16 + 16 * 6) + 16
    weights = 64 * 16 + 16 + 16 * 6 + 6

    def twice(strategy: UpdateStrategy) -> TrainResult:
        first = trained(strategy, net(), old)
        return trained(strategy, first.net, new, first.memory)

    plain = twice(FineTune())
    assert (plain.update_flops, plain.samples_seen) == (0, plain.steps * 32)
    lwf = twice(LearningWithoutForgetting())
    assert lwf.update_flops == lwf.steps * 32 * forward
    replay = twice(Replay(capacity=100, select="reservoir"))
    assert replay.samples_seen == replay.steps * 64
    assert replay.train_flops == 3 * forward * replay.samples_seen
    herded = twice(Replay(capacity=100, select="herding", head="nearest-mean"))
    assert herded.update_flops > forward * 240
    ewc = twice(Ewc(rows=20))
    fisher = 20 * forward * (1 + 2 * 6)
    assert ewc.update_flops == ewc.steps * 6 * weights + fisher
    assert ewc.train_flops == 3 * forward * ewc.samples_seen + ewc.update_flops


def test_every_registered_name_is_its_strategys_own() -> None:
    assert list(STRATEGIES) == ["fine-tune", "replay", "ewc", "si", "lwf"]
    assert all(strategy_named(name).name == name for name in STRATEGIES)
    assert strategy_named().name == DEFAULT_UPDATE


def test_an_unknown_strategy_is_named_with_those_that_exist() -> None:
    with pytest.raises(
        InvalidInputError, match=r"'gem'.*fine-tune or replay or ewc or si or lwf.*for example"
    ):
        strategy_named("gem")


def test_an_update_that_does_not_fit_is_refused() -> None:
    settings, samples = TrainSettings(steps=5), data(range(6))
    with pytest.raises(InvalidInputError, match=r"5 class names.*6, one for each output"):
        update = FineTune().update(None, names(5), seed=0)
        train_expert(net(), samples, samples, settings, update=update, device=CPU)
    based = replace(samples, base_logits=np.zeros((len(samples), 6), np.float32))
    with pytest.raises(InvalidInputError, match="base logits"):
        update = FineTune().update(None, names(), seed=0)
        train_expert(net(), based, based, settings, update=update, device=CPU)
    other = Samples(inputs=np.zeros((2, 9), np.uint8), labels=np.zeros(2, np.int64))
    memory = Memory(class_names=tuple(names()), seen=2, samples=other)
    with pytest.raises(InvalidInputError, match=r"remembered samples.*remove the expert's memory"):
        update = Replay().update(memory, names(), seed=0)
        train_expert(net(), samples, samples, settings, update=update, device=CPU)
    for make in (
        lambda: Replay(capacity=1),
        lambda: Replay(select="best"),  # type: ignore[arg-type]
        lambda: Replay(head="other"),  # type: ignore[arg-type]
        lambda: Ewc(strength=0.0),
        lambda: SynapticIntelligence(damping=math.inf),
        lambda: LearningWithoutForgetting(temperature=-1.0),
    ):
        with pytest.raises(InvalidInputError):
            make()


@pytest.mark.parametrize("weights", [np.ones(5, np.float32), np.ones(240), np.zeros(240, np.float32)])
def test_sample_weights_that_do_not_fit_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="sample weights") as caught:
        replace(data(), weights=weights)
    assert isinstance(caught.value, ShapeMismatchError) == bool(weights.all())


def test_a_weighted_sample_counts_like_that_many() -> None:
    few = replace(data(range(3), 3), weights=np.array([1, 2, 3], np.float32))
    rows = np.array([0, 1, 1, 2, 2, 2], np.int64)
    settings = TrainSettings(steps=20, batch=16, evaluate_every=5)
    weighted = train_expert(net(), data(), few, settings, device=CPU)
    repeated = train_expert(net(), data(), replace(few, weights=None).at(rows), settings, device=CPU)
    assert weighted.validation_nll == pytest.approx(repeated.validation_nll, rel=1e-6)
    assert weighted.validation_accuracy == pytest.approx(repeated.validation_accuracy)
