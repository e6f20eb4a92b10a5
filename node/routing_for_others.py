"""A node that listens routes for others, too: whoever finds no coordinator asks it instead."""

import asyncio
from collections.abc import Coroutine
from typing import Final

from node.expert_service import ExpertService
from swarm.answering.direct import DirectAnswers
from swarm.client.ways import Ways
from swarm.config import NodeHome
from swarm.domain.errors import DeadlineError, NotReadyError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Examples, ExpertAnswer, ExpertRequest, Profile, Query
from swarm.domain.membership import Caller
from swarm.rpc.clients import CoordinatorClient

ROUTING_LOOK_S: Final = 300.0
"""How often a node asks where the others listen; a new gate or a revocation makes it ask at once."""
FILES_LOOK_S: Final = 1.0
_TOLD = ("gate.json", "specification.json", "revocations.json")


class RoutingForOthers:
    """Implements `InferencePort`, but for profiles: those are the coordinator's alone."""

    def __init__(self, coordinator: CoordinatorClient, answers: DirectAnswers) -> None:
        self._ways = Ways(coordinator, direct=answers)

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the answer by the gate that this node has verified; by the coordinator's where an owner
        cannot be asked from here; degraded where neither goes."""
        if query.profile:
            raise _profiles_elsewhere()
        return await self._ways.predict(query, timeout_s)

    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile:
        raise _profiles_elsewhere()


class OwnExperts:
    """This node's own experts, without a hop. Implements `ExpertLink`."""

    def __init__(self, node: NodeId, service: ExpertService) -> None:
        self.node, self._service = node, service

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._service.predict(request)
        except TimeoutError as error:
            raise DeadlineError("experts of this node", found=f"no answer within {timeout_s:g} s") from error


async def keep_current(answers: DirectAnswers, home: NodeHome) -> None:
    """Keep what routing needs current until cancelled: the agent's files say when there is something new."""
    work: list[Coroutine[None, None, None]] = [answers.run(), _kick_with_files(answers, home)]
    async with asyncio.TaskGroup() as tasks:
        for each in work:
            tasks.create_task(each)


async def _kick_with_files(answers: DirectAnswers, home: NodeHome) -> None:
    known = _stamps(home)
    while True:
        await asyncio.sleep(FILES_LOOK_S)
        present = _stamps(home)
        if present != known:
            known = present
            answers.kick()


def _stamps(home: NodeHome) -> list[int]:
    files = [home.state / name for name in _TOLD]
    return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]


def _profiles_elsewhere() -> NotReadyError:
    return NotReadyError(
        "profile",
        found="a node that routes",
        expected="the coordinator, which has the owners' sums",
        remedy="ask without a profile, or when the coordinator is back",
    )
