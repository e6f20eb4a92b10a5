"""Collecting blobs: whatever publishes, withdraws and collects in whatever order, nothing needed goes and
everything else does in the end."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StaleParentError,
    UnreachableError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest, Parent
from swarm.domain.tensors import TensorEntry
from swarm.registry.claims import CLAIM_S, Claims
from swarm.registry.collecting import UNNAMED_S
from swarm.registry.memory_store import MemoryStore
from swarm.registry.retention import GateUse, gates_in_reach, kept_versions
from swarm.registry.service import RegistryService
from swarm.trust.statements import sign_statement
from tests.support.registry import Registry, chunked, expert, open_registry
from tests.support.trust import gate, manifest

DAY_S = 86_400.0


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A registry whose service can be started anew, with claims and clocks on disk."""

    registry: Registry
    folder: Path
    policy: RetentionPolicy = field(default_factory=lambda: RetentionPolicy(keep_versions=1))
    clock: Clock = field(default_factory=Clock)
    claims: Claims = field(init=False)

    def restart(self) -> None:
        self.claims = Claims(self.folder / "claims.jsonl", clock=self.clock)
        self.registry.service = RegistryService(
            store=self.registry.store,
            blobs=self.registry.blobs,
            keyring=self.registry.keyring,
            certificate_days=lambda: 6.5,
            spare_bytes=0,
            claims=self.claims,
            retention=self.policy,
            collection_journal=self.folder / "collection.json",
        )
        self.registry.service._collector._unnamed._clock = self.clock

    @property
    def service(self) -> RegistryService:
        return self.registry.service

    async def publish(self, made: Manifest, blobs: dict[Digest, bytes]) -> Digest:
        for blob in await self.service.missing(list(blobs), self.registry.caller(made.owner)):
            await self.registry.publish({blob: blobs[blob]}, made.owner)
        return await self.registry.commit(made)

    async def put_gate(self, version: int, pins: str = "", arrays: bytes = b"") -> None:
        entry = TensorEntry(
            name="log_prior", dtype="int8", shape=(len(arrays),), blob=digest_of(arrays), offset=0,
            size_bytes=len(arrays),
        )  # fmt: skip
        value = gate(version)
        leaf = replace(value.leaves[0], manifest=pins)
        value = replace(value, leaves=(leaf,), arrays=(entry,) if arrays else ())
        signed = sign_statement(value, self.registry.founded.coordinator_signer)
        await self.registry.store.put_gate(version, signed)


async def open_world(folder: Path, **policy: Any) -> World:
    world = World(await open_registry(folder), folder)
    world.policy = RetentionPolicy(**{"keep_versions": 1, **policy})
    world.restart()
    return world


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


def version_of(number: int, version: int, **changes: Any) -> tuple[Manifest, dict[Digest, bytes]]:
    made, blobs = expert(number=number, version=version, seed=10 * number + version)
    return replace(made, **changes), blobs


