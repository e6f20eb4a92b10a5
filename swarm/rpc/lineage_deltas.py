"""A version's blobs as deltas to those of the versions that it came from."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.modules.blobs import BlobFiles
from swarm.modules.deltas import DeltaParent, delta_parents
from swarm.rpc.clients import RegistryClient
from swarm.rpc.delta_client import DeltaClient

_MOST_ANCESTORS: Final = 8
_SMALLEST_BYTES: Final = 16 << 10
"""Below this another round trip is not worth what a delta saves."""

_log = structlog.get_logger(__name__)

Bases = Mapping[Digest, DeltaParent]


class LineageDeltas:
    """Sends and fetches what it can as deltas.

    `manifest` returns a version by its manifest's digest, verified; where it raises a SwarmError, there are
    no deltas to that version.
    """

    def __init__(
        self,
        registry: RegistryClient,
        cache: BlobFiles,
        manifest: Callable[[Digest], Awaitable[Manifest]],
    ) -> None:
        self._registry, self._cache, self._manifest = registry, cache, manifest
        self._client = DeltaClient(registry.connection, cache)

    async def bases(self, manifest: Manifest, *, in_registry: bool) -> Bases:
        """Return for each blob the blob in the cache that it can be a delta to, of the nearest ancestor that
        has one; `in_registry`: the registry must have it, too."""
        found: dict[Digest, DeltaParent] = {}
        seen, ahead = set[Digest](), [parent.manifest for parent in manifest.parents]
        while ahead and len(seen) < _MOST_ANCESTORS:
            digest = ahead.pop(0)
            if digest in seen:
                continue
            seen.add(digest)
            try:
                ancestor = await self._manifest(digest)
            except SwarmError as error:
                _log.info("delta.no_ancestor", manifest=digest, reason=str(error))
                continue
            ahead += [parent.manifest for parent in ancestor.parents]
            for blob, base in _pairs(manifest, ancestor).items():
                if blob not in found and self._serves(base.blob):
                    found[blob] = base
        if in_registry and found:
            # Unclaimed: no commit of this version would end a claim on what it is a delta to.
            lacking = await self._registry.missing([base.blob for base in found.values()], claim=False)
            found = {blob: base for blob, base in found.items() if base.blob not in lacking}
        return found

    def _serves(self, blob: Digest) -> bool:
        return self._cache.has(blob) and self._cache.size(blob) >= _SMALLEST_BYTES

    async def publish(self, blob: Digest, data: memoryview, base: DeltaParent) -> bool:
        """Send one blob as a delta to a base; False where it has to be sent whole."""
        return await self._client.publish(blob, data, base)

    async def fetch(
        self, manifest: Manifest, on_bytes: Callable[[int], None] = lambda count: None
    ) -> dict[Digest, int]:
        """Bring into the cache what comes as a delta; return those blobs, each with the bytes that its delta
        took. The rest is left to be fetched whole. `on_bytes` is told the blobs' own bytes as they come."""
        absent = set(await asyncio.to_thread(self._cache.missing, manifest.blobs()))
        found: dict[Digest, int] = {}
        if not absent:
            return found
        for blob, base in (await self.bases(manifest, in_registry=False)).items():
            if blob in absent:
                size = self._cache.size(base.blob)
                if sent := await self._client.fetch_into(blob, size, base, on_bytes):
                    found[blob] = sent
        return found


def _pairs(child: Manifest, ancestor: Manifest) -> Bases:
    pairs = dict(delta_parents(child.modules, ancestor.modules))
    if child.correction is not None and ancestor.correction is not None:
        pairs |= delta_parents(child.correction.modules, ancestor.correction.modules)
    return pairs
