"""A job's contribution: sums over all training samples, byte for byte what is listed, within the budget."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import CONTRIBUTION_FILE, LearningJob, LearningResult
from node.learning import learn
from swarm.data.sources import load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import LeafId
from swarm.experts.trunk import Trunk
from swarm.gating.regions import region_columns
from swarm.gating.ridge import check_sums
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from swarm.modules.blobs import BlobFiles
from tests.support.learning import continued, contributed, make_job, make_specification, owner_sums


def run(folder: Path, order: TrainOrder, **changes: object) -> LearningResult:
    torch.set_num_threads(1)
    changes.setdefault("specification", make_specification(BlobFiles(folder.parent / "cache")))
    job = make_job(folder, order, **changes)
    result = learn(job, folder, lambda stage, message, fraction: None)
    result.write(folder)
    return result


def training_q(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits' training samples as a job sees them: features in fixed point, and labels."""
    job = LearningJob.read(folder)
    data = load_training(job.order.data)
    rows, _ = hold_out(data.inputs, data.labels, VALIDATION_FRACTION)
    reference = job.specification.trunk
    trunk = Trunk.load(reference, BlobFiles(Path(job.blob_folder)).open_verified, scale=1 / 16, offset=0.0)
    features = trunk.features(data.inputs[rows])
    return quantised(features, reference.fixed_point, reference.has_constant), data.labels[rows]


def counts(result: LearningResult) -> np.ndarray:
    assert result.contribution is not None
    return np.array(
        [leaf.class_counts[name] for leaf in result.contribution.leaves for name in sorted(leaf.class_counts)]
    )


def test_exact_sums_are_the_pooled_ones_to_the_bit(tmp_path: Path) -> None:
    result = run(tmp_path / "job", TrainOrder(data="digits", steps=1, sums="exact"))
    _, arrays = contributed(tmp_path / "job")
    q, labels = training_q(tmp_path / "job")
    np.testing.assert_array_equal(arrays["gram"], pack_triangle(exact_gram(q)))
    np.testing.assert_array_equal(arrays["rose.l1/columns"], target_columns(q, labels, 10))
    assert result.contribution is not None and result.contribution.sums is not None
    assert (result.contribution.sums.form, result.contribution.sums.samples) == ("exact", result.samples)
    check_sums(owner_sums(tmp_path / "job", "rose"), counts(result), 32.0)
    assert result.sums_flops >= 2 * len(q) * q.shape[1] ** 2
    assert result.train_flops > result.sums_flops + result.features_flops


def test_an_identity_trunk_gets_its_constant_in_the_sums_and_not_in_the_regions(tmp_path: Path) -> None:
    specification = make_specification(BlobFiles(tmp_path / "cache"), trunk="identity")
    run(tmp_path / "job", TrainOrder(data="digits", steps=1), specification=specification)
    _, arrays = contributed(tmp_path / "job")
    assert arrays["rose.l1/columns"].shape == (65, 10)
    assert arrays["rose.l1/prototypes"].shape[1] == 64
    assert len(arrays["gram"]) == 65 * 66 // 2


@pytest.mark.parametrize("megabytes", [0.4, 1.0])
def test_compact_sums_keep_the_whole_contribution_within_the_budget(tmp_path: Path, megabytes: float) -> None:
    specification = make_specification(BlobFiles(tmp_path / "cache"), trunk="randconv-sqrt:80")
    order = TrainOrder(data="digits", steps=1, sums="auto", sums_mb=megabytes)
    result = run(tmp_path / "job", order, specification=specification)
    draft = result.contribution
    assert draft is not None and draft.sums is not None and draft.sums.form == "compact"
    size = (tmp_path / "job" / CONTRIBUTION_FILE).stat().st_size
    assert draft.size_bytes == size <= megabytes * 1e6
    assert size > 0.98 * megabytes * 1e6
    check_sums(owner_sums(tmp_path / "job", "rose"), counts(result), 32.0)
    _, arrays = contributed(tmp_path / "job")
    assert arrays["rose.l1/prototypes"].shape[1] == len(region_columns(1281)) == 1024
    listed = sum(one.size_bytes for one in result.listings if one.recipient == "coordinator")
    names = [one.what for one in result.listings]
    assert f"sums F'F, compact rank {len(arrays['factor_scales'])}" in names
    assert 0 <= listed - size < 10_000  # and the counts by name and the trials


def test_a_budget_that_nothing_fits_into_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--sums-mb"):
        run(tmp_path / "job", TrainOrder(data="digits", steps=1, sums_mb=0.001))


