from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ContributeHeader(_message.Message):
    __slots__ = ("envelope", "fence", "idempotency_key")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    fence: int
    idempotency_key: str
    def __init__(self, envelope: _Optional[bytes] = ..., fence: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ContributeChunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: ContributeHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[ContributeHeader, _Mapping[str, object]]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ContributeReply(_message.Message):
    __slots__ = ("state", "gate_version", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: str
    gate_version: int
    reason: str
    def __init__(self, state: _Optional[str] = ..., gate_version: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class GetContributionRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class ContributionChunk(_message.Message):
    __slots__ = ("envelope", "data")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    data: bytes
    def __init__(self, envelope: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class GetGateRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class GateHistoryRequest(_message.Message):
    __slots__ = ("before", "limit")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    before: int
    limit: int
    def __init__(self, before: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GateHistoryReply(_message.Message):
    __slots__ = ("gates", "current", "oldest")
    GATES_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    gates: _containers.RepeatedCompositeFieldContainer[_types_pb2.Signed]
    current: int
    oldest: int
    def __init__(self, gates: _Optional[_Iterable[_Union[_types_pb2.Signed, _Mapping[str, object]]]] = ..., current: _Optional[int] = ..., oldest: _Optional[int] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("version", "idempotency_key")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class FitRequest(_message.Message):
    __slots__ = ("idempotency_key",)
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    def __init__(self, idempotency_key: _Optional[str] = ...) -> None: ...
