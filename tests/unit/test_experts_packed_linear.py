"""Packed layers: the same values, the same bytes, and left alone where somebody else reads the weights."""

import copy

import pytest
import torch
from torch import nn

from swarm.experts.packed_linear import LEAST_WEIGHTS, PackedLinear, can_pack, pack, unpack_read

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch has no oneDNN for this processor")


class Tied(nn.Module):
    """A layer whose weights are those of an embedding, and one whose weights the net reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(512, 512)
        self.tied = nn.Linear(512, 512, bias=False)
        self.tied.weight = self.words.weight
        self.read = nn.Linear(512, 512)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.tied(inputs), self.read.weight, self.read.bias)


def evaluated(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


def plain_and_packed(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    plain = evaluated(net)
    packed = copy.deepcopy(plain)
    pack(packed)
    return plain, packed


@pytest.mark.parametrize("rows", [(0,), (1,), (8,), (9,), (33,), (65,), (200,), (2, 3), ()])
def test_it_computes_the_same(rows: tuple[int, ...]) -> None:
    layers = nn.Linear(600, 400), nn.ReLU(), nn.Linear(400, 400, bias=False)
    plain, packed = plain_and_packed(nn.Sequential(*layers))
    assert [type(layer) for layer in packed.children()] == [PackedLinear, nn.ReLU, PackedLinear]
    inputs = torch.randn(*rows, 600)
    with torch.inference_mode():
        found = packed(inputs)
        assert found.shape == (*rows, 400)
        torch.testing.assert_close(found, plain(inputs), rtol=1e-4, atol=1e-5)
        assert torch.equal(packed(inputs), found), "to the bit, each time"


def test_small_layers_other_numbers_and_other_layers_are_left() -> None:
    class Own(nn.Linear):
        pass

    layers = [nn.Linear(128, LEAST_WEIGHTS // 128 - 1), nn.Linear(512, 512).bfloat16(), Own(512, 512)]
    _, packed = plain_and_packed(nn.ModuleList(layers))
    assert [type(layer) for layer in packed.children()] == [nn.Linear, nn.Linear, Own]


def test_weights_that_others_read_are_not_packed_or_are_unpacked() -> None:
    plain, packed = plain_and_packed(Tied())
    assert isinstance(packed.read, PackedLinear) and not isinstance(packed.tied, PackedLinear)
    unpack_read(packed)
    assert isinstance(packed.read, PackedLinear), "nobody has read it yet"
    inputs = torch.randn(3, 512)
    with torch.inference_mode():
        torch.testing.assert_close(packed(inputs), plain(inputs))
        unpack_read(packed)
        assert type(packed.read) is nn.Linear
        assert torch.equal(packed.read.weight, plain.read.weight)  # type: ignore[union-attr, arg-type]
        torch.testing.assert_close(packed(inputs), plain(inputs))