def test_without_sums_only_prototypes_and_counts_leave(tmp_path: Path) -> None:
    result = run(tmp_path / "job", TrainOrder(data="digits", steps=1, sums="none"))
    assert result.contribution is not None and result.contribution.sums is None
    assert [leaf.columns for leaf in result.contribution.leaves] == [None]
    assert result.leaves[0].sums == "" and result.sums_flops == 0
    assert not [one.what for one in result.listings if "F'" in one.what or "columns" in one.what]


def test_a_dry_run_lists_every_item_with_the_bytes_that_would_leave(tmp_path: Path) -> None:
    results = [
        run(tmp_path / name, TrainOrder(data="digits", steps=1, dry_run=name == "dry"))
        for name in ("dry", "real")
    ]
    assert results[0].listings == results[1].listings
    sizes = {one.what: one.size_bytes for one in results[0].listings}
    assert sizes["sums F'F, exact"] == 4 * 129 * 130 // 2
    assert sizes["rose.l1 columns"] == 4 * 129 * 10
    _, arrays = contributed(tmp_path / "real")
    summary = ("prototypes", "prototype_counts", "radii")
    assert sizes["rose.l1 prototypes"] == sum(arrays[f"rose.l1/{name}"].nbytes for name in summary)


def own_npz(path: Path, shift: int) -> str:
    """Write samples of two classes that lie far from those of another shift."""
    rng = np.random.default_rng(shift)
    labels = np.arange(240) % 2
    images = rng.integers(0, 3, (240, 8, 8)) + shift + labels[:, None, None]
    np.savez(path, x=images.astype(np.uint8), y=labels + shift)
    return str(path)


