"""What the command asks of the agent on its own machine, and what the agent says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.inference import Listing, SocketBytes
from swarm.domain.manifests import Share
from swarm.domain.tensors import FORBID_UNKNOWN

SumsForm = Literal["auto", "exact", "compact", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How mega-batches are taken as they arrive in a folder (or from an iterator).

    `wait`: train every so many mega-batches; the old experts answer meanwhile. `test`: a source to measure
    errors on (empty: the validation samples gathered so far). The stream ends after `idle_s` seconds without
    a mega-batch (0: never) or after `most` of them (0: no limit). `keep_mb`: megabytes of an iterator's items
    that are kept on the node.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    wait: int = 1
    test: str = ""
    idle_s: float = 0.0
    most: int = 0
    keep_mb: float = 1000.0

    def __post_init__(self) -> None:
        if (
            self.wait < 1
            or self.most < 0
            or not 0 <= self.idle_s < math.inf
            or not 0 < self.keep_mb < math.inf
        ):
            raise InvalidInputError(
                "stream",
                found=f"wait {self.wait}, {self.most} mega-batches, {self.idle_s} s, {self.keep_mb} MB",
                expected="a wait of at least 1, the others not below 0, and more than 0 MB to keep",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder:
    """Train on a data source. `budget_s` 0: by `steps`, the optimiser steps for each expert.

    `net` empty: the node's default. `import_paths` lead `package.module` names to their files.
    `sums` is the form of the contribution's sums: `auto` (exact where that fits into `sums_mb` megabytes,
    else compact), `exact`, `compact` or `none`. `borrow`: start from the most relevant peer's weights where
    that helps. `refine`: train the corrections of existing leaves against the active gate's root, no more.
    `update` is what keeps a leaf that continues from forgetting (`swarm.experts.updating`; empty: nothing, it
    is fine-tuned), `memory` how many samples that may remember (0: its own number), `remember` how it
    chooses them and `head` which last layer it leaves (empty: its own way, the net's own). `start` is the
    manifest of an imported expert that new leaves begin with (empty: none). With `stream`, `data` names where
    mega-batches arrive. `stop` ends the stream that runs and does nothing else.

    Of the agent alone, never on the wire: `gathered` are files of mega-batches whose validation samples were
    taken out already (`node.stream.gathered`), and `accumulate` adds the samples to those that leaves stand
    for instead of replacing them.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

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
    update: str = ""
    memory: int = 0
    remember: str = ""
    head: str = ""
    start: str = ""
    stream: StreamOptions | None = None
    stop: bool = False
    gathered: tuple[str, ...] = ()
    accumulate: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """Progress, fraction 0..1. `stage` is one of data, features, clusters, sums, borrow, train, publish,
    contribute, done; of a stream also stream, its own news, skipped (a mega-batch that is none, or is put
    aside) and trouble (what it waits for to be over)."""

    stage: str
    message: str
    fraction: float
    listings: tuple[Listing, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMemory:
    """What a node's expert server has in memory: experts and the bytes of their weights, at most
    `budget_bytes`. Of what it was asked for since it started, `hits` were there and `loads` were loaded."""

    loaded: int = 0
    size_bytes: int = 0
    budget_bytes: int = 0
    hits: int = 0
    loads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """The agent's own view of itself, for `swarm status` and `swarm doctor` on its machine.

    `trouble` is what keeps its stream from going on, in full; empty where nothing does. `outbox_trouble`
    is why the oldest delivery in its outbox waits; empty where nothing is wrong.
    """

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
    trouble: str = ""
    outbox_trouble: str = ""
    memory: ExpertMemory = ExpertMemory()
