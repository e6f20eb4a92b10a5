"""A loaded expert answers as the trained net does; a damaged or unfit one never answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, ShapeMismatchError, VerificationError
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.domain.manifests import Correction, Cost, Manifest
from swarm.domain.specification import Specification
from swarm.experts import footprint
from swarm.experts.expert import LoadedExpert
from swarm.experts.nets import Cnn, Mlp, build_net, net_reference
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
    assert expert.flops_per_query() == 2144
    assert not expert.has_correction
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


def refined(manifest: Manifest, net: torch.nn.Module, blobs: BlobFiles) -> Manifest:
    modules, data = pack_net(net)
    for blob in data.values():
        blobs.put(blob)
    correction = Correction(
        modules=modules,
        base=digest_of(b"gate"),
        class_temperature=0.2,
        metrics={},
        cost=Cost(train_flops=3, inference_flops=2145, samples_seen=1, duration_s=1.0),
    )
    return replace(manifest, correction=correction)


def correcting() -> torch.nn.Module:
    torch.manual_seed(5)
    return build_net(net_reference("mlp:16x1", (8, 8), 3)).eval()


def test_corrections_are_the_second_nets_logits_centred_over_its_own_classes(
    blobs: BlobFiles, specification: Specification
) -> None:
    plain = published(trained(), blobs, specification)
    expert = LoadedExpert.load(refined(plain, correcting(), blobs), blobs.open_verified, specification)
    rows = np.random.default_rng(0).integers(0, 17, (1100, 8, 8)).astype(np.uint8)
    with torch.no_grad():
        logits = correcting()(torch.from_numpy(rows).float() / 16).numpy()
    found = expert.corrections(rows)
    assert found.dtype == np.float32 and found.shape == (1100, 3)
    np.testing.assert_allclose(found, logits - logits.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-6)
    np.testing.assert_array_equal(expert.values(rows, "corrections"), found)
    alone = LoadedExpert.load(plain, blobs.open_verified, specification)
    np.testing.assert_array_equal(expert.probabilities(rows), alone.probabilities(rows))
    assert expert.has_correction
    assert (expert.flops_per_query(), expert.flops_per_query("corrections")) == (2144, 2145)
    assert expert.modules("corrections") != expert.modules() == plain.modules
    assert expert.size_bytes == 2 * alone.size_bytes


def test_an_expert_without_a_correction_says_so(blobs: BlobFiles, specification: Specification) -> None:
    expert = LoadedExpert.load(published(trained(), blobs, specification), blobs.open_verified, specification)
    for ask in (
        lambda: expert.corrections(np.zeros((1, 8, 8), np.uint8)),
        lambda: expert.flops_per_query("corrections"),
        lambda: expert.modules("corrections"),
    ):
        with pytest.raises(InvalidInputError, match=r"rose\.e1@1: found no correction"):
            ask()


def test_a_damaged_or_unfit_correction_is_refused_with_the_whole_expert(
    blobs: BlobFiles, specification: Specification
) -> None:
    plain = published(trained(), blobs, specification)
    wide = build_net(net_reference("mlp:17x1", (8, 8), 3))
    with pytest.raises(ShapeMismatchError, match=r"rose\.e1@1, correction, weights"):
        LoadedExpert.load(refined(plain, wide, blobs), blobs.open_verified, specification)
    infinite = correcting()
    with torch.no_grad():
        infinite.get_submodule("head").bias[0] = torch.inf  # type: ignore[operator,index]
    with pytest.raises(VerificationError, match="head"):
        LoadedExpert.load(refined(plain, infinite, blobs), blobs.open_verified, specification)
    manifest = refined(plain, correcting(), blobs)
    assert manifest.correction is not None
    path = blobs.path(manifest.correction.modules[0].tensors[0].blob)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(VerificationError):
        LoadedExpert.load(manifest, BlobFiles(blobs.folder).open_verified, specification)


def test_an_expert_that_wants_gigabytes_of_activations_is_refused_by_name(
    blobs: BlobFiles, specification: Specification
) -> None:
    wide = replace(specification, input_shape=(28, 28))
    modules, data = pack_net(Cnn(28, 28, 1, (65536, 1), 3))
    for blob in data.values():
        blobs.put(blob)
    manifest = replace(
        published(trained(), blobs, specification),
        net=net_reference("cnn:65536x1", (28, 28), 3),
        modules=modules,
    )
    assert sum(module.size_bytes for module in modules) < 14 << 20
    with pytest.raises(InvalidInputError, match="288 MiB of activations for one row; expected at most 256"):
        LoadedExpert.load(manifest, blobs.open_verified, wide)


def test_so_many_rows_are_answered_at_once_as_memory_allows(
    blobs: BlobFiles, specification: Specification, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = published(trained(), blobs, specification)
    rows = np.random.default_rng(0).integers(0, 17, (250, 8, 8)).astype(np.uint8)
    whole = LoadedExpert.load(manifest, blobs.open_verified, specification).probabilities(rows)
    monkeypatch.setattr(footprint, "MAX_ACTIVATION_BYTES", 100 * 4 * (16 + 16 + 3))
    seen: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda net, inputs: seen.append(len(inputs[0])) if isinstance(net, Mlp) else None
    )
    try:
        expert = LoadedExpert.load(manifest, blobs.open_verified, specification)
        seen.clear()
        np.testing.assert_allclose(expert.probabilities(rows), whole, atol=1e-6)
    finally:
        handle.remove()
    assert sum(seen) == 250 and len(seen) > 1 and 100 <= max(seen) <= 110
