"""Learners of streams: when they learn, what it costs, and that growth changes no answer."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from swarm.domain.errors import InvalidInputError, UsageError
from swarm.domain.streams import Flops, cumulative_error, cumulative_flops
from swarm.experts.samples import Samples
from swarm.experts.streams import hard_mixture as hard
from swarm.experts.streams.analytic import AnalyticLearner
from swarm.experts.streams.fitting import FitSettings, Prepared, fit
from swarm.experts.streams.fixed import FixedLearner, mean_logits, mean_probabilities, stack_of_mlps
from swarm.experts.streams.growing import GatedMlp, GrowingEnsembleLearner, GrowingMixtureLearner
from swarm.experts.streams.learners import LEARNERS, make_learner
from swarm.experts.streams.mlps import MeanLogits, MlpStack, parameter_count
from swarm.experts.streams.stream import MegaBatch, Stream, StreamLearner, make_stream, run_stream

ONE_EPOCH = FitSettings(epochs=1, patience=1)


def digits(rows: slice = slice(None)) -> Samples:
    data = load_digits()
    images = data.images.astype(np.float32)
    return Samples(inputs=images[rows], labels=data.target.astype(np.int64)[rows], scale=1 / 16)


def stream_of(count: int, samples: int = 240) -> Stream:
    return make_stream(digits(slice(samples)), digits(slice(-100, None)), classes=10, count=count, seed=0)


def learner(
    name: str, settings: FitSettings = ONE_EPOCH, width: int = 4, grow_every: int = 1
) -> StreamLearner:
    return make_learner(
        name, input_shape=(8, 8), classes=10, width=width, settings=settings, seed=3, scale=1 / 16,
        grow_every=grow_every, trunk="randconv-sqrt:4",
    )  # fmt: skip


class Remembering:
    """A learner that answers one class and notes what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    @property
    def parameters(self) -> int:
        return 7 * len(self.given)

    def learn(self, train: Samples, validation: Samples) -> Flops:
        self.given.append((len(train), len(validation)))
        return Flops(forward=len(train), total=3 * len(train))

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        found = np.zeros((len(inputs), 4), dtype=np.float32)
        found[:, len(self.given) - 1] = 1
        return found


def stream_by_hand() -> Stream:
    part = Samples(inputs=np.zeros((9, 2), dtype=np.float32), labels=np.zeros(9, dtype=np.int64))
    test = Samples(inputs=np.zeros((8, 2), dtype=np.float32), labels=np.array([0, 0, 0, 0, 0, 1, 1, 2]))
    held = part.at(np.array([0]))
    return Stream(mega_batches=[MegaBatch(train=part, validation=held)] * 5, test=test, classes=4)


def test_a_waiting_learner_learns_from_what_gathered_and_the_old_model_answers_meanwhile() -> None:
    model = Remembering()
    records = run_stream(model, stream_by_hand(), wait=2, replay=False)
    assert model.given == [(18, 2), (18, 2)]
    assert [record.waited for record in records] == [True, False, True, False, True]
    # A random answer of four classes; then class 0, of which 5 of 8 are; then class 1, of which 2 of 8 are.
    assert [record.error for record in records] == [0.75, 0.375, 0.375, 0.75, 0.75]
    assert cumulative_error(records) == pytest.approx(3.0)
    assert [record.parameters for record in records] == [0, 7, 7, 14, 14]
    assert [record.flops_total for record in records] == [0, 54, 0, 54, 0]


def test_replay_gives_everything_so_far() -> None:
    model = Remembering()
    run_stream(model, stream_by_hand(), wait=2, replay=True)
    assert model.given == [(18, 2), (36, 4)]


def test_who_waits_for_more_than_there_is_never_answers() -> None:
    records = run_stream(Remembering(), stream_by_hand(), wait=6, replay=False)
    assert cumulative_error(records) == pytest.approx(5 * 0.75)
    with pytest.raises(InvalidInputError, match="waiting time"):
        run_stream(Remembering(), stream_by_hand(), wait=0, replay=False)


