"""Who may have a blob: the registry, and nodes that serve what they hold."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from swarm.domain.ids import Digest
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
