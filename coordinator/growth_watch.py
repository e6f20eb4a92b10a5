"""Ends the proposals that nobody carries out: their owner was not told, is away, or silent, for too long."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

from coordinator.growth_book import GrowthBook
from coordinator.live_nodes import LiveNodes
from swarm.domain.errors import SwarmError
from swarm.domain.growth import Proposal
from swarm.domain.ids import NodeId

PATIENCE_S = 120.0
"""An owner that is away for longer ends its proposal: who waits for it must not wait for ever. So does one
that was not told, or did not take it up."""
SILENCE_S = 6 * 3600.0
"""So does one that is here and says nothing of it for so long."""
TICK_S = 5.0

log = structlog.get_logger()


class AbandonedProposals:
    """Looks at the open proposals every few seconds. `left_alone` are those that take no work of an owner."""

    def __init__(
        self,
        book: GrowthBook,
        live: LiveNodes,
        clock: Callable[[], float],
        *,
        end: Callable[[str, str], Awaitable[Proposal]],
        left_alone: Collection[str],
        catch_up: Callable[[], Awaitable[None]],
        patience_s: float = PATIENCE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`end(id, reason)` ends a proposal and undoes what it changed; `catch_up` brings records up to the
        gate where some are behind it."""
        self._book, self._live, self._clock = book, live, clock
        self._end, self._left_alone, self._catch_up = end, left_alone, catch_up
        self._patience_s, self._silence_s = patience_s, silence_s
        self._away_since: dict[NodeId, float] = {}

    async def run(self) -> None:
        """Look after them until cancelled; what fails is tried the next time."""
        while True:
            await asyncio.sleep(min(TICK_S, self._patience_s / 4))
            try:
                await self.look()
            except Exception:
                log.exception("growth.not_looked_after")

    async def look(self) -> None:
        """End what is abandoned by now; first see what the gate decided already."""
        try:
            await self._catch_up()
        except (SwarmError, OSError) as error:
            log.warning("growth.not_in_step", reason=str(error))
        now = self._clock()
        under_way = [each for each in self._book.open() if each.id not in self._left_alone]
        away = {each.owner for each in under_way if self._live.get(each.owner) is None}
        self._away_since = {owner: self._away_since.get(owner, now) for owner in away}
        for each in under_way:
            away_s = now - self._away_since.get(each.owner, now)
            silent_s = now - each.changed_at
            try:
                if away_s > self._patience_s:
                    await self._end(each.id, f"{each.owner} was away for {away_s:.0f} s")
                elif each.state == "open" and silent_s > self._patience_s:
                    await self._end(each.id, f"{each.owner} did not take it up for {silent_s:.0f} s")
                # What trains several experts anew speaks once all are done.
                elif silent_s > self._silence_s * (len(each.experts) if each.kind == "retrain" else 1):
                    await self._end(each.id, f"nothing was heard of it for {silent_s / 3600:.1f} h")
            except (SwarmError, OSError) as error:
                log.warning("growth.not_ended", proposal=each.id, reason=str(error))