def test_a_stream_deals_each_sample_once_and_holds_a_tenth_out() -> None:
    samples = Samples(inputs=np.arange(103, dtype=np.float32)[:, None], labels=np.zeros(103, dtype=np.int64))
    stream = make_stream(samples, samples, classes=2, count=5, seed=1)
    assert [(len(each.train), len(each.validation)) for each in stream.mega_batches] == [(18, 2)] * 5
    seen = [part.inputs for each in stream.mega_batches for part in (each.train, each.validation)]
    assert len(np.unique(np.concatenate(seen))) == 100
    with pytest.raises(InvalidInputError, match="2 samples"):
        make_stream(samples, samples, classes=2, count=60, seed=1)


def test_one_model_costs_what_one_counts_by_hand() -> None:
    stream = stream_of(1, 100)
    model = learner("sm")
    records = run_stream(model, stream, wait=1, replay=False)
    one = 2 * (64 * 4 + 4 * 4 + 4 * 10) + 4 + 4
    assert model.parameters == 64 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10
    assert cumulative_flops(records) == Flops(forward=one * 100, total=one * (3 * 90 + 10))


def test_members_of_an_ensemble_cost_one_model_each_and_a_uniform_mixture_the_mean_besides() -> None:
    stream = stream_of(1, 100)
    flops, parameters = {}, {}
    for name in ("sm", "ens", "umix"):
        model = learner(name)
        flops[name] = cumulative_flops(run_stream(model, stream, wait=1, replay=False))
        parameters[name] = model.parameters
    assert parameters["ens"] == parameters["umix"] == 5 * parameters["sm"]
    assert flops["ens"] == Flops(*(5 * each for each in flops["sm"]))
    assert flops["umix"].forward == flops["ens"].forward + 100 * 5 * 10


def test_a_growing_ensemble_trains_the_new_net_alone() -> None:
    model = GrowingEnsembleLearner((8, 8), 4, 10, ONE_EPOCH, seed=0)
    stream = stream_of(2)
    spent = [model.learn(each.train, each.validation) for each in stream.mega_batches[:1]]
    before = [weights.clone() for weights in model.nets[0].parameters()]
    first = model.probabilities(stream.test.inputs)
    spent.append(model.learn(stream.mega_batches[1].train, stream.mega_batches[1].validation))
    assert all(torch.equal(a, b) for a, b in zip(before, model.nets[0].parameters(), strict=True))
    assert len(model.nets) == 2 and model.parameters == 2 * parameter_count(model.nets[0])
    assert spent[0] == spent[1]
    second = mean_probabilities(model.nets[1], stream.test.inputs, 1 / 16, 0.0)
    assert model.probabilities(stream.test.inputs) == pytest.approx((first + second) / 2, abs=1e-6)


def test_a_split_changes_no_answer_and_leaves_weights_that_sum_to_one() -> None:
    torch.manual_seed(0)
    net = GatedMlp(64, 4, 10)
    inputs = torch.rand(50, 64)
    expected = net(inputs)
    for experts in ((0, 0), (1, 0), (0, 2), (2, 1)):
        for layer, expert in zip(net.layers, experts, strict=True):
            layer.split(expert)
        assert float((net(inputs) - expected).abs().max().detach()) < 1e-6
    assert net.layers[0].experts == 5
    shares = net.layers[0].shares(inputs)
    assert torch.allclose(shares.sum(1), torch.ones(50), atol=1e-6) and float(shares.min().detach()) > 0


def test_the_losing_expert_is_the_one_with_the_largest_sum_of_losses_or_of_use() -> None:
    torch.manual_seed(0)
    net = GatedMlp(2, 3, 2)
    for layer in net.layers:
        layer.split(0)
        layer.gate_weights.data.zero_()
    # Layer 0 sends the first input's sign to its left child, expert 0; most samples, but those easy ones.
    net.layers[0].gate_weights.data[0, 0] = 1000.0
    with torch.no_grad():
        for layer in net.layers:
            layer.weights.zero_()
            layer.biases.zero_()
        net.layers[0].biases[1] = 1.0
        net.layers[1].weights[:, 0, 0] = 1.0
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([3.0, 0.0]))
        net.head.weight[1, 0] = 9.0
    inputs = np.array([[1.0, 0], [1.0, 0], [1.0, 0], [-1.0, 0]], dtype=np.float32)
    data = Prepared(Samples(inputs=inputs, labels=np.zeros(4, dtype=np.int64)))
    assert net.losing_experts(data, "loss")[0] == 1
    assert net.losing_experts(data, "usage")[0] == 0


