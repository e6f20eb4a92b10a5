"""The collections of samples that the benchmarks deal out, from a folder that the user brings."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.cli.bench.images import resized
from swarm.data.idx import read_idx_folder
from swarm.domain.errors import InvalidInputError, NotFoundError

SIDE = 28
HOMES = {
    "mnist": "the IDX files of MNIST, http://yann.lecun.com/exdb/mnist",
    "fashion-mnist": "the IDX files of https://github.com/zalandoresearch/fashion-mnist",
    "cifar10_jpeg_subset.npz": "CIFAR-10 as x_train, y_train, x_test, y_test [N, 32, 32, 3],"
    " https://www.cs.toronto.edu/~kriz/cifar.html",
    "usps.npz": "the zip codes of https://hastie.su.domains/ElemStatLearn as x_train, y_train, x_test,"
    " y_test [N, 16, 16]",
    "omniglot_small.npz": "the small background sets of https://github.com/brendenlake/omniglot as x_train,"
    " a_train (alphabet), x_test, a_test [N, 28, 28]",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collection:
    """Raw inputs uint8 and class numbers int64, training and test apart."""

    name: str
    inputs: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


@cache
def idx_collection(folder: Path, name: str) -> Collection:
    """Return `folder/name`, a folder of IDX files; NotFoundError says what is missing, and where from."""
    where = found_at(folder, name)
    images, labels, _ = read_idx_folder(where, "train")
    test_images, test_labels, _ = read_idx_folder(where, "test")
    return Collection(
        name=name,
        inputs=images.astype(np.uint8),
        labels=labels.astype(np.int64),
        test_inputs=test_images.astype(np.uint8),
        test_labels=test_labels.astype(np.int64),
    )


@cache
def npz_collection(folder: Path, name: str, labels: str = "y") -> Collection:
    """Return `folder/name`, an archive; its labels are the arrays `<labels>_train` and `<labels>_test`."""
    path = found_at(folder, name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = [archive[key] for key in ("x_train", f"{labels}_train", "x_test", f"{labels}_test")]
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInputError(str(path), found=str(error), expected=HOMES[name]) from error
    return Collection(
        name=name.partition(".")[0],
        inputs=found[0].astype(np.uint8),
        labels=found[1].astype(np.int64),
        test_inputs=found[2].astype(np.uint8),
        test_labels=found[3].astype(np.int64),
    )


def grey_28(collection: Collection) -> Collection:
    """Return a collection of grey images as 28x28."""
    return Collection(
        name=collection.name,
        inputs=resized(collection.inputs, SIDE),
        labels=collection.labels,
        test_inputs=resized(collection.test_inputs, SIDE),
        test_labels=collection.test_labels,
    )


def found_at(folder: Path, name: str) -> Path:
    """Return where a collection lies; NotFoundError says what is missing, and where it comes from."""
    path = folder / name
    if not path.exists():
        raise NotFoundError(
            f"benchmark data {path}",
            found="no such file or folder",
            expected=HOMES[name],
            remedy="put it there, or name the folder that holds it: --data-dir DIR",
        )
    return path
