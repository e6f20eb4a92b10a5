"""What the servicers need of the processes behind them: the coordinator, the registry and the node.

Errors are `swarm.domain.errors` classes; the interceptor maps them to the wire. Statements travel as the
JSON bytes of their DSSE envelopes. Every mutating method takes an idempotency key: sent twice, it acts
once and returns the first outcome again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.collection import Collection
from swarm.domain.combination import TrialOption
from swarm.domain.federation import FederationOrder, FederationPart, FederationStep
from swarm.domain.gates import GateHistory
from swarm.domain.growth import (
    GrowthOrder,
    GrowthPolicy,
    GrowthReport,
    Proposal,
    ProposalKind,
    Survey,
)
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import (
    Answer,
    Examples,
    ExpertAnswer,
    ExpertRequest,
    GateTrial,
    Profile,
    Query,
)
from swarm.domain.lineage import Lineage
from swarm.domain.members import Role
from swarm.domain.membership import (
    Caller,
    ContributionOutcome,
    Event,
    Head,
    Heartbeat,
    Hello,
    PlacedVersions,
    RegistryHealth,
    SwarmStatus,
    TokenView,
    Welcome,
)
from swarm.domain.open_inference import (
    InferRequest,
    InferResult,
    ModelDescription,
    ModelStanding,
    ModelStatistics,
)
from swarm.domain.rebuild import BroughtBack, RebuildReport
from swarm.modules.outlines import Outline


class NodeLink(Protocol):
    """The coordinator's end of one node's open stream (`swarm.rpc.node_stream` implements it)."""

    node: NodeId
    hello: Hello

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        """Ask the node's experts; DeadlineError or UnreachableError when it does not answer."""

    async def try_gate(
        self,
        candidate: bytes,
        incumbent: bytes,
        options: Sequence[TrialOption],
        specification: bytes,
        timeout_s: float,
    ) -> GateTrial:
        """Let the node judge a candidate gate on its own validation data."""

    async def survey(self, gate: bytes, specification: bytes, timeout_s: float) -> Survey:
        """Ask how each leaf of a gate does on the node's own validation data that are routed to it."""

    async def carry_out(self, order: GrowthOrder, timeout_s: float) -> None:
        """Let the node carry out a proposal; its refusal comes by name, its work is reported later."""

    async def federate(self, part: FederationPart, timeout_s: float) -> FederationPart:
        """Hand the node a part of a federated run's message, or ask for a part of its reply."""

    def announce(
        self,
        *,
        gate: bytes = b"",
        specification: bytes = b"",
        revocations: bytes = b"",
        event: Event | None = None,
        placement: Sequence[Digest] | None = None,
    ) -> None:
        """Queue what is new for the node; never blocks. `placement`: all that it is to hold and load."""

    def close(self, reason: str) -> None:
        """End the stream with UNAUTHENTICATED and the reason."""


class MembershipPort(Protocol):
    """Joining, leaving, leases, tokens (implemented by `coordinator.membership`)."""

    async def node_connected(self, link: NodeLink) -> Welcome: ...
    async def node_heartbeat(self, link: NodeLink, beat: Heartbeat) -> None: ...
    async def node_disconnected(self, link: NodeLink) -> None: ...
    async def status(self) -> SwarmStatus: ...
    async def placement(self) -> PlacedVersions: ...
    async def record(self, member: NodeId) -> bytes: ...
    async def specification(self, version: int) -> bytes: ...
    async def revocations(self) -> bytes: ...
    async def renew_certificate(self, caller: Caller, csr_pem: bytes, key: str) -> bytes: ...
    async def leave(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]: ...
    async def revoke(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]: ...
    async def create_token(
        self, role: Role, uses: int, lifetime_s: float, key: str
    ) -> tuple[str, TokenView]: ...
    async def create_bearer(self, holder: NodeId, lifetime_s: float, key: str) -> tuple[str, TokenView]: ...
    async def tokens(self) -> list[TokenView]: ...
    async def revoke_token(self, token_id: str, key: str) -> None: ...
    def events(self, after: str, follow: bool, limit: int) -> AsyncIterator[Event]: ...


class GatePort(Protocol):
    """The gate's keeper (implemented by `coordinator.gate_keeper`)."""

    async def contribute(
        self, caller: Caller, envelope: bytes, arrays: AsyncIterator[bytes], fence: int, key: str
    ) -> ContributionOutcome: ...
    async def contribution(self, caller: Caller, digest: Digest) -> tuple[bytes, memoryview]: ...
    async def gate(self, version: int) -> bytes: ...
    async def history(self, before: int, limit: int) -> GateHistory: ...
    async def rollback(self, version: int, key: str) -> bytes: ...
    async def fit(self, key: str) -> ContributionOutcome: ...


class InferencePort(Protocol):
    """Routed answers (implemented by `coordinator.inference`)."""

    async def predict(self, query: Query, timeout_s: float) -> Answer: ...
    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile: ...


class OpenInferencePort(Protocol):
    """The Open Inference Protocol's models (implemented by `coordinator.open_inference.serving`)."""

    def is_ready(self) -> bool: ...
    async def standing(self, name: str, version: str) -> ModelStanding: ...
    async def model(self, name: str, version: str) -> ModelDescription: ...
    def index(self, *, only_ready: bool) -> list[ModelStanding]: ...
    def statistics(self, name: str, version: str) -> list[ModelStatistics]: ...
    async def infer(self, request: InferRequest, timeout_s: float) -> InferResult: ...


