"""Who may have a blob: the registry, and nodes that serve what they hold."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from swarm.digests import digest_of
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.modules.outlines import Outline


class Holder(Protocol):
    """One source of blobs. Nothing that it says is believed."""

    @property
    def name(self) -> str:
        """For people: `registry at host:port`."""

    async def outline(self, blob: Digest) -> Outline:
        """Return what it says are the blob's blocks; NotFoundError where it does not have the blob."""

    def read(self, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]:
        """Yield so many of the blob's bytes from offset on; the whole blob where both are 0."""


def likeliest(expert: ExpertId, owner: NodeId, nodes: Iterable[NodeId]) -> tuple[NodeId, ...]:
    """Return the nodes, the likeliest to hold an expert first: its owner, then the others in the expert's own
    order (rendezvous hashing, Thaler & Ravishankar 1998), whose first ones stand in for it."""
    given = {*nodes}
    others = sorted(given - {owner})
    ranked = sorted(others, key=lambda node: digest_of(f"{expert} {node}".encode()), reverse=True)
    return (owner, *ranked) if owner in given else tuple(ranked)


class Holders:
    """The holders that blobs are fetched from; one that lied, or was late, is asked no more."""

    def __init__(self, holders: Iterable[Holder]) -> None:
        self._holders = list(holders)
        self.dropped: dict[str, str] = {}
        """Why each that is asked no more is not."""

    def all(self) -> tuple[Holder, ...]:
        """Return who is asked, the first one first."""
        return tuple(holder for holder in self._holders if holder.name not in self.dropped)

    def drop(self, holder: Holder, reason: str) -> None:
        """Ask this one no more."""
        self.dropped.setdefault(holder.name, reason)
