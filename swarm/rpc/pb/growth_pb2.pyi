from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Proposal(_message.Message):
    __slots__ = ("id", "kind", "experts", "owner", "gate_version", "by", "created_at", "changed_at", "options", "state", "reason", "evidence", "cost", "before", "gate_versions", "why")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EvidenceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class CostEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    experts: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    gate_version: int
    by: str
    created_at: float
    changed_at: float
    options: _containers.ScalarMap[str, str]
    state: str
    reason: str
    evidence: _containers.ScalarMap[str, float]
    cost: _containers.ScalarMap[str, float]
    before: str
    gate_versions: _containers.RepeatedScalarFieldContainer[int]
    why: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., experts: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ..., gate_version: _Optional[int] = ..., by: _Optional[str] = ..., created_at: _Optional[float] = ..., changed_at: _Optional[float] = ..., options: _Optional[_Mapping[str, str]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., evidence: _Optional[_Mapping[str, float]] = ..., cost: _Optional[_Mapping[str, float]] = ..., before: _Optional[str] = ..., gate_versions: _Optional[_Iterable[int]] = ..., why: _Optional[str] = ...) -> None: ...

class ProposeRequest(_message.Message):
    __slots__ = ("kind", "experts", "options", "gate_version", "idempotency_key", "owner", "regions")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    experts: _containers.RepeatedScalarFieldContainer[str]
    options: _containers.ScalarMap[str, str]
    gate_version: int
    idempotency_key: str
    owner: str
    regions: bytes
    def __init__(self, kind: _Optional[str] = ..., experts: _Optional[_Iterable[str]] = ..., options: _Optional[_Mapping[str, str]] = ..., gate_version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., owner: _Optional[str] = ..., regions: _Optional[bytes] = ...) -> None: ...

class ProposalsRequest(_message.Message):
    __slots__ = ("proposal",)
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    proposal: str
    def __init__(self, proposal: _Optional[str] = ...) -> None: ...

class ProposalsReply(_message.Message):
    __slots__ = ("proposals",)
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    proposals: _containers.RepeatedCompositeFieldContainer[Proposal]
    def __init__(self, proposals: _Optional[_Iterable[_Union[Proposal, _Mapping[str, object]]]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("proposal", "stage", "reason", "idempotency_key")
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    proposal: str
    stage: str
    reason: str
    idempotency_key: str
    def __init__(self, proposal: _Optional[str] = ..., stage: _Optional[str] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("proposal", "idempotency_key")
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    proposal: str
    idempotency_key: str
    def __init__(self, proposal: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PolicyRequest(_message.Message):
    __slots__ = ("policy", "idempotency_key")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    idempotency_key: str
    def __init__(self, policy: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PolicyReply(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class GrowthOrder(_message.Message):
    __slots__ = ("proposal", "kind", "experts", "gate_version", "before", "options", "regions")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    GATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    proposal: str
    kind: str
    experts: _containers.RepeatedScalarFieldContainer[str]
    gate_version: int
    before: str
    options: _containers.ScalarMap[str, str]
    regions: bytes
    def __init__(self, proposal: _Optional[str] = ..., kind: _Optional[str] = ..., experts: _Optional[_Iterable[str]] = ..., gate_version: _Optional[int] = ..., before: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., regions: _Optional[bytes] = ...) -> None: ...

class CarryOutReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
