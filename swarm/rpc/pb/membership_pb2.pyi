from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeView(_message.Message):
    __slots__ = ("id", "alive", "revoked", "fence", "advertise", "activity", "last_seen", "experts", "socket_bytes", "software")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    SOCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    id: str
    alive: bool
    revoked: bool
    fence: int
    advertise: str
    activity: str
    last_seen: float
    experts: _containers.RepeatedScalarFieldContainer[str]
    socket_bytes: _types_pb2.SocketBytes
    software: str
    def __init__(self, id: _Optional[str] = ..., alive: _Optional[bool] = ..., revoked: _Optional[bool] = ..., fence: _Optional[int] = ..., advertise: _Optional[str] = ..., activity: _Optional[str] = ..., last_seen: _Optional[float] = ..., experts: _Optional[_Iterable[str]] = ..., socket_bytes: _Optional[_Union[_types_pb2.SocketBytes, _Mapping[str, object]]] = ..., software: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("swarm", "specification_version", "class_names", "gate_version", "nodes", "leaves_without_owner", "redis", "durability", "started_at", "server_time", "socket_bytes", "certificate_days", "stand_ins", "replicas", "under_replicated")
    class StandInsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class UnderReplicatedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SWARM_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    LEAVES_WITHOUT_OWNER_FIELD_NUMBER: _ClassVar[int]
    REDIS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    SOCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DAYS_FIELD_NUMBER: _ClassVar[int]
    STAND_INS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    UNDER_REPLICATED_FIELD_NUMBER: _ClassVar[int]
    swarm: str
    specification_version: int
    class_names: _containers.RepeatedScalarFieldContainer[str]
    gate_version: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeView]
    leaves_without_owner: _containers.RepeatedScalarFieldContainer[str]
    redis: str
    durability: str
    started_at: float
    server_time: float
    socket_bytes: _types_pb2.SocketBytes
    certificate_days: float
    stand_ins: _containers.ScalarMap[str, str]
    replicas: int
    under_replicated: _containers.ScalarMap[str, int]
    def __init__(self, swarm: _Optional[str] = ..., specification_version: _Optional[int] = ..., class_names: _Optional[_Iterable[str]] = ..., gate_version: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeView, _Mapping[str, object]]]] = ..., leaves_without_owner: _Optional[_Iterable[str]] = ..., redis: _Optional[str] = ..., durability: _Optional[str] = ..., started_at: _Optional[float] = ..., server_time: _Optional[float] = ..., socket_bytes: _Optional[_Union[_types_pb2.SocketBytes, _Mapping[str, object]]] = ..., certificate_days: _Optional[float] = ..., stand_ins: _Optional[_Mapping[str, str]] = ..., replicas: _Optional[int] = ..., under_replicated: _Optional[_Mapping[str, int]] = ...) -> None: ...

class GetPlacementRequest(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: str
    def __init__(self, known: _Optional[str] = ...) -> None: ...

class GetPlacementReply(_message.Message):
    __slots__ = ("mark", "nodes", "manifests", "counts", "places")
    MARK_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    mark: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    manifests: bytes
    counts: _containers.RepeatedScalarFieldContainer[int]
    places: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, mark: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., manifests: _Optional[bytes] = ..., counts: _Optional[_Iterable[int]] = ..., places: _Optional[_Iterable[int]] = ...) -> None: ...

class GetRecordRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetSpecificationRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class GetRevocationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewCertificateRequest(_message.Message):
    __slots__ = ("csr_pem", "idempotency_key")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    idempotency_key: str
    def __init__(self, csr_pem: _Optional[bytes] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RenewCertificateReply(_message.Message):
    __slots__ = ("certificate_pem",)
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("reason", "idempotency_key")
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    idempotency_key: str
    def __init__(self, reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RevokeNodeRequest(_message.Message):
    __slots__ = ("node", "reason", "idempotency_key")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    node: str
    reason: str
    idempotency_key: str
    def __init__(self, node: _Optional[str] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("gate_version", "withdrawn_experts")
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    gate_version: int
    withdrawn_experts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gate_version: _Optional[int] = ..., withdrawn_experts: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("role", "uses", "lifetime_s", "idempotency_key")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    role: str
    uses: int
    lifetime_s: float
    idempotency_key: str
    def __init__(self, role: _Optional[str] = ..., uses: _Optional[int] = ..., lifetime_s: _Optional[float] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateTokenReply(_message.Message):
    __slots__ = ("join_line", "token")
    JOIN_LINE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    join_line: str
    token: TokenView
    def __init__(self, join_line: _Optional[str] = ..., token: _Optional[_Union[TokenView, _Mapping[str, object]]] = ...) -> None: ...

class CreateBearerRequest(_message.Message):
    __slots__ = ("holder", "lifetime_s", "idempotency_key")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    holder: str
    lifetime_s: float
    idempotency_key: str
    def __init__(self, holder: _Optional[str] = ..., lifetime_s: _Optional[float] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateBearerReply(_message.Message):
    __slots__ = ("token", "view")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    token: str
    view: TokenView
    def __init__(self, token: _Optional[str] = ..., view: _Optional[_Union[TokenView, _Mapping[str, object]]] = ...) -> None: ...

class TokenView(_message.Message):
    __slots__ = ("id", "role", "uses_left", "expires_at", "created_at", "bearer")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    USES_LEFT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    BEARER_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: str
    uses_left: int
    expires_at: float
    created_at: float
    bearer: str
    def __init__(self, id: _Optional[str] = ..., role: _Optional[str] = ..., uses_left: _Optional[int] = ..., expires_at: _Optional[float] = ..., created_at: _Optional[float] = ..., bearer: _Optional[str] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensReply(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenView]
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenView, _Mapping[str, object]]]] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("id", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RevokeTokenReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("after", "follow", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: str
    follow: bool
    limit: int
    def __init__(self, after: _Optional[str] = ..., follow: _Optional[bool] = ..., limit: _Optional[int] = ...) -> None: ...
