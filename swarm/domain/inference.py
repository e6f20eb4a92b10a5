"""A query and its answer: what is asked, and everything that an answer says about who gave it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId

MAX_QUERY_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """Raw inputs [B, *input_shape] and how to route them.

    `top_k` 0 means the gate's own. `owners` restricts routing to these owners' leaves (empty: all).
    `uniform` averages every candidate expert with equal weight instead of asking the gate.
    """

    inputs: NDArray[np.generic]
    top_k: int = 0
    explain: bool = False
    owners: tuple[NodeId, ...] = ()
    uniform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One expert's share in an answer. `weight` is its share of the mixture, 0..1."""

    leaf: LeafId
    expert: ExpertId
    version: int
    manifest: Digest
    owner: NodeId
    served_by: NodeId
    weight: float
    module_digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """Probabilities float32 [B, C] over class_names, stamped with what gave them.

    `degraded[b]` says that an expert the gate chose for row b did not answer. `sources[b]` lists the
    experts in falling weight (empty unless explained). `flops_per_query` counts trunk, gate and experts.
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    gate_version: int
    degraded: tuple[bool, ...]
    sources: tuple[tuple[Source, ...], ...] = ()
    missing_experts: tuple[ExpertId, ...] = ()
    flops_per_query: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertTask:
    """Rows of the request's inputs that one expert, at exactly this manifest, shall answer."""

    expert: ExpertId
    manifest: Digest
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertRequest:
    """Inputs [B, *input_shape] and the tasks for the experts of one owner. `trunk` and `gate_version` are
    checked by the expert server: features of another trunk are refused, never guessed about."""

    inputs: NDArray[np.generic]
    tasks: tuple[ExpertTask, ...]
    trunk: Digest
    gate_version: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertAnswer:
    """One task's probabilities float32 [len(rows), C_own] over the expert's own class names."""

    expert: ExpertId
    version: int
    manifest: Digest
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    module_digests: tuple[Digest, ...]
    flops_per_query: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrial:
    """How a candidate gate does on one node's own validation data; only sums leave the node.

    One entry per temperature of the grid: summed negative log likelihood, and correct answers at top-1,
    2 and 4. `incumbent_correct` is the present gate's count at its own temperature and top-k on the same
    samples; `gained` and `lost` count samples that only the candidate (only the incumbent) gets right, per
    temperature, at the candidate's top-k.
    `experts_missing` counts chosen experts whose modules this node may not hold; they count as uniform over
    their classes.
    """

    samples: int
    temperatures: tuple[float, ...]
    nll_sum: tuple[float, ...]
    correct_top1: tuple[int, ...]
    correct_top2: tuple[int, ...]
    correct_top4: tuple[int, ...]
    incumbent_correct: int
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    experts_missing: int = 0
    flops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketBytes:
    """Bytes that one process sent and received on TCP sockets since it started, TLS included."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What would leave, or left, this machine: one line of `--dry-run` and `outbound`."""

    what: str
    detail: str
    size_bytes: int
    recipient: str
    at: float = 0.0
    digest: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
