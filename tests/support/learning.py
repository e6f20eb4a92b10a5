"""Small trunks, specifications and jobs for tests of experts and training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from node.jobs import LearningJob
from swarm.domain.agent import TrainOrder
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.specification import Specification
from swarm.experts.trunk import make_trunk
from swarm.modules.blobs import BlobFiles

ROOT = Path(__file__).resolve().parents[2]


def make_specification(
    cache: BlobFiles, *, shape: tuple[int, ...] = (8, 8), trunk: str = "randconv-sqrt:8", **changes: Any
) -> Specification:
    """Return a specification for digits whose trunk lies in cache."""
    reference, blobs = make_trunk(trunk, shape, scale=1 / 16, offset=0.0, seed=3)
    for blob in blobs.values():
        cache.put(blob)
    fields: dict[str, Any] = {
        "swarm": SwarmId("garden"), "version": 1, "input_shape": shape, "input_dtype": "uint8",
        "scale": 1 / 16, "offset": 0.0, "task": "classification", "class_names": tuple("0123456789"),
        "accept_new_classes": True, "trunk": reference, "min_leaf_count": 20, "max_leaves_per_owner": 4,
        "max_prototypes_per_leaf": 20,
    }  # fmt: skip
    return Specification(**(fields | changes))


def make_job(folder: Path, order: TrainOrder, **changes: Any) -> LearningJob:
    """Write a job into a new folder (the blobs beside it) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = BlobFiles(folder.parent / "cache")
    job = LearningJob(
        node=NodeId("rose"),
        order=order,
        specification=changes.pop("specification", None) or make_specification(cache),
        blob_folder=str(cache.folder),
        **changes,
    )
    job.write(folder)
    return job


def start_learner(folder: Path, stdin: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """Start the training process on a job's folder; closing its standard input asks it to stop."""
    return subprocess.Popen(
        [sys.executable, "-m", "node.learner", str(folder)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def run_learner(folder: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Run the training process to its end; return exit code, the JSON lines it said, and standard error."""
    process = start_learner(folder, subprocess.DEVNULL)
    try:
        lines, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return process.returncode, [json.loads(line) for line in lines.splitlines()], errors


def digits_like(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images [count, 8, 8] of easily told classes, and labels int64 [count]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    patterns = np.random.default_rng(99).integers(0, 17, size=(classes, 8, 8))
    images = np.clip(patterns[labels] + rng.normal(0, 2, size=(count, 8, 8)), 0, 16)
    return images.astype(np.uint8), labels
