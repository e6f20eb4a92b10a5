"""What this node gives of its cache to other members: weights of experts that are in the gate and are shared.

The registry decides what may leave by its tombstones, which a node does not see. A node sees gates: what was
withdrawn is in none from then on. So it gives only blobs of a manifest that it holds, of an expert that its
newest gate has, shared as `borrow` or `public`; and none that any serve-only manifest here names too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.errors import NotAuthorisedError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.inference import Listing
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.modules.blobs import BlobFiles
from swarm.modules.outlines import Outline, Outlines, chunks_of
from swarm.trust.keyring import Keyring
from swarm.trust.statements import read_statement

_log = structlog.get_logger(__name__)


class Holdings:
    """Implements `swarm.rpc.ports.HolderPort` over a node's home."""

    def __init__(
        self,
        home: NodeHome,
        keyring: Keyring,
        outbound: OutboundLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gate_file, self._keyring = home.state / "gate.json", keyring
        self._folders = (home.state / "manifests", home.cache / "manifests")
        self._cache, self._outbound, self._clock = BlobFiles(home.cache), outbound, clock
        self._manifests: dict[Path, Manifest | None] = {}
        self._outlines = Outlines()

    async def fetch(self, caller: Caller, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]:
        """Yield so many of a blob's bytes (0: all) from offset on, after a line in the outbound log.

        Raises NotAuthorisedError for a blob that this node does not give, NotFoundError for one that is not
        here any more, VerificationError for damaged bytes, InvalidInputError for bytes beyond its end.
        """
        manifest, view = await asyncio.to_thread(self._opened, caller, blob)
        line = Listing(
            what="blob",
            detail=f"weights of {manifest.expert}@{manifest.version}, from byte {offset}",
            size_bytes=length or len(view) - offset,
            recipient=f"{caller.role} {caller.id}",
            at=self._clock(),
            digest=blob,
        )
        chunks = chunks_of(view, blob, offset, length)
        for number, chunk in enumerate(chunks):
            if not number:
                await asyncio.to_thread(self._outbound.record, [line])
            yield chunk

    async def outline(self, caller: Caller, blob: Digest) -> Outline:
        """Return the digests of a blob's blocks; raises what `fetch` does."""
        _, view = await asyncio.to_thread(self._opened, caller, blob)
        return await asyncio.to_thread(self._outlines.of, blob, view)

    def _opened(self, caller: Caller, blob: Digest) -> tuple[Manifest, memoryview]:
        experts = self._experts_in_gate()
        users = [manifest for manifest in self._held() if blob in manifest.blobs()]
        shared = [manifest for manifest in users if manifest.expert in experts]
        if not shared or any(manifest.share == "serve-only" for manifest in users):
            raise NotAuthorisedError(
                f"blob {blob[:12]}",
                found="none of a shared expert that this node holds and its gate has",
                expected="weights that their owner shares",
                remedy="fetch it from the registry",
            )
        return shared[0], self._cache.open_verified(blob)

    def _experts_in_gate(self) -> set[ExpertId]:
        try:
            gate = self._keyring.open(self._gate_file.read_bytes(), GateStatement).value
        except FileNotFoundError:
            return set()
        return {leaf.expert for leaf in gate.leaves if not self._keyring.is_revoked(leaf.owner)}

    def _held(self) -> list[Manifest]:
        files = [file for folder in self._folders for file in folder.glob("*.json")]
        for file in files:
            if file not in self._manifests:
                self._manifests[file] = _read(file)
        return [found for file in files if (found := self._manifests[file]) is not None]


def _read(file: Path) -> Manifest | None:
    try:
        return read_statement(file.read_bytes(), Manifest).value
    except (SwarmError, FileNotFoundError) as error:
        _log.warning("manifest.not_used", file=file.name, because=str(error))
        return None
