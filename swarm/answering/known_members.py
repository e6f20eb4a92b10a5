"""Who is in a swarm as a member knows it, verified and on disk: enough to ask a node that routes.

The specification and the revocation list are signed, and verified here; where a node listens is what the
coordinator says over mutual TLS.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from swarm.answering.kept_statements import KeptStatements
from swarm.domain.errors import NotReadyError, SwarmError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity
from swarm.trust.statements import Statement

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class KnownMembers:
    """`refresh_members` brings it up to date; what is known stays while the coordinator does not answer."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Take up what is kept in folder; what does not verify is left out."""
        self._kept = KeptStatements(folder)
        self.keyring = identity.keyring()
        self._specification: Specification | None = None
        self.nodes: dict[NodeId, str] = {
            NodeId(name): address for name, address in self._kept.table("nodes").items()
        }
        """Where nodes listen, `host:port`; those that do not are absent."""
        take_kept(self.keyring.set_revocations, self._kept.envelope("revocations"))
        specification = take_kept(self._open_specification, self._kept.envelope("specification"))
        if specification is not None:
            self._specification = specification.value

    def specification(self) -> Specification:
        """Return the newest specification; NotReadyError before the first."""
        if self._specification is None:
            raise NotReadyError("specification", found="none yet", expected="one from the coordinator")
        return self._specification

    async def refresh_members(self, coordinator: CoordinatorClient) -> None:
        """Ask who is revoked, and where nodes listen."""
        revocations = await coordinator.revocations()
        if revocations:
            self.keyring.set_revocations(revocations)
            await asyncio.to_thread(self._kept.keep, "revocations", revocations)
        nodes = dict(self.nodes)
        for view in (await coordinator.status()).nodes:
            if view.advertise and not view.revoked:
                nodes[view.id] = view.advertise
            elif view.alive or view.revoked:  # of others the coordinator may not know yet where they listen
                nodes.pop(view.id, None)
        self.nodes = nodes
        await asyncio.to_thread(self._kept.keep_table, "nodes", nodes.items())

    async def take_specification(self, envelope: bytes) -> None:
        """Take up a specification; VerificationError if the coordinator did not sign it, or its trunk is
        another than the one that was loaded here."""
        found, known = self._open_specification(envelope).value, self._specification
        if known is not None and found.version < known.version:
            return
        if known is not None and found.trunk.digest != known.trunk.digest:
            raise VerificationError(
                f"specification {found.version}",
                found=f"trunk {found.trunk.digest[:12]}",
                expected=f"trunk {known.trunk.digest[:12]}, as before",
                remedy="forget what is kept of this swarm and begin anew",
            )
        self._specification = found
        await asyncio.to_thread(self._kept.keep, "specification", envelope)

    def _open_specification(self, envelope: bytes) -> Statement[Specification]:
        return self.keyring.open(envelope, Specification)


def take_kept(take: Callable[[bytes], T], envelope: bytes) -> T | None:
    """Return what a kept envelope says; None where there is none, or it does not verify."""
    try:
        return take(envelope) if envelope else None
    except SwarmError as error:
        _log.warning("state.not_used", because=str(error))
        return None
