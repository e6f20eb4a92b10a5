"""The trunk: sizes by input shape, the probe, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swarm.domain.errors import (
    InvalidInputError,
    NotFoundError,
    ShapeMismatchError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.domain.specification import TrunkReference
from swarm.experts.trunk import Trunk, make_trunk
from swarm.modules.packing import unpack

Blobs = dict[Digest, bytes]


def made(factory: str, shape: tuple[int, ...], **options: object) -> tuple[TrunkReference, Blobs]:
    fields: dict[str, object] = {"scale": 1 / 255, "offset": 0.0, "seed": 7}
    return make_trunk(factory, shape, **(fields | options))  # type: ignore[arg-type]


def load(reference: TrunkReference, blobs: Blobs, scale: float = 1 / 255, **options: object) -> Trunk:
    return Trunk.load(
        reference,
        lambda blob: memoryview(blobs[blob]),
        scale=scale,
        offset=0.0,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("shape", "filters"),
    [
        ((28, 28), (6, 1, 5, 5)),
        ((8, 8), (6, 1, 3, 3)),
        ((16, 16), (6, 1, 5, 5)),
        ((32, 32, 3), (6, 3, 5, 5)),
        ((20,), (96, 20)),
    ],
)
def test_filter_sizes_follow_the_input_shape(shape: tuple[int, ...], filters: tuple[int, ...]) -> None:
    reference, blobs = made("randconv-sqrt:6", shape)
    weights = unpack(reference.weights.tensors, lambda blob: memoryview(blobs[blob]))
    assert weights["filters"].shape == filters
    flat = weights["filters"].reshape(filters[0], -1)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-5)
    if len(filters) == 4:
        np.testing.assert_allclose(flat.mean(1), 0, atol=1e-6)
    assert (weights["biases"] <= 0).all() and (weights["biases"] >= -0.3).all()
    trunk = load(reference, blobs)
    rows = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype(np.uint8)
    assert trunk.features(rows).shape == (5, 16 * 6 + 1)
    assert trunk.flops_per_query > 0


def test_features_follow_the_recipe_exactly() -> None:
    reference, blobs = made("randconv-sqrt:4", (28, 28))
    weights = unpack(reference.weights.tensors, lambda blob: memoryview(blobs[blob]))
    rows = np.random.default_rng(1).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    images = torch.from_numpy(rows[:, None].astype(np.float32)) / 255
    filters, biases = (torch.from_numpy(weights[name].copy()) for name in ("filters", "biases"))
    pooled = torch.nn.functional.avg_pool2d(torch.relu(torch.conv2d(images, filters, biases)), 6)
    expected = 10 * (torch.sqrt(pooled.flatten(1) + 1e-4) - 0.14)
    found = load(reference, blobs).features(rows)
    np.testing.assert_allclose(found[:, :-1], expected.numpy(), atol=1e-4)
    assert (found[:, -1] == 1).all()


def test_the_same_seed_gives_the_same_trunk_and_another_seed_another() -> None:
    assert made("randconv-sqrt:4", (8, 8))[0].digest == made("randconv-sqrt:4", (8, 8))[0].digest
    assert made("randconv-sqrt:4", (8, 8))[0].digest != made("randconv-sqrt:4", (8, 8), seed=8)[0].digest


def test_random_features_bring_their_constant_and_are_counted_in_32_steps() -> None:
    for shape in ((8, 8), (20,)):
        reference, _ = made("randconv-sqrt:4", shape)
        assert (reference.fixed_point, reference.has_constant, reference.sum_size) == (32.0, True, 65)


@pytest.mark.parametrize("size", [1e-9, 3e-3, 0.25, 1.0, 31.0, 32.0, 33.0, 1e5])
def test_other_trunks_take_the_power_of_two_that_leaves_five_bits_for_a_usual_feature(
    tmp_path: Path, size: float
) -> None:
    name = f"own_trunk_{str(size).replace('.', '_').replace('-', 'm')}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, inputs):\n"
        f"        return torch.full((len(inputs), 3), {size!r})\n"
        "def factory(*, input_shape):\n"
        "    return Net()\n"
    )
    reference, blobs = made(f"{name}:factory", (8, 8), import_paths=[str(tmp_path)])
    assert reference.has_constant == (size == 1.0)
    steps = reference.fixed_point
    assert np.log2(steps) == int(np.log2(steps)) and 1 <= steps <= 2**14
    if 3e-3 < size < 32:
        assert 32 <= size * steps < 64
    assert reference.sum_size == reference.feature_size + (not reference.has_constant)
    load(reference, blobs)


def test_the_fixed_point_is_part_of_what_is_signed() -> None:
    reference, blobs = made("randconv-sqrt:4", (8, 8))
    for changed in (replace(reference, fixed_point=64.0), replace(reference, has_constant=False)):
        with pytest.raises(VerificationError, match="digest"):
            load(changed, blobs)


def test_identity_gives_the_preprocessed_input() -> None:
    reference, blobs = made("identity", (2, 3), scale=0.5)
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(load(reference, blobs, 0.5).features(rows), rows.reshape(2, 6) / 2)


def test_other_preprocessing_does_not_reproduce_the_probe() -> None:
    reference, blobs = made("randconv-sqrt:4", (8, 8))
    with pytest.raises(TrunkMismatchError, match="differ"):
        load(reference, blobs, scale=1 / 100)


def test_a_changed_blob_is_refused() -> None:
    reference, blobs = made("randconv-sqrt:4", (8, 8))
    for digest, data in list(blobs.items()):
        broken = blobs | {digest: bytes([data[0] ^ 1]) + data[1:]}
        with pytest.raises(VerificationError):
            load(reference, broken)


def test_a_changed_description_is_refused() -> None:
    reference, blobs = made("randconv-sqrt:4", (8, 8))
    with pytest.raises(VerificationError, match="digest"):
        load(replace(reference, tolerance=1e9), blobs)


def test_a_users_own_trunk_comes_with_its_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "own_trunk_a.py").write_text(
        "import torch\n"
        "def factory(*, input_shape):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    weights = {"1.weight": torch.ones(3, 64), "1.bias": torch.zeros(3)}
    save_file(weights, tmp_path / "w.safetensors")
    reference, blobs = made(
        f"own_trunk_a:factory@{tmp_path}/w.safetensors", (8, 8), import_paths=[str(tmp_path)]
    )
    assert reference.factory == "own_trunk_a:factory"
    found = load(reference, blobs).features(np.full((1, 8, 8), 255, dtype=np.uint8))
    np.testing.assert_allclose(found, 64, rtol=1e-5)


def test_a_trunk_whose_code_is_missing_is_named() -> None:
    with pytest.raises(NotFoundError, match="no_such_trunk"):
        made("no_such_trunk:factory", (8, 8))
    with pytest.raises(NotFoundError, match="safetensors"):
        made("identity@/nowhere.safetensors", (8, 8))


@pytest.mark.parametrize("factory", ["randconv-sqrt", "randconv-sqrt:0", "randconv-sqrt:x", "resnet"])
def test_a_name_that_is_no_trunk_is_refused(factory: str) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        made(factory, (8, 8))


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": float("nan")}, {"offset": float("inf")}])
def test_impossible_preprocessing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="scale"):
        made("identity", (8, 8), **options)
    with pytest.raises(InvalidInputError, match="sizes"):
        made("identity", (8, 0))


def test_wrong_or_infinite_inputs_are_refused() -> None:
    trunk = load(*made("randconv-sqrt:4", (8, 8)))
    with pytest.raises(ShapeMismatchError, match=r"\[B, 8, 8\]"):
        trunk.features(np.zeros((2, 9, 8), dtype=np.uint8))
    with pytest.raises(ShapeMismatchError, match="float64"):
        trunk.features(np.zeros((2, 8, 8)))
    rows = np.zeros((2, 8, 8), dtype=np.float32)
    rows[1, 0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="row 1"):
        trunk.features(rows)


def test_features_do_not_depend_on_the_batch() -> None:
    trunk = load(*made("randconv-sqrt:4", (8, 8)))
    rows = np.random.default_rng(2).integers(0, 256, (130, 8, 8)).astype(np.uint8)
    together = trunk.features(rows)
    alone = np.concatenate([trunk.features(rows[i : i + 1]) for i in range(0, 130, 13)])
    np.testing.assert_allclose(together[::13], alone, atol=1e-4)
