from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromNode(_message.Message):
    __slots__ = ("hello", "heartbeat", "reply")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    reply: CallReply
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping[str, object]]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping[str, object]]] = ..., reply: _Optional[_Union[CallReply, _Mapping[str, object]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("advertise", "can_build", "manifests", "served", "gate_version", "software")
    ADVERTISE_FIELD_NUMBER: _ClassVar[int]
    CAN_BUILD_FIELD_NUMBER: _ClassVar[int]
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    advertise: str
    can_build: _containers.RepeatedScalarFieldContainer[str]
    manifests: _containers.RepeatedScalarFieldContainer[bytes]
    served: _containers.RepeatedScalarFieldContainer[str]
    gate_version: int
    software: str
    def __init__(self, advertise: _Optional[str] = ..., can_build: _Optional[_Iterable[str]] = ..., manifests: _Optional[_Iterable[bytes]] = ..., served: _Optional[_Iterable[str]] = ..., gate_version: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("fence", "socket_bytes", "activity", "served", "gate_version", "trouble", "loaded", "declined", "room_bytes")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SOCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    fence: int
    socket_bytes: _types_pb2.SocketBytes
    activity: str
    served: _containers.RepeatedScalarFieldContainer[str]
    gate_version: int
    trouble: str
    loaded: _containers.RepeatedScalarFieldContainer[str]
    declined: _containers.RepeatedScalarFieldContainer[str]
    room_bytes: int
    def __init__(self, fence: _Optional[int] = ..., socket_bytes: _Optional[_Union[_types_pb2.SocketBytes, _Mapping[str, object]]] = ..., activity: _Optional[str] = ..., served: _Optional[_Iterable[str]] = ..., gate_version: _Optional[int] = ..., trouble: _Optional[str] = ..., loaded: _Optional[_Iterable[str]] = ..., declined: _Optional[_Iterable[str]] = ..., room_bytes: _Optional[int] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("call_id", "payload", "problem")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    payload: bytes
    problem: _types_pb2.Problem
    def __init__(self, call_id: _Optional[str] = ..., payload: _Optional[bytes] = ..., problem: _Optional[_Union[_types_pb2.Problem, _Mapping[str, object]]] = ...) -> None: ...

class ToNode(_message.Message):
    __slots__ = ("welcome", "call", "cancel", "gate", "specification", "revocations", "event", "heartbeat", "placement")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    call: Call
    cancel: CancelCall
    gate: _types_pb2.Signed
    specification: _types_pb2.Signed
    revocations: _types_pb2.Signed
    event: _types_pb2.Event
    heartbeat: HeartbeatReply
    placement: Placement
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping[str, object]]] = ..., call: _Optional[_Union[Call, _Mapping[str, object]]] = ..., cancel: _Optional[_Union[CancelCall, _Mapping[str, object]]] = ..., gate: _Optional[_Union[_types_pb2.Signed, _Mapping[str, object]]] = ..., specification: _Optional[_Union[_types_pb2.Signed, _Mapping[str, object]]] = ..., revocations: _Optional[_Union[_types_pb2.Signed, _Mapping[str, object]]] = ..., event: _Optional[_Union[_types_pb2.Event, _Mapping[str, object]]] = ..., heartbeat: _Optional[_Union[HeartbeatReply, _Mapping[str, object]]] = ..., placement: _Optional[_Union[Placement, _Mapping[str, object]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("fence", "lease_s", "specification", "gate", "revocations", "server_time")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    fence: int
    lease_s: float
    specification: bytes
    gate: bytes
    revocations: bytes
    server_time: float
    def __init__(self, fence: _Optional[int] = ..., lease_s: _Optional[float] = ..., specification: _Optional[bytes] = ..., gate: _Optional[bytes] = ..., revocations: _Optional[bytes] = ..., server_time: _Optional[float] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("call_id", "method", "payload", "timeout_s")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    method: str
    payload: bytes
    timeout_s: float
    def __init__(self, call_id: _Optional[str] = ..., method: _Optional[str] = ..., payload: _Optional[bytes] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class CancelCall(_message.Message):
    __slots__ = ("call_id",)
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    def __init__(self, call_id: _Optional[str] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("manifests",)
    MANIFESTS_FIELD_NUMBER: _ClassVar[int]
    manifests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, manifests: _Optional[_Iterable[str]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("fence", "server_time")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    fence: int
    server_time: float
    def __init__(self, fence: _Optional[int] = ..., server_time: _Optional[float] = ...) -> None: ...
