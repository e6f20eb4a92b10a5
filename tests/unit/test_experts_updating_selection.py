"""What is remembered: uniform reservoirs, herded means, matched gradients; and the nearest-mean head."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swarm.data.reservoir import reservoir, reservoir_slots
from swarm.domain.errors import InvalidInputError
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.updating import Replay
from swarm.experts.updating.last_layer import features_of
from swarm.experts.updating.nearest_mean import SCALES, put_nearest_mean_head
from swarm.experts.updating.selection import (
    gradient_kernel,
    herding,
    matching_pursuit,
    quotas,
)

R2 = 0.5**0.5


def streamed(chunks: list[int], capacity: int, seed: int) -> list[int]:
    """Return the numbers of the samples that a reservoir holds after a stream came in these chunks."""
    held, seen = np.zeros(0, np.int64), 0
    for count in chunks:
        rows = reservoir(len(held), seen, count, capacity, seed)
        held = np.concatenate([held, np.arange(seen, seen + count)])[rows]
        seen += count
    return [int(number) for number in held]


@given(
    chunks=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    capacity=st.integers(1, 30),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_reservoir_does_not_depend_on_how_the_stream_was_cut(
    chunks: list[int], capacity: int, seed: int
) -> None:
    whole = streamed([sum(chunks)], capacity, seed)
    assert streamed(chunks, capacity, seed) == whole
    assert len(set(whole)) == len(whole) == min(capacity, sum(chunks))


def test_every_sample_of_a_stream_is_kept_equally_often() -> None:
    length, capacity, runs = 20, 5, 8000
    counts = np.zeros(length)
    for seed in range(runs):
        counts[streamed([7, 1, 12], capacity, seed)] += 1
    share = capacity / length
    # Counts of a draw without replacement: the usual statistic over (1 - share), times (n - 1) / n.
    statistic = ((counts - runs * share) ** 2 / (runs * share * (1 - share))).sum() * (length - 1) / length
    assert statistic < 43.8  # chi-square with 19 degrees of freedom: 1 in 1000


def test_the_first_samples_fill_a_reservoir_in_order() -> None:
    assert reservoir_slots(0, 3, 5, seed=1).tolist() == [0, 1, 2]
    assert reservoir(0, 0, 3, 5, seed=1).tolist() == [0, 1, 2]
    assert reservoir(4, 100, 0, 2, seed=1).tolist() == [0, 1]


def test_a_reservoir_with_room_takes_what_comes() -> None:
    # Two of five slots are free although 100 samples were seen (a class was dropped): it counts as 3 seen.
    assert reservoir(3, 100, 2, 5, seed=1).tolist() == [0, 1, 2, 3, 4]


def test_herding_takes_what_brings_the_mean_nearest() -> None:
    # Mean of (1, 0), (0, 1), (r, r), r = sqrt(1/2): (0.569, 0.569). Nearest: the third. Then the means
    # (0.854, 0.354) and (0.354, 0.854) are equally far: the lower row.
    features = np.array([[1, 0], [0, 1], [R2, R2]])
    assert herding(features, np.ones(3), 3).tolist() == [2, 0, 1]
    # With weights (9, 0+, 1) the mean is (0.971, 0.071), and the first is nearest.
    assert herding(features, np.array([9, 1e-9, 1]), 1).tolist() == [0]


def test_matching_pursuit_picks_and_weighs_by_hand() -> None:
    # Gradients (1, 0), (0, 1), (0.6, 0.8), each once: their sum is (1.6, 1.8). Along it: 1.6, 1.8 and
    # 0.96 + 1.44 = 2.4: the third, weight 2.4. Missing: (1.6 - 1.44, 1.8 - 1.92) = (0.16, -0.12), along which
    # only the first points. Both anew: 0.8 w_3 = 1.8, w_3 = 2.25; w_1 = 1.6 - 0.6 * 2.25 = 0.25.
    gradients = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    kernel = gradients @ gradients.T
    one = matching_pursuit(kernel, np.ones(3), 1)
    assert one.rows.tolist() == [2] and one.weights.tolist() == pytest.approx([2.4], rel=1e-4)
    two = matching_pursuit(kernel, np.ones(3), 2)
    assert two.rows.tolist() == [2, 0]
    assert two.weights.tolist() == pytest.approx([2.25, 0.25], rel=1e-4)


def test_matching_pursuit_stops_where_nothing_is_missing() -> None:
    gradients = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    found = matching_pursuit(gradients @ gradients.T, np.array([1.0, 1.0, 0.5]), 3)
    assert len(found.rows) == 1
    assert float(found.weights @ gradients[found.rows, 0]) == pytest.approx(5.0, rel=1e-4)


def test_the_gradient_kernel_is_that_of_the_last_layers_gradients() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(5, 4)), np.array([0, 1, 2, 1, 0])
    kernel = gradient_kernel(features, labels, 3, heads=1, seed=8)
    head = torch.from_numpy(np.random.default_rng(8).uniform(-1, 1, (5, 3)) / 2)
    rows = []
    for row, label in zip(features, labels, strict=True):
        weights = head.clone().requires_grad_(True)
        inputs = torch.from_numpy(np.append(row, 1.0))
        loss = nn.functional.cross_entropy((inputs @ weights)[None], torch.tensor([label]))
        rows.append(torch.autograd.grad(loss, weights)[0].flatten().numpy())
    np.testing.assert_allclose(kernel, np.stack(rows) @ np.stack(rows).T, rtol=1e-8)


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=12), capacity=st.integers(0, 200))
def test_classes_share_the_capacity_alike(counts: list[int], capacity: int) -> None:
    given_ = quotas(counts, capacity)
    assert sum(given_) == min(capacity, sum(counts))
    assert all(have <= count for have, count in zip(given_, counts, strict=True))
    lacking = [have for have, count in zip(given_, counts, strict=True) if have < count]
    assert not lacking or max(given_) - min(lacking) <= 1


def samples(count: int, seed: int, classes: int = 4) -> Samples:
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    centres = np.random.default_rng(50).normal(size=(classes, 6))
    inputs = (centres[labels] + 0.7 * rng.normal(size=(count, 6))).astype(np.float32)
    return Samples(inputs=inputs, labels=labels)


def test_the_nearest_mean_head_answers_as_the_nearest_mean_does() -> None:
    torch.manual_seed(0)
    net = build_net(net_reference("mlp:8x1", (6,), 4))
    exemplars, queries = samples(40, 1), samples(500, 2)
    features = features_of(net, queries, 4)
    known = features_of(net, exemplars, 4)
    unit = known / np.linalg.norm(known, axis=1, keepdims=True)
    means = np.stack([unit[exemplars.labels == label].mean(0) for label in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = ((directions[:, None] - means[None]) ** 2).sum(2).argmin(1)
    scale = put_nearest_mean_head(net, exemplars, samples(100, 3), 4)
    with torch.no_grad():
        logits = net(torch.from_numpy(queries.inputs))
    np.testing.assert_array_equal(logits.argmax(1).numpy(), nearest)
    assert not net.head.bias.any()  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(net.head.weight.detach().numpy(), scale * means, rtol=1e-5)  # type: ignore[union-attr, operator]


def test_the_nearest_mean_heads_scale_is_the_best_on_validation() -> None:
    torch.manual_seed(0)
    net = build_net(net_reference("mlp:8x1", (6,), 4))
    held_out = samples(200, 3)
    scale = put_nearest_mean_head(net, samples(40, 1), held_out, 4)
    with torch.no_grad():
        logits = net(torch.from_numpy(held_out.inputs)) / scale
    labels = torch.from_numpy(held_out.labels)
    losses = {float(each): float(nn.functional.cross_entropy(each * logits, labels)) for each in SCALES}
    assert losses[scale] == min(losses.values())
    assert SCALES[0] < scale < SCALES[-1]


class Squashed(nn.Module):
    """Ends in something else than its linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.head(inputs), dim=1)


