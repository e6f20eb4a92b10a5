"""What comes back to a registry that lost its store or its blobs, and what is missing still."""

from dataclasses import dataclass

from swarm.domain.ids import Digest, NodeId


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
