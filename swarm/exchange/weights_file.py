"""An expert's weights as one safetensors file, and that file back as the blobs of its manifest.

Tensors have the names of the net's state dict. Nothing is copied on the way out; on the way in the file's own
digests count for nothing: every blob and module is checked against the manifest.
"""

import mmap
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from swarm.digests import verify_digest
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.tensors import DTYPE_BYTES, ModuleEntry, TensorEntry, state_name
from swarm.modules.packing import ReadBlob, check_module, unpack

DTYPE_CODES: Final[Mapping[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_MOST_PADDING: Final = 64
"""Between two tensors that lie in one blob (`swarm.modules.packing`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a file; `data` maps its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A safetensors file: its tensors by name and its metadata."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def write_weights(
    path: Path, modules: Sequence[ModuleEntry], read: ReadBlob, metadata: Mapping[str, str]
) -> None:
    """Write modules' tensors, bytes as `read` returns them, into a safetensors file, readable as the umask
    says.

    Raises VerificationError where two tensors would have one name.
    """
    _by_name(modules)
    arrays = {
        state_name(module.name, entry.name): (entry, array)
        for module in modules
        for entry, array in zip(module.tensors, unpack(module.tensors, read).values(), strict=True)
    }
    specs = {
        name: TensorSpec(
            dtype=entry.dtype, shape=list(entry.shape), data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, (entry, array) in arrays.items()
    }
    is_new = not path.exists()
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        serialize_file(specs, path, metadata=dict(metadata))
    except BaseException:
        if is_new:
            path.unlink(missing_ok=True)
        raise
    path.chmod(mode)  # the library makes a private file


def read_weights(path: Path) -> WeightsFile:
    """Return what a safetensors file holds, its bytes mapped.

    Raises NotFoundError where it is missing and VerificationError where it is none.
    """
    try:
        with safe_open(path, framework="np") as opened:
            names = opened.offset_keys()
            slices = {name: opened.get_slice(name) for name in names}
            kinds = {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
            metadata = dict(opened.metadata() or {})
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(str(path), found="no such file", expected="a safetensors file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise VerificationError(
            str(path), found=f"no safetensors file ({str(error)[:120]})", expected="one as it was exported"
        ) from error
    start = 8 + int.from_bytes(view[:8], "little")
    tensors = {}
    for name in names:
        code, shape = kinds[name]
        if code not in DTYPE_CODES:
            raise VerificationError(
                f"{path}, tensor {name[:80]}", found=f"dtype {code}", expected=", ".join(DTYPE_CODES)
            )
        size = DTYPE_BYTES[DTYPE_CODES[code]]
        for side in shape:
            size *= side
        tensors[name] = StoredTensor(dtype=DTYPE_CODES[code], shape=shape, data=view[start : start + size])
        start += size
    return WeightsFile(path=path, tensors=tensors, metadata=metadata)


def blobs_of(modules: Sequence[ModuleEntry], file: WeightsFile) -> dict[Digest, memoryview]:
    """Return the blobs that hold modules' tensors, made of a file's, every blob and module checked.

    Raises VerificationError, naming the file and what of it is not what the manifest says.
    """
    wanted = _by_name(modules)
    absent, unknown = wanted.keys() - file.tensors.keys(), file.tensors.keys() - wanted.keys()
    if absent or unknown:
        name = min(absent or unknown)[:80]
        raise VerificationError(
            f"{file.path}, tensor {name}",
            found="none of that name" if absent else "one that the manifest does not name",
            expected=f"the {len(wanted)} tensors of the manifest",
        )
    try:
        blobs = {blob: _assembled(blob, named, file) for blob, named in _by_blob(wanted).items()}
        for module in modules:
            check_module(module, lambda blob: blobs[blob])
    except VerificationError as error:
        raise VerificationError(
            f"{file.path}, {error.subject}",
            found=error.found,
            expected=error.expected,
            remedy="the file was damaged or changed and is not used; get it again from who exported it",
        ) from error
    return blobs


def _by_name(modules: Sequence[ModuleEntry]) -> dict[str, TensorEntry]:
    found: dict[str, TensorEntry] = {}
    for module in modules:
        for entry in module.tensors:
            name = state_name(module.name, entry.name)
            if name in found:
                raise VerificationError(
                    f"tensor {name[:80]}", found="its name twice", expected="distinct names in the state dict"
                )
            found[name] = entry
    return found


def _by_blob(entries: Mapping[str, TensorEntry]) -> dict[Digest, dict[str, TensorEntry]]:
    found: dict[Digest, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        found.setdefault(entry.blob, {})[name] = entry
    return found


def _assembled(blob: Digest, entries: Mapping[str, TensorEntry], file: WeightsFile) -> memoryview:
    """Return a blob put together from a file's tensors, what lies between them zero."""
    for name, entry in entries.items():
        stored = file.tensors[name]
        if (stored.dtype, stored.shape) != (entry.dtype, entry.shape):
            raise VerificationError(
                f"tensor {name[:80]}",
                found=f"{stored.dtype} {list(stored.shape)}",
                expected=f"{entry.dtype} {list(entry.shape)}",
            )
    size = max(entry.offset + entry.size_bytes for entry in entries.values())
    if size > sum(entry.size_bytes + _MOST_PADDING for entry in entries.values()):
        raise VerificationError(
            f"blob {blob[:12]}", found=f"{size} bytes", expected="little more than its tensors' own"
        )
    if len(entries) == 1 and size == next(iter(entries.values())).size_bytes:
        data = file.tensors[next(iter(entries))].data
    else:
        whole = bytearray(size)
        for name, entry in entries.items():
            whole[entry.offset : entry.offset + entry.size_bytes] = file.tensors[name].data
        data = memoryview(bytes(whole))
    verify_digest(data, blob, "blob")
    return data
