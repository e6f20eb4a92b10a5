"""Histories of heads as their callers saw them: concurrent processes, faults, outcomes that stay unknown."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swarm.domain.errors import (
    ConflictError,
    NotFoundError,
    StaleFenceError,
    StaleParentError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.rpc.clients import RegistryClient
from swarm.trust.statements import read_statement, sign_statement, statement_digest
from tests.linearizability import heads_model as model
from tests.linearizability.checking import Operation
from tests.linearizability.cluster import FAULTS, OWNERS, Cluster, Fault
from tests.support.trust import SWARM, manifest

PROCESSES = 4
CALLS = 12
SHORT_S = (0.004, 0.03)
LONG_S = 30.0
_WEIGHTS = {
    "publish": 34,
    "retry": 6,
    "announce": 8,
    "grant": 5,
    "withdraw": 1,
    "read head": 24,
    "read by manifest": 12,
    "read version": 10,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one history is: its seed says everything but the timing."""

    seed: int
    processes: int = PROCESSES
    calls: int = CALLS
    faults: tuple[tuple[int, Fault], ...] = ()
    impatience: float = 0.0

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """Return a plan with none, one or two faults, and impatient callers in every third."""
        chance = random.Random(seed)
        total = PROCESSES * CALLS * len(OWNERS)
        count = chance.choice((0, 1, 1, 2))
        faults = sorted((chance.randrange(5, total), chance.choice(FAULTS)) for _ in range(count))
        return cls(seed=seed, faults=tuple(faults), impatience=chance.choice((0.0, 0.0, 0.15)))


