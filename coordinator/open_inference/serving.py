"""The models behind the protocol: finds them by name and version, and asks the router or one expert."""

import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coordinator.heads import Heads
from coordinator.older_gates import OlderGates
from coordinator.open_inference.answering import (
    check_expert_parameters,
    check_outputs,
    check_parameters,
    min_confidence,
    query_of,
    replayable_answer,
    result_of,
    time_limit_s,
    wanted_outputs,
)
from coordinator.open_inference.models import SWARM_MODEL, expert_model, swarm_model, version_number
from coordinator.open_inference.single_expert import SingleExpert
from coordinator.open_inference.statistics import Statistics, Stopwatch
from swarm.answering.active_gate import ActiveGate
from swarm.answering.front_door import FrontDoor
from swarm.answering.known_head import KnownHead
from swarm.answering.short_work import worked
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError
from swarm.domain.ids import ROOT_EXPERT, ExpertId, owner_of
from swarm.domain.inference import Answer
from swarm.domain.open_inference import (
    InferRequest,
    InferResult,
    ModelDescription,
    ModelStanding,
    ModelStatistics,
    OfferedTensor,
)
from swarm.domain.specification import Specification
from swarm.rpc.callers import current_caller
from swarm.rpc.open_inference.tensors import MOST_SIZES, read_input
from swarm.rpc.ports import InferencePort

_NAMED = 10
_SMALL = 1 << 16
"""More numbers than this are converted off the event loop."""


