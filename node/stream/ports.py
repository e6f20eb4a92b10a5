"""What a stream is asked to do, and what it needs of the agent around it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from node.jobs import JobRecord
from node.stream.taking import Answering
from swarm.domain.agent import StreamOptions, TrainOrder, TrainStep
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder(JobRecord):
    """The stream that runs, kept for the agent's next start. `first`: the number of its first mega-batch."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "order.json"

    order: TrainOrder
    first: int

    @property
    def options(self) -> StreamOptions:
        return self.order.stream or StreamOptions()


Progress = Literal["nothing", "learned", "laid down"]


class HaltedError(SwarmError):
    """A job has a result that could not be laid down: nothing may be learned before it is."""


class Learner(Protocol):
    """What learns what has gathered (implemented by `node.training.Trainer`)."""

    def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]: ...
    def is_busy_besides(self, key: str) -> bool: ...
    def progress_of(self, key: str) -> Progress: ...
    def answering(self) -> list[Answering]: ...


class Knowledge(Protocol):
    """What a stream must know of the swarm."""

    @property
    def gate_version(self) -> int: ...
    def specification(self) -> Specification: ...
    async def provide_trunk(self, specification: Specification) -> None: ...
    async def provide_regions(self) -> GateStatement | None: ...
