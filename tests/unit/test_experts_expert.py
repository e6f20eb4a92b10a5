"""A loaded expert answers as the trained net does; a damaged or unfit one never answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.domain.errors import NotFoundError, ShapeMismatchError, VerificationError
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.domain.manifests import Cost, Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import pack_net
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_specification

NAMES = ("ant", "bee", "cow")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFiles:
    return BlobFiles(tmp_path)


@pytest.fixture
def specification(blobs: BlobFiles) -> Specification:
    return make_specification(blobs)


def published(net: torch.nn.Module, blobs: BlobFiles, specification: Specification) -> Manifest:
    modules, data = pack_net(net)
    for blob in data.values():
        blobs.put(blob)
    return Manifest(
        swarm=specification.swarm, expert=ExpertId("rose.e1"), version=1, parent_version=0,
        leaf=LeafId("rose.l1"), owner=NodeId("rose"), net=net_reference("mlp:16x1", (8, 8), 3),
        class_names=NAMES, modules=modules, parents=(), trunk=specification.trunk.digest,
        gate_version_seen=0, share="borrow", metrics={},
        cost=Cost(train_flops=1, inference_flops=2144, samples_seen=1, duration_s=1.0), created_at=0.0,
    )  # fmt: skip


def trained() -> torch.nn.Module:
    torch.manual_seed(4)
    return build_net(net_reference("mlp:16x1", (8, 8), 3)).eval()


def test_answers_are_the_nets_own_probabilities(blobs: BlobFiles, specification: Specification) -> None:
    net = trained()
    expert = LoadedExpert.load(published(net, blobs, specification), blobs.open_verified, specification)
    rows = np.random.default_rng(0).integers(0, 17, (1500, 8, 8)).astype(np.uint8)
    with torch.no_grad():
        expected = torch.softmax(net(torch.from_numpy(rows).float() / 16), 1).numpy()
    found = expert.probabilities(rows)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert expert.class_names == NAMES
    assert expert.flops_per_query == 2144
    assert expert.probabilities(rows[:0]).shape == (0, 3)


def test_a_flipped_byte_in_any_blob_is_refused(blobs: BlobFiles, specification: Specification) -> None:
    manifest = published(trained(), blobs, specification)
    for blob in manifest.blobs():
        path = blobs.path(blob)
        original = path.read_bytes()
        path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(VerificationError):
            LoadedExpert.load(manifest, BlobFiles(blobs.folder).open_verified, specification)
        path.write_bytes(original)


def test_weights_that_are_not_finite_are_refused(blobs: BlobFiles, specification: Specification) -> None:
    net = trained()
    with torch.no_grad():
        net.get_submodule("head").bias[0] = torch.nan  # type: ignore[operator,index]
    with pytest.raises(VerificationError, match="head"):
        LoadedExpert.load(published(net, blobs, specification), blobs.open_verified, specification)


def test_weights_of_another_net_are_refused(blobs: BlobFiles, specification: Specification) -> None:
    manifest = published(trained(), blobs, specification)
    wider = replace(manifest, net=net_reference("mlp:32x1", (8, 8), 3))
    with pytest.raises(ShapeMismatchError, match=r"rose\.e1@1"):
        LoadedExpert.load(wider, blobs.open_verified, specification)
    other_input = replace(manifest, net=net_reference("mlp:16x1", (4, 4), 3))
    with pytest.raises(ShapeMismatchError, match="input shape"):
        LoadedExpert.load(other_input, blobs.open_verified, specification)


def test_a_missing_blob_is_named(blobs: BlobFiles, specification: Specification) -> None:
    manifest = published(trained(), blobs, specification)
    blobs.remove(manifest.blobs()[0])
    with pytest.raises(NotFoundError, match=manifest.blobs()[0][:12]):
        LoadedExpert.load(manifest, blobs.open_verified, specification)


def test_inputs_of_another_shape_are_refused(blobs: BlobFiles, specification: Specification) -> None:
    expert = LoadedExpert.load(published(trained(), blobs, specification), blobs.open_verified, specification)
    with pytest.raises(ShapeMismatchError, match=r"\[2, 7, 8\]"):
        expert.probabilities(np.zeros((2, 7, 8), dtype=np.uint8))
    infinite = np.full((1, 8, 8), np.inf, dtype=np.float32)
    with pytest.raises(VerificationError, match="not finite"):
        expert.probabilities(infinite)