class OpenInference:
    """Implements `OpenInferencePort`."""

    def __init__(
        self,
        *,
        router: InferencePort,
        experts: SingleExpert,
        heads: Heads,
        active: Callable[[], ActiveGate | None],
        older: OlderGates,
        specification: Callable[[], Specification],
        statistics: Statistics,
        door: FrontDoor,
    ) -> None:
        """Nothing is behind the door yet: requests go through it here, so that their waiting is counted."""
        self._router, self._experts, self._heads, self._door = router, experts, heads, door
        self._active, self._older, self._specification = active, older, specification
        self._statistics = statistics

    def is_ready(self) -> bool:
        """Say whether there is a gate with leaves to answer by, and answers are not coming to an end."""
        active = self._active()
        return not self._door.is_closing and active is not None and active.prototypes is not None

    async def standing(self, name: str, version: str) -> ModelStanding:
        """Return whether a model can be asked; raises as `model` does."""
        return self._standing(await self.model(name, version))

    def _standing(self, found: ModelDescription) -> ModelStanding:
        name, version = found.name, found.version
        if name == SWARM_MODEL:
            reason = "" if self.is_ready() else "no gate with leaves yet"
        else:
            head = self._version_of(name, version)
            is_held = head.manifest.expert == ROOT_EXPERT or self._experts.can_answer(head)
            reason = "" if is_held else f"{head.manifest.owner} is away and nobody else holds it"
        return ModelStanding(name=name, version=version, is_ready=not reason, reason=reason)

    async def model(self, name: str, version: str) -> ModelDescription:
        """Return a model by name and version (empty: the newest), with all versions that are answered.

        Raises NotFoundError where there is none, also for what was withdrawn, InvalidInputError for a version
        that is no number.
        """
        found, active = self._model(name, version), self._active()
        if name != SWARM_MODEL or active is None:
            return found
        older = await self._older.answering(active.version)
        asked = int(found.version)
        if asked not in (*older, active.version):
            there = ", ".join(map(str, (*older[-_NAMED:], active.version)))
            raise NotFoundError(
                f"version {asked} of model {name}",
                found=f"gate {there}",
                expected="one whose arrays are kept, without what was withdrawn since",
                remedy="leave the version out for the newest",
            )
        value = active.value if asked == active.version else await self._older.statement(asked)
        return swarm_model(self._specification(), value, asked, (*older, active.version))

    def _model(self, name: str, version: str) -> ModelDescription:
        """Return a model as a request needs it: of the swarm, only the version that is asked for."""
        if name != SWARM_MODEL:
            head = self._version_of(name, version)
            return expert_model(self._specification(), head, self._versions(ExpertId(name)))
        active, number = self._active(), version_number(version, name)
        newest = 0 if active is None else active.version
        if number > newest:
            raise NotFoundError(
                f"version {number} of model {name}",
                found=f"gate {newest}" if newest else "no gate yet",
                expected="a gate's version, or none for the newest",
            )
        versions = (newest,) if newest else ()
        return swarm_model(
            self._specification(), active.value if active else None, number or newest, versions
        )

    def index(self, *, only_ready: bool) -> list[ModelStanding]:
        """Return every model's versions, the swarm first."""
        found = [self._standing(self._model(SWARM_MODEL, ""))]
        for expert in sorted(self._heads.manifests()):
            versions = [str(head.manifest.version) for head in self._versions(expert)]
            found += [self._standing(self._model(expert, version)) for version in versions]
        return [model for model in found if model.is_ready or not only_ready]

    def statistics(self, name: str, version: str) -> list[ModelStatistics]:
        """Return a model's statistics, of one version or of all; without a name, of all models."""
        if name and version:
            return [self._statistics.of(name, self._model(name, version).version)]
        names = [name] if name else [SWARM_MODEL, *sorted(self._heads.manifests())]
        found = []
        for each in names:
            versions = dict.fromkeys([*self._statistics.versions(each), *self._model(each, "").versions])
            found += [self._statistics.of(each, asked) for asked in versions]
        return found

    async def infer(self, request: InferRequest, timeout_s: float) -> InferResult:
        """Answer a request.

        Raises as `model` and `Inference.predict` do; they name the tensor,
        the output or the parameter that is wrong.
        """
        model = self._model(request.model, request.version)
        with self._statistics.request(model.name, model.version) as watch:
            with watch.phase("compute_input"):
                check_parameters(request.parameters)
                check_outputs(request.outputs, model)
                limit_s = time_limit_s(request.parameters, timeout_s)
            answer, inputs = await self._answer(request, model, limit_s, watch)
            watch.rows = len(answer.probabilities)
            version = str(answer.gate_version) if model.name == SWARM_MODEL else model.version
            with watch.phase("compute_output"):
                is_short = answer.probabilities.size <= _SMALL and answer.record is None
                return await worked(is_short, _result, request, inputs, answer, model, version)

    async def _answer(
        self, request: InferRequest, model: ModelDescription, limit_s: float, watch: Stopwatch
    ) -> tuple[Answer, NDArray[np.generic]]:
        with watch.phase("compute_input"):
            is_long = any(_is_long(tensor) for tensor in request.inputs)
            inputs = await worked(not is_long, read_input, request.inputs, model.input)
            ask = self._asking(request, inputs)
        async with AsyncExitStack() as turn:
            with watch.phase("queue"):
                waiting = self._door.query(current_caller(), model.name, max(1, len(inputs)), limit_s)
                passed = await turn.enter_async_context(waiting)
            with watch.phase("compute_infer"):
                answer = passed.answer = await ask(passed.left_s)
        return answer, inputs

    def _asking(
        self, request: InferRequest, inputs: NDArray[np.generic]
    ) -> Callable[[float], Awaitable[Answer]]:
        """Return how a request's model answers, given the seconds that are left."""
        if request.model == SWARM_MODEL:
            asked = version_number(request.version, request.model)
            return partial(self._router.predict, query_of(request, inputs, asked))
        check_expert_parameters(request.parameters)
        least, active = min_confidence(request.parameters), self._active()
        if active is None:
            raise NotReadyError(
                "gate",
                found="none yet",
                expected="a contribution of at least one node",
                remedy="on a node: swarm train DATA",
            )
        head, gate = self._version_of(request.model, request.version), active.value
        if head.manifest.expert == ROOT_EXPERT:
            seen = head.manifest.gate_version_seen
            query = query_of(request, inputs, 0 if seen == active.version else seen)
            return partial(self._router.predict, replace(query, combination="root"))

        async def by_name(left_s: float) -> Answer:
            answer = await self._experts.predict(head, gate, inputs, left_s)
            return answer.at_least(least)

        return by_name

    def _version_of(self, name: str, version: str) -> KnownHead:
        versions, number = self._versions(ExpertId(name)), version_number(version, name)
        if not versions:
            raise self._unknown(name)
        found = next((head for head in versions if number in (0, head.manifest.version)), None)
        if found is None:
            there = ", ".join(str(head.manifest.version) for head in versions)
            raise NotFoundError(
                f"version {number} of model {name}",
                found=f"version {there}",
                expected="one that is served: an expert's newest, and one that the gate pins",
                remedy="leave the version out for the newest",
            )
        return found

    def _versions(self, expert: ExpertId) -> list[KnownHead]:
        """Return what of an expert can be asked: what answers in the gate first, then its newest."""
        active, newest = self._active(), self._heads.get(expert)
        answering = []
        if active is not None:
            rows = active.leaf_index.by_expert.get(expert, ())
            answering = [self._heads.answering(active.value.leaves[row]) for row in rows]
        found = {head.digest: head for head in (*answering, newest) if head is not None}
        return list(found.values())

    def _unknown(self, name: str) -> NotFoundError:
        gone = self._withdrawn(name)
        known = [SWARM_MODEL, *sorted(self._heads.manifests())]
        more = len(known) - _NAMED
        return NotFoundError(
            f"model {name[:80]!r}",
            found=gone or "no such model",
            expected=f"one of {', '.join(known[:_NAMED])}{f' and {more} more' if more > 0 else ''}",
            remedy="ask model swarm: it is answered by those that are left" if gone else "",
        )

    def _withdrawn(self, name: str) -> str:
        try:
            owner = owner_of(ExpertId(name))
        except InvalidInputError:
            return ""
        if self._heads.has_left(owner):
            return f"an expert of {owner}, who left or was revoked"
        return "an expert that was withdrawn" if self._heads.is_withdrawn(ExpertId(name)) else ""


def _result(
    request: InferRequest,
    inputs: NDArray[np.generic],
    answer: Answer,
    model: ModelDescription,
    version: str,
) -> InferResult:
    outputs = wanted_outputs(request, model)
    return result_of(request, answer, outputs, version, replayable_answer(request, inputs, answer))


def _is_long(tensor: OfferedTensor) -> bool:
    """Say whether a tensor's numbers take a while to read; raw bytes take none."""
    if isinstance(tensor.content, bytes | memoryview):
        return False
    return math.prod(tensor.shape[:MOST_SIZES]) > _SMALL
