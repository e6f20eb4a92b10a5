"""Packed layers: the same values, the same bytes, and left alone where somebody else reads the weights."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from swarm.experts.expert import LoadedExpert
from swarm.experts.nets import build_net, net_reference
from swarm.experts.packed_linear import LEAST_WEIGHTS, PackedLinear, can_pack, pack, unpack, unpack_read
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_specification
from tests.unit.test_experts_expert import published

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch has no oneDNN for this processor")


OWN_NETS = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.use, self.wide = use, nn.Linear(64, 4096, bias=False)

    def forward(self, inputs):
        return self.use(self, self.wide(inputs.flatten(1)))[:, :3]

def plain(*, input_shape, classes):
    return Own(lambda net, found: found)

def first(*, input_shape, classes):
    return Own(lambda net, found: found.to(next(net.parameters()).device))

def every(*, input_shape, classes):
    return Own(lambda net, found: found * (1 + sum(each.std() for each in net.parameters())))
"""


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

    narrow = [nn.Linear(1 << 20, 2), nn.Linear(3, 1 << 18)]
    layers = [
        nn.Linear(128, LEAST_WEIGHTS // 128 - 1),
        nn.Linear(512, 512).bfloat16(),
        *narrow,
        Own(512, 512),
    ]
    _, packed = plain_and_packed(nn.ModuleList(layers))
    assert [type(layer) for layer in packed.children()] == [nn.Linear] * 4 + [Own]


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


def test_an_unpacked_net_is_as_it_was() -> None:
    plain, packed = plain_and_packed(nn.Sequential(nn.Linear(600, 400), nn.Linear(400, 400, bias=False)))
    unpack(packed)
    assert list(packed.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(packed.state_dict()[name], each) for name, each in plain.state_dict().items())
    assert [name for name, _ in packed.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.parametrize(("function", "is_packed"), [("plain", True), ("first", False), ("every", False)])
def test_peoples_own_nets_that_use_their_parameters_answer_as_they_did(
    function: str, is_packed: bool, tmp_path: Path
) -> None:
    module = f"nets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(OWN_NETS)
    blobs = BlobFiles(tmp_path / "blobs")
    specification = make_specification(blobs)
    reference = net_reference(f"{module}:{function}", (8, 8), 3, [str(tmp_path)])
    net = build_net(reference, [str(tmp_path)]).eval()
    manifest = replace(published(net, blobs, specification), net=reference)
    expert = LoadedExpert.load(manifest, blobs.open_verified, specification, [str(tmp_path)])
    assert isinstance(expert.net("probabilities").get_submodule("wide"), PackedLinear) == is_packed
    rows = np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8)
    with torch.no_grad():
        expected = torch.softmax(net(torch.from_numpy(rows).float() / 16), 1).numpy()
    np.testing.assert_allclose(expert.probabilities(rows), expected, atol=1e-5)
