"""The registry's service. Blob bytes travel raw, in messages of 1 MiB."""

from collections.abc import AsyncIterator, Mapping

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, digest, node_id
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.callers import current_caller
from swarm.rpc.convert.scalars import digests, expert_id
from swarm.rpc.interceptors import Behaviour, Context
from swarm.rpc.options import CHUNK_BYTES, DELTA_PARENT_KEY, DIGEST_KEY, OFFSET_KEY, SIZE_KEY
from swarm.rpc.pb import registry_pb2, types_pb2
from swarm.rpc.ports import RegistryPort
from swarm.rpc.server import Service

_MOST_DIGITS = 18
"""Of a size: what has more is no number of bytes, and beyond 4300 none that Python reads."""


class _Registry:
    def __init__(self, port: RegistryPort) -> None:
        self._port = port

    async def missing(
        self, request: registry_pb2.MissingRequest, context: Context
    ) -> registry_pb2.MissingReply:
        missing = await self._port.missing(
            digests(request.digests), current_caller(), claims=not request.unclaimed
        )
        return registry_pb2.MissingReply(digests=missing)

    async def publish(self, chunks: AsyncIterator[bytes], context: Context) -> registry_pb2.PublishReply:
        told = _told(context)
        (blob, size), offset = _announced(told), _number(told, OFFSET_KEY) if OFFSET_KEY in told else 0
        await self._port.publish(current_caller(), blob, size, aiter(chunks), offset)
        return registry_pb2.PublishReply(digest=blob, size_bytes=size)

    async def upload_state(
        self, request: registry_pb2.UploadStateRequest, context: Context
    ) -> registry_pb2.UploadStateReply:
        offset = await self._port.upload_state(current_caller(), digest(request.digest))
        return registry_pb2.UploadStateReply(offset=offset)

    async def fetch(self, request: registry_pb2.BlobRequest, context: Context) -> AsyncIterator[bytes]:
        blob = digest(request.digest)
        async for part in self._port.fetch(blob, request.offset, request.length, current_caller()):
            for start in range(0, len(part), CHUNK_BYTES):
                yield bytes(part[start : start + CHUNK_BYTES])

    async def outline(
        self, request: registry_pb2.OutlineRequest, context: Context
    ) -> registry_pb2.OutlineReply:
        return convert.outline_to_pb(await self._port.outline(digest(request.digest), current_caller()))

    async def publish_delta(
        self, pieces: AsyncIterator[bytes], context: Context
    ) -> registry_pb2.PublishReply:
        told = _told(context)
        (blob, size), parent = _announced(told), digest(_text(told, DELTA_PARENT_KEY))
        await self._port.publish_delta(current_caller(), parent, blob, size, aiter(pieces))
        return registry_pb2.PublishReply(digest=blob, size_bytes=size)

    async def fetch_delta(self, request: registry_pb2.DeltaRequest, context: Context) -> AsyncIterator[bytes]:
        async for piece in self._port.fetch_delta(
            digest(request.digest), digest(request.parent), request.width, current_caller()
        ):
            yield piece

    async def commit(self, request: registry_pb2.CommitRequest, context: Context) -> registry_pb2.CommitReply:
        key = convert.idempotency_key(request.idempotency_key)
        head = await self._port.commit(current_caller(), request.envelope, request.fence, key)
        return registry_pb2.CommitReply(expert=head.expert, version=head.version, manifest=head.manifest)

    async def announce(
        self, request: registry_pb2.AnnounceRequest, context: Context
    ) -> registry_pb2.AnnounceReply:
        key = convert.idempotency_key(request.idempotency_key)
        restored, refused = await self._port.announce(
            current_caller(), tuple(request.envelopes), request.fence, key
        )
        return registry_pb2.AnnounceReply(restored=restored, refused=refused)

    async def heads(self, request: registry_pb2.HeadsRequest, context: Context) -> registry_pb2.HeadsReply:
        heads = await self._port.heads(node_id(request.owner) if request.owner else "")
        return registry_pb2.HeadsReply(heads=[convert.head_to_pb(head) for head in heads])

    async def manifest(self, request: registry_pb2.GetManifestRequest, context: Context) -> types_pb2.Signed:
        blob, expert = _named(request.manifest, request.expert)
        return types_pb2.Signed(envelope=await self._port.manifest(blob, expert, request.version))

    async def withdraw(
        self, request: registry_pb2.WithdrawRequest, context: Context
    ) -> registry_pb2.WithdrawReply:
        key = convert.idempotency_key(request.idempotency_key)
        tainted = await self._port.withdraw(current_caller(), request.tombstone, request.fence, key)
        return registry_pb2.WithdrawReply(descendants=tainted)

    async def lineage(
        self, request: registry_pb2.LineageRequest, context: Context
    ) -> registry_pb2.LineageReply:
        return convert.lineage_to_pb(await self._port.lineage(*_named(request.manifest, request.expert)))

    async def collect(
        self, request: registry_pb2.CollectRequest, context: Context
    ) -> registry_pb2.CollectReply:
        return convert.collection_to_pb(await self._port.collect(request.dry_run))

    async def bring_back(
        self, request: registry_pb2.BringBackRequest, context: Context
    ) -> registry_pb2.BringBackReply:
        found = await self._port.bring_back(current_caller(), tuple(request.envelopes), request.fence)
        return convert.brought_back_to_pb(found)

    async def rebuild(
        self, request: registry_pb2.RebuildRequest, context: Context
    ) -> registry_pb2.RebuildReply:
        return convert.rebuild_to_pb(await self._port.rebuild(request.begin))

    async def health(
        self, _: registry_pb2.RegistryHealthRequest, context: Context
    ) -> registry_pb2.RegistryHealthReply:
        return convert.health_to_pb(await self._port.health())


