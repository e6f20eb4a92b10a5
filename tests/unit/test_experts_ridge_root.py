"""The swarm's root as an expert: built in, with the trunk's own blobs, and the analytic gate's answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import LeafId, NodeId, expert_of
from swarm.domain.manifests import Cost, Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.factories import buildable, is_built_in
from swarm.experts.flops import forward_flops
from swarm.experts.nets import build_net, built_in_numbers, net_reference
from swarm.experts.ridge_root import root_modules
from swarm.experts.trunk import Trunk
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.class_columns import ClassColumns
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_specification

NAMES = ("ant", "bee", "cow")
TEMPERATURE = 0.2


def columns_of(
    weights: np.ndarray, rows: tuple[int, ...] = (0, 1, 2), owners: tuple[int, ...] = ()
) -> ClassColumns:
    return ClassColumns(
        weights=weights,
        rows=np.array(rows),
        classes=len(NAMES),
        owners=np.array(owners) if owners else None,
    )


def published(blobs: BlobFiles, specification: Specification, columns: ClassColumns) -> Manifest:
    made = root_modules(
        specification.trunk, blobs.open_verified, columns, TEMPERATURE, specification.input_shape
    )
    assert made is not None
    net, modules, data = made
    for digest, blob in data.items():
        assert blobs.put(blob) == digest
    leaf = LeafId("coordinator.l0")
    return Manifest(
        swarm=specification.swarm, expert=expert_of(leaf), version=1, parent_version=0, leaf=leaf,
        owner=NodeId("coordinator"), net=net, class_names=NAMES, modules=modules, parents=(),
        trunk=specification.trunk.digest, gate_version_seen=1, share="public", metrics={},
        cost=Cost(train_flops=0, inference_flops=1, samples_seen=0, duration_s=0.0), created_at=0.0,
    )  # fmt: skip


def random_columns(
    specification: Specification,
    rows: tuple[int, ...] = (0, 1, 2),
    scale: float = 1.0,
    owners: tuple[int, ...] = (),
) -> ClassColumns:
    rng = np.random.default_rng(1)
    shape = (specification.trunk.sum_size, len(rows) + len(owners))
    return columns_of(rng.normal(0, scale * 0.3 / shape[0], shape).astype(np.float32), rows, owners)


@pytest.mark.parametrize(
    ("rows", "owners"),
    [
        ((0, 1, 2), ()),
        ((0, 2, 0, 1, 2), ()),
        ((2, 2, 0), ()),
        ((0, 1, 2), (0, 0, 1)),
        ((0, 2, 0, 1, 2), (1, 0, 0, 2, 2)),
    ],
)
@pytest.mark.parametrize(
    ("trunk", "shape"),
    [
        ("randconv-sqrt:8", (8, 8)),
        ("randconv-sqrt:16", (28, 28)),
        ("randconv-sqrt:3", (20,)),
        ("identity", (8, 8)),
        ("identity", (12,)),
    ],
)
def test_its_probabilities_are_the_analytic_gates(
    tmp_path: Path, trunk: str, shape: tuple[int, ...], rows: tuple[int, ...], owners: tuple[int, ...]
) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs, shape=shape, trunk=trunk)
    reference = specification.trunk
    columns = random_columns(specification, rows, owners=owners)
    expert = LoadedExpert.load(published(blobs, specification, columns), blobs.open_verified, specification)
    gate = AnalyticGate(
        weights=columns.weights[:, : len(rows)],
        leaf_rows=np.zeros(len(rows), dtype=np.int64),
        class_rows=columns.rows,
        by_class=columns,
        leaves=1,
        classes=3,
        fixed_point=reference.fixed_point,
        has_constant=reference.has_constant,
    )
    inputs = np.random.default_rng(0).integers(0, 17, (70, *shape)).astype(np.uint8)
    features = Trunk.load(reference, blobs.open_verified, scale=1 / 16, offset=0.0).features(inputs)
    scores = gate.class_scores(gate.scores(features)).astype(np.float64) / TEMPERATURE
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(expert.probabilities(inputs), expected, atol=1e-5)


def test_the_trunks_tensors_keep_their_addresses(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    manifest = published(blobs, specification, random_columns(specification))
    trunk = specification.trunk.weights
    assert [module.name for module in manifest.modules] == ["trunk", "head"]
    assert manifest.modules[0].digest == trunk.digest
    assert {t.blob for t in trunk.tensors} < set(manifest.blobs())
    other = published(blobs, specification, random_columns(specification, scale=2.0))
    assert other.modules[0] == manifest.modules[0] and other.modules[1] != manifest.modules[1]


def test_everybody_can_build_it_and_nobody_can_train_it(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    net = published(blobs, specification, random_columns(specification)).net
    assert net.factory == "ridge-root:randconv-sqrt:8"
    assert is_built_in(net.factory) and "ridge-root" in buildable()
    size = specification.trunk.sum_size
    assert built_in_numbers(net) == size * 3 + 2 + 8 * 9 + 8
    assert forward_flops(build_net(net), (8, 8)) > 2 * size * 3
    with pytest.raises(InvalidInputError, match="ridge-root"):
        net_reference(net.factory, (8, 8), 3)
    best = published(blobs, specification, random_columns(specification, (0, 1, 2, 2, 0))).net
    assert best.factory == "ridge-root:best-of-5:randconv-sqrt:8" and is_built_in(best.factory)
    assert built_in_numbers(best) == size * 5 + 5 + 2 + 8 * 9 + 8
    assert forward_flops(build_net(best), (8, 8)) > 2 * size * 5
    of_owners = published(
        blobs, specification, random_columns(specification, (0, 1, 2), owners=(0, 0, 1))
    ).net
    assert of_owners.factory == "ridge-root:owners-of-3:randconv-sqrt:8" and is_built_in(of_owners.factory)
    assert built_in_numbers(of_owners) == size * 6 + 6 + 2 + 8 * 9 + 8
    with pytest.raises(InvalidInputError, match="ridge-root"):
        net_reference(best.factory, (8, 8), 3)


def test_a_net_that_promises_more_than_its_weights_is_refused_before_it_is_made(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    manifest = published(blobs, specification, random_columns(specification))
    vast = replace(manifest, net=replace(manifest.net, factory="ridge-root:randconv-sqrt:4096"))
    with pytest.raises(ShapeMismatchError, match=r"coordinator\.e0@1"):
        LoadedExpert.load(vast, blobs.open_verified, specification)
    for factory in (
        "ridge-root",
        "ridge-root:randconv-sqrt:0",
        "ridge-root:os:system",
        "ridge-root:best-of-:identity",
        "ridge-root:best-of-0:identity",
        "ridge-root:best-of-99999999:identity",
        "ridge-root:best-of-3:best-of-3:identity",
        "ridge-root:best-of-3:os:system",
    ):
        with pytest.raises(InvalidInputError):
            build_net(replace(manifest.net, factory=factory))


def test_a_users_own_trunk_gives_no_root_expert(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    own = replace(specification.trunk, factory="people.trunks:best")
    columns = random_columns(specification)
    assert root_modules(own, blobs.open_verified, columns, TEMPERATURE, (8, 8)) is None


def test_weights_of_another_trunk_are_refused(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    columns = random_columns(specification)
    short = columns_of(columns.weights[1:])
    with pytest.raises(ShapeMismatchError, match=r"root weights"):
        root_modules(specification.trunk, blobs.open_verified, short, TEMPERATURE, (8, 8))
    with pytest.raises(InvalidInputError, match="class temperature"):
        root_modules(specification.trunk, blobs.open_verified, columns, 0.0, (8, 8))


def test_one_row_at_a_time_says_the_same(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    specification = make_specification(blobs)
    manifest = published(blobs, specification, random_columns(specification))
    expert = LoadedExpert.load(manifest, blobs.open_verified, specification)
    rows = np.random.default_rng(2).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    single = np.concatenate([expert.probabilities(rows[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(torch.from_numpy(single), torch.from_numpy(expert.probabilities(rows)))
