from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RawChunk(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MissingRequest(_message.Message):
    __slots__ = ("digests", "unclaimed")
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    UNCLAIMED_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    unclaimed: bool
    def __init__(self, digests: _Optional[_Iterable[str]] = ..., unclaimed: _Optional[bool] = ...) -> None: ...

class MissingReply(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class PublishReply(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class UploadStateRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class UploadStateReply(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class BlobRequest(_message.Message):
    __slots__ = ("digest", "offset", "length")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    length: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class OutlineRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class OutlineReply(_message.Message):
    __slots__ = ("size_bytes", "block_bytes", "blocks")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    block_bytes: int
    blocks: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., block_bytes: _Optional[int] = ..., blocks: _Optional[bytes] = ...) -> None: ...

class DeltaRequest(_message.Message):
    __slots__ = ("digest", "parent", "width")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    digest: str
    parent: str
    width: int
    def __init__(self, digest: _Optional[str] = ..., parent: _Optional[str] = ..., width: _Optional[int] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("envelope", "fence", "idempotency_key")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    fence: int
    idempotency_key: str
    def __init__(self, envelope: _Optional[bytes] = ..., fence: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("expert", "version", "manifest")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    expert: str
    version: int
    manifest: str
    def __init__(self, expert: _Optional[str] = ..., version: _Optional[int] = ..., manifest: _Optional[str] = ...) -> None: ...

class AnnounceRequest(_message.Message):
    __slots__ = ("envelopes", "fence", "idempotency_key")
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    envelopes: _containers.RepeatedScalarFieldContainer[bytes]
    fence: int
    idempotency_key: str
    def __init__(self, envelopes: _Optional[_Iterable[bytes]] = ..., fence: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class AnnounceReply(_message.Message):
    __slots__ = ("restored", "refused")
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    restored: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, restored: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...

class HeadsRequest(_message.Message):
    __slots__ = ("owner",)
    OWNER_FIELD_NUMBER: _ClassVar[int]
    owner: str
    def __init__(self, owner: _Optional[str] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("expert", "version", "manifest")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    expert: str
    version: int
    manifest: str
    def __init__(self, expert: _Optional[str] = ..., version: _Optional[int] = ..., manifest: _Optional[str] = ...) -> None: ...

class HeadsReply(_message.Message):
    __slots__ = ("heads",)
    HEADS_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedCompositeFieldContainer[Head]
    def __init__(self, heads: _Optional[_Iterable[_Union[Head, _Mapping[str, object]]]] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("manifest", "expert", "version")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    manifest: str
    expert: str
    version: int
    def __init__(self, manifest: _Optional[str] = ..., expert: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("tombstone", "fence", "idempotency_key")
    TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    tombstone: bytes
    fence: int
    idempotency_key: str
    def __init__(self, tombstone: _Optional[bytes] = ..., fence: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class WithdrawReply(_message.Message):
    __slots__ = ("descendants",)
    DESCENDANTS_FIELD_NUMBER: _ClassVar[int]
    descendants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, descendants: _Optional[_Iterable[str]] = ...) -> None: ...

class LineageRequest(_message.Message):
    __slots__ = ("manifest", "expert")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    manifest: str
    expert: str
    def __init__(self, manifest: _Optional[str] = ..., expert: _Optional[str] = ...) -> None: ...

class LineageNode(_message.Message):
    __slots__ = ("manifest", "expert", "version", "owner", "standing", "created_at")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    manifest: str
    expert: str
    version: int
    owner: str
    standing: str
    created_at: float
    def __init__(self, manifest: _Optional[str] = ..., expert: _Optional[str] = ..., version: _Optional[int] = ..., owner: _Optional[str] = ..., standing: _Optional[str] = ..., created_at: _Optional[float] = ...) -> None: ...

class LineageEdge(_message.Message):
    __slots__ = ("child", "parent", "kind")
    CHILD_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    child: str
    parent: str
    kind: str
    def __init__(self, child: _Optional[str] = ..., parent: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class LineageReply(_message.Message):
    __slots__ = ("nodes", "edges")
    NODES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[LineageNode]
    edges: _containers.RepeatedCompositeFieldContainer[LineageEdge]
    def __init__(self, nodes: _Optional[_Iterable[_Union[LineageNode, _Mapping[str, object]]]] = ..., edges: _Optional[_Iterable[_Union[LineageEdge, _Mapping[str, object]]]] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("dry_run",)
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    def __init__(self, dry_run: _Optional[bool] = ...) -> None: ...

class BlobVerdict(_message.Message):
    __slots__ = ("blob", "size_bytes", "reason")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    blob: str
    size_bytes: int
    reason: str
    def __init__(self, blob: _Optional[str] = ..., size_bytes: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class CollectReply(_message.Message):
    __slots__ = ("gone", "largest_kept", "gone_blobs", "gone_bytes", "kept_blobs", "kept_bytes")
    GONE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_KEPT_FIELD_NUMBER: _ClassVar[int]
    GONE_BLOBS_FIELD_NUMBER: _ClassVar[int]
    GONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEPT_BLOBS_FIELD_NUMBER: _ClassVar[int]
    KEPT_BYTES_FIELD_NUMBER: _ClassVar[int]
    gone: _containers.RepeatedCompositeFieldContainer[BlobVerdict]
    largest_kept: _containers.RepeatedCompositeFieldContainer[BlobVerdict]
    gone_blobs: int
    gone_bytes: int
    kept_blobs: int
    kept_bytes: int
    def __init__(self, gone: _Optional[_Iterable[_Union[BlobVerdict, _Mapping[str, object]]]] = ..., largest_kept: _Optional[_Iterable[_Union[BlobVerdict, _Mapping[str, object]]]] = ..., gone_blobs: _Optional[int] = ..., gone_bytes: _Optional[int] = ..., kept_blobs: _Optional[int] = ..., kept_bytes: _Optional[int] = ...) -> None: ...

class OwnerBytes(_message.Message):
    __slots__ = ("owner", "size_bytes", "refused_bytes")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    owner: str
    size_bytes: int
    refused_bytes: int
    def __init__(self, owner: _Optional[str] = ..., size_bytes: _Optional[int] = ..., refused_bytes: _Optional[int] = ...) -> None: ...

class RegistryHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RegistryHealthReply(_message.Message):
    __slots__ = ("redis", "durability", "blobs", "blob_bytes", "disk_free_bytes", "socket_bytes", "certificate_days", "owners", "node_quota_bytes", "blobs_away", "missing_blobs", "lost", "journal_damaged")
    REDIS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DAYS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    NODE_QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOBS_AWAY_FIELD_NUMBER: _ClassVar[int]
    MISSING_BLOBS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_DAMAGED_FIELD_NUMBER: _ClassVar[int]
    redis: str
    durability: str
    blobs: int
    blob_bytes: int
    disk_free_bytes: int
    socket_bytes: _types_pb2.SocketBytes
    certificate_days: float
    owners: _containers.RepeatedCompositeFieldContainer[OwnerBytes]
    node_quota_bytes: int
    blobs_away: str
    missing_blobs: int
    lost: int
    journal_damaged: int
    def __init__(self, redis: _Optional[str] = ..., durability: _Optional[str] = ..., blobs: _Optional[int] = ..., blob_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., socket_bytes: _Optional[_Union[_types_pb2.SocketBytes, _Mapping[str, object]]] = ..., certificate_days: _Optional[float] = ..., owners: _Optional[_Iterable[_Union[OwnerBytes, _Mapping[str, object]]]] = ..., node_quota_bytes: _Optional[int] = ..., blobs_away: _Optional[str] = ..., missing_blobs: _Optional[int] = ..., lost: _Optional[int] = ..., journal_damaged: _Optional[int] = ...) -> None: ...

class BringBackRequest(_message.Message):
    __slots__ = ("envelopes", "fence")
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    envelopes: _containers.RepeatedScalarFieldContainer[bytes]
    fence: int
    def __init__(self, envelopes: _Optional[_Iterable[bytes]] = ..., fence: _Optional[int] = ...) -> None: ...

class BringBackReply(_message.Message):
    __slots__ = ("restored", "refused", "missing_blobs")
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    MISSING_BLOBS_FIELD_NUMBER: _ClassVar[int]
    restored: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedScalarFieldContainer[str]
    missing_blobs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, restored: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[str]] = ..., missing_blobs: _Optional[_Iterable[str]] = ...) -> None: ...

class RebuildRequest(_message.Message):
    __slots__ = ("begin",)
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    begin: bool
    def __init__(self, begin: _Optional[bool] = ...) -> None: ...

class OwnerCame(_message.Message):
    __slots__ = ("owner", "offered", "restored", "refused", "blobs")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    owner: str
    offered: int
    restored: int
    refused: _containers.RepeatedScalarFieldContainer[str]
    blobs: int
    def __init__(self, owner: _Optional[str] = ..., offered: _Optional[int] = ..., restored: _Optional[int] = ..., refused: _Optional[_Iterable[str]] = ..., blobs: _Optional[int] = ...) -> None: ...

class MissingPiece(_message.Message):
    __slots__ = ("owner", "version", "what")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    owner: str
    version: str
    what: str
    def __init__(self, owner: _Optional[str] = ..., version: _Optional[str] = ..., what: _Optional[str] = ...) -> None: ...

class RebuildReply(_message.Message):
    __slots__ = ("heads", "manifests", "blobs", "from_journal", "conflicts", "came", "missing", "journal_damaged")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    FROM_JOURNAL_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    CAME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_DAMAGED_FIELD_NUMBER: _ClassVar[int]
    heads: int
    manifests: int
    blobs: int
    from_journal: _containers.RepeatedScalarFieldContainer[str]
    conflicts: _containers.RepeatedScalarFieldContainer[str]
    came: _containers.RepeatedCompositeFieldContainer[OwnerCame]
    missing: _containers.RepeatedCompositeFieldContainer[MissingPiece]
    journal_damaged: int
    def __init__(self, heads: _Optional[int] = ..., manifests: _Optional[int] = ..., blobs: _Optional[int] = ..., from_journal: _Optional[_Iterable[str]] = ..., conflicts: _Optional[_Iterable[str]] = ..., came: _Optional[_Iterable[_Union[OwnerCame, _Mapping[str, object]]]] = ..., missing: _Optional[_Iterable[_Union[MissingPiece, _Mapping[str, object]]]] = ..., journal_damaged: _Optional[int] = ...) -> None: ...
