"""IDX folders, the layout of MNIST: `train-images-idx3-ubyte[.gz]` and its companions."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, NotFoundError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIX = {"train": "train", "test": "t10k"}
_MAX_BYTES = 1 << 34
_AGAIN = "fetch the file again"
_LAYOUT = "IDX as in MNIST: two zero bytes, a type, a count of sizes, the sizes, the values"


def read_idx_folder(
    folder: Path, split: Literal["train", "test"]
) -> tuple[NDArray[np.generic], NDArray[np.generic], list[str] | None]:
    """Return (images, labels, class names or None) of one split; the other split's files are not opened.

    Names come from `class_names.txt`, one per line, where the folder has it. Raises NotFoundError for a
    missing file and InvalidInputError for a damaged one.
    """
    images, labels = map(read_idx, find_idx_files(folder, split))
    listing = folder / "class_names.txt"
    if not listing.is_file():
        return images, labels, None
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
    return images, labels, [line.strip() for line in lines if line.strip()]


def find_idx_files(folder: Path, split: Literal["train", "test"]) -> tuple[Path, Path]:
    """Return the files with a split's images and labels; NotFoundError for a missing one."""
    return _find(folder, f"{_PREFIX[split]}-images"), _find(folder, f"{_PREFIX[split]}-labels")


def read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array of one IDX file, gzipped (`.gz`) or not, in native byte order."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 5:
                begins = f"a file that begins {head.hex()}"
                raise InvalidInputError(str(path), found=begins, expected=_LAYOUT, remedy=_AGAIN)
            sizes = file.read(4 * head[3])
            shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
            dtype = np.dtype(_TYPES[head[2]])
            promised = math.prod(shape) * dtype.itemsize
            if len(shape) < head[3] or promised > _MAX_BYTES:
                sizes_found = f"sizes {list(shape)}"
                raise InvalidInputError(str(path), found=sizes_found, expected=_LAYOUT, remedy=_AGAIN)
            data = file.read(promised + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(
            str(path), found=f"damaged gzip data ({error})", expected=_LAYOUT, remedy=_AGAIN
        ) from error
    if len(data) != promised:
        raise InvalidInputError(
            str(path),
            found=f"{len(data)} bytes of values" if len(data) < promised else "more bytes than promised",
            expected=f"{promised} for {list(shape)}",
            remedy="the file is damaged; fetch it again",
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _find(folder: Path, stem: str) -> Path:
    digits = "3" if stem.endswith("images") else "1"
    names = [f"{stem}{dash}idx{digits}-ubyte{end}" for dash in ("-", ".") for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise NotFoundError(
        f"IDX folder {folder}",
        found=f"no {names[0]}[.gz]",
        expected="the four files of the MNIST layout",
        remedy="put the missing file there, or name the folder that holds all four",
    )
