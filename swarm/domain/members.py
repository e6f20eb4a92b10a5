"""Signed statements about members: who they are, what was withdrawn, who is no longer trusted."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN

Role = Literal["node", "coordinator", "registry", "operator", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """Who a member is: signed by the CA, so that anyone can verify a manifest offline.

    `signing_key` is the raw Ed25519 public key in hexadecimal, empty for members that sign nothing.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    role: Role
    id: NodeId
    signing_key: str
    joined_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A withdrawal that stops what was withdrawn from coming back."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    kind: Literal["expert", "node"]
    id: str
    reason: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """The members that are no longer trusted; `number` grows with every issue."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    number: int
    nodes: tuple[NodeId, ...]
    issued_at: float
