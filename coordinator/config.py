"""How a coordinator is set, and where it keeps what."""

from dataclasses import dataclass
from pathlib import Path

from swarm.config import (
    COORDINATOR_HTTP_PORT,
    COORDINATOR_JOIN_PORT,
    COORDINATOR_PORT,
    GATE_VERSIONS_KEPT,
    LOOPBACK,
    SwarmHome,
)
from swarm.domain.growth import Criterion, GrowthPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """One coordinator: its home, where it listens, and the two services that it needs.

    `registry` is the registry's `host:port` (empty: as founded). `advertise` is the host that others reach
    this coordinator by, `advertise_registry` the registry's `host:port` as others reach it; empty: joiners
    use the host that they joined through. Port 0 takes a free one. `gate_top_k` is how many experts a new
    gate without sums asks per query. `import_paths` lead a user's trunk to its file. Of `gate_versions_kept`
    of the newest gate versions all arrays are kept, of older ones what was signed.

    Inference over HTTP listens at `http_listen` (empty: not at all): on loopback plain and for everybody, on
    another address over TLS and with bearer tokens. `loopback_port`: inference over gRPC without TLS, on
    loopback only (None: not at all).

    Each caller may ask about `query_rate` rows a second (0: as many as it likes), those named in
    `query_rates` (`role/id`) about as many as are set there. The trail of answers is kept for `audit_days`
    (0: none is written).

    `growth` is the policy of growth unless another was set at run time; it looks every `growth_every_s` for
    the leaf to split by `growth_criterion`, and for owners without a lease since `growth_stale_after_s`. An
    owner that is away for `growth_patience_s` ends the proposal that it carries out, and so does one that did
    not take it up.

    The modules of each leaf are to be loaded on `replicas` nodes, its owner counted; one that is gone for
    `replica_grace_s` is replaced.
    """

    home: SwarmHome
    redis_url: str
    listen: str = "127.0.0.1"
    join_port: int = COORDINATOR_JOIN_PORT
    port: int = COORDINATOR_PORT
    http_listen: str = LOOPBACK
    http_port: int = COORDINATOR_HTTP_PORT
    loopback_port: int | None = None
    advertise: str = ""
    registry: str = ""
    advertise_registry: str = ""
    import_paths: tuple[str, ...] = ()
    gate_top_k: int = 2
    gate_versions_kept: int = GATE_VERSIONS_KEPT
    query_rate: float = 0.0
    query_rates: tuple[tuple[str, float], ...] = ()
    audit_days: int = 30
    growth: GrowthPolicy = "manual"
    growth_every_s: float = 300.0
    growth_criterion: Criterion = "loss"
    growth_stale_after_s: float = 7 * 86_400.0
    growth_patience_s: float = 120.0
    replicas: int = 2
    replica_grace_s: float = 30.0


@dataclass(frozen=True, slots=True)
class CoordinatorFolder:
    """The coordinator's part of a swarm's home."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def specifications(self) -> Path:
        """`<version>.json`, signed."""
        return self.root / "specification"

    @property
    def intended_gate(self) -> Path:
        """What is about to become the next gate version in Redis."""
        return self.root / "intended-gate.json"

    @property
    def intended_specification(self) -> Path:
        """What is about to become the next specification in Redis."""
        return self.root / "intended-specification.json"

    @property
    def gates(self) -> Path:
        """`<version>.json`, signed."""
        return self.root / "gates"

    @property
    def blobs(self) -> Path:
        """The trunk and the gates' arrays, so that a restart needs neither registry nor Redis."""
        return self.root / "blobs"

    @property
    def contributions(self) -> Path:
        return self.root / "contributions"

    @property
    def solver(self) -> Path:
        """Jobs of the solver's child processes while they run."""
        return self.root / "solver"

    @property
    def profiles(self) -> Path:
        """Askers' profiles, `<id>.npy` and `<id>.json`."""
        return self.root / "profiles"

    @property
    def audit(self) -> Path:
        """The trail of answers, `<day>.jsonl`."""
        return self.root / "audit"

    @property
    def records(self) -> Path:
        """Every member's CA-signed record, `<member>.json`."""
        return self.root / "records"

    @property
    def fences(self) -> Path:
        """The newest fence that each node was given, `<node>.json`, so that none is given twice."""
        return self.root / "fences"

    @property
    def own_versions(self) -> Path:
        """The signed manifests of the root's accepted versions, `<version>.json`."""
        return self.root / "own-versions"

    @property
    def token_book(self) -> Path:
        """What is known of each join token and of who used it, `<id>.json`."""
        return self.root / "token-book"

    @property
    def heads(self) -> Path:
        """The manifests that are routed to, `<expert>.json`."""
        return self.root / "heads"

    @property
    def tombstones(self) -> Path:
        """What was withdrawn, `<expert or node>.json`, so that it stays away while Redis is down."""
        return self.root / "tombstones"

    @property
    def judgements(self) -> Path:
        """What each judge of the gate found last, `<node>.json`."""
        return self.root / "judgements"

    @property
    def proposals(self) -> Path:
        """Proposals to change the gate, `<id>.json`."""
        return self.root / "proposals"

    @property
    def growth_policy(self) -> Path:
        """The policy of growth that was set at run time."""
        return self.root / "growth-policy.json"

    @property
    def revocations(self) -> Path:
        """`<number>.json`, signed."""
        return self.root / "revocations"

    @property
    def bearer_tokens(self) -> Path:
        """Bearer tokens (hashes) of HTTP callers, `<id>.json`."""
        return self.root / "bearer-tokens"

    @property
    def tokens(self) -> Path:
        """Join tokens (hashes) that wait for Redis: `<id>.json`."""
        return self.root / "tokens"
