"""Weights become modules and come back bit by bit; what does not fit is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.tensors import ModuleEntry
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import OWN_MODULE, load_net, mapped_tensors, pack_net, warm_start
from swarm.modules.packing import ReadBlob


class Mixed(nn.Module):
    """Own parameters, buffers, another precision, and a child without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3))
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.activation = nn.ReLU()
        self.head = nn.Linear(3, 2).to(torch.bfloat16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = self.activation(self.body(inputs)) * self.scale
        return self.head(values.to(torch.bfloat16)).float()


def packed(net: nn.Module) -> tuple[tuple[ModuleEntry, ...], ReadBlob]:
    modules, blobs = pack_net(net)
    return modules, lambda blob: memoryview(blobs[blob])


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_each_child_with_weights_is_a_module() -> None:
    modules, _ = packed(Mixed())
    assert [module.name for module in modules] == [OWN_MODULE, "body", "head"]
    assert {t.dtype for t in modules[2].tensors} == {"bfloat16"}
    assert {t.name for t in modules[1].tensors} >= {"0.weight", "1.running_mean", "1.num_batches_tracked"}


def test_weights_come_back_bit_by_bit() -> None:
    torch.manual_seed(1)
    source, target = Mixed(), Mixed()
    modules, read = packed(source)
    load_net(target, modules, read)
    assert same(source, target)


def test_mapped_tensors_are_the_blobs_own_bytes() -> None:
    source = Mixed()
    modules, read = packed(source)
    tensors = mapped_tensors(modules, read)
    assert all(torch.equal(value, tensors[name]) for name, value in source.state_dict().items())
    weight = next(entry for module in modules for entry in module.tensors if entry.name == "0.weight")
    blob = torch.frombuffer(read(weight.blob), dtype=torch.uint8)
    assert tensors["body.0.weight"].data_ptr() == blob.data_ptr() + weight.offset


def test_a_change_of_the_head_changes_one_module_only() -> None:
    net = build_net(net_reference("mlp:16x2", (4, 4), 3))
    before = {module.name: module.digest for module in packed(net)[0]}
    with torch.no_grad():
        next(net.get_submodule("head").parameters()).add_(1)
    after = {module.name: module.digest for module in packed(net)[0]}
    assert [name for name in before if before[name] != after[name]] == ["head"]


def test_weights_of_another_shape_or_name_are_refused() -> None:
    modules, read = packed(build_net(net_reference("mlp:16x2", (4, 4), 3)))
    with pytest.raises(ShapeMismatchError, match=r"head\.weight"):
        load_net(build_net(net_reference("mlp:16x2", (4, 4), 4)), modules, read)
    with pytest.raises(ShapeMismatchError, match=r"hidden2"):
        load_net(build_net(net_reference("mlp:16x1", (4, 4), 3)), modules, read)
    with pytest.raises(ShapeMismatchError, match="no tensor"):
        load_net(build_net(net_reference("mlp:16x2", (4, 4), 3)), modules[1:], read)


def test_a_net_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no weights"):
        pack_net(nn.Flatten())


def test_a_warm_start_matches_the_heads_rows_by_class_name() -> None:
    torch.manual_seed(2)
    old = build_net(net_reference("mlp:8x1", (4, 4), 2))
    new = build_net(net_reference("mlp:8x1", (4, 4), 3))
    fresh = new.get_submodule("head").weight[1].clone()  # type: ignore[index]
    modules, read = packed(old)
    assert warm_start(new, modules, read, ["b", "a"], ["a", "c", "b"]) == 4
    head, old_head = new.get_submodule("head"), old.get_submodule("head")
    assert torch.equal(head.weight[0], old_head.weight[1])  # type: ignore[index]
    assert torch.equal(head.weight[2], old_head.weight[0])  # type: ignore[index]
    assert torch.equal(head.weight[1], fresh)  # type: ignore[index]
    assert torch.equal(new.get_submodule("hidden1").weight, old.get_submodule("hidden1").weight)  # type: ignore[arg-type]


def test_a_warm_start_from_another_net_takes_what_fits() -> None:
    old = build_net(net_reference("mlp:8x1", (4, 4), 2))
    modules, read = packed(old)
    assert warm_start(build_net(net_reference("mlp:8x2", (4, 4), 2)), modules, read, "ab", "ab") == 4
    assert warm_start(build_net(net_reference("cnn", (4, 4), 2)), modules, read, "ab", "ab") == 1
