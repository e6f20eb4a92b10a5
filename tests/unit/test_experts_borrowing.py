"""Choosing what to start from: nearest neighbours on penultimate features, and what it was worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from swarm.experts import footprint
from swarm.experts.borrowing import (
    RANDOM,
    Candidate,
    HeadStart,
    head_start,
    knn_correct,
    penultimate,
    rank_candidates,
)
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.training import TrainSettings, train_expert
from swarm.experts.weights import state_tensors


@pytest.fixture(scope="module")
def digits() -> tuple[Samples, Samples]:
    """Few samples to learn from, many to judge on."""
    found = load_digits()
    inputs = (found.images / 16).astype(np.float32)
    labels = found.target.astype(np.int64)
    return (
        Samples(inputs=inputs[:60], labels=labels[:60]),
        Samples(inputs=inputs[60:400], labels=labels[60:400]),
    )


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    """A net that a peer with many digits has trained."""
    found = load_digits()
    inputs = (found.images / 16).astype(np.float32)[400:]
    samples = Samples(inputs=inputs, labels=found.target.astype(np.int64)[400:])
    return train_expert(
        fresh(1), samples, samples.at(np.arange(0, dtype=np.int64)), TrainSettings(steps=300)
    ).net


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_net(net_reference("mlp:64x2", (8, 8), 10))


def test_neighbours_vote_and_the_lower_label_wins_a_tie() -> None:
    known = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    asked = np.array([[2, 0.1], [0.1, 2], [1, 1]], dtype=np.float32)
    assert knn_correct(asked, known, labels, np.array([0, 1, 0]), neighbours=2).tolist() == [True, True, True]
    assert knn_correct(asked, known, labels, np.array([1, 0, 1]), neighbours=4).tolist() == [
        False,
        True,
        False,
    ]


def test_no_sample_is_its_own_neighbour() -> None:
    known = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    labels = np.array([0, 1, 0])
    found = knn_correct(known, known, labels, labels, neighbours=1, leave_one_out=True)
    assert found.tolist() == [True, False, True]


def test_penultimate_features_are_what_the_last_layer_reads_and_leave_the_net_as_it_was(
    digits: tuple[Samples, Samples],
) -> None:
    net = fresh(0).train()
    features = penultimate(net, digits[0])
    assert features.shape == (60, 64)
    assert net.training
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    net.eval()
    with torch.no_grad():
        logits = net(torch.from_numpy(np.asarray(digits[0].inputs)))
        again = last(torch.from_numpy(features))
    assert torch.allclose(logits, again, atol=1e-5)


def test_a_peers_net_sees_so_many_samples_at_once_as_memory_allows(
    digits: tuple[Samples, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = fresh(0)
    whole = penultimate(net, digits[0])
    monkeypatch.setattr(footprint, "MAX_ACTIVATION_BYTES", 25 * 4 * 64 * 3)
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    np.testing.assert_allclose(penultimate(net, digits[0]), whole, atol=1e-5)
    assert max(seen) <= 25 * 3 / 2 and sum(seen) == 1 + len(digits[0])


def test_a_net_without_a_linear_layer_is_judged_by_its_output(digits: tuple[Samples, Samples]) -> None:
    assert penultimate(nn.Flatten(), digits[0]).shape == (60, 64)


def test_a_peer_that_knows_the_classes_ranks_above_random_weights_and_every_cost_is_counted(
    digits: tuple[Samples, Samples], teacher: nn.Module
) -> None:
    candidates = [Candidate(name=RANDOM, net=fresh(0)), Candidate(name="ada.e1@1", net=teacher)]
    ranked = rank_candidates(candidates, *digits, seed=0)
    assert [entry.name for entry in ranked] == ["ada.e1@1", RANDOM]
    assert ranked[0].accuracy > ranked[1].accuracy
    assert all(entry.flops > 400 * 2 * 64 * 64 for entry in ranked)


def test_random_initialisation_wins_a_tie(digits: tuple[Samples, Samples]) -> None:
    same = [
        Candidate(name="ada.e1@1", net=fresh(3)),
        Candidate(name=RANDOM, net=fresh(3)),
        Candidate(name="ben.e1@1", net=fresh(3)),
    ]
    ranked = rank_candidates(same, *digits, seed=0)
    assert [entry.name for entry in ranked] == [RANDOM, "ada.e1@1", "ben.e1@1"]


def test_without_validation_samples_the_training_samples_judge(digits: tuple[Samples, Samples]) -> None:
    training = digits[0]
    none = training.at(np.arange(0, dtype=np.int64))
    ranked = rank_candidates([Candidate(name=RANDOM, net=fresh(0))], training, none, seed=0)
    assert 0 < ranked[0].accuracy <= 1


def test_a_head_start_is_measured_over_the_same_steps(
    digits: tuple[Samples, Samples], teacher: nn.Module
) -> None:
    found = head_start(teacher, fresh(0), *digits, seed=0, steps=20)
    assert found.borrowed > found.random and found.helped
    assert found.flops > 0


def test_among_equal_accuracies_the_lower_loss_says_whether_borrowing_helped() -> None:
    tied = HeadStart(steps=1, borrowed=1.0, random=1.0, borrowed_nll=0.1, random_nll=0.2, flops=0)
    assert tied.helped and not replace(tied, borrowed_nll=0.2).helped
    assert not replace(tied, borrowed=0.9).helped


def test_a_head_start_changes_no_weights(digits: tuple[Samples, Samples], teacher: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in state_tensors(teacher).items()}
    head_start(teacher, fresh(0), *digits, seed=0, steps=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in state_tensors(teacher).items())