def registry_service(port: RegistryPort) -> Service:
    """Return `swarm.v1.Registry` over port."""
    on = _Registry(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.MISSING: on.missing,
        m.PUBLISH: on.publish,
        m.UPLOAD_STATE: on.upload_state,
        m.FETCH: on.fetch,
        m.OUTLINE: on.outline,
        m.PUBLISH_DELTA: on.publish_delta,
        m.FETCH_DELTA: on.fetch_delta,
        m.COMMIT: on.commit,
        m.ANNOUNCE: on.announce,
        m.HEADS: on.heads,
        m.GET_MANIFEST: on.manifest,
        m.WITHDRAW: on.withdraw,
        m.LINEAGE: on.lineage,
        m.COLLECT: on.collect,
        m.BRING_BACK: on.bring_back,
        m.REBUILD: on.rebuild,
        m.HEALTH: on.health,
    }
    return Service("swarm.v1.Registry", behaviours)


def _named(manifest: str, expert: str) -> tuple[str, str]:
    """Return a reference to a manifest: its digest or its expert, one of the two."""
    if bool(manifest) == bool(expert):
        raise InvalidInputError(
            "manifest", found="both" if manifest else "neither", expected="a digest or an expert"
        )
    return (digest(manifest), "") if manifest else ("", expert_id(expert))


def _told(context: Context) -> Mapping[str, object]:
    return {str(key): value for key, value in context.invocation_metadata() or ()}


def _announced(told: Mapping[str, object]) -> tuple[Digest, int]:
    """Return the digest and the size of the blob that is to come."""
    return digest(_text(told, DIGEST_KEY)), _number(told, SIZE_KEY)


def _number(metadata: Mapping[str, object], key: str) -> int:
    text = _text(metadata, key)
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise InvalidInputError(f"metadata {key}", found=repr(text[:40]), expected="a number of bytes")
    return int(text)


def _text(metadata: Mapping[str, object], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise InvalidInputError(f"metadata {key}", found="none", expected="one value")
    return value
