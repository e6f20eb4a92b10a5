from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExpertTask(_message.Message):
    __slots__ = ("expert", "manifest", "rows")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    expert: str
    manifest: str
    rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, expert: _Optional[str] = ..., manifest: _Optional[str] = ..., rows: _Optional[_Iterable[int]] = ...) -> None: ...

class ExpertRequest(_message.Message):
    __slots__ = ("inputs", "tasks", "trunk", "gate_version")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    inputs: _types_pb2.Tensor
    tasks: _containers.RepeatedCompositeFieldContainer[ExpertTask]
    trunk: str
    gate_version: int
    def __init__(self, inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., tasks: _Optional[_Iterable[_Union[ExpertTask, _Mapping[str, object]]]] = ..., trunk: _Optional[str] = ..., gate_version: _Optional[int] = ...) -> None: ...

class ExpertAnswer(_message.Message):
    __slots__ = ("expert", "version", "manifest", "class_names", "probabilities", "module_digests", "flops_per_query")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    MODULE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_QUERY_FIELD_NUMBER: _ClassVar[int]
    expert: str
    version: int
    manifest: str
    class_names: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _types_pb2.Tensor
    module_digests: _containers.RepeatedScalarFieldContainer[str]
    flops_per_query: float
    def __init__(self, expert: _Optional[str] = ..., version: _Optional[int] = ..., manifest: _Optional[str] = ..., class_names: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., module_digests: _Optional[_Iterable[str]] = ..., flops_per_query: _Optional[float] = ...) -> None: ...

class ExpertReply(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[ExpertAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[ExpertAnswer, _Mapping[str, object]]]] = ...) -> None: ...

class TryGateRequest(_message.Message):
    __slots__ = ("candidate", "incumbent", "temperatures", "specification")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    candidate: bytes
    incumbent: bytes
    temperatures: _containers.RepeatedScalarFieldContainer[float]
    specification: bytes
    def __init__(self, candidate: _Optional[bytes] = ..., incumbent: _Optional[bytes] = ..., temperatures: _Optional[_Iterable[float]] = ..., specification: _Optional[bytes] = ...) -> None: ...

class TryGateReply(_message.Message):
    __slots__ = ("samples", "temperatures", "nll_sum", "correct_top1", "correct_top2", "correct_top4", "incumbent_correct", "gained", "lost", "experts_missing", "flops")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    NLL_SUM_FIELD_NUMBER: _ClassVar[int]
    CORRECT_TOP1_FIELD_NUMBER: _ClassVar[int]
    CORRECT_TOP2_FIELD_NUMBER: _ClassVar[int]
    CORRECT_TOP4_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_CORRECT_FIELD_NUMBER: _ClassVar[int]
    GAINED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_MISSING_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    temperatures: _containers.RepeatedScalarFieldContainer[float]
    nll_sum: _containers.RepeatedScalarFieldContainer[float]
    correct_top1: _containers.RepeatedScalarFieldContainer[int]
    correct_top2: _containers.RepeatedScalarFieldContainer[int]
    correct_top4: _containers.RepeatedScalarFieldContainer[int]
    incumbent_correct: int
    gained: _containers.RepeatedScalarFieldContainer[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    experts_missing: int
    flops: int
    def __init__(self, samples: _Optional[int] = ..., temperatures: _Optional[_Iterable[float]] = ..., nll_sum: _Optional[_Iterable[float]] = ..., correct_top1: _Optional[_Iterable[int]] = ..., correct_top2: _Optional[_Iterable[int]] = ..., correct_top4: _Optional[_Iterable[int]] = ..., incumbent_correct: _Optional[int] = ..., gained: _Optional[_Iterable[int]] = ..., lost: _Optional[_Iterable[int]] = ..., experts_missing: _Optional[int] = ..., flops: _Optional[int] = ...) -> None: ...
