"""Contributions that wait to be judged: those that come while the gate is changing are judged together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from coordinator.contributions import Arrived
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, NotReadyError, SwarmError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import ContributionOutcome
from swarm.trust.statements import Statement

log = structlog.get_logger()


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
        self._judging: list[Pending] = []
        self._working: asyncio.Task[None] | None = None

    async def outcome_of(self, pending: Pending) -> ContributionOutcome:
        """Queue a contribution and return what became of it; raises what it was refused for."""
        for older in [each for each in self._waiting if each.owner == pending.owner]:
            if older.statement.digest == pending.statement.digest:  # sent again, as after a lost connection
                pending.arrived.discard()
                return await asyncio.shield(older.result)
            self._waiting.remove(older)
            older.arrived.discard()
            older.fail(_superseded(older, pending))
        self._waiting.append(pending)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="judge contributions")
        return await asyncio.shield(pending.result)

    def result_of(self, digest: Digest) -> "asyncio.Future[ContributionOutcome] | None":
        """Return what becomes of a contribution that waits or is being judged now; None for any other."""
        found = (each.result for each in (*self._judging, *self._waiting) if each.statement.digest == digest)
        return next(found, None)

    async def stop(self) -> None:
        """End what is under way, as a crash would: callers try again."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        try:
            while self._waiting:
                async with self._changing:
                    self._judging = self._next_batch()
                    await self._judged(self._judging)
                for pending in self._judging:
                    pending.arrived.discard()
                self._judging = []
        finally:
            for pending in [*self._judging, *self._waiting]:
                pending.arrived.discard()
                pending.fail(NotReadyError("gate", found="the coordinator stopped", remedy="try again"))
            self._waiting.clear()
            self._judging = []

    async def _judged(self, batch: Sequence[Pending]) -> None:
        """Judge a batch; what goes wrong in an unforeseen way ends it, and nothing that comes after."""
        try:
            await self._judge(batch)
        except Exception as error:  # whatever it is: others wait behind it
            log.exception("gate.judging_failed", owners=[pending.owner for pending in batch])
            for pending in batch:
                pending.fail(
                    NotReadyError(
                        f"contribution of {pending.owner}",
                        found=f"a fault while it was judged: {type(error).__name__}",
                        remedy="try again later; the coordinator's log says more",
                    )
                )

    def _next_batch(self) -> list[Pending]:
        batch: dict[NodeId, Pending] = {}
        for pending in self._waiting:
            batch.setdefault(pending.owner, pending)
        self._waiting = [pending for pending in self._waiting if pending is not batch[pending.owner]]
        return list(batch.values())


def _superseded(older: Pending, newer: Pending) -> ConflictError:
    return ConflictError(
        f"contribution of {older.owner}, epoch {older.statement.value.epoch}",
        found=f"epoch {newer.statement.value.epoch}, which came while it waited",
        expected="one contribution of each owner at a time",
    )