def test_a_growing_mixture_grows_at_each_stage_but_the_first_and_says_what_growth_changed() -> None:
    stream = stream_of(4)
    model = GrowingMixtureLearner((8, 8), 4, 10, ONE_EPOCH, seed=0, grow_every=1)
    records = run_stream(model, stream, wait=1, replay=False)
    assert [layer.experts for layer in model.net.layers] == [4, 4]
    assert len(model.split_loss_changes) == 3 and max(model.split_loss_changes) < 1e-6
    per_layer = (64 * 4 + 4) + (64 + 1), (4 * 4 + 4) + (4 + 1)
    assert [b.parameters - a.parameters for a, b in pairwise(records)] == [sum(per_layer)] * 3
    slower = GrowingMixtureLearner((8, 8), 4, 10, ONE_EPOCH, seed=0, grow_every=2)
    run_stream(slower, stream, wait=1, replay=False)
    assert [layer.experts for layer in slower.net.layers] == [2, 2]


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_gets_better_than_chance_and_the_same_under_its_seed(name: str) -> None:
    stream = stream_of(2, 1200)
    settings = FitSettings(epochs=15, patience=5)
    runs = []
    for _ in range(2):
        model = learner(name, settings, width=8)
        records = run_stream(model, stream, wait=1, replay=False, clock=lambda: 0.0)
        answers = model.probabilities(stream.test.inputs)
        assert answers.shape == (100, 10) and answers.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert records[-1].error < 0.6 and records[-1].parameters == model.parameters > 0
        runs.append(records)
    assert runs[0] == runs[1]


def test_an_unknown_learner_is_refused() -> None:
    with pytest.raises(UsageError, match="sm, ens"):
        learner("oracle")


def test_members_of_a_stack_learn_as_they_would_alone() -> None:
    stream = stream_of(1)
    train, held = stream.mega_batches[0].train, stream.mega_batches[0].validation
    settings = FitSettings(epochs=12, patience=2)
    together = stack_of_mlps((8, 8), 4, 10, members=3, seed=0)
    alone = MlpStack(64, 4, 2, 10, 1)
    for weights, own in zip(together.parameters(), alone.parameters(), strict=True):
        own.data = weights.detach()[1:2].clone()
    fit(together, train, held, settings, seed=5)
    fit(alone, train, held, settings, seed=5)
    for weights, own in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(weights[1:2], own, atol=1e-4)


def test_the_weights_that_were_best_on_validation_stay() -> None:
    stream = stream_of(1)
    train, held = stream.mega_batches[0].train, stream.mega_batches[0].validation
    losses = []
    for epochs in range(1, 6):
        net = stack_of_mlps((8, 8), 4, 10, members=1, seed=1)
        fit(net, train, held, FitSettings(epochs=epochs, patience=99), seed=0)
        losses.append(float(Prepared(held).losses(net, slice(None)).detach()))
    assert losses == sorted(losses, reverse=True)


def test_a_uniform_mixture_answers_by_the_mean_of_logits() -> None:
    stack = stack_of_mlps((8, 8), 4, 10, members=3, seed=0)
    inputs = digits(slice(20)).inputs
    logits = stack(torch.from_numpy(inputs) / 16).mean(0)
    assert mean_logits(MeanLogits(stack), inputs, 1 / 16, 0.0) == pytest.approx(
        logits.detach().numpy(), abs=1e-5
    )
    model = FixedLearner(MeanLogits(stack), ONE_EPOCH, seed=0)
    assert model.parameters == 0


