"""Data in one .npz file: `x_train y_train [x_test y_test] [class_names]`, or `x y`. Nothing is unpickled."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError, NotFoundError

_KEYS = "x_train, y_train and, for tests, x_test, y_test; or x, y; class_names, scale, offset if you like"


def read_npz(path: Path, split: Literal["train", "test"]) -> dict[str, NDArray[np.generic]]:
    """Return `x`, `y` and, where present, `class_names`, `scale`, `offset` of one split, nothing else."""
    try:
        if not zipfile.is_zipfile(path):
            raise InvalidInputError(
                str(path),
                found="a file of another kind, or the beginning of one",
                expected=f"an .npz file with {_KEYS}",
                remedy="write the file again, with numpy.savez",
            )
        with np.load(path, allow_pickle=False) as archive:
            members = set(archive.files)
            pair = _arrays_of(split, members, path)
            extras = [name for name in ("class_names", "scale", "offset") if name in members]
            wanted = dict(zip(("x", "y", *extras), (*pair, *extras), strict=True))
            return {key: archive[name] for key, name in wanted.items()}
    except ValueError as error:
        raise InvalidInputError(
            str(path),
            found=f"an array that cannot be read: {error}",
            expected="plain arrays of numbers or strings",
            remedy="write the file again, with numpy.savez and no Python objects",
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        raise InvalidInputError(
            str(path),
            found=f"damaged: {error}",
            expected=f"an .npz file with {_KEYS}",
            remedy="write the file again",
        ) from error


def check_has_split(path: Path, split: Literal["train", "test"]) -> None:
    """Raise as `read_npz` does where the file has no arrays of a split; no array is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        members = set(read_npz(path, split))  # says what is wrong with the file
    _arrays_of(split, members, path)


def _arrays_of(split: Literal["train", "test"], members: set[str], path: Path) -> tuple[str, str]:
    """Return the names of a split's inputs and labels among an archive's members."""
    pair = (f"x_{split}", f"y_{split}")
    if split == "train" and not members & {"x_train", "y_train"}:
        pair = ("x", "y")
    missing = [name for name in pair if name not in members]
    if missing and split == "test":
        raise NotFoundError(
            f"test samples of {path}",
            found=f"no {missing[0]}",
            expected=_KEYS,
            remedy="add x_test and y_test",
        )
    if missing:
        found = ", ".join(sorted(members)[:8]) or "nothing"
        raise InvalidInputError(
            str(path),
            found=f"arrays {found}; no {missing[0]}",
            expected=_KEYS,
            remedy="write the file again: numpy.savez(FILE, x=inputs, y=labels)",
        )
    return pair


def save_npz(path: Path, training: Dataset, test: Dataset | None = None) -> None:
    """Write training (and test) samples so that `load_training` and `load_test` return them; atomic."""
    names = training.class_names
    arrays: dict[str, NDArray[np.generic]] = {"x_train": training.inputs, "y_train": training.labels}
    if test is not None:
        names = (*names, *(name for name in test.class_names if name not in names))
        arrays |= {"x_test": test.inputs, "y_test": test.labels_among(names)}
    arrays["class_names"] = np.array(names, dtype=np.str_)
    arrays |= {"scale": np.array([training.scale]), "offset": np.array([training.offset])}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
