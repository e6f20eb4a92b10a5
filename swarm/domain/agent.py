"""What the command asks of the agent on its own machine, and what the agent says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from swarm.domain.inference import Listing, SocketBytes
from swarm.domain.manifests import Share

SumsForm = Literal["auto", "exact", "compact", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder:
    """Train on a data source. `budget_s` 0: by `steps`, the optimiser steps for each expert.

    `net` empty: the node's default. `import_paths` lead `package.module` names to their files.
    `sums` is the form of the contribution's sums: `auto` (exact where that fits into `sums_mb` megabytes,
    else compact), `exact`, `compact` or `none`. `borrow`: start from the most relevant peer's weights where
    that helps. `refine`: train the corrections of existing leaves against the active gate's root, no more.
    """

    data: str
    net: str = ""
    budget_s: float = 0.0
    steps: int = 1000
    dry_run: bool = False
    seed: int = 0
    share: Share = "borrow"
    import_paths: tuple[str, ...] = ()
    sums: SumsForm = "auto"
    sums_mb: float = 4.0
    borrow: bool = True
    refine: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """Progress, fraction 0..1. `stage` is one of data, features, clusters, sums, borrow, train, publish,
    contribute, done."""

    stage: str
    message: str
    fraction: float
    listings: tuple[Listing, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """The agent's own view of itself, for `swarm status` and `swarm doctor` on its machine."""

    node: str
    swarm: str
    connected: bool
    fence: int
    gate_version: int
    activity: str
    outbox: int
    certificate_days: float
    experts: tuple[str, ...]
    socket_bytes: SocketBytes
    disk_free_bytes: int
    clock_skew_s: float
    expert_server_pid: int
