"""Data by name: `digits`, an IDX folder, an .npz file, `package.module:dataset`.

Training and test samples are asked for separately; test samples are read by `load_test` and nowhere else.
"""

import importlib.util
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.data.dataset import Dataset, as_array, check_fits, make_dataset
from swarm.data.idx import find_idx_files, read_idx_folder
from swarm.data.npz import check_has_split, read_npz, save_npz
from swarm.data.user_code import call_dataset, check_takes_split, is_reference
from swarm.data.validation import split_validation
from swarm.domain.errors import InvalidInputError, NotFoundError

__all__ = [
    "Dataset",
    "check_fits",
    "check_has_test",
    "load_inputs",
    "load_test",
    "load_training",
    "make_dataset",
    "save_npz",
]

Split = Literal["train", "test"]
_KINDS = "digits, a folder of IDX files, a file.npz, or package.module:dataset"
_LOOK = "check the path: it counts from the folder that the command runs in"
_WRITE = "the inputs again: numpy.save(FILE, inputs)"
_DIGITS_SEED = 20
_ARRAY_FILES = (b"\x93NUMPY", b"PK\x03\x04")


def load_training(source: str, import_paths: Sequence[str] = (), min_classes: int = 2) -> Dataset:
    """Return the training samples of a source. Test files are not opened.

    Raises NotFoundError where there is no such source, InvalidInputError (naming the source and the fault)
    where its data cannot be learned from: no samples, fewer than min_classes, lengths that differ, NaN,
    absurd labels.
    """
    return _load(source, "train", import_paths, min_classes)


def load_test(source: str, import_paths: Sequence[str] = ()) -> Dataset:
    """Return the test samples of a source; the only place where test files are opened.

    Labels index this data set's own class_names: compare by name (`labels_among`). Raises NotFoundError where
    the source has no test samples.
    """
    return _load(source, "test", import_paths, 1)


def check_has_test(source: str, import_paths: Sequence[str] = ()) -> None:
    """Raise NotFoundError where a source has no test samples, without reading any."""
    path = Path(source).expanduser()
    if source == "digits":
        return
    if path.is_dir():
        find_idx_files(path, "test")
    elif path.is_file():
        check_has_split(path, "test")
    elif is_reference(source):
        check_takes_split(source, import_paths)


def load_inputs(path: str) -> NDArray[np.generic]:
    """Return the array of a .npy file, or `x` (else `x_test`, else the only array) of an .npz file."""
    file = Path(path)
    if not file.is_file():
        found = "a folder" if file.is_dir() else "no such file"
        raise NotFoundError(
            f"input {path}", found=found, expected="a .npy or .npz file", remedy=f"{_LOOK}, or write {_WRITE}"
        )
    try:
        with file.open("rb") as opened:
            if not opened.peek(6).startswith(_ARRAY_FILES):
                raise InvalidInputError(
                    f"input {path}",
                    found="a file of another kind",
                    expected="a .npy or .npz file",
                    remedy=f"write {_WRITE}",
                )
            loaded = np.load(opened, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                names = [name for name in ("x", "x_test", *loaded.files) if name in loaded.files]
                if not names or (names[0] not in {"x", "x_test"} and len(loaded.files) > 1):
                    raise InvalidInputError(
                        f"input {path}",
                        found=f"arrays {', '.join(loaded.files[:8]) or 'none'}",
                        expected="one named x",
                        remedy="write the file again: numpy.savez(FILE, x=inputs)",
                    )
                loaded = loaded[names[0]]
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InvalidInputError(
            f"input {path}",
            found=f"a file that cannot be read: {error}",
            expected="an array of numbers as .npy",
            remedy=f"write {_WRITE}",
        ) from error
    array = as_array(loaded, f"input {path}")
    if array.dtype.kind == "U":
        raise InvalidInputError(
            f"input {path}", found="an array of strings", expected="numbers", remedy=f"write {_WRITE}"
        )
    return array


def _load(source: str, split: Split, import_paths: Sequence[str], min_classes: int) -> Dataset:
    if source == "digits":
        return _digits(split)
    path = Path(source).expanduser()
    if path.is_dir():
        images, labels, names = read_idx_folder(path, split)
        return make_dataset(images, labels, names, name=source, min_classes=min_classes)
    if path.is_file():
        if path.suffix != ".npz":
            raise InvalidInputError(
                f"data {source}",
                found=f"a {path.suffix or 'nameless'} file",
                expected=_KINDS,
                remedy="write the samples as .npz: numpy.savez(FILE, x=inputs, y=labels)",
            )
        found = read_npz(path, split)
        return make_dataset(
            found["x"],
            found["y"],
            found.get("class_names"),
            name=source,
            scale=_scalar(found, "scale", source),
            offset=_scalar(found, "offset", source) or 0.0,
            min_classes=min_classes,
        )
    if is_reference(source):
        inputs, answers, class_names = call_dataset(source, split, import_paths)
        return make_dataset(inputs, answers, class_names, name=source, min_classes=min_classes)
    raise NotFoundError(f"data {source}", found="no such file or folder", expected=_KINDS, remedy=_LOOK)


def _digits(split: Split) -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 pixels 0..16; a fixed stratified fifth of them is the test set."""
    images, labels = _scikit_learns_digits()
    rows = split_validation(labels, 0.2, _DIGITS_SEED)[0 if split == "train" else 1]
    return make_dataset(images[rows], labels[rows], name="digits", scale=1 / 16, min_classes=2)


def _scikit_learns_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 [1797, 8, 8] and labels int64 [1797] from scikit-learn's own file of them, without
    its import, which takes longer than most of what commands do with them."""
    package = importlib.util.find_spec("sklearn")
    folders = (package.submodule_search_locations or []) if package else []
    for file in (Path(folder) / "datasets" / "data" / "digits.csv.gz" for folder in folders):
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
            return rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), rows[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def _scalar(found: dict[str, NDArray[np.generic]], key: str, source: str) -> float | None:
    if key not in found:
        return None
    value = found[key]
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise InvalidInputError(
            f"data {source}, {key}",
            found=f"{value.dtype} {list(value.shape)}",
            expected="a number",
            remedy=f"write the file again with one finite number as {key}, or without it",
        )
    return float(value.reshape(-1)[0])
