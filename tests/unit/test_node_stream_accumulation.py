"""What mega-batches add to a leaf: sums as of their union, prototypes joined, samples found again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from node.held_out import write_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import VALIDATION_FILE, WAITING_FILE, LearningResult
from node.learning import learn
from node.shard_source import ShardSource
from node.stream.gathered import Gathered
from node.sums import LeafSums
from swarm.data.sources import load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError
from swarm.experts.nets import build_net
from swarm.experts.updating.memory import read_memory
from swarm.experts.weights import load_net
from swarm.gating.joined_summaries import joined_summary
from swarm.gating.regions import summarise_leaf
from swarm.modules.blobs import BlobFiles
from tests.support.learning import continued, contributed, digits_like, make_job, make_specification


def mega_batch(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write a mega-batch, and beside it its training samples as an intake leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.npz"
    np.savez(source, x=images, y=labels)
    dataset = load_training(str(source), min_classes=1)
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    Gathered.of(dataset, kept, str(source)).save(folder / f"{name}.training.npz")
    write_validation(folder / f"{name}.validation.npz", dataset.subset(held_out), len(held_out))
    return folder / f"{name}.training.npz"


def run(folder: Path, gathered: list[Path], **changes: object) -> LearningResult:
    """Learn gathered mega-batches, validating on the last one's."""
    torch.set_num_threads(1)
    order = TrainOrder(
        data="stream",
        net=str(changes.pop("net", "mlp:8x1")),
        steps=int(str(changes.pop("steps", 2))),
        sums=str(changes.pop("sums", "exact")),  # type: ignore[arg-type]
        update=str(changes.pop("update", "")),
        gathered=tuple(map(str, gathered)),
        accumulate=True,
    )
    specification = make_specification(BlobFiles(folder.parent / "cache"), min_leaf_count=5)
    job = make_job(folder, order, specification=specification, **changes)
    beside = gathered[-1].with_name(gathered[-1].name.replace("training", "validation"))
    (folder / VALIDATION_FILE).write_bytes(beside.read_bytes())
    with (folder / "told.txt").open("w") as told:
        result = learn(job, folder, lambda stage, message, fraction: print(message, file=told))
    result.write(folder)
    return result


def two_mega_batches(folder: Path) -> tuple[Path, Path]:
    """Return two mega-batches, the second with a class more."""
    images, labels = digits_like(700, 5, seed=3)
    first = labels < 4
    first[350:] = False
    second = ~first
    return (
        mega_batch(folder, "a", images[first], labels[first]),
        mega_batch(folder, "b", images[second], labels[second]),
    )


def after_both(
    folder: Path, first: Path, second: Path, then: dict[str, object] | None = None, **changes: object
) -> LearningResult:
    """Learn one after the other; `then`: what is different for the second."""
    run(folder / "first", [first], **changes)
    forgets = (then or {}).pop("forgets", False)
    existing = continued(folder / "first", BlobFiles(folder / "cache"))
    leaves = LearningResult.read(folder / "first").leaves
    paths = {leaf.leaf: leaf for leaf in leaves}
    existing = tuple(
        replace(
            leaf,
            shard=str(folder / "first" / paths[leaf.leaf].shard),
            memory=str(folder / "first" / paths[leaf.leaf].memory)
            if paths[leaf.leaf].memory and not forgets
            else "",
        )
        for leaf in existing
    )
    return run(
        folder / "second", [second], existing=existing, first_free_leaf=2, **{**changes, **(then or {})}
    )