class TestRetention:
    async def test_of_each_expert_the_newest_versions_stay(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, keep_versions=2)
        made = [version_of(1, version) for version in (1, 2, 3)]
        for each in made:
            await world.publish(*each)
        found = await world.service.collect()
        assert {verdict.blob for verdict in found.gone} == set(made[0][1]) - set(made[1][1])
        assert {verdict.reason for verdict in found.gone} == {"ada.e1@1: superseded"}
        assert not world.registry.blobs.missing([*made[1][1], *made[2][1]])

    @pytest.mark.parametrize(
        ("ancestors", "stays"), [("none", (False, False)), ("borrowed", (True, False)), ("all", (True, True))]
    )
    async def test_what_heads_came_from_stays_as_it_is_set(
        self, tmp_path: Path, ancestors: str, stays: tuple[bool, bool]
    ) -> None:
        world = await open_world(tmp_path, keep_ancestors=ancestors)
        borrowed = version_of(1, 1)
        lent = await world.publish(*borrowed)
        await world.publish(*version_of(1, 2))
        own = version_of(2, 1, parents=(Parent(kind="borrowed-from", manifest=lent),))
        first = await world.publish(*own)
        await world.publish(*version_of(2, 2, parents=(Parent(kind="trained-from", manifest=first),)))
        await world.service.collect()
        large = [made.blobs()[0] for made, _ in (borrowed, own)]
        assert tuple(map(world.registry.blobs.has, large)) == stays

    async def test_what_a_gate_in_reach_pins_stays_and_arrays_of_gates_out_of_reach_go(
        self, tmp_path: Path
    ) -> None:
        world = await open_world(tmp_path, gate_versions=2)
        pinned = version_of(1, 1)
        digest = await world.publish(*pinned)
        await world.publish(*version_of(1, 2))
        arrays = [bytes([version]) * 100 for version in (1, 2, 3)]
        await world.registry.publish({digest_of(each): each for each in arrays})
        await world.put_gate(1, arrays=arrays[0])
        await world.put_gate(2, pins=digest, arrays=arrays[1])
        await world.put_gate(3, arrays=arrays[2])
        world.clock.now += CLAIM_S + 1
        found = await world.service.collect()
        assert [verdict.reason for verdict in found.gone] == ["arrays of gate 1, which is out of reach"]
        reasons = {verdict.blob: verdict.reason for verdict in found.largest_kept}
        assert reasons[pinned[0].blobs()[0]] == "ada.e1@1: pinned by gate 2"
        assert reasons[digest_of(arrays[2])] == "arrays of gate 3"
        await world.put_gate(4)
        assert pinned[0].blobs()[0] in {verdict.blob for verdict in (await world.service.collect()).gone}

    async def test_a_dry_run_says_what_would_go_and_removes_nothing(self, world: World) -> None:
        for version in (1, 2):
            await world.publish(*version_of(1, version))
        before = set(world.registry.blobs.digests())
        told = await world.service.collect(dry_run=True)
        assert set(world.registry.blobs.digests()) == before and told.gone_blobs == 2
        assert await world.service.collect() == told

    def test_a_policy_that_keeps_nothing_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="retention"):
            RetentionPolicy(gate_versions=0)

    @given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12), st.integers(0, 3))
    def test_heads_and_newest_versions_always_stay_and_withdrawn_ones_never(
        self, rows: list[tuple[int, bool]], kept: int
    ) -> None:
        manifests: dict[Digest, Manifest] = {}
        heads: dict[Any, Digest] = {}
        counts: dict[int, int] = {}
        for number, _ in rows:
            counts[number] = counts.get(number, 0) + 1
            made = manifest(number=number, version=counts[number])
            digest = digest_of(f"{number}@{counts[number]}".encode())
            manifests[digest], heads[made.expert] = made, digest
        gone = {f"ada.e{number}" for number, is_gone in rows if is_gone}
        found = kept_versions(
            manifests,
            {expert: digest for expert, digest in heads.items() if expert not in gone},
            [],
            lambda made: made.expert in gone,
            RetentionPolicy(keep_versions=kept, keep_ancestors="none"),
        )
        for digest, made in manifests.items():
            number = int(made.expert.removeprefix("ada.e"))
            is_newest = not kept or made.version > counts[number] - kept
            is_head = heads[made.expert] == digest
            assert (digest in found) == (made.expert not in gone and (is_newest or is_head))
            assert is_head or digest not in found or "newest 0" not in found[digest].reason

    def test_the_newest_gates_are_in_reach(self) -> None:
        gates = [GateUse(version=version, blobs=frozenset(), pinned=frozenset()) for version in (3, 1, 2)]
        assert [each.version for each in gates_in_reach(gates, RetentionPolicy(gate_versions=2))] == [3, 2]


