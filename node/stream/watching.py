"""A folder in which mega-batches arrive: which of its entries are complete, in which order to take them.

An entry is a file.npz or a folder of IDX files. It is complete once it has not changed for a while and can be
opened; what is renamed into place whole is taken after the same while. Nothing is changed or removed.
"""

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
            fault, is_final = _fault(path)
            if not fault or is_final or quiet_s >= self._patience_s:
                found.append(Arrival(path=path, signature=signature, fault=fault))
        self._seen = seen
        return found


def signature_of(path: Path) -> str:
    """Return what changes when an entry is written to; empty where it is gone."""
    try:
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        states = [(str(file.relative_to(path.parent)), file.stat()) for file in files]
    except OSError:
        return ""
    told = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
    return blake3(told.encode()).hexdigest(16) if states else ""


def content_digest(path: Path) -> Digest:
    """Return the blake3 of an entry's contents, whatever its own name is."""
    hasher = blake3()
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    for file in files:
        if file != path:
            hasher.update(f"{file.relative_to(path)}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while part := opened.read(_BYTES):
                hasher.update(part)
    return Digest(hasher.hexdigest())


def _entries(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    wanted = (name for name in names if not name.startswith(".") and not name.endswith(_UNFINISHED))
    return [folder / name for name in wanted]


def _fault(path: Path) -> tuple[str, bool]:
    """Return why an entry is no mega-batch now, empty where it may be one; and whether it can never be."""
    try:
        if path.is_dir():
            find_idx_files(path, "train")
        elif path.suffix != ".npz":
            return f"a {path.suffix or 'nameless'} file, neither .npz nor a folder of IDX files", True
        elif not zipfile.is_zipfile(path):
            return "the beginning of an .npz file, or a file of another kind", False
    except NotFoundError as error:
        return str(error), False
    except OSError as error:
        return f"cannot be read: {error.strerror or error}", False
    return "", False