def test_a_net_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"net Squashed.*nn\.Linear.*reservoir"):
        put_nearest_mean_head(Squashed(), samples(40, 1), samples(10, 2), 4)
    convolution = nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 4, 1), nn.Flatten())
    with pytest.raises(InvalidInputError, match=r"nn\.Linear"):
        features_of(convolution, samples(10, 2), 4)


@pytest.mark.parametrize(
    "strategy", [Replay(select="coreset"), Replay(select="reservoir", head="nearest-mean")], ids=repr
)
def test_a_strategy_that_needs_a_linear_head_says_so_before_training(strategy: Replay) -> None:
    update = strategy.update(None, list("abcd"), seed=0)
    with pytest.raises(InvalidInputError, match=r"nn\.Linear"):
        update.begin(Squashed(), samples(40, 1), batch=8, forward_flops=1)


def test_herding_goes_by_the_outputs_of_a_net_without_a_linear_head() -> None:
    net, queries = Squashed(), samples(10, 2)
    with torch.no_grad():
        outputs = net(torch.from_numpy(queries.inputs)).numpy()
    np.testing.assert_array_equal(features_of(net, queries, 4, or_outputs=True), outputs)
    update = Replay(capacity=10, select="herding").update(None, list("abcd"), seed=0)
    update.begin(net, samples(40, 1), batch=8, forward_flops=1)
    memory = update.end(net, samples(40, 1), queries)
    assert memory.samples is not None and np.bincount(memory.samples.labels).tolist() == [2, 2, 2, 2]


def test_a_class_without_exemplars_has_no_mean() -> None:
    net = build_net(net_reference("mlp:8x1", (6,), 4))
    with pytest.raises(InvalidInputError, match=r"no exemplar of class 3.*remember more samples"):
        put_nearest_mean_head(net, samples(40, 1, classes=3), samples(10, 2), 4)