class TestClaims:
    async def test_what_a_publish_was_told_is_here_stays_until_its_commit_over_a_restart(
        self, world: World
    ) -> None:
        first, blobs = version_of(1, 1)
        await world.publish(first, blobs)
        ada = world.registry.caller("ada")
        assert await world.service.missing(list(blobs), ada) == []
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        for _ in range(3):
            world.restart()
            assert not (await world.service.collect()).gone
        again, _ = expert(number=2, seed=11)
        await world.registry.commit(again)
        await world.registry.store.withdraw("ada.e2", b"stone", None, "")
        assert {verdict.blob for verdict in (await world.service.collect()).gone} == set(blobs)

    async def test_two_publishes_over_one_blob_are_two_claims(self, world: World) -> None:
        first, blobs = version_of(1, 1)
        ada = world.registry.caller("ada")
        await world.publish(first, blobs)
        for _ in range(2):
            await world.service.missing(list(blobs), ada)
        await world.registry.commit(expert(number=2, seed=11)[0])
        for target in ("ada.e1", "ada.e2"):
            await world.registry.store.withdraw(target, b"stone", None, "")
        assert not (await world.service.collect()).gone
        await world.registry.commit(expert(number=3, seed=11)[0])
        await world.registry.store.withdraw("ada.e3", b"stone", None, "")
        assert (await world.service.collect()).gone_blobs == len(blobs)

    async def test_what_is_sent_again_ends_and_begins_no_other_claim(self, world: World) -> None:
        made, blobs = version_of(1, 1)
        await world.publish(made, blobs)
        ada = world.registry.caller("ada")
        await world.service.missing(list(blobs), ada)  # another publish, over the same blobs
        before = (world.folder / "claims.jsonl").read_bytes()
        for _ in range(3):
            await world.registry.commit(made)
        assert (world.folder / "claims.jsonl").read_bytes() == before
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        assert not (await world.service.collect()).gone

    async def test_two_uploads_of_one_blob_are_two_claims(self, world: World) -> None:
        made, blobs = version_of(1, 1)
        for _ in range(2):  # two publishes, each told that everything is missing
            await world.registry.publish(blobs)
        await world.registry.commit(made)
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        assert not (await world.service.collect()).gone
        await world.registry.commit(expert(number=2, seed=11)[0])
        await world.registry.store.withdraw("ada.e2", b"stone", None, "")
        assert (await world.service.collect()).gone_blobs == len(blobs)

    async def test_one_commit_that_comes_twice_at_once_ends_one_claim(self, world: World) -> None:
        made, blobs = version_of(1, 1)
        await world.publish(made, blobs)
        for _ in range(2):
            await world.service.missing(list(blobs), world.registry.caller("ada"))
        again, _ = expert(number=2, seed=11)
        await asyncio.gather(world.registry.commit(again, key="k"), world.registry.commit(again, key="k"))
        for target in ("ada.e1", "ada.e2"):
            await world.registry.store.withdraw(target, b"stone", None, "")
        assert not (await world.service.collect()).gone

    async def test_what_is_announced_ends_no_claim(self, world: World) -> None:
        made, blobs = version_of(1, 1)
        await world.registry.publish(blobs)  # of a publish in flight
        ada = world.registry.caller("ada")
        fence = world.registry.fences["ada"]
        restored, _ = await world.service.announce(ada, [world.registry.signed(made)], fence, "")
        assert restored == ["ada.e1@1"]
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        assert not (await world.service.collect()).gone

    async def test_a_claim_ends_after_a_day(self, world: World) -> None:
        first, blobs = version_of(1, 1)
        await world.publish(first, blobs)
        await world.service.missing(list(blobs), world.registry.caller("bob"))
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        world.clock.now += CLAIM_S - 1
        assert not (await world.service.collect()).gone
        world.clock.now += 2
        assert (await world.service.collect()).gone_blobs == len(blobs)

    async def test_a_refused_commit_ends_no_other_claim_and_an_unknown_one_none(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, blobs = version_of(1, 1)
        await world.publish(first, blobs)
        await world.service.missing(list(blobs), world.registry.caller("ada"))
        with pytest.raises(StaleParentError):
            await world.registry.commit(replace(first, metrics={"mark": 1.0}))
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        assert not (await world.service.collect()).gone

        async def lost(*_: object) -> Any:
            raise UnreachableError("redis")

        monkeypatch.setattr(world.registry.store, "commit_manifest", lost)
        with pytest.raises(UnreachableError):
            await world.registry.commit(expert(number=2, seed=11)[0])
        monkeypatch.undo()
        assert not (await world.service.collect()).gone

    def test_a_journal_cut_in_the_middle_of_a_line_keeps_every_whole_one(self, tmp_path: Path) -> None:
        journal = tmp_path / "claims.jsonl"
        names = [digest_of(bytes([row])) for row in range(3)]
        claims = Claims(journal)
        for name in names:
            claims.claim("ada", [name])
        whole = journal.read_bytes()
        for cut in range(len(whole)):
            journal.write_bytes(whole[:cut])
            kept = Claims(journal)
            lines = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
            assert [kept.is_claimed(name) for name in names] == [row < lines for row in range(3)]

    def test_a_disk_that_takes_nothing_costs_no_claim_that_it_took_before_or_takes_later(
        self, tmp_path: Path
    ) -> None:
        journal, names = tmp_path / "claims.jsonl", [digest_of(bytes([row])) for row in range(4)]
        claims = Claims(journal)
        claims.claim("ada", names[:1])
        (tmp_path / "claims.new").mkdir()  # where it would be written anew
        claims.compact()
        claims = Claims(journal)
        journal.rename(tmp_path / "aside")
        journal.mkdir()
        claims.claim("ada", names[1:2])
        journal.rmdir()
        (tmp_path / "aside").rename(journal)
        with journal.open("a") as file:
            file.write('{"who": "ada", "blo')  # as far as that line came
        claims.claim("ada", names[2:3])
        claims.claim("ada", names[3:])
        kept = Claims(journal)
        assert [kept.is_claimed(name) for name in names] == [True, False, True, True]

    def test_a_claim_that_was_made_while_the_clock_was_wrong_lasts_a_day(self, tmp_path: Path) -> None:
        journal, clock, name = tmp_path / "claims.jsonl", Clock(), digest_of(b"x")
        clock.now += 1000 * DAY_S
        Claims(journal, clock=clock).claim("ada", [name])
        clock.now -= 1000 * DAY_S
        claims = Claims(journal, clock=clock)
        assert claims.is_claimed(name)
        clock.now += CLAIM_S + 1
        assert not claims.is_claimed(name)

    def test_a_journal_stays_as_small_as_what_it_says(self, tmp_path: Path) -> None:
        journal, clock = tmp_path / "claims.jsonl", Clock()
        claims = Claims(journal, clock=clock)
        name = digest_of(b"x")
        for _ in range(100):
            claims.claim("ada", [name])
        claims.compact()
        assert len(journal.read_text().splitlines()) == 1
        clock.now += CLAIM_S
        claims.compact()
        assert journal.read_text() == ""


class TestRaces:
    async def test_a_commit_between_mark_and_sweep_keeps_its_blobs(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, blobs = version_of(1, 1)
        await world.publish(first, blobs)
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        collector = world.service._collector
        sizes: Callable[[], dict[Digest, int]] = collector._sizes
        loop = asyncio.get_running_loop()

        def and_meanwhile() -> dict[Digest, int]:
            # In the thread that lists the files, after the mark: a whole publish comes and goes.
            again, _ = expert(number=2, seed=11)
            asyncio.run_coroutine_threadsafe(world.publish(again, blobs), loop).result(20)
            return sizes()

        monkeypatch.setattr(collector, "_sizes", and_meanwhile)
        assert not (await world.service.collect()).gone
        assert not world.registry.blobs.missing(blobs)

    async def test_what_nothing_names_waits_a_week_and_longer_after_a_loss_of_the_store(
        self, world: World
    ) -> None:
        made = version_of(1, 1)
        await world.publish(*made)
        await world.registry.publish({digest_of(b"broken off"): b"broken off"})
        await world.service.collect()
        world.clock.now += UNNAMED_S - 1
        assert not (await world.service.collect()).gone
        lost = MemoryStore()
        envelope = await world.registry.store.specification()
        assert envelope is not None
        await lost.put_specification(1, envelope)
        world.registry.store = lost
        world.restart()
        world.clock.now += 2
        assert not (await world.service.collect()).gone  # its owner may announce it yet
        world.clock.now += UNNAMED_S - 1
        world.restart()
        assert not (await world.service.collect()).gone
        world.clock.now += 2
        assert (await world.service.collect()).gone_blobs == 1 + len(made[1])

    async def test_only_what_was_withdrawn_goes_while_a_statement_cannot_be_read(self, world: World) -> None:
        await world.registry.publish({digest_of(b"weights"): b"weights"})
        for version in (1, 2):
            await world.publish(*version_of(1, version))
        await world.registry.store.put_gate(1, b"{}")
        for _ in range(3):
            world.clock.now += UNNAMED_S + 1
            assert not (await world.service.collect()).gone
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        assert {verdict.reason for verdict in (await world.service.collect()).gone} == {
            "ada.e1@1: withdrawn",
            "ada.e1@2: withdrawn",
        }

    async def test_a_time_to_come_is_none_since_which_a_blob_is_named_by_nothing(self, world: World) -> None:
        world.clock.now += 1000 * DAY_S
        await world.registry.publish({digest_of(b"weights"): b"weights"})
        await world.service.collect()
        world.clock.now -= 1000 * DAY_S
        world.restart()
        assert not (await world.service.collect()).gone
        world.clock.now += CLAIM_S + 1
        assert not (await world.service.collect()).gone
        world.clock.now += UNNAMED_S + 1
        assert [each.blob for each in (await world.service.collect()).gone] == [digest_of(b"weights")]

    async def test_a_disk_that_takes_nothing_is_collected_all_the_same(self, world: World) -> None:
        for version in (1, 2):
            await world.publish(*version_of(1, version))
        for name in ("collection.new", "claims.new"):
            (world.folder / name).mkdir()
        assert {each.reason for each in (await world.service.collect()).gone} == {"ada.e1@1: superseded"}

    async def test_a_damaged_clock_begins_anew(self, world: World) -> None:
        await world.registry.publish({digest_of(b"weights"): b"weights"})
        (world.folder / "collection.json").write_text(json.dumps([1]))
        world.restart()
        world.clock.now += UNNAMED_S + 1
        assert not (await world.service.collect()).gone


ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ask",
                "send",
                "commit",
                "publish",
                "publish",
                "withdraw",
                "collect",
                "collect",
                "restart",
                "gate",
            ]
        ),
        st.integers(1, 4),
        st.integers(0, 1),
    ),
    max_size=30,
)


