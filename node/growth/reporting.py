"""What a node says of the proposals that it carries out, and asks of them: as soon as anybody hears it."""

import asyncio
from contextlib import suppress
from typing import Protocol

import structlog

from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.growth import GrowthReport, GrowthStage, Proposal

LOOK_AGAIN_S = 5.0
_log = structlog.get_logger(__name__)


class GrowthCoordinator(Protocol):
    """What the coordinator is asked and told (`swarm.rpc.clients.CoordinatorClient`)."""

    async def report_growth(self, report: GrowthReport, key: str = "") -> Proposal: ...
    async def proposals(self, proposal: str = "") -> list[Proposal]: ...


class Reporting:
    """Speaks of proposals with a coordinator that may be away for a while."""

    def __init__(self, coordinator: GrowthCoordinator, look_again_s: float = LOOK_AGAIN_S) -> None:
        self._coordinator, self._look_again_s = coordinator, look_again_s
        self._wake = asyncio.Event()

    def kick(self) -> None:
        """Try, or look, again now: a lease came, a gate, or word of a proposal."""
        self._wake.set()

    async def tell(self, proposal: str, stage: GrowthStage, reason: str = "") -> Proposal | None:
        """Report, and return what became of the proposal; None where the coordinator knows of none."""
        report = GrowthReport(proposal=proposal, stage=stage, reason=reason[:500])
        while True:
            try:
                return await self._coordinator.report_growth(report, f"{proposal}-{stage}")
            except NotFoundError:
                return None
            except SwarmError as error:
                _log.info("growth.not_told", proposal=proposal, stage=stage, because=str(error))
            await self._pause()

    async def asked(self, proposal: str) -> Proposal | None:
        """Return how a proposal stands; None where the coordinator knows of none."""
        while True:
            try:
                found = await self._coordinator.proposals(proposal)
                return found[0] if found else None
            except NotFoundError:
                return None
            except SwarmError as error:
                _log.info("growth.not_asked", proposal=proposal, because=str(error))
            await self._pause()

    async def ended(self, proposal: str) -> Proposal | None:
        """Return a proposal once it has ended; None where the coordinator knows of none."""
        while True:
            known = await self.asked(proposal)
            if known is None or known.has_ended:
                return known
            await self._pause()

    async def _pause(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._look_again_s)