def test_exact_sums_of_two_mega_batches_are_those_of_their_union_to_the_bit(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    result = after_both(tmp_path, first, second)
    union = run(tmp_path / "union", [first, second])
    _, added = contributed(tmp_path / "second")
    _, at_once = contributed(tmp_path / "union")
    (leaf,), (whole,) = result.leaves, union.leaves
    assert leaf.class_counts == whole.class_counts and leaf.parent_version == 1
    for name in ("gram", "rose.l1/columns"):
        assert added[name].dtype == at_once[name].dtype
        np.testing.assert_array_equal(added[name], at_once[name])
    assert result.contribution is not None and result.contribution.sums is not None
    assert result.contribution.sums.samples == sum(leaf.class_counts.values())
    assert added["rose.l1/prototype_counts"].sum() == sum(leaf.class_counts.values())
    kept = LeafSums.read(tmp_path / "second" / leaf.sums, len(added["rose.l1/columns"]))
    assert kept is not None and kept.f.samples == sum(leaf.class_counts.values())


def test_compact_sums_are_joined_and_the_expert_keeps_the_outputs_of_classes_that_are_away(
    tmp_path: Path,
) -> None:
    images, labels = digits_like(600, 4, seed=5)
    first = mega_batch(tmp_path / "data", "a", images[:300], labels[:300])
    only = np.isin(labels, (0, 1)) & (np.arange(600) >= 300)
    second = mega_batch(tmp_path / "data", "b", images[only], labels[only])
    result = after_both(tmp_path, first, second, sums="compact")
    (leaf,) = result.leaves
    assert leaf.class_names == ("0", "1", "2", "3")
    assert result.contribution is not None and result.contribution.sums is not None
    assert result.contribution.sums.form == "compact"
    counted = LearningResult.read(tmp_path / "first").leaves[0].class_counts
    assert leaf.class_counts["2"] == counted["2"] and leaf.class_counts["0"] > counted["0"]


def test_a_leafs_samples_of_all_mega_batches_are_found_again_where_they_came_from(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    (leaf,) = after_both(tmp_path, first, second).leaves
    source = ShardSource.read(tmp_path / "second" / leaf.shard)
    assert [Path(part.source).name for part in source.parts] == ["a.npz", "b.npz"]
    specification = make_specification(BlobFiles(tmp_path / "cache"), min_leaf_count=5)
    assert source.load(specification, "rose.l1").class_counts() == leaf.class_counts


def test_samples_of_a_class_with_fewer_than_five_wait_and_count_with_the_next_ones(tmp_path: Path) -> None:
    images, labels = digits_like(400, 4, seed=7)
    rare = np.flatnonzero(labels == 3)
    common = labels != 3
    data = tmp_path / "data"
    first_rows = np.sort(np.concatenate([np.flatnonzero(common[:200]), rare[:4]]))
    first = mega_batch(data, "a", images[first_rows], labels[first_rows])
    rest = np.setdiff1d(np.arange(400), first_rows)
    second = mega_batch(data, "b", images[rest], labels[rest])
    waiting = tmp_path / "first" / WAITING_FILE
    result = run(tmp_path / "first", [first])
    assert "3" not in result.leaves[0].class_counts
    held_back = Gathered.read(waiting)
    assert set(held_back.samples.class_names) == {"3"} and 1 <= len(held_back) < 5
    assert any("wait for more" in note for note in result.notes)
    existing = continued(tmp_path / "first", BlobFiles(tmp_path / "cache"))
    later = mega_batch(data, "again", images[rest], labels[rest])
    waiting.rename(data / "waiting.training.npz")
    after = run(
        tmp_path / "second", [data / "waiting.training.npz", later], existing=existing, first_free_leaf=2
    )
    union = run(tmp_path / "union", [first, second])
    assert after.leaves[0].class_counts == union.leaves[0].class_counts
    _, added = contributed(tmp_path / "second")
    _, at_once = contributed(tmp_path / "union")
    np.testing.assert_array_equal(added["gram"], at_once["gram"])


def test_too_few_samples_are_refused_and_stay_with_the_stream(tmp_path: Path) -> None:
    images, labels = digits_like(8, 4, seed=7)
    few = mega_batch(tmp_path / "data", "a", images, labels)
    with pytest.raises(InvalidInputError, match="too few of each class and leaf"):
        run(tmp_path / "job", [few])


def test_mega_batches_that_are_too_few_each_are_learned_together(tmp_path: Path) -> None:
    images, labels = digits_like(24, 3, seed=7)
    few = [
        mega_batch(tmp_path / "data", str(at), images[at : at + 4], labels[at : at + 4])
        for at in range(0, 24, 4)
    ]
    with pytest.raises(InvalidInputError, match="they wait; bring more"):
        run(tmp_path / "job", few[:1])
    result = run(tmp_path / "together", few)
    assert result.samples > 10 and len(result.leaves) == 1


@pytest.mark.parametrize("name", ["fine-tune", "replay", "ewc", "si", "lwf"])
def test_every_update_strategy_is_reachable_and_leaves_its_memory_to_the_owner_alone(
    tmp_path: Path, name: str
) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    (leaf,) = after_both(tmp_path, first, second, update=name).leaves
    file = tmp_path / "second" / leaf.memory
    assert file.stat().st_mode & 0o077 == 0
    memory = read_memory(file)
    assert memory is not None and memory.seen == sum(leaf.class_counts.values())


def test_replay_is_what_a_stream_does_unless_told(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    (leaf,) = after_both(tmp_path, first, second).leaves
    memory = read_memory(tmp_path / "second" / leaf.memory)
    assert memory is not None and memory.samples is not None and len(memory.samples) > 0


@pytest.mark.parametrize("name", ["replay", "ewc", "si", "lwf"])
def test_a_leaf_without_memory_remembers_by_the_samples_that_it_stands_for(tmp_path: Path, name: str) -> None:
    """As one that a split made, or that was trained without an update."""
    first, second = two_mega_batches(tmp_path / "data")
    (leaf,) = after_both(tmp_path, first, second, {"forgets": True}, update=name).leaves
    memory = read_memory(tmp_path / "second" / leaf.memory)
    assert memory is not None and memory.seen == sum(leaf.class_counts.values())
    if name == "replay":
        assert memory.samples is not None
        only_new = {row for row, known in enumerate(leaf.class_names) if known == "4"}
        assert set(memory.samples.labels.tolist()) > only_new
        assert memory.samples.weights is not None and memory.samples.weights.max() > 1
    else:
        assert name == "lwf" or memory.importance
    assert leaf.cost.train_flops > 0


@pytest.mark.parametrize("is_found", [True, False])
def test_by_its_samples_it_still_knows_what_the_next_mega_batch_shows_nothing_of(
    tmp_path: Path, is_found: bool
) -> None:
    images, labels = digits_like(900, 6, seed=11)
    old = mega_batch(tmp_path / "data", "old", images[labels < 4], labels[labels < 4])
    new = mega_batch(tmp_path / "data", "new", images[labels >= 4], labels[labels >= 4])
    run(tmp_path / "first", [old], steps=150)
    cache = BlobFiles(tmp_path / "cache")
    (existing,) = continued(tmp_path / "first", cache)
    (before,) = LearningResult.read(tmp_path / "first").leaves
    if is_found:
        existing = replace(existing, shard=str(tmp_path / "first" / before.shard))
    (leaf,) = run(tmp_path / "second", [new], existing=(existing,), first_free_leaf=2, steps=150).leaves
    net = build_net(leaf.net)
    load_net(net, leaf.modules, BlobFiles(tmp_path / "second" / "blobs").open_verified)
    known = Gathered.read(old).samples
    logits = net(torch.from_numpy(known.inputs).to(torch.float32) / 16)
    right = logits.argmax(dim=1).numpy() == known.labels_among(leaf.class_names)
    assert (right.mean() > 0.8) == is_found


def test_a_leaf_whose_samples_are_gone_learns_on_and_says_that_it_remembers_nothing(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    run(tmp_path / "probe", [first])
    source = first.with_name("a.npz")
    kept = source.read_bytes()
    images, labels = digits_like(700, 5, seed=99)
    (existing,) = continued(tmp_path / "probe", BlobFiles(tmp_path / "cache"))
    shard = tmp_path / "probe" / LearningResult.read(tmp_path / "probe").leaves[0].shard
    np.savez(source, x=images, y=labels)
    existing = replace(existing, shard=str(shard))
    (leaf,) = run(
        tmp_path / "second", [second], existing=(existing,), first_free_leaf=2, update="replay"
    ).leaves
    source.write_bytes(kept)
    memory = read_memory(tmp_path / "second" / leaf.memory)
    assert memory is not None and memory.seen < sum(leaf.class_counts.values())
    assert "rose.l1 remembers nothing of its samples: " in (tmp_path / "second" / "told.txt").read_text()


def test_a_leaf_keeps_its_net_unless_another_is_named(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    (leaf,) = after_both(tmp_path / "a", first, second, {"net": "", "default_net": "mlp:16x2"}).leaves
    assert leaf.net.factory == "mlp:8x1"
    (leaf,) = after_both(tmp_path / "b", first, second, {"net": "mlp:16x2"}).leaves
    assert leaf.net.factory == "mlp:16x2"


def test_leaves_without_sums_are_added_to_without_and_not_replaced(tmp_path: Path) -> None:
    first, second = two_mega_batches(tmp_path / "data")
    result = after_both(tmp_path / "a", first, second, {"sums": "auto"}, sums="none")
    union = run(tmp_path / "union", [first, second])
    assert result.leaves[0].class_counts == union.leaves[0].class_counts
    assert result.contribution is not None and result.contribution.sums is None
    assert any("goes on without sums" in note for note in result.notes)
    asked = after_both(tmp_path / "b", first, second, {"sums": "exact"}, sums="none")
    assert asked.contribution is not None and asked.contribution.sums is not None
    assert any("stands for its new samples alone" in note for note in asked.notes)


def test_joined_summaries_keep_counts_and_no_prototype_is_of_fewer_samples_than_before() -> None:
    rng = np.random.default_rng(0)
    old = summarise_leaf(rng.normal(size=(300, 6)), prototypes=8, seed=0)
    new = summarise_leaf(rng.normal(size=(200, 6)) + 9.0, prototypes=8, seed=0)
    both = joined_summary(old, new, prototypes=8)
    assert len(both.prototypes) == 8 and both.counts.sum() == 500
    mean = (both.prototypes * both.counts[:, None]).sum(axis=0)
    parts = (old.prototypes * old.counts[:, None]).sum(axis=0)
    parts = parts + (new.prototypes * new.counts[:, None]).sum(axis=0)
    np.testing.assert_allclose(mean, parts, rtol=1e-4)
    assert both.counts.min() >= min(old.counts.min(), new.counts.min())
    assert (np.diff(both.radii, axis=1) >= 0).all()
    # Nothing far apart was joined: the two clouds keep prototypes of their own.
    assert 0 < (both.prototypes.mean(axis=1) > 4.5).sum() < 8


def test_a_summary_that_has_room_for_all_prototypes_is_unchanged() -> None:
    rng = np.random.default_rng(0)
    old = summarise_leaf(rng.normal(size=(300, 6)), prototypes=4, seed=0)
    new = summarise_leaf(rng.normal(size=(200, 6)), prototypes=4, seed=0)
    both = joined_summary(old, new, prototypes=8)
    np.testing.assert_array_equal(both.prototypes, np.concatenate([old.prototypes, new.prototypes]))
    np.testing.assert_allclose(both.radii, np.concatenate([old.radii, new.radii]), rtol=1e-6)