class RegistryPort(Protocol):
    """Blobs and manifests (implemented by `swarm.registry.service`)."""

    async def missing(
        self, digests: Sequence[Digest], caller: Caller | None = None, *, claims: bool = True
    ) -> list[Digest]: ...
    async def publish(
        self, caller: Caller, digest: Digest, size_bytes: int, chunks: AsyncIterator[bytes], offset: int = 0
    ) -> None: ...
    async def upload_state(self, caller: Caller, digest: Digest) -> int: ...
    def fetch(
        self, digest: Digest, offset: int = 0, length: int = 0, caller: Caller | None = None
    ) -> AsyncIterator[bytes]: ...
    async def outline(self, digest: Digest, caller: Caller | None = None) -> Outline: ...
    async def publish_delta(
        self, caller: Caller, parent: Digest, digest: Digest, size_bytes: int, pieces: AsyncIterator[bytes]
    ) -> None: ...
    def fetch_delta(
        self, digest: Digest, parent: Digest, width: int, caller: Caller | None = None
    ) -> AsyncIterator[bytes]: ...
    async def commit(self, caller: Caller, envelope: bytes, fence: int, key: str) -> Head: ...
    async def announce(
        self, caller: Caller, envelopes: Sequence[bytes], fence: int, key: str
    ) -> tuple[list[str], list[str]]: ...
    async def heads(self, owner: str) -> list[Head]: ...
    async def manifest(self, digest: str, expert: str, version: int) -> bytes: ...
    async def withdraw(self, caller: Caller, tombstone: bytes, fence: int, key: str) -> list[Digest]: ...
    async def lineage(self, manifest: str, expert: str) -> Lineage: ...
    async def collect(self, dry_run: bool) -> Collection: ...
    async def bring_back(self, caller: Caller, envelopes: Sequence[bytes], fence: int) -> BroughtBack: ...
    async def rebuild(self, begin: bool) -> RebuildReport: ...
    async def health(self) -> RegistryHealth: ...


class HolderPort(Protocol):
    """A node's cache, for others (implemented by `node.holdings`)."""

    def fetch(self, caller: Caller, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]: ...
    async def outline(self, caller: Caller, blob: Digest) -> Outline: ...


class ExpertPort(Protocol):
    """A node's experts (implemented by `node.expert_server`, and by the agent as a relay)."""

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]: ...
    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial: ...

    async def survey(self, gate: bytes, specification: bytes) -> Survey: ...


@runtime_checkable
class PassingExpertPort(ExpertPort, Protocol):
    """Experts behind somebody who need not read what is asked of them (implemented by the agent)."""

    async def pass_on(self, query: bytes) -> bytes:
        """Return the encoded reply to an encoded request of `Expert.Predict`, both unread: whoever answers
        checks the one, whoever asked the other."""
        ...


class GrowthPort(Protocol):
    """Proposals to change the gate (implemented by `coordinator.growth`)."""

    async def propose(
        self,
        caller: Caller,
        kind: ProposalKind,
        experts: Sequence[ExpertId],
        options: Mapping[str, str],
        gate_version: int,
        key: str,
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        """Record a proposal and give it to its owner. `gate_version`: the one that it was made against, 0 for
        whichever is present; another one is refused by name, and so is a leaf that has a proposal. Of an add
        without an expert, `owner` is whose it is (None: the caller's), `regions` its prototypes, if they are
        given."""

    async def proposals(self, proposal: str) -> list[Proposal]:
        """Return all proposals, newest first, or the one of that id."""

    async def report(self, caller: Caller, report: GrowthReport, key: str) -> Proposal:
        """Take note of what an owner says of a proposal that it carries out."""

    async def cancel(self, caller: Caller, proposal: str, key: str) -> Proposal:
        """End a proposal; what it changed is rolled back."""

    async def policy(self, policy: str, key: str) -> GrowthPolicy:
        """Return the policy of growth, after changing it (empty: as it is)."""


class GrowerPort(Protocol):
    """What carries out growth on a node (implemented by `node.agent`)."""

    async def carry_out(self, order: GrowthOrder) -> None: ...


class FederationPort(Protocol):
    """Federated runs (implemented by `coordinator.federation`)."""

    def run(self, order: FederationOrder) -> AsyncIterator[FederationStep]: ...


class FederationClientPort(Protocol):
    """A node's end of federated runs (implemented by `node.federation`)."""

    async def deliver(self, part: FederationPart) -> FederationPart:
        """Take a part of a message; the last one, and a later question for more, bring the reply's parts.

        The same message again is answered again, not done again.
        """


class AgentPort(Protocol):
    """The node agent, as the command on the same machine sees it (implemented by `node.agent`)."""

    def train(self, request: TrainOrder) -> AsyncIterator[TrainStep]: ...
    async def state(self) -> AgentState: ...
    async def leave(self, reason: str) -> tuple[int, tuple[ExpertId, ...]]: ...
    async def stop(self) -> None: ...