@pytest.mark.parametrize("forms", [("exact", "exact"), ("compact", "compact"), ("exact", "compact")])
def test_leaves_without_new_data_are_given_again_with_their_own_sums(
    tmp_path: Path, forms: tuple[str, str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    orders = [
        TrainOrder(data=own_npz(tmp_path / f"{shift}.npz", shift), steps=1, sums=form)  # type: ignore[arg-type]
        for shift, form in zip((0, 8), forms, strict=True)
    ]
    result = run(second, orders[1], **two_leaves(tmp_path, *orders))
    earlier = LearningResult.read(first)
    assert result.contribution is not None and result.contribution.sums is not None
    assert [one.leaf for one in result.contribution.leaves] == ["rose.l1", "rose.l2"]
    assert result.idle_leaves == ("rose.l1",)
    assert result.contribution.sums.samples == earlier.samples + result.samples
    assert result.contribution.sums.form == forms[1]
    check_sums(owner_sums(second, "rose"), counts(result), 32.0)
    if forms[1] == "exact":
        pooled = np.concatenate([training_q(first)[0], training_q(second)[0]])
        _, arrays = contributed(second)
        np.testing.assert_array_equal(arrays["gram"], pack_triangle(exact_gram(pooled)))


def two_leaves(folder: Path, first: TrainOrder, second: TrainOrder) -> dict[str, Any]:
    """Return what a job on the second data finds where leaf 1 learned the first, and leaf 2 once saw such
    data but has nothing to contribute of its own."""
    cache = BlobFiles(folder / "cache")
    specification = make_specification(cache)
    leaves = []
    for name, order in (("first", first), ("seen", second)):
        run(folder / name, order, specification=specification)
        leaves += continued(folder / name, cache)
    other = replace(leaves[1], leaf=LeafId("rose.l2"), sums="")
    return {"specification": specification, "existing": (leaves[0], other), "first_free_leaf": 3}


def test_a_leaf_that_has_no_sums_stays_at_home_when_the_others_give_theirs(tmp_path: Path) -> None:
    orders = [
        TrainOrder(data=own_npz(tmp_path / f"{shift}.npz", shift), steps=1, sums=form)  # type: ignore[arg-type]
        for shift, form in ((0, "none"), (8, "auto"))
    ]
    result = run(tmp_path / "second", orders[1], **two_leaves(tmp_path, *orders))
    assert result.contribution is not None
    (given,) = result.contribution.leaves
    assert (given.leaf, result.idle_leaves) == ("rose.l2", ("rose.l1",))
    assert "not contributed" in result.notes[0]


def scarce_npz(path: Path, counts: dict[int, int]) -> str:
    """Write samples of which just so many of each class are trained on, and some are held out."""
    rng = np.random.default_rng(5)
    labels = np.repeat(list(counts), 150)
    images = (rng.integers(0, 12, (len(labels), 8, 8)) + labels[:, None, None] % 3).astype(np.uint8)
    training, held_out = hold_out(images, labels, VALIDATION_FRACTION)
    rows = [held_out, *(training[labels[training] == name][:count] for name, count in counts.items())]
    kept = np.sort(np.concatenate(rows))
    np.savez(path, x=images[kept], y=labels[kept])
    return str(path)


@pytest.mark.parametrize("sums", ["exact", "compact"])
def test_a_class_of_one_sample_stays_at_home_and_is_learned_all_the_same(tmp_path: Path, sums: str) -> None:
    data = scarce_npz(tmp_path / "own.npz", {0: 80, 1: 90, 7: 1})
    result = run(tmp_path / "job", TrainOrder(data=data, steps=1, sums=sums))  # type: ignore[arg-type]
    _, arrays = contributed(tmp_path / "job")
    draft = result.contribution
    assert draft is not None and draft.sums is not None
    assert dict(draft.leaves[0].class_counts) == {"0": 80, "1": 90}
    assert draft.sums.samples == arrays["rose.l1/prototype_counts"].sum() == 170
    assert result.notes == ("rose.l1: class 7 is not contributed: 1 samples, at least 5 are needed",)
    assert result.leaves[0].class_names == ("0", "1", "7")
    assert dict(result.leaves[0].class_counts) == {"0": 80, "1": 90, "7": 1}
    listed = {one.what: one.detail for one in result.listings}
    assert listed["rose.l1 class counts"] == "0 80, 1 90"
    q, labels = training_q(tmp_path / "job")
    columns = arrays["rose.l1/columns"]
    np.testing.assert_array_equal(columns, target_columns(q[labels < 2], labels[labels < 2], 2))
    assert not any((q == column).all(axis=1).any() for column in columns.T)
    if sums == "exact":
        np.testing.assert_array_equal(arrays["gram"], pack_triangle(exact_gram(q[labels < 2])))
    check_sums(owner_sums(tmp_path / "job", "rose"), counts(result), 32.0)


@pytest.mark.parametrize("sums", ["exact", "none"])
def test_without_new_data_a_leaf_is_given_again_without_its_class_of_one_sample(
    tmp_path: Path, sums: str
) -> None:
    cache = BlobFiles(tmp_path / "cache")
    data = scarce_npz(tmp_path / "own.npz", {0: 80, 1: 90, 7: 1})
    run(tmp_path / "first", TrainOrder(data=data, steps=1, sums=sums))  # type: ignore[arg-type]
    (first,) = continued(tmp_path / "first", cache)
    elsewhere = TrainOrder(data=own_npz(tmp_path / "far.npz", 8), steps=1, sums=sums)  # type: ignore[arg-type]
    run(tmp_path / "seen", elsewhere)
    other = replace(continued(tmp_path / "seen", cache)[0], leaf=LeafId("rose.l2"))
    result = run(tmp_path / "again", elsewhere, existing=(first, other), first_free_leaf=3)
    assert result.contribution is not None
    assert [one.leaf for one in result.contribution.leaves] == ["rose.l1", "rose.l2"]
    assert dict(result.contribution.leaves[0].class_counts) == {"0": 80, "1": 90}
    assert any("rose.l1: class 7 is not contributed" in note for note in result.notes)
    if sums == "exact":
        check_sums(owner_sums(tmp_path / "again", "rose"), counts(result), 32.0)
    # Sums and prototypes that an older version made over all samples are not given again.
    older = replace(first, class_counts={"0": 80, "1": 89, "7": 1})
    result = run(tmp_path / "older", elsewhere, existing=(older, other), first_free_leaf=3)
    assert result.contribution is not None
    assert [one.leaf for one in result.contribution.leaves] == ["rose.l2"]
    assert "rose.l1 is not contributed: its prototypes are of other samples too" in result.notes[1]


def test_a_leaf_of_rare_classes_alone_is_not_contributed_but_can_be_continued(tmp_path: Path) -> None:
    specification = make_specification(BlobFiles(tmp_path / "cache"), class_names=("0",))
    order = TrainOrder(data=scarce_npz(tmp_path / "own.npz", dict.fromkeys(range(12), 4)), steps=1)
    result = run(tmp_path / "job", order, specification=specification)
    assert result.contribution is None and result.samples == 48
    assert result.notes[0] == "rose.l1: class 0 is not contributed: 4 samples, at least 5 are needed"
    assert result.notes[10:] == (
        "rose.l1: 2 more classes are not contributed: fewer than 5 samples each",
        "rose.l1 is not contributed: 0 samples, at least 20 are needed",
    )
    existing = continued(tmp_path / "job", BlobFiles(tmp_path / "cache"))
    again = run(tmp_path / "again", order, specification=specification, existing=existing)
    assert (again.contribution, again.leaves[0].parent_version) == (None, 1)
