"""A client's gate, kept current: what is cached is replaced when the coordinator's events tell of a new one.

Nobody polls. While the coordinator is away the last verified gate is there still, and says how old it is:
whoever uses it gets answers that are stamped with its version.
"""

import asyncio
import random
import time
from collections.abc import Callable

from swarm.domain.errors import (
    NotFoundError,
    NotReadyError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.membership import Event
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

ACTIVATED = "gate.activated"
_FIRST_DELAY_S, _LONGEST_DELAY_S, _LONGEST_REFUSED_DELAY_S = 0.25, 3.0, 15.0


class GateFollower:
    """The newest gate that this client has verified. `run` keeps it current until it is cancelled."""

    def __init__(
        self,
        coordinator: CoordinatorClient,
        keyring: Keyring,
        *,
        on_gate: Callable[[Statement[GateStatement]], None] = lambda _: None,
        on_stale: Callable[[SwarmError], None] = lambda _: None,
        on_event: Callable[[Event], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        jitter: random.Random | None = None,
    ) -> None:
        """`on_gate` is called with every version that is taken, in order; `on_stale` with what made the
        present one stale, once for each time; `on_event` with every event. None of them may block."""
        self._coordinator, self._keyring = coordinator, keyring
        self._on_gate, self._on_stale, self._now = on_gate, on_stale, now
        self._on_event = on_event
        self._jitter = jitter or random.Random()  # noqa: S311 (no secret)
        self._after = ""
        self._taken = asyncio.Event()
        self.gate: Statement[GateStatement] | None = None
        """The newest verified gate, None before the first."""
        self.stale_since: float | None = now()
        """Since when (seconds since the epoch) a newer gate may exist unnoticed; None while none can."""

    @property
    def version(self) -> int:
        """The version of `gate`, 0 before the first."""
        return 0 if self.gate is None else self.gate.value.version

    @property
    def is_stale(self) -> bool:
        """Whether a newer gate may exist that this client has not heard of."""
        return self.stale_since is not None

    async def refresh(self) -> None:
        """Fetch and verify the present gate, if there is one; raises what stops it."""
        try:
            self._take(await self._coordinator.gate())
        except NotReadyError:
            if self.gate is not None:
                raise
        self.stale_since = None

    async def newer_than(self, version: int) -> Statement[GateStatement]:
        """Return the gate as soon as it is newer than version."""
        while self.gate is None or self.gate.value.version <= version:
            await self._taken.wait()
        return self.gate

    async def run(self) -> None:
        """Follow the coordinator's events until cancelled; connect again after every outage."""
        failures = 0
        while True:
            try:
                await self.refresh()
                failures = 0
                async for event in self._coordinator.events(self._after, follow=True, limit=0):
                    await self._hear(event)
                raise UnreachableError("events", found="a stream that the coordinator ended")
            except SwarmError as error:
                self._lag(error)
                failures += 1
                await asyncio.sleep(self._delay_s(failures, error))

    async def _hear(self, event: Event) -> None:
        version = dict(event.fields).get("gate_version", "") if event.kind == ACTIVATED else ""
        # The first events are of long ago.
        if version.isdecimal() and int(version) > self.version:
            try:
                self._take(await self._coordinator.gate(int(version)))
                self.stale_since = None
            except (NotFoundError, VerificationError) as error:
                self._lag(error)  # it is not used; the next one may be good
        self._after = event.id
        self._on_event(event)

    def _take(self, envelope: bytes) -> None:
        statement = self._keyring.open(envelope, GateStatement)
        if statement.value.version <= self.version:
            return
        self.gate = statement
        taken, self._taken = self._taken, asyncio.Event()
        taken.set()
        self._on_gate(statement)

    def _lag(self, error: SwarmError) -> None:
        if self.stale_since is None:
            self.stale_since = self._now()
            self._on_stale(error)

    def _delay_s(self, failures: int, error: SwarmError) -> float:
        refused = isinstance(error, UnauthenticatedError | VerificationError)
        longest = _LONGEST_REFUSED_DELAY_S if refused else _LONGEST_DELAY_S
        return min(longest, _FIRST_DELAY_S * 2.0 ** min(failures - 1, 10)) * self._jitter.uniform(0.5, 1.0)
