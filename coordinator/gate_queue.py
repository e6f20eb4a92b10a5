"""Contributions that wait to be judged: those that come while the gate is changing are judged together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coordinator.contributions import Arrived
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Contribution
from swarm.domain.membership import ContributionOutcome
from swarm.trust.statements import Statement


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A checked contribution whose arrays have arrived. `name` is what its outcome is remembered under."""

    statement: Statement[Contribution]
    arrived: Arrived
    fence: int
    name: str
    result: "asyncio.Future[ContributionOutcome]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def owner(self) -> NodeId:
        return self.statement.value.owner

    def finish(self, outcome: ContributionOutcome) -> None:
        """Tell its caller, who may be gone."""
        if not self.result.done():
            self.result.set_result(outcome)

    def fail(self, error: SwarmError) -> None:
        """Tell its caller that nothing came of it."""
        if not self.result.done():
            self.result.set_exception(error)
            # Its caller may be gone; looking at the error keeps it from being reported as forgotten.
            self.result.exception()


class ContributionQueue:
    """Hands over what waits, at most one of each owner at a time, whenever nothing else changes the gate.

    `judge` runs under `changing` and gives every one its outcome. What was queued is judged to its end even
    when its caller goes away.
    """

    def __init__(self, changing: asyncio.Lock, judge: Callable[[Sequence[Pending]], Awaitable[None]]) -> None:
        self._changing, self._judge = changing, judge
        self._waiting: list[Pending] = []
        self._working: asyncio.Task[None] | None = None

    async def outcome_of(self, pending: Pending) -> ContributionOutcome:
        """Queue a contribution and return what became of it; raises what it was refused for."""
        self._waiting.append(pending)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="judge contributions")
        return await asyncio.shield(pending.result)

    async def stop(self) -> None:
        """End what is under way, as a crash would: callers try again."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        batch: list[Pending] = []
        try:
            while self._waiting:
                async with self._changing:
                    batch = self._next_batch()
                    await self._judge(batch)
                for pending in batch:
                    pending.arrived.discard()
        finally:
            for pending in [*batch, *self._waiting]:
                pending.arrived.discard()
                pending.fail(NotReadyError("gate", found="the coordinator stopped", remedy="try again"))
            self._waiting.clear()

    def _next_batch(self) -> list[Pending]:
        batch: dict[NodeId, Pending] = {}
        for pending in self._waiting:
            batch.setdefault(pending.owner, pending)
        self._waiting = [pending for pending in self._waiting if pending is not batch[pending.owner]]
        return list(batch.values())
