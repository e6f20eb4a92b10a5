"""Where a registry's blobs lie: what its setting says, and what the registry that ran last wrote down."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from swarm.config import SwarmHome
from swarm.domain.errors import NotFoundError, UsageError

PLACE_FILE = "blob-place.json"
_log = structlog.get_logger(__name__)
_CORRECT = "correct --blobs, SWARM_REGISTRY_BLOBS, or registry_blobs in swarm.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPlace:
    """A folder of blobs; with `url`, `s3://BUCKET/PREFIX`, they lie there, and `folder` is the home's own."""

    folder: Path
    url: str = ""

    @property
    def name(self) -> str:
        return self.url or str(self.folder)


def blob_place(setting: str, home: SwarmHome) -> BlobPlace:
    """Return the place that a setting names; a folder that is not absolute lies in the home.

    Raises UsageError for a url that is not `s3://`.
    """
    own = home.registry / "blobs"
    scheme, is_url, _ = setting.partition("://")
    if not is_url:
        return BlobPlace(folder=home.root / Path(setting).expanduser() if setting else own)
    if scheme != "s3":
        raise UsageError(
            "setting registry_blobs",
            found=f"a {scheme[:20]}:// address",
            expected="s3://BUCKET/PREFIX or a folder",
            remedy=_CORRECT,
        )
    return BlobPlace(folder=own, url=setting)


def from_here(flag: str | None) -> str | None:
    """Return a flag's folder absolute, as the shell's other paths are; a url as it is."""
    return flag if not flag or "://" in flag else str(Path(flag).expanduser().absolute())


def check_usable(place: BlobPlace) -> None:
    """Make the folder of a place that is one; UsageError where it cannot be made or written to."""
    if place.url:
        return
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"{type(error).__name__}: {error.strerror}"
    else:
        if os.access(place.folder, os.R_OK | os.W_OK | os.X_OK):
            return
        found = "no permission to write there"
    raise UsageError(
        f"the blobs' folder {place.folder}", found=found, expected="a folder to write to", remedy=_CORRECT
    )


def note_place(home: SwarmHome, place: BlobPlace) -> None:
    """Write down where the registry of this home has its blobs, for `swarm backup`. A disk that takes nothing
    is logged: a registry that gives what it has is worth more."""
    if noted_place(home) == place:
        return
    file = home.registry / PLACE_FILE
    draft = file.with_suffix(".new")
    try:
        draft.write_text(json.dumps({"folder": str(place.folder), "url": place.url}))
        draft.replace(file)
    except OSError as error:
        _log.warning("blob_place.not_noted", file=str(file), reason=str(error))


def noted_place(home: SwarmHome) -> BlobPlace | None:
    """Return where the registry that ran last had its blobs, None where none wrote it down."""
    try:
        kept = json.loads((home.registry / PLACE_FILE).read_text())
        return BlobPlace(folder=Path(kept["folder"]), url=str(kept["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_place(home: SwarmHome, setting: str) -> BlobPlace:
    """Return where the blobs lie: as the setting says, else as noted, else in the home."""
    return blob_place(setting, home) if setting else noted_place(home) or blob_place("", home)


def check_here(place: BlobPlace, home: SwarmHome) -> None:
    """Raise NotFoundError for a folder outside the home that is not on this machine."""
    if place.url or place.folder == home.registry / "blobs" or place.folder.is_dir():
        return
    raise NotFoundError(
        f"the blobs' folder {place.folder}",
        found="no such folder on this machine",
        expected="the folder that the registry has its blobs in",
        remedy="name it as it is called here: SWARM_REGISTRY_BLOBS; or leave the weights out: --no-blobs",
    )
