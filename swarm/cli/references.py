"""How a command's user names an expert's version: one way for all commands."""

import re
from dataclasses import dataclass
from typing import Annotated

import typer

VersionName = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="An expert, as ada.e1, a version, as ada.e1@3, or a manifest's digest, all 64 digits.",
    ),
]
_VERSIONED = re.compile(r"(?P<expert>[a-z0-9-]+\.e[0-9]{1,6})(@(?P<version>[1-9][0-9]{0,8}))?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BEGINNING = re.compile(r"[0-9a-f]{6,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A version that was asked for: by manifest digest, or of an expert (`version` 0: its head)."""

    name: str
    version: int = 0

    @property
    def is_digest(self) -> bool:
        return _DIGEST.fullmatch(self.name) is not None


def reference(text: str) -> Reference:
    """Return what ID means. Raises UsageError for a text that can be neither expert, version nor digest."""
    from swarm.domain.errors import UsageError

    if _DIGEST.fullmatch(text):
        return Reference(name=text)
    if match := _VERSIONED.fullmatch(text):
        return Reference(name=match["expert"], version=int(match["version"] or 0))
    raise UsageError(
        f"expert {text[:80]}",
        found="the beginning of a digest" if _BEGINNING.fullmatch(text) else "no expert's id",
        expected="an expert as ada.e1, a version as ada.e1@3, or all 64 digits of a manifest's digest",
        remedy="list them: swarm experts; --json prints whole digests",
    )