def play(acts: list[tuple[str, int, int]], turns: list[int]) -> None:
    """Three publishers, whose steps and collections run at the same time as hypothesis says.

    At the end of each act: every kept version has its blobs, and what a publisher was told is here is here
    until its commit. In the end: nothing is left that nothing needs.
    """

    async def playing(folder: Path) -> None:
        world = await open_world(folder)
        await Interleaving(world, turns).play(acts)

    with TemporaryDirectory() as folder:
        asyncio.run(playing(Path(folder)))


@example(
    [("publish", 1, 0), ("ask", 2, 0), ("withdraw", 1, 0), ("collect", 1, 0), ("commit", 2, 0)], [3] * 20
)
@example(
    [("publish", 1, 0), ("withdraw", 1, 0), ("collect", 1, 0), ("send", 2, 0), ("collect", 1, 0)], [3] * 20
)
@example([("ask", 1, 0), ("send", 2, 0), ("publish", 1, 0), ("withdraw", 1, 0), ("collect", 1, 0)], [])
@given(ACTS, st.lists(st.integers(0, 3), max_size=60))
@settings(deadline=None, max_examples=25)
def test_whatever_is_published_withdrawn_and_collected_in_whatever_order(
    acts: list[tuple[str, int, int]], turns: list[int]
) -> None:
    play(acts, turns)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@given(ACTS, st.lists(st.integers(0, 3), max_size=60))
