"""A cached gate follows the coordinator's events: verified, in order, and it says when it may be old."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.membership import Event
from swarm.rpc.gate_follower import GateFollower
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, sign_statement
from tests.support.trust import Founded, found, gate


class Coordinator:
    """Gates and events in memory; both can be away."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.gates: list[bytes] = []
        self.events_of_old: list[Event] = []
        self.told: asyncio.Queue[Event | SwarmError] = asyncio.Queue()
        self.asked_after: list[str] = []
        self.away: SwarmError | None = None

    async def gate(self, version: int = 0) -> bytes:
        if self.away is not None:
            raise self.away
        if not self.gates:
            raise NotReadyError("gate", found="none yet")
        return self.gates[version - 1]

    async def events(self, after: str = "", follow: bool = False, limit: int = 100) -> AsyncIterator[Event]:
        self.asked_after.append(after)
        for event in self.events_of_old:
            if int(event.id) > int(after or 0):
                yield event
        while True:
            told = await self.told.get()
            if isinstance(told, SwarmError):
                raise told
            yield told

    def activate(self, *, signer: Signer | None = None, reason: str = "") -> Event:
        """Make the next gate count, and return its event without telling it."""
        version = len(self.gates) + 1
        statement = replace(gate(version), reason=reason or f"gate {version}")
        self.gates.append(sign_statement(statement, signer or self.signer))
        event = Event(
            id=str(version), kind="gate.activated", at=1.0, fields=(("gate_version", str(version)),)
        )
        self.events_of_old.append(event)
        return event

    def tell(self) -> None:
        self.told.put_nowait(self.activate())


class Watched(GateFollower):
    def __init__(self, coordinator: Coordinator, swarm: Founded) -> None:
        self.seen: list[int] = []
        self.lagged: list[str] = []
        self.clock = 100.0
        super().__init__(
            coordinator,  # type: ignore[arg-type]  # what a follower asks of it is `gate` and `events`
            swarm.coordinator.keyring(),
            on_gate=self._see,
            on_stale=lambda error: self.lagged.append(error.subject),
            now=lambda: self.clock,
            jitter=random.Random(0),
        )

    def _see(self, statement: Statement[GateStatement]) -> None:
        self.seen.append(statement.value.version)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found(tmp_path_factory.mktemp("swarm"))


@pytest.fixture
def coordinator(swarm: Founded) -> Coordinator:
    return Coordinator(swarm.coordinator.required_signer())


@asynccontextmanager
async def following(coordinator: Coordinator, swarm: Founded) -> AsyncIterator[Watched]:
    follower = Watched(coordinator, swarm)
    running = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(10):
            yield follower
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_every_new_version_is_taken_in_order_and_the_past_is_not_repeated(
    coordinator: Coordinator, swarm: Founded
) -> None:
    for _ in range(3):
        coordinator.activate()
    async with following(coordinator, swarm) as follower:
        assert (await follower.newer_than(0)).value.version == 3 and follower.version == 3
        coordinator.tell()
        coordinator.tell()
        await follower.newer_than(4)
        assert follower.seen == [3, 4, 5] and not follower.is_stale


async def test_a_follower_waits_for_the_first_gate(coordinator: Coordinator, swarm: Founded) -> None:
    async with following(coordinator, swarm) as follower:
        waiting = asyncio.create_task(follower.newer_than(0))
        coordinator.tell()
        assert (await waiting).value.reason == "gate 1" and follower.version == 1


async def test_while_the_coordinator_is_away_the_last_gate_is_there_and_known_to_be_old(
    coordinator: Coordinator, swarm: Founded
) -> None:
    coordinator.activate()
    async with following(coordinator, swarm) as follower:
        await follower.newer_than(0)
        assert follower.stale_since is None
        follower.clock = 200.0
        coordinator.away = UnreachableError("coordinator at h:1")
        coordinator.told.put_nowait(coordinator.away)
        while not follower.is_stale:
            await asyncio.sleep(0)
        follower.clock = 300.0
        assert (follower.version, follower.stale_since) == (1, 200.0)
        assert follower.lagged == ["coordinator at h:1"]
        coordinator.activate()
        coordinator.away = None
        assert (await follower.newer_than(1)).value.version == 2
        while follower.is_stale:
            await asyncio.sleep(0)
        assert follower.lagged == ["coordinator at h:1"]
        assert coordinator.asked_after == ["", "1"], "events are followed from the last one that was heard"


async def test_a_gate_that_does_not_verify_is_not_used_and_the_next_good_one_is(
    coordinator: Coordinator, swarm: Founded
) -> None:
    coordinator.activate()
    async with following(coordinator, swarm) as follower:
        await follower.newer_than(0)
        coordinator.told.put_nowait(coordinator.activate(signer=Signer.generate()))
        while not follower.is_stale:
            await asyncio.sleep(0)
        assert follower.version == 1 and follower.lagged == ["gate 2"]
        coordinator.tell()
        await follower.newer_than(1)
        assert follower.seen == [1, 3] and not follower.is_stale


async def test_events_that_say_nonsense_do_not_end_it(coordinator: Coordinator, swarm: Founded) -> None:
    async with following(coordinator, swarm) as follower:
        for fields in ((), (("gate_version", "-4"),), (("gate_version", "x"),), (("gate_version", "²"),)):
            coordinator.told.put_nowait(Event(id="0", kind="gate.activated", at=1.0, fields=fields))
        coordinator.tell()
        assert (await follower.newer_than(0)).value.version == 1


async def test_without_a_coordinator_there_is_no_gate_and_refresh_says_why(
    coordinator: Coordinator, swarm: Founded
) -> None:
    follower = Watched(coordinator, swarm)
    coordinator.away = UnreachableError("coordinator at h:1")
    with pytest.raises(UnreachableError):
        await follower.refresh()
    assert follower.gate is None and follower.is_stale and follower.stale_since == 100.0
