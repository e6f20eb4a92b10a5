"""A folder in which mega-batches arrive: which of its entries are complete, in which order to take them.

An entry is a file.npz or a folder of IDX files, of which only those count that a mega-batch is read from,
however much else lies there. It is complete once it has not changed for a while and can be opened; what is
renamed into place whole is taken after the same while. Nothing is changed or removed.
"""

import errno
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm.data.idx import find_idx_files
from swarm.digests import blake3
from swarm.domain.errors import NotFoundError
from swarm.domain.ids import Digest

SETTLE_S = 1.0
"""An entry has been written when nothing about it changed for so long."""
PATIENCE_S = 60.0
"""One that cannot be opened although nothing changed for so long is given up."""
_UNFINISHED = (".part", ".tmp", ".partial", ".crdownload", "~")
_READ_WITH = "class_names.txt"
_UNREADABLE = "-unreadable"
"""What an unreadable entry's signature ends in: permissions may change, and neither its size nor its time."""
_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An entry as it is now: `signature` changes when its size or time of change does. `fault` says why it
    can be no mega-batch, empty where it may be one."""

    path: Path
    signature: str
    fault: str = ""


class Watch:
    """Looks at a folder again and again. `clock` gives seconds."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float],
        *,
        settle_s: float = SETTLE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._folder, self._clock = folder, clock
        self._settle_s, self._patience_s = settle_s, patience_s
        self._seen: dict[Path, tuple[str, float]] = {}

    def look(self, is_known: Callable[[str, str], bool]) -> list[Arrival]:
        """Return the entries that are complete, or given up, by name; those not known by path and signature.

        A folder that is away for now has none.
        """
        now, found, seen = self._clock(), [], {}
        for path in _entries(self._folder):
            signature = signature_of(path)
            if not signature or is_known(str(path), signature):
                continue
            before, since = self._seen.get(path, ("", now))
            seen[path] = (signature, since if before == signature else now)
            quiet_s = now - seen[path][1]
            if quiet_s < self._settle_s:
                continue
            fault = _fault(path)
            if fault is None:
                found.append(Arrival(path=path, signature=signature))
            elif fault.is_final or quiet_s >= self._patience_s:
                signature += _UNREADABLE if fault.is_unreadable else ""
                if not is_known(str(path), signature):
                    found.append(Arrival(path=path, signature=signature, fault=fault.reason))
        self._seen = seen
        return found


def signature_of(path: Path) -> str:
    """Return what changes when an entry is written to; empty where it is gone. A link whose target cannot be
    had has that of itself."""
    try:
        files = _files_of(path)
    except OSError:
        files = []  # whether it is unreadable or gone its own state tells
    try:
        states = [(str(file.relative_to(path.parent)), file.stat()) for file in files or [path]]
        told = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
    except OSError:
        try:
            told = f"{path.name} -> {os.readlink(path)} {path.lstat().st_mtime_ns}"
        except OSError:  # gone, or no link
            return ""
    return blake3(os.fsencode(told)).hexdigest(16)


def content_digest(path: Path) -> Digest:
    """Return the blake3 of an entry's contents, whatever its own name is. OSError where it cannot be read."""
    hasher, files = blake3(), _files_of(path)
    if not files:
        raise FileNotFoundError(errno.ENOENT, "its files are gone", str(path))
    for file in files:
        if file != path:
            hasher.update(f"{file.relative_to(path)}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while part := opened.read(_BYTES):
                hasher.update(part)
    return Digest(hasher.hexdigest())


def _files_of(path: Path) -> list[Path]:
    """Return the files that a mega-batch is read from: of a folder a few, whatever else it holds."""
    if not path.is_dir():
        return [path]
    try:
        found = list(find_idx_files(path, "train"))
    except NotFoundError:
        return []
    names = path / _READ_WITH
    return sorted([*found, names] if names.is_file() else found)


def _entries(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    wanted = (name for name in names if not name.startswith(".") and not name.endswith(_UNFINISHED))
    return [folder / name for name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """Why an entry is no mega-batch now. `is_final`: it can never be one as it is."""

    reason: str
    is_final: bool = False
    is_unreadable: bool = False


def _fault(path: Path) -> _Fault | None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return _Fault(reason="a name that is not UTF-8", is_final=True)
    try:
        if path.is_symlink() and not path.exists():
            return _Fault(reason="a link to what is not there")
        if path.is_dir():
            find_idx_files(path, "train")
        elif not path.is_file():
            return _Fault(reason="neither a regular file nor a folder of IDX files", is_final=True)
        elif path.suffix != ".npz":
            kind = f"a {path.suffix or 'nameless'} file"
            return _Fault(reason=f"{kind}, neither .npz nor a folder of IDX files", is_final=True)
        for file in _files_of(path):
            with file.open("rb") as opened:
                opened.read(1)
        if path.is_file() and not zipfile.is_zipfile(path):
            return _Fault(reason="the beginning of an .npz file, or a file of another kind")
    except NotFoundError as error:
        return _Fault(reason=str(error))
    except OSError as error:
        return _Fault(reason=f"cannot be read: {error.strerror or error}", is_unreadable=True)
    return None
