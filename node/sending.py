"""How a version's weights leave this node: large ones from a process that steps back for answers.

A core that is busy sending 512 MiB makes a query that needs it wait for it; a process of its own can be nicer
than the one that answers. Starting one takes as long as sending a few MiB, so small blobs go from here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.children import Child
from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest
from swarm.domain.inference import SocketBytes
from swarm.domain.problems import Problem
from swarm.modules.blobs import BlobFiles
from swarm.rpc.clients import RegistryClient

ASIDE_FROM_BYTES: Final = 32 << 20


class BlobSending:
    """Sends blobs of a cache to the registry.

    `identity` is the identity's folder, `address` the registry's; `log` takes what the sending process has to
    say. Blobs of `aside_from_bytes` and more go from that process.
    """

    def __init__(
        self,
        registry: RegistryClient,
        cache: BlobFiles,
        *,
        identity: Path,
        address: str,
        log: Path,
        aside_from_bytes: int = ASIDE_FROM_BYTES,
    ) -> None:
        self._registry, self._cache = registry, cache
        self._identity, self._address, self._log = identity, address, log
        self._aside_from = aside_from_bytes
        self._sent = self._received = 0

    @property
    def socket_bytes(self) -> SocketBytes:
        """TCP bytes of the sending processes so far."""
        return SocketBytes(sent=self._sent, received=self._received)

    async def publish_blob(
        self, blob: Digest, data: memoryview, on_bytes: Callable[[int], None] = lambda count: None
    ) -> None:
        """Send one blob, as `RegistryClient.publish_blob` does. Raises what that raises, and SwarmError where
        the sending process ended before it was done."""
        if len(data) < self._aside_from:
            await self._registry.publish_blob(blob, data, on_bytes)
            return
        arguments = [str(self._identity), self._address, str(self._cache.folder), blob]
        child = await Child.start("node.blob_sender", arguments, log=self._log)
        try:
            async for said in child.lines():
                if "sent" in said:
                    on_bytes(said["sent"])
                elif "sockets" in said:
                    sent, received = said["sockets"]
                    self._sent, self._received = self._sent + sent, self._received + received
                elif "problem" in said:
                    raise Problem(**said["problem"]).as_error()
            status, words = await child.wait(), child.last_words()
        finally:
            await child.stop()
        if status:
            raise SwarmError(
                f"sending blob {blob[:12]}",
                found=f"its process ended with {status}{f' ({words})' if words else ''}",
                expected="0",
                remedy=f"it is sent again, from where it stopped; {self._log} may say why",
            )
