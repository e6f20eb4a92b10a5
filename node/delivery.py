"""Carries the outbox to its recipients in the background, in order, while training goes on.

What cannot be reached is tried again, more slowly each time and at once when a new lease comes; what a
recipient refuses for good is set aside with its reason, and the rest goes on. So does what does not need a
delivery that its recipient cannot take now (no space, nobody to judge it): that one alone waits.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog

from node.outbox import Intent, Outbox
from node.publishing import Publisher, Sending
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    HarmfulContributionError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    StaleFenceError,
    SwarmError,
    TooManyExpertsError,
    TrunkMismatchError,
    UnreachableError,
    VerificationError,
    WrongPeerError,
)
from swarm.trust.statements import read_statement

REFUSALS = (
    ConflictError,
    HarmfulContributionError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    TooManyExpertsError,
    TrunkMismatchError,
    VerificationError,
)
"""What a recipient refuses for good."""
_SHORT = 60
_Went = Literal["ended", "waits", "nobody"]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one intent. `state`: `delivered` | `refused`; of a contribution also `activated`,
    `duplicate` (the gate has it already) and `superseded` (a newer one of this node replaces it, unsent)."""

    state: str
    reason: str = ""
    gate_version: int = 0
    error: SwarmError | None = None

    @property
    def is_in_the_gate(self) -> bool:
        """Whether the gate has the contribution: by this delivery, or by one whose answer was lost."""
        return self.state in ("activated", "duplicate")