@settings(deadline=None, max_examples=500)
def test_whatever_is_published_withdrawn_and_collected_at_length(
    acts: list[tuple[str, int, int]], turns: list[int]
) -> None:
    play(acts, turns)


@dataclass
class Interleaving:
    """Plays acts at the same time, over whatever holds the world's blobs."""

    world: World
    turns: list[int]
    told: dict[tuple[int, int], set[Digest]] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    gates: int = 0

    async def play(self, acts: list[tuple[str, int, int]]) -> None:
        turns = iter(self.turns)
        running: list[asyncio.Task[None]] = []
        for act, number, seed in acts:
            if act == "restart" or len(running) == 3:
                await asyncio.gather(*running)
                running = []
                await self.check()
            if act == "restart":
                self.world.restart()
                continue
            running.append(asyncio.create_task(self.act(act, number, seed)))
            self.world.clock.now += 600
            for _ in range(next(turns, 0)):
                await asyncio.sleep(0)
            if next(turns, 0) == 3:  # one after the other, too
                await asyncio.gather(*running)
        await asyncio.gather(*running)
        await self.check()
        self.world.clock.now += 8 * DAY_S
        await self.world.service.collect()
        self.world.clock.now += 8 * DAY_S
        await self.world.service.collect()
        here = await asyncio.to_thread(lambda: set(self.world.registry.blobs.digests()))
        assert here == await self.needed()

    async def act(self, act: str, number: int, seed: int) -> None:
        world, ada = self.world, self.world.registry.caller("ada")
        _, blobs = expert(seed=seed)
        match act:
            case "ask":
                missing = set(await world.service.missing(list(blobs), ada))
                self.told[number, seed] = set(blobs) - missing
            case "send":
                for blob, data in blobs.items():
                    await world.service.publish(ada, blob, len(data), chunked(data))
                self.told[number, seed] = set(blobs)
            case "commit":
                await self.commit(number, seed)
            case "publish":
                for blob in await world.service.missing(list(blobs), ada):
                    await world.service.publish(ada, blob, len(blobs[blob]), chunked(blobs[blob]))
                self.told[number, seed] = set(blobs)
                await self.commit(number, seed)
            case "withdraw":
                self.withdrawn.add(number)
                await world.registry.store.withdraw(f"ada.e{number}", b"stone", None, "")
            case "collect":
                await world.service.collect()
            case "gate":
                heads = await world.registry.store.heads()
                self.gates += 1
                await world.put_gate(self.gates, pins=heads[0].manifest if heads else "")

    async def commit(self, number: int, seed: int) -> None:
        if number in self.withdrawn or self.told.get((number, seed)) != set(expert(seed=seed)[1]):
            return  # a publisher sends what it was told is missing before it commits
        version = self.versions.get(number, 0) + 1
        made, _ = expert(number=number, version=version, seed=seed)
        mark = {"mark": float(version)}
        try:
            await self.world.registry.commit(replace(made, metrics=mark))
        except NotFoundError:
            raise AssertionError("what a publish was told is here has gone before its commit") from None
        except ConflictError:
            return  # withdrawn, or another commit of this expert was first
        else:
            self.versions[number] = version
            self.told.pop((number, seed), None)

    async def check(self) -> None:
        promised = (await self.needed()).union(*self.told.values())
        assert not await asyncio.to_thread(lambda: self.world.registry.blobs.missing(promised))

    async def needed(self) -> set[Digest]:
        store = self.world.registry.store
        wanted = {head.manifest for head in await store.heads()}
        for version in range(1, self.gates + 1):
            statement = self.world.registry.keyring.open(await store.gate(version) or b"", GateStatement)
            wanted |= {Digest(leaf.manifest) for leaf in statement.value.leaves if leaf.manifest}
        stones = await store.tombstones()
        found: set[Digest] = set()
        for digest in wanted:
            envelope = await store.manifest(digest)
            made = self.world.registry.keyring.open(envelope or b"", Manifest).value
            if made.expert not in stones:
                found |= set(made.blobs())
        return found
