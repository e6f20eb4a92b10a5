"""Members, leases and what they tell each other when a node's stream opens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.domain.collection import OwnerBytes
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.members import Role

LEASE_SECONDS = 10.0
"""A node that is silent for this long has no lease; DESIGN.md promises at most 15 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end of a connection, proven by its certificate."""

    role: Role
    id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Proof of life. A newer lease of the same node has a larger fence and makes this one stale."""

    node: NodeId
    fence: int
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The registry's pointer to an expert's newest accepted version."""

    expert: ExpertId
    version: int
    manifest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message on a node's stream.

    `manifests` are the signed envelopes of the node's own heads: announcing them with every new lease lets
    the registry be rebuilt. `can_build` names the factories this node has; `served` the manifests of others
    that it pulled and may answer for.
    """

    advertise: str
    can_build: tuple[str, ...]
    manifests: tuple[bytes, ...]
    served: tuple[Digest, ...]
    gate_version: int
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Proof of life under a fence, with what the node is doing (`idle`, `training 40%`).

    `trouble` says in a few words, none of them a file's name, what keeps its stream from going on; empty
    where nothing does. `loaded` and `declined` are manifests that the coordinator placed here: in memory, or
    what the node may or can not hold. `room_bytes` may experts of others fill here, 0: none.
    """

    fence: int
    socket_bytes: SocketBytes
    activity: str
    served: tuple[Digest, ...]
    gate_version: int
    trouble: str = ""
    loaded: tuple[Digest, ...] = ()
    declined: tuple[Digest, ...] = ()
    room_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The coordinator's first message: a lease and the current signed statements (empty: none yet)."""

    fence: int
    lease_s: float
    specification: bytes
    gate: bytes
    revocations: bytes
    server_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as `swarm status` shows it."""

    id: NodeId
    alive: bool
    revoked: bool
    fence: int
    advertise: str
    activity: str
    last_seen: float
    experts: tuple[ExpertId, ...]
    socket_bytes: SocketBytes
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """A token without its secret: a join token, or that of the HTTP caller `bearer`, who uses it at will."""

    id: str
    role: Role
    uses_left: int
    expires_at: float
    created_at: float
    bearer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: `gate.activated`, `module.published`, `node.joined`, ..."""

    id: str
    kind: str
    at: float
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionOutcome:
    """What became of a contribution. `state`: `activated` | `refused` | `duplicate`."""

    state: str
    gate_version: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmStatus:
    """The swarm as its coordinator sees it.

    `stand_ins`: the leaves without a live owner that another node answers for, and which node. `replicas`: on
    so many nodes each leaf's modules are to be loaded; `under_replicated`: the leaves that may be shared and
    are on fewer live nodes, and on how many.
    """

    swarm: str
    specification_version: int
    class_names: tuple[str, ...]
    gate_version: int
    nodes: tuple[NodeView, ...]
    leaves_without_owner: tuple[str, ...]
    redis: str
    durability: str
    started_at: float
    server_time: float
    socket_bytes: SocketBytes
    certificate_days: float
    stand_ins: Mapping[str, NodeId] = field(default_factory=dict)
    replicas: int = 0
    under_replicated: Mapping[str, int] = field(default_factory=dict)

    @property
    def unanswered_leaves(self) -> tuple[str, ...]:
        """The leaves that nobody answers for by their own expert."""
        return tuple(leaf for leaf in self.leaves_without_owner if leaf not in self.stand_ins)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedVersions:
    """Which nodes hold, or were told to hold, each version that answers, beside its owner: those that have it
    loaded first. The same `mark` says the same."""

    mark: str
    nodes: Mapping[Digest, tuple[NodeId, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHealth:
    """What `swarm doctor` learns from the registry. `owners`: what each fills; `node_quota_bytes`: what each
    node may, 0: no limit."""

    redis: str
    durability: str
    blobs: int
    blob_bytes: int
    disk_free_bytes: int
    socket_bytes: SocketBytes
    certificate_days: float
    owners: tuple[OwnerBytes, ...] = ()
    node_quota_bytes: int = 0
    blobs_away: str = ""
    """Why what holds the blobs does not answer; empty while it does."""
    missing_blobs: int = 0
    """How many blobs must be here and are not, as of the last look."""
    lost: int = 0
    """How many acknowledged versions and withdrawals the store lacks, and cannot be given yet."""
    journal_damaged: int = 0
    """How many lines of the registry's journal could not be read."""
