"""Small trunks, specifications and jobs for tests of experts and training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from node.jobs import CONTRIBUTION_FILE, ExistingLeaf, LearningJob, LearningResult
from swarm.digests import digest_of
from swarm.domain.agent import TrainOrder
from swarm.domain.combination import Combination
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest, NodeId, SwarmId
from swarm.domain.specification import Specification
from swarm.experts.trunk import make_trunk
from swarm.gating.ridge import OwnerSums, solve
from swarm.gating.sums import CompactSums
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_arrays, unpack
from tests.support.forked_processes import run_process

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


def contributed(folder: Path) -> tuple[LearningResult, dict[str, np.ndarray]]:
    """Return a finished job's result and the arrays that its contribution holds, by name."""
    result = LearningResult.read(folder)
    assert result.contribution is not None
    entries = [
        entry
        for leaf in result.contribution.leaves
        for entry in (leaf.prototypes, leaf.prototype_counts, leaf.radii, leaf.columns)
        if entry is not None
    ]
    sums = result.contribution.sums
    blob = (folder / CONTRIBUTION_FILE).read_bytes()
    assert all(entry.blob == digest_of(blob) for entry in entries)
    return result, unpack([*entries, *(sums.tensors if sums else ())], lambda _: memoryview(blob))


def owner_sums(folder: Path, owner: str) -> OwnerSums:
    """Return a finished job's contribution as the solver takes it."""
    result, arrays = contributed(folder)
    assert result.contribution is not None and result.contribution.sums is not None
    compact = None
    if result.contribution.sums.form == "compact":
        compact = CompactSums.from_arrays(arrays)
    columns = [arrays[f"{leaf.leaf}/columns"] for leaf in result.contribution.leaves]
    return OwnerSums(
        owner=owner,
        samples=result.contribution.sums.samples,
        columns=np.concatenate(columns, axis=1).astype(np.int64),
        exact=arrays.get("gram"),
        compact=compact,
    )


def gate_of(folder: Path, specification: Specification, cache: BlobFiles) -> GateStatement:
    """Return the analytic gate over one finished job's contribution, its arrays in cache."""
    result, _ = contributed(folder)
    assert result.contribution is not None
    weights = solve([owner_sums(folder, "rose")], [100.0], specification.trunk.fixed_point)[0]
    entries, blobs = pack_arrays({"weights": weights.astype(np.float32)})
    for blob in blobs.values():
        cache.put(blob)
    none = Digest("0" * 64)
    return GateStatement(
        swarm=specification.swarm,
        version=7,
        kind="analytic",
        specification=none,
        trunk=specification.trunk.digest,
        contributions=(none,),
        leaves=tuple(
            GateLeaf(
                leaf=leaf.leaf,
                owner=NodeId("rose"),
                expert=leaf.expert,
                class_names=tuple(sorted(leaf.class_counts)),
                has_columns=True,
            )
            for leaf in result.contribution.leaves
        ),
        class_names=specification.class_names,
        combinations=(Combination(name="root"),),
        served=0,
        ridge=100.0,
        arrays=entries,
        evidence={},
        reason="a test",
        created_at=0.0,
    )


def continued(folder: Path, cache: BlobFiles) -> tuple[ExistingLeaf, ...]:
    """Return a finished job's leaves as the next job finds them, their weights in cache."""
    blobs = BlobFiles(folder / "blobs")
    for digest in blobs.digests():
        cache.put(blobs.open_verified(digest))
    return tuple(
        ExistingLeaf(
            leaf=leaf.leaf,
            version=1,
            net=leaf.net,
            class_names=leaf.class_names,
            modules=leaf.modules,
            prototypes=str(folder / leaf.summary),
            sums=str(folder / leaf.sums) if leaf.sums else "",
            class_counts=leaf.class_counts,
        )
        for leaf in LearningResult.read(folder).leaves
    )


def start_learner(folder: Path) -> "subprocess.Popen[str]":
    """Start the training process on a job's folder; closing its standard input asks it to stop."""
    return subprocess.Popen(
        [sys.executable, "-m", "node.learner", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def run_learner(folder: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Run the training process to its end; return exit code, the JSON lines it said, and standard error."""
    done = run_process("node.learner", str(folder), timeout_s=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def digits_like(count: int, classes: int, seed: int = 0, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images [count, 8, 8], easily told with little noise, and labels int64 [count]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    patterns = np.random.default_rng(99).integers(0, 17, size=(classes, 8, 8))
    images = np.clip(patterns[labels] + rng.normal(0, noise, size=(count, 8, 8)), 0, 16)
    return images.astype(np.uint8), labels
