"""The training process on a job's folder: results, privacy, resumption after a kill, clear problems."""

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from node import learner
from node.jobs import ExistingLeaf, LearningResult
from node.shards import match_leaves
from swarm.domain.agent import TrainOrder
from swarm.domain.ids import LeafId
from swarm.experts.nets import build_net
from swarm.experts.weights import load_net
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_job, make_specification, run_learner, start_learner

OWN_CODE = """
import numpy as np
import torch


class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.memory = torch.nn.LSTM(8, 16, batch_first=True)
        self.head = torch.nn.Linear(16, classes)

    def forward(self, rows):
        return self.head(self.memory(rows)[0][:, -1])


def factory(*, input_shape, classes):
    print("growing a net")
    return Net(classes)


def dataset():
    print("reading plants")
    labels = np.arange(120) % 3
    images = np.random.default_rng(0).integers(0, 5, (120, 8, 8)) + 5 * labels[:, None, None]
    return images.astype(np.uint8), labels, ["fern", "moss", "rush"]
"""


def test_a_job_leaves_experts_summaries_and_its_own_validation_samples(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job = make_job(folder, TrainOrder(data="digits", steps=300, seed=1))
    code, lines, errors = run_learner(folder)
    assert code == 0, errors
    assert [line["stage"] for line in lines][-1] == "done"
    assert list(dict.fromkeys(line["stage"] for line in lines)) == [
        "data",
        "features",
        "clusters",
        "sums",
        "train",
        "done",
    ]
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    result = LearningResult.read(folder)
    (leaf,) = result.leaves
    assert (leaf.leaf, leaf.parent_version) == ("rose.l1", 0)
    assert sum(leaf.class_counts.values()) == result.samples
    assert set(leaf.class_counts) == set(leaf.class_names) == set("0123456789")
    assert leaf.metrics["validation_accuracy"] > 0.8
    assert leaf.metrics["validation_samples"] == result.validation_samples
    assert result.features_flops > 0 and result.clustering_flops > 0
    forward = 2 * (64 * 128 + 128 * 128 + 128 * 10) + 256
    assert leaf.cost.inference_flops == forward
    assert leaf.cost.samples_seen == 64 * leaf.metrics["steps"]
    assert leaf.cost.train_flops > 3 * forward * leaf.cost.samples_seen
    with np.load(folder / leaf.summary, allow_pickle=False) as summary:
        assert 1 <= len(summary["prototypes"]) <= job.specification.max_prototypes_per_leaf
        assert summary["prototypes"].shape[1] == job.specification.trunk.feature_size
        assert summary["prototype_counts"].sum() == result.samples
        assert summary["radii"].shape == (len(summary["prototypes"]), 3)
    with np.load(folder / "validation.npz", allow_pickle=False) as validation:
        assert validation["inputs"].shape == (result.validation_samples, 8, 8)
        assert validation["inputs"].dtype == np.uint8
        assert set(validation["labels"].tolist()) == set("0123456789")
    assert not (folder / "validation.npz").stat().st_mode & 0o077
    net = build_net(leaf.net)
    load_net(net, leaf.modules, BlobFiles(folder / "blobs").open_verified)
    assert {listing.recipient for listing in result.listings} == {"coordinator", "registry"}


def test_a_dry_run_lists_what_would_leave_and_trains_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    make_job(folder, TrainOrder(data="digits", dry_run=True))
    code, lines, errors = run_learner(folder)
    assert code == 0, errors
    assert "train" not in [line["stage"] for line in lines]
    result = LearningResult.read(folder)
    assert result.dry_run
    assert result.leaves[0].modules == ()
    assert BlobFiles(folder / "blobs").stats() == (0, 0)
    sizes = {listing.what: listing.size_bytes for listing in result.listings}
    assert sizes["rose.l1 weights"] == 4 * (64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10)
    assert sizes["rose.l1 prototypes"] > 0


@pytest.mark.chaos
def test_killed_in_the_middle_it_resumes_to_the_same_result(tmp_path: Path) -> None:
    order = TrainOrder(data="digits", steps=900, net="cnn:8x8", seed=2)
    specification = make_specification(BlobFiles(tmp_path / "cache"))
    for name in ("whole", "killed"):
        make_job(tmp_path / name, order, specification=specification)
    process = start_learner(tmp_path / "killed")
    try:
        checkpoint = tmp_path / "killed" / "leaf-1.checkpoint"
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.communicate(timeout=30)
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "result.json").exists()
    code, lines, errors = run_learner(tmp_path / "killed")
    assert code == 0, errors
    assert any("resumed" in line["message"] for line in lines)
    assert run_learner(tmp_path / "whole")[0] == 0
    (whole,), (resumed,) = (LearningResult.read(tmp_path / name).leaves for name in ("whole", "killed"))
    assert whole.modules == resumed.modules
    assert whole.metrics == resumed.metrics
    assert whole.cost.train_flops == resumed.cost.train_flops
    summaries = [np.load(tmp_path / name / whole.summary)["prototypes"] for name in ("whole", "killed")]
    np.testing.assert_array_equal(*summaries)