def test_the_root_of_a_stream_is_that_of_all_its_data_whatever_the_waiting_time() -> None:
    stream = stream_of(6)
    one, each = learner("root"), learner("root")
    late = run_stream(one, stream, wait=6, replay=False)
    early = run_stream(each, stream, wait=1, replay=False)
    assert isinstance(one, AnalyticLearner) and isinstance(each, AnalyticLearner)
    assert np.array_equal(one._triangle, each._triangle) and np.array_equal(one._columns, each._columns)
    size, filters = 16 * 4 + 1, 4 * 9 + 4
    assert late[-1].parameters == filters + size * 10
    solving = 5 * (size**3 // 3 + 2 * size**2 * 10)
    rest = 216 * (2 * size**2 + size)
    assert late[-1].flops_total - late[-1].flops_forward == solving + rest
    assert early[-1].flops_total < late[-1].flops_total < cumulative_flops(early).total


def blobs(count: int, seed: int) -> Samples:
    """Four clouds in the corners of a square; the class says whether the corner's signs differ."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 2, (count, 2)) * 2 - 1
    inputs = (corners + 0.15 * rng.standard_normal((count, 2))).astype(np.float32)
    return Samples(inputs=inputs, labels=(corners[:, 0] != corners[:, 1]).astype(np.int64))


def task() -> hard.Task:
    return hard.Task(blobs(400, 0), blobs(80, 1), blobs(200, 2), classes=2)


def test_an_expert_for_each_shard_solves_what_one_small_net_cannot() -> None:
    settings = hard.StepSettings(steps=300, batch=32, learning_rate=0.02, evaluate_every=50)
    own, wide = task(), task().fresh(8, members=1, seed=0)
    trunk = hard.train_steps(wide, own, settings, seed=0)[300]
    gate = hard.fit_gate(trunk, own, 4, seed=0)
    assert np.bincount(gate.train, minlength=4).sum() == 400
    experts = hard.train_experts(own.fresh(1, members=4, seed=0), own, gate, settings, seed=0)
    single = hard.train_steps(own.fresh(1, members=1, seed=0), own, settings, seed=0)[300]
    for top in (1, 2):
        assert hard.mixture_accuracy(experts, gate, own, top) > 0.9
    assert hard.ensemble_accuracy(single, own, 1) < 0.8


def test_an_expert_learns_from_its_shard_alone() -> None:
    own = task()
    trunk = own.fresh(3, members=1, seed=1)
    gate = hard.fit_gate(trunk, own, 3, seed=0)
    alone = np.where(
        gate.train == 1, 1, 99
    )  # the other two experts have no samples, hence keep their weights
    settings = hard.StepSettings(steps=20, batch=8, evaluate_every=5)
    start = own.fresh(3, members=3, seed=2)
    before = [each.detach().clone() for each in start.parameters()]
    ended = hard.train_experts(start, own, replace(gate, train=alone), settings, seed=0)
    for old, new in zip(before, ended.parameters(), strict=True):
        assert torch.equal(old[0], new[0]) and torch.equal(old[2], new[2])
    assert any(not torch.equal(old[1], new[1]) for old, new in zip(before, ended.parameters(), strict=True))


def test_a_mark_holds_the_weights_that_were_best_until_then() -> None:
    own = task()
    settings = hard.StepSettings(steps=40, batch=16, evaluate_every=10)
    long = hard.train_steps(own.fresh(4, members=2, seed=0), own, settings, seed=0, marks=[20])
    short = hard.train_steps(own.fresh(4, members=2, seed=0), own, replace(settings, steps=20), seed=0)
    assert sorted(long) == [20, 40]
    for a, b in zip(long[20].parameters(), short[20].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_wide_net_takes_as_many_multiply_adds_as_gate_and_expert() -> None:
    own = task()
    macs = hard.mixture_macs(own, 3, 5)
    assert macs == 2 * 3 + 5 * 3 + (2 * 3 + 3 * 2)
    assert hard.equal_width(own, macs) == math.floor(macs / 4 + 0.5)
    branched = own.fresh(3, members=1, seed=0).repeated(4)
    answers = hard.answers_of(branched, own.test)
    assert answers.shape == (4, 200, 2) and np.array_equal(answers[0], answers[3])
