"""What comes back to a registry that lost its store or its blobs, and what is missing still."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarm.domain.ids import Digest, NodeId

MOST_AT_ONCE: Final = 1000
MOST_BYTES_AT_ONCE: Final = 16 << 20
"""So many signed manifests, and bytes of them, are offered in one call; a single one is smaller."""


def in_parts(envelopes: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return signed manifests, oldest first, in parts for one call each, the part with the newest first:
    older versions are taken below a head alone. None at all are one empty part."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for envelope in envelopes:
        size += len(envelope)
        if parts[-1] and (size > MOST_BYTES_AT_ONCE or len(parts[-1]) == MOST_AT_ONCE):
            parts.append([])
            size = len(envelope)
        parts[-1].append(envelope)
    return list(reversed(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtBack:
    """What became of the versions that an owner offered: those that the registry had lost, those that it
    refused and why, and the blobs of the others that it lacks."""

    restored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    missing_blobs: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerCame:
    """An owner that has offered its versions since the rebuild began, how many of them the registry took, and
    how many lacking blobs came."""

    owner: NodeId
    offered: int
    restored: int
    blobs: int = 0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingPiece:
    """What nobody has brought yet: a version's manifest, or a blob of it, and who owns it."""

    owner: NodeId
    version: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """How a rebuild stands: what there is, what the journal put back, who has come, what is missing.

    `journal_damaged`: so many lines of the journal could not be read.
    """

    heads: int
    manifests: int
    blobs: int
    from_journal: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    came: tuple[OwnerCame, ...] = ()
    missing: tuple[MissingPiece, ...] = ()
    journal_damaged: int = 0