class Courier:
    """Delivers the outbox. `fence` gives the present lease's fence, 0 while there is none; `on_active` is
    told each contribution that the coordinator took up; `make_room` makes room for so many experts in the
    registry (`node.growth.unused`). Who cannot be reached is tried again after at most
    `longest_unreachable_s`: that costs nobody anything; who answers and does not take it, after
    `longest_delay_s`."""

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher,
        *,
        fence: Callable[[], int],
        on_active: Callable[[bytes], None] = lambda envelope: None,
        make_room: Callable[[int], Awaitable[object]] | None = None,
        first_delay_s: float = 0.5,
        longest_delay_s: float = 30.0,
        longest_unreachable_s: float = 3.0,
        seed: int | None = None,
    ) -> None:
        self._outbox, self._publisher, self._fence = outbox, publisher, fence
        self._on_active, self._make_room = on_active, make_room
        self._first_delay, self._longest_delay = first_delay_s, longest_delay_s
        self._longest_unreachable, self._is_unreachable = longest_unreachable_s, False
        self._jitter = random.Random(seed)  # noqa: S311 - spreads retries, guards nothing
        self._wake = asyncio.Event()
        self._ended: dict[int, Delivery] = {}
        self._changed = asyncio.Condition()
        self.trouble = ""
        """Why the oldest intent still waits; empty when nothing is wrong."""
        self.held_up_by = ""
        """In short what a recipient that can be reached cannot take now; empty when nothing is held up."""
        self.offline = ""
        """Why there is no lease, where that is known."""

    @property
    def sending(self) -> Sending | None:
        """How far the weights are that are being sent right now."""
        return self._publisher.sending

    def kick(self) -> None:
        """Try again now: something new was put, or a lease came."""
        self._wake.set()

    async def outcome(self, intent: Intent, patience_s: float) -> Delivery | None:
        """Wait until this intent is delivered or refused; None once the outbox has been stuck for patience_s
        (it stays in the outbox and goes out later)."""

        def ended() -> bool:
            return intent.number in self._ended

        async with self._changed:
            while not ended():
                await self._changed.wait_for(lambda: ended() or bool(self.trouble))
                if not ended():
                    try:
                        async with asyncio.timeout(patience_s):
                            await self._changed.wait_for(lambda: ended() or not self.trouble)
                    except TimeoutError:
                        return None
            return self._ended[intent.number]

    async def run(self) -> None:
        """Deliver until cancelled."""
        delay = 0.0
        while True:
            if delay:
                await self._wait(delay * self._jitter.uniform(0.7, 1.3))
            try:
                pending = self._outbox.pending()
                if not pending:
                    delay = 0.0
                    await self._note_trouble("")
                    await self._wait(None)
                    continue
                delay = 0.0 if await self._one_of(pending) else self._later(delay)
            except OSError as error:  # this node's own disk; it may take more later
                await self._note_trouble(f"outbox: {error}")
                self._is_unreachable, delay = False, self._later(delay)

    def _later(self, delay: float) -> float:
        longest = self._longest_unreachable if self._is_unreachable else self._longest_delay
        return min(max(delay * 2, self._first_delay), longest)

    async def _wait(self, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout_s)
        self._wake.clear()

    async def _one_of(self, pending: Sequence[Intent]) -> bool:
        """Deliver the first intent that can be delivered now; False if all of them have to wait."""
        waiting: list[Intent] = []
        for intent in pending:
            if any(_needs(intent, other) for other in waiting):
                waiting.append(intent)
                continue
            went = await self._attempt(intent)
            if went != "waits":
                return went == "ended"
            waiting.append(intent)
        return False

    async def _attempt(self, intent: Intent) -> _Went:
        """Deliver one intent. `waits`: it has to wait; `nobody`: so has everything else."""
        fence = self._fence()
        self._is_unreachable = False
        if not fence:
            await self._note_trouble(f"no lease: {self.offline or 'the coordinator is not connected'}")
            return "nobody"
        try:
            ended = await self._deliver_with_room(intent, fence)
        except REFUSALS as error:
            if isinstance(error, (StaleFenceError, WrongPeerError)):  # it says nothing about the intent
                await self._note_trouble(f"{intent.subject}: {error}")
                return "nobody"
            self._outbox.refuse(intent, str(error))
            _log.warning("outbox.refused", subject=intent.subject, reason=str(error))
            ended = Delivery(state="refused", reason=str(error), error=error)
        except (SwarmError, OSError) as error:
            self._is_unreachable = isinstance(error, UnreachableError)
            held_up_by = error.subject if isinstance(error, SwarmError) and not self._is_unreachable else ""
            told = "".join(filter(str.isprintable, held_up_by))[:_SHORT]  # it goes into heartbeats
            await self._note_trouble(f"{intent.subject}: {error}", told)
            return "nobody" if self._is_unreachable else "waits"
        else:
            self._outbox.done(intent)
        async with self._changed:
            self.trouble = self.held_up_by = ""
            self._ended[intent.number] = ended
            self._changed.notify_all()
        return "ended"

    async def _note_trouble(self, trouble: str, held_up_by: str = "") -> None:
        self.held_up_by = held_up_by
        if trouble == self.trouble:
            return
        if trouble:
            _log.info("outbox.waiting", because=trouble)
        async with self._changed:
            self.trouble = trouble
            self._changed.notify_all()

    async def _deliver_with_room(self, intent: Intent, fence: int) -> Delivery:
        try:
            return await self._deliver(intent, fence)
        except TooManyExpertsError as refusal:
            if self._make_room is None:
                raise
            try:
                await self._make_room(1)
            except (TooManyExpertsError, UnreachableError):
                raise
            except SwarmError as error:
                _log.warning("outbox.no_room", subject=intent.subject, because=str(error))
                raise refusal from error
        return await self._deliver(intent, fence)

    async def _deliver(self, intent: Intent, fence: int) -> Delivery:
        if intent.kind == "publish":
            await self._publisher.publish(intent, fence)
            return Delivery(state="delivered")
        if self._outbox.superseded(intent):
            return Delivery(state="superseded", reason="a newer contribution of this node replaces it")
        outcome = await self._publisher.contribute(intent, fence)
        delivery = Delivery(state=outcome.state, reason=outcome.reason, gate_version=outcome.gate_version)
        if delivery.is_in_the_gate:
            self._on_active(intent.envelope)
        return delivery


def _needs(intent: Intent, earlier: Intent) -> bool:
    """Tell whether an intent has to wait for an earlier one: the next version of the same expert, and a
    contribution that has a leaf of it. A newer contribution replaces an older one, and needs it not."""
    if earlier.kind != "publish":
        return False
    expert = earlier.subject.partition("@")[0]
    if intent.kind == "publish":
        return intent.subject.partition("@")[0] == expert
    try:
        leaves = read_statement(intent.envelope, Contribution).value.leaves
    except SwarmError:
        return True
    return any(leaf.expert == expert for leaf in leaves)