@dataclass(slots=True, kw_only=True)
class _Expert:
    """One expert on its way through a history, and what its processes know together."""

    owner: str
    number: int
    fence: int
    first_fence: int = 0
    head: int = 0
    made: list[tuple[model.Publish, bytes]] = field(default_factory=list)
    history: list[Operation] = field(default_factory=list)

    @property
    def id(self) -> ExpertId:
        return ExpertId(f"{self.owner}.e{self.number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One expert's history, with the model that knows where it began."""

    expert: str
    model: model.HeadModel
    operations: tuple[Operation, ...]


async def record(cluster: Cluster, plan: Plan) -> list[Recorded]:
    """Run one history; return what the callers of each expert saw."""
    experts = []
    for owner in OWNERS:
        fence = (await cluster.store.grant_lease(NodeId(owner), 3600)).fence
        experts.append(_Expert(owner=owner, number=cluster.next_expert(), fence=fence, first_fence=fence))
    pace = _Pace(plan.faults)
    processes = [
        _Process(cluster, plan, expert, row, pace) for expert in experts for row in range(plan.processes)
    ]
    async with asyncio.TaskGroup() as group:
        group.create_task(_hurting(cluster, plan.faults, pace))
        for process in processes:
            group.create_task(process.run())
    for expert in experts:
        stone = _tombstone(cluster, expert, "end")
        await cluster.store.withdraw(expert.id, stone, None, "")
    return [
        Recorded(
            expert=expert.id,
            model=model.HeadModel(model.HeadState(fence=expert.first_fence)),
            operations=tuple(expert.history),
        )
        for expert in experts
    ]


class _Pace:
    """Counts calls; the faults wait for theirs."""

    def __init__(self, faults: Sequence[tuple[int, Fault]]) -> None:
        self.count = 0
        self._due = {at: asyncio.Event() for at, _ in faults}
        self._all = False

    def step(self) -> None:
        self.count += 1
        for at, event in self._due.items():
            if self.count >= at:
                event.set()

    async def reached(self, at: int) -> None:
        await self._due[at].wait()


async def _hurting(cluster: Cluster, faults: Sequence[tuple[int, Fault]], pace: _Pace) -> None:
    for at, fault in faults:
        await pace.reached(at)
        await cluster.hurt(fault)


class _Process:
    """One caller: it calls, waits, and calls again; after an unknown outcome by a new connection."""

    def __init__(self, cluster: Cluster, plan: Plan, expert: _Expert, row: int, pace: _Pace) -> None:
        self._cluster, self._plan, self._expert, self._pace = cluster, plan, expert, pace
        self._row = row
        self._chance = random.Random(f"{plan.seed}-{expert.owner}-{row}")
        self._client: RegistryClient | None = None
        self._unknown: tuple[model.Publish, bytes] | None = None
        self._fence = expert.fence

    async def run(self) -> None:
        acts: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "publish": self._publish,
            "retry": self._retry,
            "announce": self._announce,
            "grant": self._grant,
            "withdraw": self._withdraw,
            "read head": self._read_head,
            "read by manifest": self._read_by_manifest,
            "read version": self._read_version,
        }
        try:
            for _ in range(self._plan.calls):
                await self._cluster.serving.wait()
                self._pace.step()
                (name,) = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
                await acts[name]()
        finally:
            if self._client is not None:
                await self._client.close()

    @property
    def _registry(self) -> RegistryClient:
        if self._client is None:
            self._client = self._cluster.client(self._expert.owner)
        return self._client

    def _patience(self) -> float:
        if self._chance.random() < self._plan.impatience:
            return self._chance.uniform(*SHORT_S)
        return LONG_S

    async def _call(self, call: Hashable, asking: Coroutine[Any, Any, Hashable]) -> Hashable | None:
        """Make one call and write it down; None is an unknown outcome."""
        row, invoked = len(self._expert.history), time.perf_counter()
        self._expert.history.append(Operation(process=self._row, call=call, outcome=None, invoked=invoked))
        try:
            outcome = await asking
        except UnreachableError:
            if self._client is not None:
                await self._client.close()
                self._client = None
            return None
        except StaleFenceError as error:
            outcome = model.stale_fence(_number(error))
        except StaleParentError as error:
            outcome = model.stale_parent(_number(error))
        except ConflictError as error:
            if "tombstone" not in error.found:
                raise
            outcome = model.WITHDRAWN
        self._expert.history[row] = replace(
            self._expert.history[row], outcome=outcome, returned=time.perf_counter()
        )
        return outcome

    async def _publish(self) -> None:
        expert = self._expert
        # Now and then one too few or one too many: what is stale or premature must be refused.
        version = max(1, expert.head + self._chance.choice((0, 1, 1, 1, 1, 1, 1, 1, 2)))
        made = self._manifest(version)
        envelope = self._signed(made)
        key = f"{expert.id}-{self._row}-{len(expert.history)}"
        if self._chance.random() < 0.8:
            self._fence = expert.fence
        call = model.Publish(version, statement_digest(envelope), self._fence, key)
        expert.made.append((call, envelope))
        await self._commit(call, envelope)

    async def _retry(self) -> None:
        """Send again what may or may not have arrived, as it was; without such, read."""
        if self._unknown is None:
            await self._read_head()
            return
        await self._commit(*self._unknown)

    async def _commit(self, call: model.Publish, envelope: bytes) -> None:
        async def asking() -> Hashable:
            head = await self._registry.commit(envelope, call.fence, call.key, self._patience())
            assert (head.version, head.manifest) == (call.version, call.digest)
            return model.OK

        outcome = await self._call(call, asking())
        self._unknown = (call, envelope) if outcome is None else None
        if outcome == model.OK:
            self._expert.head = max(self._expert.head, call.version)

    async def _announce(self) -> None:
        if not self._expert.made:
            await self._read_head()
            return
        published, envelope = self._chance.choice(self._expert.made[-6:])
        call = model.Announce(published.version, published.digest, self._fence)

        async def asking() -> Hashable:
            restored, refused = await self._registry.announce(
                [envelope], call.fence, timeout_s=self._patience()
            )
            if restored:
                return ("restored",)
            if not refused:
                return model.NOTHING
            if "tombstone" in refused[0]:
                return model.WITHDRAWN
            # The refusal names the manifest that holds the version by its first digits.
            known = {call.digest[:12]: call.digest for call, _ in self._expert.made}
            held = next(
                digest for digits, digest in known.items() if f"expected manifest {digits}" in refused[0]
            )
            return ("another at that version", held)

        if await self._call(call, asking()) == ("restored",):
            self._expert.head = max(self._expert.head, call.version)

    async def _grant(self) -> None:
        async def asking() -> Hashable:
            lease = await self._cluster.store.grant_lease(NodeId(self._expert.owner), 3600)
            return ("granted", lease.fence)

        outcome = await self._call(model.Grant(), asking())
        if isinstance(outcome, tuple):
            self._expert.fence = max(self._expert.fence, outcome[1])

    async def _withdraw(self) -> None:
        key = f"{self._expert.id}-{self._row}-{len(self._expert.history)}"
        call = model.Withdraw(self._expert.fence, key)
        stone = _tombstone(self._cluster, self._expert, key)

        async def asking() -> Hashable:
            await self._registry.withdraw(stone, call.fence, call.key, self._patience())
            return model.OK

        await self._call(call, asking())

    async def _read_head(self) -> None:
        async def asking() -> Hashable:
            heads = await self._registry.heads(self._expert.owner, self._patience())
            found = next((head for head in heads if head.expert == self._expert.id), None)
            return ("head", found.version, found.manifest) if found else ("head", 0, "")

        self._learn(await self._call(model.ReadHead(), asking()))

    async def _read_by_manifest(self) -> None:
        async def asking() -> Hashable:
            try:
                envelope = await self._registry.manifest(expert=self._expert.id, timeout_s=self._patience())
            except NotFoundError:
                return ("head", 0, "")
            made = read_statement(envelope, Manifest)
            return ("head", made.value.version, made.digest)

        self._learn(await self._call(model.ReadHead(), asking()))

    async def _read_version(self) -> None:
        version = max(1, self._expert.head + self._chance.choice((-1, 0, 1)))

        async def asking() -> Hashable:
            try:
                envelope = await self._registry.manifest(
                    expert=self._expert.id, version=version, timeout_s=self._patience()
                )
            except NotFoundError:
                return ("manifest", "")
            return ("manifest", statement_digest(envelope))

        await self._call(model.ReadVersion(version), asking())

    def _learn(self, outcome: Hashable | None) -> None:
        if isinstance(outcome, tuple):
            self._expert.head = max(self._expert.head, outcome[1])

    def _manifest(self, version: int) -> Manifest:
        made = manifest(self._expert.owner, self._expert.number, version)
        mark = float(len(self._expert.made)) + self._row / 100
        return replace(
            made,
            modules=(self._cluster.module,),
            parents=(),
            metrics={"validation_accuracy": 0.5, "mark": mark},
        )

    def _signed(self, value: object) -> bytes:
        return sign_statement(value, self._cluster.owners[self._expert.owner].required_signer())


def _tombstone(cluster: Cluster, expert: _Expert, reason: str) -> bytes:
    stone = Tombstone(swarm=SWARM, kind="expert", id=expert.id, reason=reason, created_at=1.0)
    return sign_statement(stone, cluster.owners[expert.owner].required_signer())


def _number(error: SwarmError) -> int:
    """Return the head or the fence that a refusal names; 0 where it says that there is none."""
    digits = "".join(letter for letter in error.expected if letter.isdigit())
    return 0 if "no head" in error.expected or not digits else int(digits)
