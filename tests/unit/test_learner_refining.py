"""Refining: what an expert adds to the root, trained on the node's own data, kept only where it helps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from node.jobs import LearningJob, LearningResult
from node.learning import learn
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.experts.nets import build_net
from swarm.experts.training import TrainSettings
from swarm.experts.weights import load_net
from swarm.gating.combinations import CORRECTED_CLASS_TEMPERATURE
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_arrays, unpack
from tests.support.learning import continued, digits_like, gate_of, make_job, make_specification

Report = Callable[[str, str, float], None]
GATE = "ab" * 32


class Killed(Exception):
    """Stands for a kill in the middle."""


def silent(stage: str, message: str, fraction: float) -> None:
    pass


def run(job: LearningJob, folder: Path, report: Report = silent) -> LearningResult:
    torch.set_num_threads(1)
    result = learn(job, folder, report)
    result.write(folder)
    return result


def plain_job(folder: Path, **order: object) -> LearningJob:
    """Run a plain training of digits and return its job."""
    specification = make_specification(BlobFiles(folder.parent / "cache"))
    fields = {"data": "digits", "steps": 100} | order
    job = make_job(folder, TrainOrder(**fields), specification=specification)  # type: ignore[arg-type]
    run(job, folder)
    return job


def refining_job(folder: Path, plain: Path, job: LearningJob, **order: object) -> LearningJob:
    """Return a job that refines what the plain one learned, against the gate of its own contribution."""
    cache = BlobFiles(folder.parent / "cache")
    fields = {"data": "digits", "steps": 200, "refine": True} | order
    return make_job(
        folder,
        TrainOrder(**fields),  # type: ignore[arg-type]
        specification=job.specification,
        existing=continued(plain, cache),
        gate=gate_of(plain, job.specification, cache),
        gate_digest=GATE,
    )


def test_a_correction_lowers_the_roots_validation_loss_and_leaves_the_expert_as_it_was(
    tmp_path: Path,
) -> None:
    plain = tmp_path / "plain"
    job = plain_job(plain)
    folder = tmp_path / "refined"
    result = run(refining_job(folder, plain, job), folder)
    (one,) = result.refined
    assert (result.leaves, result.contribution) == ((), None)
    correction = one.correction
    metrics = correction.metrics
    assert metrics["validation_nll"] < 0.8 * metrics["root_validation_nll"]
    assert metrics["validation_accuracy"] >= metrics["root_validation_accuracy"]
    assert (correction.base, correction.class_temperature) == (GATE, CORRECTED_CLASS_TEMPERATURE)
    assert correction.cost.train_flops > 0 and result.train_flops > correction.cost.train_flops
    assert result.sums_flops == 0 and not (folder / "validation.npz").exists()
    (before,) = LearningResult.read(plain).leaves
    assert one.leaf == before.leaf and dict(one.class_counts) == dict(before.class_counts)
    net = build_net(before.net)
    load_net(net, correction.modules, BlobFiles(folder / "blobs").open_verified)
    assert {module.digest for module in correction.modules}.isdisjoint(m.digest for m in before.modules)
    assert LearningResult.read(folder) == result


def test_killed_in_the_middle_refining_resumes_to_the_same_correction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A checkpoint at every evaluation, however fast this machine is.
    monkeypatch.setattr("node.expert_training.TrainSettings", partial(TrainSettings, checkpoint_every_s=0.0))
    plain = tmp_path / "plain"
    job = plain_job(plain)
    folders = [tmp_path / name for name in ("whole", "killed")]
    jobs = [refining_job(folder, plain, job, steps=400) for folder in folders]
    whole = run(jobs[0], folders[0])

    def kill(stage: str, message: str, fraction: float) -> None:
        if stage == "train" and (folders[1] / "leaf-1.checkpoint").exists():
            raise Killed

    with pytest.raises(Killed):
        run(jobs[1], folders[1], kill)
    said: list[str] = []
    resumed = run(jobs[1], folders[1], lambda stage, message, fraction: said.append(message))
    assert any("resumed" in message for message in said)
    assert resumed.refined[0].correction.modules == whole.refined[0].correction.modules
    assert resumed.refined[0].correction.metrics == whole.refined[0].correction.metrics


def test_a_correction_that_does_no_good_is_not_published_and_that_is_said(tmp_path: Path) -> None:
    images, labels = digits_like(400, 3)
    np.savez(tmp_path / "easy.npz", x=images, y=labels)
    plain, folder = tmp_path / "plain", tmp_path / "refined"
    job = plain_job(plain, data=str(tmp_path / "easy.npz"))
    refining = refining_job(folder, plain, job, data=str(tmp_path / "easy.npz"))
    # A root that is right and certain leaves nothing to add.
    gate, cache = refining.gate, BlobFiles(Path(refining.blob_folder))
    assert gate is not None
    certain = 1000 * unpack(gate.arrays, cache.open_verified)["weights"]
    entries, blobs = pack_arrays({"weights": certain})
    for blob in blobs.values():
        cache.put(blob)
    result = run(replace(refining, gate=replace(gate, arrays=entries)), folder)
    assert result.refined == () and result.listings == ()
    assert "would not lower the validation loss" in result.notes[0]


def test_a_dry_run_lists_the_correction_and_trains_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    job = plain_job(plain)
    folder = tmp_path / "refined"
    result = run(refining_job(folder, plain, job, dry_run=True), folder)
    sizes = {listing.what: listing.size_bytes for listing in result.listings}
    assert sizes["rose.l1 correction"] == 4 * (64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10)
    assert result.refined == () and BlobFiles(folder / "blobs").stats() == (0, 0)


def test_samples_go_to_the_nearest_leaf_and_unknown_classes_to_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    job = plain_job(plain)
    folder = tmp_path / "refined"
    refining = refining_job(folder, plain, job)
    (leaf,) = refining.existing
    far = tmp_path / "far.npz"
    with np.load(leaf.prototypes) as file:
        np.savez(far, **{**file, "prototypes": file["prototypes"] + 1000})
    other = replace(leaf, leaf="rose.l2", prototypes=str(far))  # type: ignore[arg-type]
    result = run(replace(refining, existing=(leaf, other)), folder)
    assert [one.leaf for one in result.refined] == ["rose.l1"]
    assert result.idle_leaves == ("rose.l2",)
    assert any("rose.l2 is not refined: 0 of" in note for note in result.notes)


def test_what_cannot_be_refined_is_said(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    job = plain_job(plain)
    folder = tmp_path / "refined"
    refining = refining_job(folder, plain, job)
    with pytest.raises(NotReadyError, match="no leaves"):
        learn(replace(refining, existing=()), folder, silent)
    with pytest.raises(NotReadyError, match="no gate yet"):
        learn(replace(refining, gate=None), folder, silent)
    assert refining.gate is not None
    with pytest.raises(NotReadyError, match="gate 7 without sums"):
        learn(replace(refining, gate=replace(refining.gate, arrays=())), folder, silent)


def test_a_net_without_a_linear_output_layer_cannot_be_refined(tmp_path: Path) -> None:
    (tmp_path / "own_odd_net.py").write_text(
        "import torch\n"
        "def factory(*, input_shape, classes):\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.Flatten(), torch.nn.Linear(64, classes), torch.nn.Sigmoid())\n"
    )
    plain = tmp_path / "plain"
    own = {"net": "own_odd_net:factory", "import_paths": (str(tmp_path),)}
    job = plain_job(plain, **own)
    folder = tmp_path / "refined"
    with pytest.raises(InvalidInputError, match="linear output layer"):
        run(refining_job(folder, plain, job, **own), folder)
