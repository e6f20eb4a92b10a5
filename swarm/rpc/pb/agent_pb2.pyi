from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainRequest(_message.Message):
    __slots__ = ("data", "net", "budget_s", "steps", "dry_run", "seed", "share", "import_paths", "idempotency_key", "sums", "sums_mb", "borrow", "refine", "update", "memory", "stream", "stop", "remember", "head", "start")
    DATA_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    BUDGET_S_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    IMPORT_PATHS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    SUMS_MB_FIELD_NUMBER: _ClassVar[int]
    BORROW_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REMEMBER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    data: str
    net: str
    budget_s: float
    steps: int
    dry_run: bool
    seed: int
    share: str
    import_paths: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: str
    sums: str
    sums_mb: float
    borrow: bool
    refine: bool
    update: str
    memory: int
    stream: StreamOptions
    stop: bool
    remember: str
    head: str
    start: str
    def __init__(self, data: _Optional[str] = ..., net: _Optional[str] = ..., budget_s: _Optional[float] = ..., steps: _Optional[int] = ..., dry_run: _Optional[bool] = ..., seed: _Optional[int] = ..., share: _Optional[str] = ..., import_paths: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[str] = ..., sums: _Optional[str] = ..., sums_mb: _Optional[float] = ..., borrow: _Optional[bool] = ..., refine: _Optional[bool] = ..., update: _Optional[str] = ..., memory: _Optional[int] = ..., stream: _Optional[_Union[StreamOptions, _Mapping[str, object]]] = ..., stop: _Optional[bool] = ..., remember: _Optional[str] = ..., head: _Optional[str] = ..., start: _Optional[str] = ...) -> None: ...

class StreamOptions(_message.Message):
    __slots__ = ("wait", "test", "idle_s", "most", "keep_mb")
    WAIT_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    KEEP_MB_FIELD_NUMBER: _ClassVar[int]
    wait: int
    test: str
    idle_s: float
    most: int
    keep_mb: float
    def __init__(self, wait: _Optional[int] = ..., test: _Optional[str] = ..., idle_s: _Optional[float] = ..., most: _Optional[int] = ..., keep_mb: _Optional[float] = ...) -> None: ...

class Listing(_message.Message):
    __slots__ = ("what", "detail", "size_bytes", "recipient", "at", "digest", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    what: str
    detail: str
    size_bytes: int
    recipient: str
    at: float
    digest: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, what: _Optional[str] = ..., detail: _Optional[str] = ..., size_bytes: _Optional[int] = ..., recipient: _Optional[str] = ..., at: _Optional[float] = ..., digest: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TrainProgress(_message.Message):
    __slots__ = ("stage", "message", "fraction", "listings", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    LISTINGS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    stage: str
    message: str
    fraction: float
    listings: _containers.RepeatedCompositeFieldContainer[Listing]
    figures: _containers.ScalarMap[str, float]
    def __init__(self, stage: _Optional[str] = ..., message: _Optional[str] = ..., fraction: _Optional[float] = ..., listings: _Optional[_Iterable[_Union[Listing, _Mapping[str, object]]]] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class AgentStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExpertMemory(_message.Message):
    __slots__ = ("loaded", "size_bytes", "budget_bytes", "hits", "loads")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    loaded: int
    size_bytes: int
    budget_bytes: int
    hits: int
    loads: int
    def __init__(self, loaded: _Optional[int] = ..., size_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., hits: _Optional[int] = ..., loads: _Optional[int] = ...) -> None: ...

class AgentStateReply(_message.Message):
    __slots__ = ("node", "swarm", "connected", "fence", "gate_version", "activity", "outbox", "certificate_days", "experts", "socket_bytes", "disk_free_bytes", "clock_skew_s", "expert_server_pid", "trouble", "outbox_trouble", "memory")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SWARM_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DAYS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    SOCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_S_FIELD_NUMBER: _ClassVar[int]
    EXPERT_SERVER_PID_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    node: str
    swarm: str
    connected: bool
    fence: int
    gate_version: int
    activity: str
    outbox: int
    certificate_days: float
    experts: _containers.RepeatedScalarFieldContainer[str]
    socket_bytes: _types_pb2.SocketBytes
    disk_free_bytes: int
    clock_skew_s: float
    expert_server_pid: int
    trouble: str
    outbox_trouble: str
    memory: ExpertMemory
    def __init__(self, node: _Optional[str] = ..., swarm: _Optional[str] = ..., connected: _Optional[bool] = ..., fence: _Optional[int] = ..., gate_version: _Optional[int] = ..., activity: _Optional[str] = ..., outbox: _Optional[int] = ..., certificate_days: _Optional[float] = ..., experts: _Optional[_Iterable[str]] = ..., socket_bytes: _Optional[_Union[_types_pb2.SocketBytes, _Mapping[str, object]]] = ..., disk_free_bytes: _Optional[int] = ..., clock_skew_s: _Optional[float] = ..., expert_server_pid: _Optional[int] = ..., trouble: _Optional[str] = ..., outbox_trouble: _Optional[str] = ..., memory: _Optional[_Union[ExpertMemory, _Mapping[str, object]]] = ...) -> None: ...

class AgentLeaveRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AgentLeaveReply(_message.Message):
    __slots__ = ("gate_version", "withdrawn_experts")
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    gate_version: int
    withdrawn_experts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gate_version: _Optional[int] = ..., withdrawn_experts: _Optional[_Iterable[str]] = ...) -> None: ...

class AgentStopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AgentStopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
