"""The backup's file: a tar of the founder's home, without what can be made again, and Redis as JSON lines."""

import base64
import gzip
import io
import json
import os
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from coordinator.bearer_tokens import as_revoked
from swarm.cli.blob_places import PLACE_FILE
from swarm.config import SwarmHome
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, VerificationError
from swarm.domain.ids import SwarmId, swarm_id

Row = tuple[bytes, bytes, int]
SCHEMA = "swarm.backup/1"
_PARTS = ("ca", "coordinator", "registry", "operator", "swarm.toml")
_BLOBS = PurePosixPath("registry/blobs")
_BEARERS = PurePosixPath("coordinator/bearer-tokens")
_ABOUT, _REDIS = "backup.json", "redis.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a file of `swarm backup` holds: `blobs` says whether the weights are in it, `bearers_revoked` how
    many bearer tokens were unpacked as revoked ones."""

    swarm: SwarmId
    rows: Sequence[Row]
    blobs: bool
    bearers_revoked: int = 0


def write_archive(
    file: Path,
    home: SwarmHome,
    swarm: SwarmId,
    rows: Sequence[Row],
    *,
    with_blobs: bool,
    blob_folder: Path | None = None,
) -> None:
    """Write the home and Redis's rows to file (0600), entirely or not at all.

    `blob_folder`: where the blobs lie if not in the home; in the file they are where a home has them.
    """
    about = {"schema": SCHEMA, "swarm": swarm, "created_at": time.time(), "blobs": with_blobs}
    lines = [
        json.dumps([base64.b64encode(key).decode(), base64.b64encode(payload).decode(), ttl_ms])
        for key, payload, ttl_ms in rows
    ]
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
                _add(archive, _ABOUT, json.dumps(about).encode())
                _add(archive, _REDIS, "\n".join(lines).encode())
                blobs = blob_folder or home.registry / "blobs"
                files: list[tuple[Path, PurePath]] = [
                    (path, path.relative_to(home.root)) for path in _files(home, blobs)
                ]
                if with_blobs:
                    files += [(path, _BLOBS / path.relative_to(blobs)) for path in _whole_blobs(blobs)]
                for path, name in files:
                    with suppress(FileNotFoundError):  # superseded since it was listed
                        archive.add(path, arcname=name.as_posix(), recursive=False)
            raw.flush()
            os.fsync(raw.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def read_archive(file: Path, home: SwarmHome, *, bearer_tokens: bool = False) -> Backup:
    """Unpack a backup into an empty home; return what else it holds.

    Bearer tokens are unpacked as revoked ones, for which of them were revoked since is told nowhere;
    `bearer_tokens`: as they were.

    Raises ConflictError where home has something already, InvalidInputError for another kind of file,
    VerificationError for a damaged one. Only plain files below the known folders are written.
    """
    if any((home.root / part).exists() for part in _PARTS):
        raise ConflictError(
            f"home {home.root}",
            found="a swarm already",
            expected="an empty folder",
            remedy="choose another: --home DIR",
        )
    try:
        _check_whole(file)
        with tarfile.open(file) as archive:
            found = {member.name: member for member in archive.getmembers()}
            about = _about(archive, found, file)
            rows = _rows(archive, found)
            revoked = 0
            for name in found.keys() - {_ABOUT, _REDIS}:
                is_bearer = PurePosixPath(name).parent == _BEARERS and not bearer_tokens
                revoked += _unpack(archive, found[name], home.root, as_revoked if is_bearer else None)
    except FileNotFoundError:
        raise NotFoundError(str(file), found="no such file", expected="a file of swarm backup") from None
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise VerificationError(
            str(file), found=f"{type(error).__name__}: {error}", expected="a whole file of swarm backup"
        ) from error
    return Backup(
        swarm=swarm_id(str(about["swarm"])),
        rows=rows,
        blobs=bool(about.get("blobs", True)),
        bearers_revoked=revoked,
    )


def _check_whole(file: Path) -> None:
    """Read a file to its checksum, which tarfile does not do: raises OSError, EOFError or zlib.error."""
    with gzip.open(file) as whole:
        while whole.read(1 << 20):
            pass


def _files(home: SwarmHome, blobs: Path) -> list[Path]:
    """Return the files to keep, blobs apart: none that is being written, none of a solution under way."""
    found = [path for part in _PARTS if (path := home.root / part).is_file()]
    skipped = {
        home.coordinator / "solver",
        home.registry / "blobs",
        home.registry / "blob-copies",
        home.registry / PLACE_FILE,  # of this machine; the next start writes it again
        home.operator / "cache",
        home.operator / "cache.lock",
        home.operator / "client",
        blobs,
    }
    for part in _PARTS:
        for folder, folders, names in os.walk(home.root / part):
            folders[:] = [name for name in folders if Path(folder, name) not in skipped]
            found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path not in skipped and path.is_file())


def _whole_blobs(folder: Path) -> list[Path]:
    """Return the files of a folder of blobs that are no transfer's under way."""
    found = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name != "incoming" and entry.is_dir():
            found += [path for path in entry.iterdir() if not path.name.startswith(".")]
    return sorted(found)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> bytes:
    stream = archive.extractfile(member) if member is not None and member.isreg() else None
    if stream is None:
        raise InvalidInputError("backup", found=f"no {name}", expected="a file of swarm backup")
    return stream.read()


def _about(archive: tarfile.TarFile, found: dict[str, tarfile.TarInfo], file: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(_content(archive, found.get(_ABOUT), _ABOUT))
    if about.get("schema") != SCHEMA:
        raise InvalidInputError(str(file), found=f"schema {about.get('schema')!r}", expected=SCHEMA)
    return about


def _rows(archive: tarfile.TarFile, found: dict[str, tarfile.TarInfo]) -> list[Row]:
    lines = _content(archive, found.get(_REDIS), _REDIS).decode().splitlines()
    parsed = [json.loads(line) for line in lines]
    return [(base64.b64decode(key), base64.b64decode(payload), int(ttl)) for key, payload, ttl in parsed]


def _unpack(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    root: Path,
    changed: Callable[[bytes], bytes | None] | None,
) -> bool:
    """Write an entry as a file, `changed` where that says so; return whether it did."""
    name = PurePosixPath(member.name)
    if not member.isreg() or name.is_absolute() or ".." in name.parts or name.parts[0] not in _PARTS:
        raise InvalidInputError("backup", found=f"an entry {member.name!r}", expected="files of a home")
    target = root.joinpath(*name.parts)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in reversed(target.relative_to(root).parents[:-1]):
        (root / folder).mkdir(exist_ok=True, mode=0o700)
    content = _content(archive, member, member.name)
    other = changed(content) if changed is not None else None
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content if other is None else other)
    return other is not None
