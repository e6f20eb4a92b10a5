"""A contribution of its own that a node keeps no more and the gate has: back from the coordinator."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.growth.kept import KeptContributions
from swarm.digests import blake3
from swarm.domain.contributions import Contribution
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest
from swarm.trust.identity import Identity
from swarm.trust.statements import open_statement

_BLOCK = 1 << 20


class ContributionSource(Protocol):
    """What is asked of the coordinator (`swarm.rpc.clients.CoordinatorClient`)."""

    async def contribution(self, digest: Digest, into: Path) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnContributions:
    """Brings back what this node signed once: `swarm gate rollback` may lead to any of its contributions.
    `scratch` is a file on the disk of `kept`."""

    identity: Identity
    kept: KeptContributions
    coordinator: ContributionSource
    scratch: Path

    async def provide(self, digest: str) -> None:
        """Make sure that a contribution of this node is kept here (empty: there is none).

        Raises NotFoundError where the coordinator has none of that digest either, VerificationError where
        what it gives is another one or was damaged, and UnreachableError.
        """
        if not digest or self.kept.find(digest) is not None:
            return
        self.scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            envelope = await self.coordinator.contribution(Digest(digest), self.scratch)
            await asyncio.to_thread(self._check, digest, envelope)
            self.kept.put(envelope, self.scratch)
        finally:
            self.scratch.unlink(missing_ok=True)

    def _check(self, digest: str, envelope: bytes) -> None:
        """Raise VerificationError unless it is the contribution of that digest and its arrays. Syncs."""
        signer = self.identity.required_signer()
        found = open_statement(envelope, Contribution, signer.public_hex)
        leaves = found.value.leaves
        wanted, hasher = (leaves[0].prototypes.blob if leaves else ""), blake3()
        with self.scratch.open("rb") as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
            os.fsync(file.fileno())
        if found.digest != digest or hasher.hexdigest() != wanted:
            raise VerificationError(
                f"contribution {digest[:12]}",
                found=f"{found.digest[:12]} with arrays {hasher.hexdigest()[:12]}",
                expected=f"itself, with arrays {wanted[:12]}",
                remedy="train once more: swarm train DATA",
            )
