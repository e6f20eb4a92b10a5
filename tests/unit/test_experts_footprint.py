"""What a net takes of whoever runs it is known before it is taken."""

import resource

import pytest
import torch
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.domain.specification import MAX_ACTIVATION_BYTES
from swarm.experts.footprint import MOST_ROWS, check_footprint, measured_forward, rows_at_once
from swarm.experts.nets import build_net, net_reference


def held(factory: str, shape: tuple[int, ...]) -> int:
    return measured_forward(build_net(net_reference(factory, shape, 10)).eval(), torch.zeros(1, *shape))[1]


def test_the_activations_of_known_nets_are_counted_to_the_byte() -> None:
    assert held("linear", (28, 28)) == 4 * 10
    assert held("mlp:128x2", (28, 28)) == 4 * (128 + 128 + 128)  # both of a ReLU's sides, and what follows
    assert held("cnn:16x32", (28, 28)) == 2 * 4 * 16 * 24 * 24


def test_what_is_freed_again_is_not_counted_for_ever() -> None:
    layers = [nn.Linear(64, 64, bias=False) for _ in range(50)]
    found = measured_forward(nn.Sequential(*layers).eval(), torch.zeros(1, 64))[1]
    assert found == 2 * 4 * 64
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    assert measured_forward(net.eval(), torch.zeros(1, 8, 8))[1] == 4 * 8  # a view holds nothing


def test_rows_at_once_follow_from_what_one_row_holds() -> None:
    assert rows_at_once(0) == rows_at_once(40) == MOST_ROWS
    assert rows_at_once(MAX_ACTIVATION_BYTES // 10) == 10
    assert rows_at_once(MAX_ACTIVATION_BYTES) == rows_at_once(100 * MAX_ACTIVATION_BYTES) == 1


@pytest.mark.parametrize(
    ("factory", "shape", "found"),
    [
        ("cnn:65536x1", (28, 28), "288 MiB of activations"),
        ("cnn:65536x65536", (224, 224, 3), "24,200 MiB of activations"),
        ("cnn:2048x2048", (64, 64, 3), "FLOPs per query"),
        ("ridge-root:randconv-sqrt:4096", (224, 224, 3), "MiB of activations"),
    ],
)
def test_a_net_by_name_beyond_the_limits_is_refused_before_it_takes_memory(
    factory: str, shape: tuple[int, ...], found: str
) -> None:
    reference = net_reference("linear", shape, 10)
    object.__setattr__(reference, "factory", factory)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInputError, match=found) as caught:
        build_net(reference)
    assert caught.value.subject == f"net {factory}" and "smaller net" in caught.value.remedy
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_ACTIVATION_BYTES


@pytest.mark.parametrize(
    ("factory", "shape"),
    [("mlp:128x2", (28, 28)), ("cnn", (28, 28)), ("cnn:64x128", (96, 96, 3)), ("mlp:2048x4", (32, 32, 3))],
)
def test_ordinary_nets_are_within_the_limits(factory: str, shape: tuple[int, ...]) -> None:
    net = build_net(net_reference(factory, shape, 100)).to("meta").eval()
    check_footprint(net, shape, factory)
