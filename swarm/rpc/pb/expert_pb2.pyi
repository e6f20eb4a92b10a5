from swarm.rpc.pb import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExpertTask(_message.Message):
    __slots__ = ("expert", "manifest", "rows", "form")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    expert: str
    manifest: str
    rows: _containers.RepeatedScalarFieldContainer[int]
    form: str
    def __init__(self, expert: _Optional[str] = ..., manifest: _Optional[str] = ..., rows: _Optional[_Iterable[int]] = ..., form: _Optional[str] = ...) -> None: ...

class ExpertRequest(_message.Message):
    __slots__ = ("inputs", "tasks", "trunk", "gate_version", "replayable")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLAYABLE_FIELD_NUMBER: _ClassVar[int]
    inputs: _types_pb2.Tensor
    tasks: _containers.RepeatedCompositeFieldContainer[ExpertTask]
    trunk: str
    gate_version: int
    replayable: bool
    def __init__(self, inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., tasks: _Optional[_Iterable[_Union[ExpertTask, _Mapping[str, object]]]] = ..., trunk: _Optional[str] = ..., gate_version: _Optional[int] = ..., replayable: _Optional[bool] = ...) -> None: ...

class ExpertAnswer(_message.Message):
    __slots__ = ("expert", "version", "manifest", "class_names", "values", "module_digests", "flops_per_query", "form", "computed_on")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MODULE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_QUERY_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_ON_FIELD_NUMBER: _ClassVar[int]
    expert: str
    version: int
    manifest: str
    class_names: _containers.RepeatedScalarFieldContainer[str]
    values: _types_pb2.Tensor
    module_digests: _containers.RepeatedScalarFieldContainer[str]
    flops_per_query: float
    form: str
    computed_on: str
    def __init__(self, expert: _Optional[str] = ..., version: _Optional[int] = ..., manifest: _Optional[str] = ..., class_names: _Optional[_Iterable[str]] = ..., values: _Optional[_Union[_types_pb2.Tensor, _Mapping[str, object]]] = ..., module_digests: _Optional[_Iterable[str]] = ..., flops_per_query: _Optional[float] = ..., form: _Optional[str] = ..., computed_on: _Optional[str] = ...) -> None: ...

class ExpertReply(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[ExpertAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[ExpertAnswer, _Mapping[str, object]]]] = ...) -> None: ...

class Combination(_message.Message):
    __slots__ = ("name", "temperature", "top_k", "strength", "class_temperature")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    CLASS_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    temperature: float
    top_k: int
    strength: float
    class_temperature: float
    def __init__(self, name: _Optional[str] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., strength: _Optional[float] = ..., class_temperature: _Optional[float] = ...) -> None: ...

class TrialOption(_message.Message):
    __slots__ = ("combination", "weights", "against_root")
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    AGAINST_ROOT_FIELD_NUMBER: _ClassVar[int]
    combination: Combination
    weights: str
    against_root: bool
    def __init__(self, combination: _Optional[_Union[Combination, _Mapping[str, object]]] = ..., weights: _Optional[str] = ..., against_root: _Optional[bool] = ...) -> None: ...

class TryGateRequest(_message.Message):
    __slots__ = ("candidate", "incumbent", "options", "specification")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    candidate: bytes
    incumbent: bytes
    options: _containers.RepeatedCompositeFieldContainer[TrialOption]
    specification: bytes
    def __init__(self, candidate: _Optional[bytes] = ..., incumbent: _Optional[bytes] = ..., options: _Optional[_Iterable[_Union[TrialOption, _Mapping[str, object]]]] = ..., specification: _Optional[bytes] = ...) -> None: ...

class TryGateReply(_message.Message):
    __slots__ = ("samples", "nll_sum", "correct", "gained", "lost", "gained_on_root", "lost_on_root", "incumbent_correct", "experts_missing", "flops", "nll_by_calibration", "taken", "gained_among_own", "lost_among_own")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NLL_SUM_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    GAINED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    GAINED_ON_ROOT_FIELD_NUMBER: _ClassVar[int]
    LOST_ON_ROOT_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_CORRECT_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_MISSING_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    NLL_BY_CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    GAINED_AMONG_OWN_FIELD_NUMBER: _ClassVar[int]
    LOST_AMONG_OWN_FIELD_NUMBER: _ClassVar[int]
    samples: int
    nll_sum: _containers.RepeatedScalarFieldContainer[float]
    correct: _containers.RepeatedScalarFieldContainer[int]
    gained: _containers.RepeatedScalarFieldContainer[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    gained_on_root: _containers.RepeatedScalarFieldContainer[int]
    lost_on_root: _containers.RepeatedScalarFieldContainer[int]
    incumbent_correct: int
    experts_missing: int
    flops: int
    nll_by_calibration: _containers.RepeatedScalarFieldContainer[float]
    taken: _containers.RepeatedScalarFieldContainer[int]
    gained_among_own: _containers.RepeatedScalarFieldContainer[int]
    lost_among_own: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, samples: _Optional[int] = ..., nll_sum: _Optional[_Iterable[float]] = ..., correct: _Optional[_Iterable[int]] = ..., gained: _Optional[_Iterable[int]] = ..., lost: _Optional[_Iterable[int]] = ..., gained_on_root: _Optional[_Iterable[int]] = ..., lost_on_root: _Optional[_Iterable[int]] = ..., incumbent_correct: _Optional[int] = ..., experts_missing: _Optional[int] = ..., flops: _Optional[int] = ..., nll_by_calibration: _Optional[_Iterable[float]] = ..., taken: _Optional[_Iterable[int]] = ..., gained_among_own: _Optional[_Iterable[int]] = ..., lost_among_own: _Optional[_Iterable[int]] = ...) -> None: ...

class SurveyRequest(_message.Message):
    __slots__ = ("gate", "specification")
    GATE_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    gate: bytes
    specification: bytes
    def __init__(self, gate: _Optional[bytes] = ..., specification: _Optional[bytes] = ...) -> None: ...

class LeafSurvey(_message.Message):
    __slots__ = ("leaf", "samples", "nll_sum", "correct", "novel")
    LEAF_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NLL_SUM_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    NOVEL_FIELD_NUMBER: _ClassVar[int]
    leaf: str
    samples: int
    nll_sum: float
    correct: int
    novel: int
    def __init__(self, leaf: _Optional[str] = ..., samples: _Optional[int] = ..., nll_sum: _Optional[float] = ..., correct: _Optional[int] = ..., novel: _Optional[int] = ...) -> None: ...

class SurveyReply(_message.Message):
    __slots__ = ("gate_version", "leaves", "fresh", "fresh_novel")
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    FRESH_NOVEL_FIELD_NUMBER: _ClassVar[int]
    gate_version: int
    leaves: _containers.RepeatedCompositeFieldContainer[LeafSurvey]
    fresh: int
    fresh_novel: int
    def __init__(self, gate_version: _Optional[int] = ..., leaves: _Optional[_Iterable[_Union[LeafSurvey, _Mapping[str, object]]]] = ..., fresh: _Optional[int] = ..., fresh_novel: _Optional[int] = ...) -> None: ...
