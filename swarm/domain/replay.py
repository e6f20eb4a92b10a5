"""What an answer came from, by signed digests: enough to compute it again."""

from dataclasses import dataclass
from typing import ClassVar

from swarm.domain.combination import Combination
from swarm.domain.ids import Digest, NodeId, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One expert's part in an answer: the `rows` that it answered, for the gate's leaf number `leaf`.

    `speaker` is the leaf whose expert spoke, another where exact copies stand in; `manifest` its version.
    `computed_on` is what its holder says that it computed on.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: int
    speaker: int
    manifest: Digest
    served_by: NodeId
    rows: tuple[int, ...]
    computed_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """What a replayable answer came from. Rows were computed in tiles and in one thread
    (`swarm.gating.tiles`).

    `specification` and `gate` are digests of signed statements; `combination` is the one that answered, with
    its temperatures; `evenly` and `falls_back` as routing has them. `heads` is the digest of the manifest of
    each of the gate's leaves at that time, empty where it had none. `computed_on` is that of
    whoever routed: the coordinator or, where it is away, a node.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    specification: Digest
    gate: Digest
    gate_version: int
    combination: Combination
    evenly: bool
    falls_back: bool
    heads: tuple[str, ...]
    said: tuple[Said, ...]
    computed_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswer:
    """What whoever routed a replayable answer signs: that it gave `figures` to `inputs`, by `record`,
    and said by `route` whom they are of.

    All three are digests (`swarm.answering.vouching`); `owners` and `min_confidence` are the query's.
    `given_at`: seconds since the epoch, by the giver's clock. `request_id`: what the asker called its
    request; empty: nothing, and the statement may be of any request for the same inputs.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    given_by: NodeId
    given_at: float
    inputs: Digest
    owners: tuple[NodeId, ...]
    min_confidence: float
    figures: Digest
    route: Digest
    record: AnswerRecord
    request_id: str = ""
