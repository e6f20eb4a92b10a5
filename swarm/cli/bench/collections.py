"""The collections of samples that the benchmarks deal out, from a folder that the user brings."""

import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.cli.bench.images import resized
from swarm.data.idx import read_idx_folder
from swarm.domain.errors import InvalidInputError, NotFoundError

SIDE = 28
SHAPES = {
    "mnist": (28, 28),
    "fashion-mnist": (28, 28),
    "cifar10_jpeg_subset.npz": (32, 32, 3),
    "usps.npz": (16, 16),
    "omniglot_small.npz": (28, 28),
}
"""An image of each collection."""
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
    """Return `folder/name`, a folder of IDX files; NotFoundError says what is missing, and where from.

    InvalidInputError names the file that is damaged, or what else the arrays are.
    """
    where = found_at(folder, name)
    images, labels, _ = read_idx_folder(where, "train")
    test_images, test_labels, _ = read_idx_folder(where, "test")
    return _collection(where, images, labels, test_images, test_labels)


@cache
def npz_collection(folder: Path, name: str, labels: str = "y") -> Collection:
    """Return `folder/name`, an archive; its labels are the arrays `<labels>_train` and `<labels>_test`.

    InvalidInputError for a file of another kind, a damaged one, and for other arrays.
    """
    path = found_at(folder, name)
    try:
        if not zipfile.is_zipfile(path):
            raise _unusable(path, "a file of another kind, or the beginning of one")
        with np.load(path, allow_pickle=False) as archive:
            keys = ("x_train", f"{labels}_train", "x_test", f"{labels}_test")
            x, y, test_x, test_y = (np.asarray(archive[key]) for key in keys)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError) as error:
        raise _unusable(path, f"damaged: {error}") from error
    return _collection(path, x, y, test_x, test_y)


def _collection(
    path: Path,
    inputs: NDArray[np.generic],
    labels: NDArray[np.generic],
    test_inputs: NDArray[np.generic],
    test_labels: NDArray[np.generic],
) -> Collection:
    """Return the collection of these arrays; InvalidInputError where they are no images with labels."""
    for images, numbers in ((inputs, labels), (test_inputs, test_labels)):
        fits = images.shape == (numbers.size, *SHAPES[path.name]) and numbers.shape == (numbers.size,)
        if not fits or not numbers.size or images.dtype != np.uint8 or numbers.dtype.kind not in "iuf":
            shown = " and ".join(f"{array.dtype} {list(array.shape)}" for array in (images, numbers))
            raise _unusable(path, f"arrays of {shown}")
    return Collection(
        name=path.name.partition(".")[0],
        inputs=inputs.astype(np.uint8),
        labels=labels.astype(np.int64),
        test_inputs=test_inputs.astype(np.uint8),
        test_labels=test_labels.astype(np.int64),
    )


def _unusable(path: Path, found: str) -> InvalidInputError:
    return InvalidInputError(
        f"benchmark data {path}",
        found=found,
        expected=f"{HOMES[path.name]}; images as uint8",
        remedy="fetch it again",
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