def test_training_again_continues_the_nodes_leaves(tmp_path: Path) -> None:
    first = tmp_path / "first"
    job = make_job(first, TrainOrder(data="digits", steps=200, seed=1))
    assert run_learner(first)[0] == 0
    (leaf,) = LearningResult.read(first).leaves
    cache, trained = BlobFiles(Path(job.blob_folder)), BlobFiles(first / "blobs")
    for blob in trained.digests():
        cache.put(trained.open_verified(blob))
    existing = ExistingLeaf(
        leaf=leaf.leaf, version=4, net=leaf.net, class_names=leaf.class_names, modules=leaf.modules,
        prototypes=str(first / leaf.summary),
    )  # fmt: skip
    second = tmp_path / "second"
    order = TrainOrder(data="digits", steps=1, seed=1)
    make_job(second, order, specification=job.specification, existing=(existing,), first_free_leaf=2)
    code, lines, errors = run_learner(second)
    assert code == 0, errors
    assert any("continues version 4" in line["message"] for line in lines)
    (again,) = LearningResult.read(second).leaves
    assert (again.leaf, again.parent_version) == (leaf.leaf, 4)
    assert again.metrics["validation_accuracy"] > 0.8


def test_peoples_own_net_and_data_are_trained_and_may_print(tmp_path: Path) -> None:
    (tmp_path / "own_plants.py").write_text(OWN_CODE)
    folder = tmp_path / "job"
    paths = (str(tmp_path),)
    order = TrainOrder(data="own_plants:dataset", net="own_plants:factory", steps=60, import_paths=paths)
    make_job(folder, order)
    code, lines, errors = run_learner(folder)
    assert code == 0, errors
    assert lines[-1]["stage"] == "done"
    (leaf,) = LearningResult.read(folder).leaves
    assert set(leaf.class_names) == {"fern", "moss", "rush"}
    assert leaf.net.factory == "own_plants:factory" and len(leaf.net.code_digest) == 64
    assert [module.name for module in leaf.modules] == ["memory", "head"]
    assert leaf.cost.inference_flops == 8 * (2 * 4 * 16 * (8 + 16) + 13 * 16) + 2 * 16 * 3
    assert "growing" in errors


def test_separate_clusters_continue_the_nearest_leaves_and_new_ones_get_new_leaves(tmp_path: Path) -> None:
    leaves = []
    for number, place in ((1, 0.0), (2, 10.0)):
        np.savez(tmp_path / f"{number}.npz", prototypes=np.full((3, 4), place, dtype=np.float32))
        leaves.append(leaf_at(number, str(tmp_path / f"{number}.npz")))
    centres = np.array([[50.0] * 4, [9.0] * 4, [1.0] * 4], dtype=np.float32)
    assert match_leaves(centres, leaves) == [None, leaves[1], leaves[0]]
    lost = [leaf_at(1, ""), leaves[1]]
    assert match_leaves(centres[1:], lost) == [leaves[1], lost[0]]
    assert match_leaves(centres, []) == [None, None, None]


def leaf_at(number: int, prototypes: str) -> ExistingLeaf:
    from swarm.experts.nets import net_reference

    return ExistingLeaf(
        leaf=LeafId(f"rose.l{number}"), version=1, net=net_reference("linear", (8, 8), 2),
        class_names=("a", "b"), modules=(), prototypes=prototypes,
    )  # fmt: skip


def npz(folder: Path, **arrays: object) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def run_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[dict[str, Any]]]:
    """Run the training process's work within this one; return exit code and the JSON lines it said."""
    said, threads = io.StringIO(), torch.get_num_threads()
    monkeypatch.setattr(learner, "_said", said)
    try:
        code = learner.main([str(folder)])
    finally:
        torch.set_num_threads(threads)
    return code, [json.loads(line) for line in said.getvalue().splitlines()]


@pytest.mark.parametrize(
    "case", ["missing", "one class", "wrong shape", "few", "no net", "bad net", "seed", "no job"]
)
def test_what_cannot_be_done_is_said_and_ends_with_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    folder = tmp_path / "job"
    pixels, labels = np.zeros((100, 8, 8), np.uint8), np.arange(100) % 2
    data, net = "digits", ""
    if case == "missing":
        data = str(tmp_path / "nowhere.npz")
    elif case == "one class":
        data = npz(tmp_path, x=pixels, y=labels * 0)
    elif case == "wrong shape":
        data = npz(tmp_path, x=np.zeros((100, 9, 8), np.uint8), y=labels)
    elif case == "few":
        data = npz(tmp_path, x=pixels[:20], y=labels[:20])
    elif case == "no net":
        net = "no_such_module:factory"
    elif case == "bad net":
        net = "mlp:wide"
    make_job(folder, TrainOrder(data=data, net=net, steps=10, seed=-1 if case == "seed" else 0))
    if case == "no job":
        (folder / "job.json").write_text('{"order": 3}')
    # One of them in a process of its own shows that the code and the problem get out of it.
    code, lines, *_ = run_learner(folder) if case == "wrong shape" else run_here(folder, monkeypatch)
    assert code == 2
    problem = lines[-1]["problem"]
    assert set(problem) == {"code", "subject", "found", "expected", "remedy"}
    assert problem["found"]
    assert not (folder / "result.json").exists()


def test_asked_to_stop_it_goes_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    make_job(folder, TrainOrder(data="digits", budget_s=60.0))
    process = start_learner(folder)
    assert process.stdout is not None and process.stdin is not None
    try:
        for line in process.stdout:
            if json.loads(line)["stage"] == "train":
                break
        process.stdin.close()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        errors = process.stderr.read() if process.stderr else ""
        process.stdout.close()
    assert errors == ""
    assert not (folder / "result.json").exists()
