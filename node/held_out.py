"""The node's validation samples as a file: they gather over a stream, as many as there is room for."""

import zipfile
from pathlib import Path

import numpy as np

from node.array_files import save_arrays
from node.durable import link_durably
from swarm.data.dataset import Dataset
from swarm.data.reservoir import reservoir
from swarm.digests import digest_of
from swarm.domain.errors import VerificationError

MOST_HELD_OUT = 10_000
"""So many validation samples of a stream are kept: a uniform choice among all that were held out."""


def write_validation(path: Path, samples: Dataset, seen: int) -> None:
    """Keep validation samples with the name of each one's class; seen: how many they were chosen from."""
    names = np.array(samples.class_names, dtype=np.str_)[samples.labels]
    save_arrays(path, {"inputs": samples.inputs, "labels": names, "seen": np.array(seen)})


def read_validation(path: Path) -> Dataset:
    """Return the validation samples in a file; VerificationError where there are none that can be read."""
    return _read(path)[0]


def validated_classes(path: Path, like: Dataset) -> frozenset[str]:
    """Return the classes that the validation samples in a file are of; none where there is no file, or where
    its samples are of another shape or dtype than `like`."""
    if not path.exists():
        return frozenset()
    kept, _ = _read(path)
    is_alike = kept.inputs.dtype == like.inputs.dtype and kept.input_shape == like.input_shape
    return frozenset(kept.class_names) if is_alike else frozenset()


def validation_with(path: Path, new: Dataset, seed: int) -> tuple[Dataset, int]:
    """Return the samples in a file (if there is one) and new ones together, and how many they stand for.

    At most MOST_HELD_OUT, each of all that came with the same probability. Source: Vitter 1985.
    """
    if not path.exists():
        old, seen = new.subset(np.arange(0)), 0
    else:
        old, seen = _read(path)
    if len(old) and (old.inputs.dtype != new.inputs.dtype or old.input_shape != new.input_shape):
        old, seen = new.subset(np.arange(0)), 0  # of another specification
    names = tuple(dict.fromkeys((*old.class_names, *new.class_names)))
    both = Dataset(
        inputs=np.concatenate([old.inputs, new.inputs]),
        labels=np.concatenate([old.labels_among(names), new.labels_among(names)]),
        class_names=names,
        name="validation",
    )
    return both.subset(reservoir(len(old), seen, len(new), MOST_HELD_OUT, seed)), seen + len(new)


def digest_in(path: Path) -> str:
    """Return the digest of a file's content; empty where there is none."""
    return str(digest_of(path.read_bytes())) if path.exists() else ""


def link_validation(found: Path, state: Path, own: Path, before: str, seed: int) -> None:
    """Let the file `state` have the validation samples in the file `found`: those in `own`, and what was in
    `state` when it had the digest `before`.

    Where another training has replaced that meanwhile, `found` becomes what is there now and `own`. Doing it
    again, after a crash anywhere in it, changes nothing.
    """
    now = digest_in(state)
    if own.exists() and now not in (before, digest_in(found)):
        write_validation(found, *validation_with(state, read_validation(own), seed))
    link_durably(found, state)


def _read(path: Path) -> tuple[Dataset, int]:
    try:
        with np.load(path, allow_pickle=False) as file:
            inputs, names = file["inputs"], file["labels"]
            seen = int(file["seen"]) if "seen" in file.files else len(names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(
            str(path),
            found=f"no readable validation samples ({error})",
            expected="inputs and labels",
            remedy="train again: swarm train DATA",
        ) from error
    class_names, labels = np.unique(names, return_inverse=True)
    samples = Dataset(
        inputs=inputs,
        labels=labels.astype(np.int64),
        class_names=tuple(map(str, class_names.tolist())),
        name="validation",
    )
    return samples, seen
