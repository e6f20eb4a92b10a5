"""A query and its answer: what is asked, and everything that an answer says about who gave it."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId
from swarm.domain.replay import AnswerRecord

MAX_QUERY_ROWS = 4096
MAX_EXAMPLES = 2048
MAX_REQUEST_ID = 256
"""So many characters has what an asker calls a request whose answer is signed."""
MAX_TASKS = 4096
"""So many experts may one node be asked at once."""
MAX_TRIAL_SAMPLES = 4096
"""A node judges candidate gates on at most so many of its validation samples."""
ExpertForm = Literal["probabilities", "corrections"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """Raw inputs [B, *input_shape] and how to route them.

    `combination` names the way to combine, empty: the one that the gate serves; `top_k` 0: its own.
    `owners` restricts routing to these owners' leaves (empty: all). `uniform` averages every candidate expert
    with equal weight instead of asking the gate. `profile`: an asker's profile, made of its examples.
    `gate_version`: the gate to answer by, 0 for the present one. `min_confidence` 0..1: rows answered with
    less confidence are answered as unknown. `replayable`: the answer says what it came from, and is computed
    so that it can be computed again to the bit, which takes longer. `request_id`: what the asker calls this
    request; whoever signs a replayable answer signs that, too, so that no older answer passes for this one.
    """

    inputs: NDArray[np.generic]
    top_k: int = 0
    explain: bool = False
    owners: tuple[NodeId, ...] = ()
    uniform: bool = False
    combination: str = ""
    profile: str = ""
    gate_version: int = 0
    min_confidence: float = 0.0
    replayable: bool = False
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """An asker's own labelled inputs [N, *input_shape]: whose conventions shall its answers follow?"""

    inputs: NDArray[np.generic]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Whose sums agree with an asker's examples. `id` is what queries name; `accuracy` is of the solution
    over `owners` on the `examples` themselves, `accuracy_all` of the whole swarm's root."""

    id: Digest
    owners: tuple[NodeId, ...]
    examples: int
    accuracy: float
    accuracy_all: float
    gate_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerShare:
    """How much of the root's score for the class that was answered comes from one owner's sums, 0..1.

    All of it from the owner of the class's best column where classes have columns of their own (ADR 16).
    """

    owner: NodeId
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One expert's share in an answer. `weight` is its share of the mixture, 0..1.

    The root is leaf `coordinator.l0`, expert `coordinator.e0`, served by `coordinator`; `manifest` is its
    expert's, or the gate statement's where none was made for this very version, or the profile's id. Its
    `owners` say on whose sums it rests, in falling weight; they are empty for experts and profiles.
    """

    leaf: LeafId
    expert: ExpertId
    version: int
    manifest: Digest
    owner: NodeId
    served_by: NodeId
    weight: float
    module_digests: tuple[Digest, ...]
    owners: tuple[OwnerShare, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """Probabilities float32 [B, C] over class_names, stamped with what gave them.

    `degraded[b]` says that an expert the gate chose for row b did not answer. `flops_per_query` counts trunk,
    gate and the experts asked. `combination` is the label of what answered; also `uniform` and `asker`.

    `sources[b]` (empty unless explained) lists the experts in falling weight; of `prototypes`, `gate` and
    uniform answers the weights sum to 1. The root answers whole rows: alone in `root`, in rows that fell back
    to it and for a profile; in `poe` and `corrected` it comes first with weight 1, then the experts asked.
    `gate_entropy[b]` (empty as the sources, and of coordinators before it was there) is that of the gate's
    leaf weights in nats.

    `confidence` float32 [B] is the probability of each row's likeliest class (left out: of `probabilities`).
    `calibration` is the temperature by which probabilities were brought to how often such answers are right
    on validation data; 0: nobody has, and `confidence` promises nothing. `out_of_distribution` float32 [B] is
    how far out each row lies (`swarm.gating.out_of_distribution`), above 1 farther than 99 of 100 training
    samples; None where nobody looked. `unknown[b]` (left out: never): the query asked for more confidence
    than this row has; its probabilities are all 0. `record` is there where the query asked for a replayable
    answer, `signed` then is the statement (`swarm.domain.replay.GivenAnswer`) of whoever gave it.
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    gate_version: int
    degraded: tuple[bool, ...]
    sources: tuple[tuple[Source, ...], ...] = ()
    missing_experts: tuple[ExpertId, ...] = ()
    flops_per_query: float = 0.0
    combination: str = ""
    gate_entropy: tuple[float, ...] = ()
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    calibration: float = 0.0
    out_of_distribution: NDArray[np.float32] | None = None
    unknown: tuple[bool, ...] = ()
    record: AnswerRecord | None = None
    signed: bytes = b""

    def __post_init__(self) -> None:
        rows = len(self.probabilities)
        if not len(self.confidence) and rows:
            object.__setattr__(self, "confidence", self.probabilities.max(axis=1, initial=0.0))
        if not self.unknown:
            object.__setattr__(self, "unknown", (False,) * rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """Each row's likeliest class; empty where it is unknown."""
        best = self.probabilities.argmax(axis=1)
        return tuple(
            "" if unknown else self.class_names[column]
            for unknown, column in zip(self.unknown, best, strict=True)
        )

    def at_least(self, min_confidence: float) -> "Answer":
        """Return the answer with the rows below min_confidence unknown: their probabilities are 0. Again, it
        changes nothing."""
        below = self.confidence < min_confidence
        if not below.any():
            return self
        return replace(
            self,
            probabilities=np.where(below[:, None], np.float32(0), self.probabilities),
            unknown=tuple(bool(flag) for flag in below | np.array(self.unknown, dtype=bool)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertTask:
    """Rows of the request's inputs that one expert, at exactly this manifest, shall answer.

    `corrections`: what its correction adds to the class scores, instead of its probabilities.
    """

    expert: ExpertId
    manifest: Digest
    rows: NDArray[np.int64]
    form: ExpertForm = "probabilities"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertRequest:
    """Inputs [B, *input_shape] and the tasks for the experts of one owner. `trunk` and `gate_version` are
    checked by the expert server: features of another trunk are refused, never guessed about. `replayable`:
    rows are to be computed in tiles and in one thread."""

    inputs: NDArray[np.generic]
    tasks: tuple[ExpertTask, ...]
    trunk: Digest
    gate_version: int
    replayable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertAnswer:
    """One task's values float32 [len(rows), C_own] over the expert's own class names, in the task's form.

    Probabilities sum to 1 in each row; corrections are finite and sum to 0. `computed_on` says on what, where
    the request was for a replayable answer.
    """

    expert: ExpertId
    version: int
    manifest: Digest
    class_names: tuple[str, ...]
    values: NDArray[np.float32]
    module_digests: tuple[Digest, ...]
    flops_per_query: float
    form: ExpertForm = "probabilities"
    computed_on: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrial:
    """How a candidate gate does on one node's own validation data; only sums leave the node.

    One entry per option: summed negative log likelihood and correct answers; samples that only this option
    (`gained`), or only the present gate's served combination (`lost`), gets right when the option chooses
    among the present gate's classes; the same when both choose among the node's own classes
    (`gained_among_own`, `lost_among_own`); samples that a class which the present gate does not have takes
    from it (`taken`); and gains and losses against the candidate's own root with the same weights
    (`gained_on_root`, `lost_on_root`; 0 where it has none). `incumbent_correct` is the present gate's count
    on the same samples. `experts_missing` counts chosen experts whose modules this node may not hold; they
    count as uniform over their classes and add nothing. `nll_by_calibration`: option by option, the summed
    negative log likelihood at each of CALIBRATIONS; empty from a node that does not say.
    """

    samples: int
    nll_sum: tuple[float, ...]
    correct: tuple[int, ...]
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    gained_among_own: tuple[int, ...]
    lost_among_own: tuple[int, ...]
    taken: tuple[int, ...]
    gained_on_root: tuple[int, ...]
    lost_on_root: tuple[int, ...]
    incumbent_correct: int = 0
    experts_missing: int = 0
    flops: int = 0
    nll_by_calibration: tuple[float, ...] = ()


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
