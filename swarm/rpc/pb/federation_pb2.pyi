from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunFederationRequest(_message.Message):
    __slots__ = ("app", "options", "idempotency_key")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    APP_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    app: str
    options: _containers.ScalarMap[str, str]
    idempotency_key: str
    def __init__(self, app: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class FederationProgress(_message.Message):
    __slots__ = ("stage", "message", "fraction", "figures", "arrays", "array_names")
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
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    ARRAY_NAMES_FIELD_NUMBER: _ClassVar[int]
    stage: str
    message: str
    fraction: float
    figures: _containers.ScalarMap[str, float]
    arrays: _containers.RepeatedCompositeFieldContainer[_types_pb2.Tensor]
    array_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stage: _Optional[str] = ..., message: _Optional[str] = ..., fraction: _Optional[float] = ..., figures: _Optional[_Mapping[str, float]] = ..., arrays: _Optional[_Iterable[_Union[_types_pb2.Tensor, _Mapping[str, object]]]] = ..., array_names: _Optional[_Iterable[str]] = ...) -> None: ...

class FederationPart(_message.Message):
    __slots__ = ("run", "message", "part", "parts", "data", "app")
    RUN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    run: str
    message: str
    part: int
    parts: int
    data: bytes
    app: str
    def __init__(self, run: _Optional[str] = ..., message: _Optional[str] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ..., app: _Optional[str] = ...) -> None: ...
