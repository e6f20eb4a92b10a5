from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("inputs", "top_k", "explain", "owners", "uniform", "combination", "profile", "gate_version", "min_confidence", "replayable", "request_id")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    UNIFORM_FIELD_NUMBER: _ClassVar[int]
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYABLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    inputs: _types_pb2.Tensor
    top_k: int
    explain: bool
    owners: _containers.RepeatedScalarFieldContainer[str]
    uniform: bool
    combination: str
    profile: str
    gate_version: int
    min_confidence: float
    replayable: bool
    request_id: str
    def __init__(self, inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., top_k: _Optional[int] = ..., explain: _Optional[bool] = ..., owners: _Optional[_Iterable[str]] = ..., uniform: _Optional[bool] = ..., combination: _Optional[str] = ..., profile: _Optional[str] = ..., gate_version: _Optional[int] = ..., min_confidence: _Optional[float] = ..., replayable: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("leaf", "expert", "version", "manifest", "owner", "served_by", "weight", "module_digests", "owners")
    LEAF_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODULE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    leaf: str
    expert: str
    version: int
    manifest: str
    owner: str
    served_by: str
    weight: float
    module_digests: _containers.RepeatedScalarFieldContainer[str]
    owners: _containers.RepeatedCompositeFieldContainer[OwnerShare]
    def __init__(self, leaf: _Optional[str] = ..., expert: _Optional[str] = ..., version: _Optional[int] = ..., manifest: _Optional[str] = ..., owner: _Optional[str] = ..., served_by: _Optional[str] = ..., weight: _Optional[float] = ..., module_digests: _Optional[_Iterable[str]] = ..., owners: _Optional[_Iterable[_Union[OwnerShare, _Mapping[str, object]]]] = ...) -> None: ...

class OwnerShare(_message.Message):
    __slots__ = ("owner", "weight")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    owner: str
    weight: float
    def __init__(self, owner: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class RowExplanation(_message.Message):
    __slots__ = ("sources",)
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    def __init__(self, sources: _Optional[_Iterable[_Union[Source, _Mapping[str, object]]]] = ...) -> None: ...

class PredictReply(_message.Message):
    __slots__ = ("class_names", "probabilities", "gate_version", "degraded", "explanations", "missing_experts", "flops_per_query", "combination", "confidence", "calibration", "out_of_distribution", "unknown", "record", "gate_entropy", "signed")
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_QUERY_FIELD_NUMBER: _ClassVar[int]
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    GATE_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    class_names: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _types_pb2.Tensor
    gate_version: int
    degraded: _containers.RepeatedScalarFieldContainer[bool]
    explanations: _containers.RepeatedCompositeFieldContainer[RowExplanation]
    missing_experts: _containers.RepeatedScalarFieldContainer[str]
    flops_per_query: float
    combination: str
    confidence: _containers.RepeatedScalarFieldContainer[float]
    calibration: float
    out_of_distribution: _containers.RepeatedScalarFieldContainer[float]
    unknown: _containers.RepeatedScalarFieldContainer[bool]
    record: bytes
    gate_entropy: _containers.RepeatedScalarFieldContainer[float]
    signed: bytes
    def __init__(self, class_names: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., gate_version: _Optional[int] = ..., degraded: _Optional[_Iterable[bool]] = ..., explanations: _Optional[_Iterable[_Union[RowExplanation, _Mapping[str, object]]]] = ..., missing_experts: _Optional[_Iterable[str]] = ..., flops_per_query: _Optional[float] = ..., combination: _Optional[str] = ..., confidence: _Optional[_Iterable[float]] = ..., calibration: _Optional[float] = ..., out_of_distribution: _Optional[_Iterable[float]] = ..., unknown: _Optional[_Iterable[bool]] = ..., record: _Optional[bytes] = ..., gate_entropy: _Optional[_Iterable[float]] = ..., signed: _Optional[bytes] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("inputs", "labels", "idempotency_key")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    inputs: _types_pb2.Tensor
    labels: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: str
    def __init__(self, inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., labels: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ProfileReply(_message.Message):
    __slots__ = ("id", "owners", "examples", "accuracy", "accuracy_all", "gate_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_ALL_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    owners: _containers.RepeatedScalarFieldContainer[str]
    examples: int
    accuracy: float
    accuracy_all: float
    gate_version: int
    def __init__(self, id: _Optional[str] = ..., owners: _Optional[_Iterable[str]] = ..., examples: _Optional[int] = ..., accuracy: _Optional[float] = ..., accuracy_all: _Optional[float] = ..., gate_version: _Optional[int] = ...) -> None: ...
