"""What every metadata store promises: one suite, over memory and over real servers.

`redis` is the server that `swarm redis` would run; the others run where they are found (make test-stores).
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StaleFenceError,
    StaleParentError,
    SwarmError,
    UnauthenticatedError,
)
from swarm.domain.ids import Digest, ExpertId, NodeId, SwarmId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.registry.memory_store import MemoryStore
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import connect_redis
from swarm.registry.store import MetadataStore, StoredToken
from tests.support.redis_servers import STORES, ClusterNode, running
from tests.support.trust import manifest

ADA = NodeId("ada")
EXPERT = ExpertId("ada.e1")
_SWARMS = itertools.count()


@pytest.fixture(scope="module", params=["memory", *STORES])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer | None]:
    """A server of one kind, None for memory; skipped by name where there is none."""
    if request.param == "memory":
        yield None
        return
    with running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def fresh(server: RedisServer | None) -> object:
    """Makes empty stores of one kind."""
    if server is None:
        return MemoryStore

    def made() -> MetadataStore:
        swarm = SwarmId(f"s{next(_SWARMS)}")
        if isinstance(server, ClusterNode):
            server.serve_slot_of(swarm)
        return connect_redis(server.url, swarm)

    return made


@pytest.fixture
async def store(fresh: "type[MetadataStore]") -> AsyncIterator[MetadataStore]:
    made = fresh()
    yield made
    await made.close()


def envelope_of(made: Manifest) -> tuple[Digest, bytes]:
    envelope = repr(made).encode()
    return digest_of(envelope), envelope


async def commit(store: MetadataStore, made: Manifest, fence: int, key: str = "") -> Head:
    digest, envelope = envelope_of(made)
    return await store.commit_manifest(made, digest, envelope, fence, key)


async def state(store: MetadataStore) -> object:
    """Everything of a store that a reader can see, without the time of day."""
    return (
        await store.heads(),
        await store.manifests(),
        await store.tombstones(),
        await store.records(),
        await store.revocations(),
        await store.specification(),
        [await store.gate(version) for version in range(4)],
        await store.tokens(),
        await store.events(),
        [(lease.node, lease.fence) for lease in await store.leases()],
    )


async def refused(attempt: Awaitable[object], error: type[SwarmError], *words: str) -> None:
    with pytest.raises(error) as caught:
        await attempt
    assert all(word in str(caught.value) for word in words), str(caught.value)


class TestLeases:
    async def test_every_new_lease_has_a_larger_fence_and_makes_the_last_one_stale(
        self, store: MetadataStore
    ) -> None:
        first = await store.grant_lease(ADA, 10)
        second = await store.grant_lease(ADA, 10)
        assert second.fence > first.fence
        await refused(
            store.renew_lease(ADA, first.fence, 10), StaleFenceError, "ada", f"fence {second.fence}"
        )
        assert [lease.fence for lease in await store.leases()] == [second.fence]

    async def test_a_lease_runs_out_and_can_be_renewed_while_nobody_took_it_over(
        self, store: MetadataStore
    ) -> None:
        lease = await store.grant_lease(ADA, 0.03)
        await asyncio.sleep(0.06)
        assert await store.leases() == []
        renewed = await store.renew_lease(ADA, lease.fence, 10)
        assert renewed.fence == lease.fence
        assert renewed.expires_at > lease.expires_at + 5
        assert [(live.node, live.fence) for live in await store.leases()] == [(ADA, lease.fence)]

    async def test_dropping_a_superseded_lease_leaves_the_new_one(self, store: MetadataStore) -> None:
        old = await store.grant_lease(ADA, 10)
        new = await store.grant_lease(ADA, 10)
        await store.drop_lease(ADA, old.fence)
        assert [lease.fence for lease in await store.leases()] == [new.fence]
        await store.drop_lease(ADA, new.fence)
        assert await store.leases() == []
        assert (await store.grant_lease(ADA, 10)).fence > new.fence

    async def test_a_fence_that_was_never_granted_is_stale(self, store: MetadataStore) -> None:
        await refused(store.renew_lease(ADA, 7, 10), StaleFenceError, "fence 7")
        await refused(store.renew_lease(ADA, 0, 10), StaleFenceError)


class TestCommits:
    async def test_a_committed_manifest_is_the_head_and_can_be_read_back(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        made = manifest()
        digest, envelope = envelope_of(made)
        head = await store.commit_manifest(made, digest, envelope, fence, "k")
        assert head == Head(expert=EXPERT, version=1, manifest=digest)
        assert await store.head(EXPERT) == head
        assert await store.heads() == await store.heads("ada") == [head]
        assert await store.heads("ad") == []
        assert await store.manifest(digest) == envelope
        assert await store.manifest_at(EXPERT, 1) == digest
        assert await store.manifests() == [digest]
        assert await store.manifests(1) == []
        (event,) = await store.events()
        assert event.kind == "module.published"
        assert dict(event.fields) == {"expert": "ada.e1", "version": "1", "manifest": digest, "owner": "ada"}

    async def test_second_child_of_one_parent_is_refused_and_changes_nothing(
        self, store: MetadataStore
    ) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        await commit(store, manifest(version=2), fence)
        before = await state(store)
        rival = replace(manifest(version=2), created_at=1.0)
        await refused(commit(store, rival, fence), StaleParentError, "ada.e1@2", "parent 1", "2", "pull")
        await refused(commit(store, manifest(number=2, version=3), fence), StaleParentError, "no head")
        assert await state(store) == before

    async def test_a_stale_fence_is_refused_and_changes_nothing(self, store: MetadataStore) -> None:
        old = (await store.grant_lease(ADA, 10)).fence
        await refused(commit(store, manifest(), old + 1), StaleFenceError)
        await store.grant_lease(ADA, 10)
        before = await state(store)
        await refused(commit(store, manifest(), old), StaleFenceError, "ada", f"fence {old}")
        assert await state(store) == before

    async def test_the_newest_fence_may_commit_after_its_lease_ran_out(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 0.01)).fence
        await asyncio.sleep(0.03)
        assert (await commit(store, manifest(), fence)).version == 1

    async def test_the_same_commit_again_is_one_commit_by_key_and_by_content(
        self, store: MetadataStore
    ) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        first = await commit(store, manifest(), fence, "key-1")
        await store.grant_lease(ADA, 10)
        before = await state(store)
        assert await commit(store, manifest(), fence, "key-1") == first
        assert await commit(store, manifest(), fence, "key-2") == first
        assert await commit(store, manifest(), fence) == first
        assert await state(store) == before

    async def test_an_old_commit_sent_again_does_not_move_the_head_back(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence, "a")
        second = await commit(store, manifest(version=2), fence, "b")
        assert (await commit(store, manifest(), fence, "a")).version == 1
        assert await store.head(EXPERT) == second

    async def test_a_key_serves_one_request_of_one_owner(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        bob = (await store.grant_lease(NodeId("bob"), 10)).fence
        await commit(store, manifest(), fence, "key")
        await refused(
            commit(store, manifest(version=2), fence, "key"), ConflictError, "idempotency key", "key"
        )
        assert (await commit(store, manifest(owner="bob"), bob, "key")).expert == "bob.e1"

    async def test_of_simultaneous_children_of_one_parent_exactly_one_wins(
        self, store: MetadataStore
    ) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        rivals = [replace(manifest(), created_at=float(n)) for n in range(12)]
        outcomes = await asyncio.gather(
            *(commit(store, rival, fence) for rival in rivals), return_exceptions=True
        )
        assert sum(isinstance(outcome, Head) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, StaleParentError) for outcome in outcomes) == 11
        assert len(await store.manifests()) == 1


class TestRestoredHeads:
    async def test_an_announced_head_moves_only_forward(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        third = manifest(version=3)
        assert await store.restore_head(third, *envelope_of(third), fence)
        assert not await store.restore_head(third, *envelope_of(third), fence)
        assert not await store.restore_head(manifest(), *envelope_of(manifest()), fence)
        assert await store.head(EXPERT) == Head(expert=EXPERT, version=3, manifest=envelope_of(third)[0])
        assert (await commit(store, manifest(version=4), fence)).version == 4
        assert [event.kind for event in await store.events()] == ["module.restored", "module.published"]

    async def test_another_manifest_of_the_heads_version_is_refused(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        rival = replace(manifest(), created_at=1.0)
        await refused(store.restore_head(rival, *envelope_of(rival), fence), ConflictError, "ada.e1@1")

    async def test_a_stale_fence_cannot_restore(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await store.grant_lease(ADA, 10)
        made = manifest()
        await refused(store.restore_head(made, *envelope_of(made), fence), StaleFenceError)


class TestWithdrawal:
    async def test_a_tombstone_stops_an_expert_from_coming_back(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence, "k")
        await commit(store, manifest(number=2), fence)
        assert await store.withdraw(EXPERT, b"tombstone", fence, "w") == (EXPERT,)
        assert await store.head(EXPERT) is None
        assert [head.expert for head in await store.heads()] == ["ada.e2"]
        assert await store.tombstones() == {EXPERT: b"tombstone"} and await store.tombstone_count() == 1
        before = await state(store)
        await refused(commit(store, manifest(), fence), ConflictError, "tombstone", "ada.e1")
        await refused(commit(store, manifest(version=2), fence), ConflictError, "tombstone")
        back = manifest(version=9)
        await refused(store.restore_head(back, *envelope_of(back), fence), ConflictError, "tombstone")
        assert await state(store) == before
        assert await store.manifest(envelope_of(manifest())[0]) is not None

    async def test_a_nodes_tombstone_withdraws_all_its_experts_and_no_others(
        self, store: MetadataStore
    ) -> None:
        for owner in ("ada", "ada-2"):
            fence = (await store.grant_lease(NodeId(owner), 10)).fence
            for number in (1, 2):
                await commit(store, manifest(owner=owner, number=number), fence)
        assert await store.withdraw("ada", b"gone", None, "") == ("ada.e1", "ada.e2")
        assert [head.expert for head in await store.heads()] == ["ada-2.e1", "ada-2.e2"]
        fence = (await store.grant_lease(ADA, 10)).fence
        await refused(commit(store, manifest(number=3), fence), ConflictError, "tombstone for ada")

    async def test_withdrawing_again_is_one_withdrawal(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        await store.withdraw(EXPERT, b"first", fence, "w")
        before = await state(store)
        assert await store.withdraw(EXPERT, b"first", fence, "w") == (EXPERT,)
        assert await store.withdraw(EXPERT, b"second", None, "") == ()
        assert await state(store) == before

    async def test_another_withdrawal_under_the_same_key_is_refused(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        await commit(store, manifest(number=2), fence)
        await store.withdraw("ada.e2", b"gone", fence, "w")
        before = await state(store)
        for other in (EXPERT, "ada"):
            await refused(store.withdraw(other, b"gone", fence, "w"), ConflictError, "idempotency key w")
        assert await state(store) == before
        assert await store.withdraw("ada.e2", b"gone", fence, "w") == ("ada.e2",)

    async def test_a_superseded_owner_cannot_withdraw(self, store: MetadataStore) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        await store.grant_lease(ADA, 10)
        await refused(store.withdraw(EXPERT, b"x", fence, "w"), StaleFenceError)
        assert await store.tombstones() == {}


class TestMembers:
    async def test_a_name_belongs_to_its_first_record(self, store: MetadataStore) -> None:
        assert await store.put_record(ADA, b"one")
        assert await store.put_record(ADA, b"one")
        assert not await store.put_record(ADA, b"two")
        assert await store.put_record(NodeId("bob"), b"three")
        assert await store.record(ADA) == b"one"
        assert await store.record(NodeId("eve")) is None
        assert await store.records() == {ADA: b"one", NodeId("bob"): b"three"}

    async def test_of_simultaneous_claims_of_one_name_exactly_one_wins(self, store: MetadataStore) -> None:
        taken = await asyncio.gather(*(store.put_record(ADA, f"{n}".encode()) for n in range(10)))
        assert sum(taken) == 1

    async def test_revocation_numbers_never_go_back(self, store: MetadataStore) -> None:
        assert await store.revocations() is None
        await store.put_revocations(1, b"one")
        await store.put_revocations(2, b"two")
        await store.put_revocations(2, b"two")
        await refused(store.put_revocations(1, b"other"), ConflictError, "revocations 1")
        await refused(store.put_revocations(4, b"four"), ConflictError, "revocations 3 next")
        assert await store.revocations() == b"two"
        assert [event.kind for event in await store.events()] == ["revocations.changed"] * 2


class TestVersions:
    async def test_specifications_and_gates_are_numbered_without_gaps_and_never_replaced(
        self, store: MetadataStore
    ) -> None:
        series = (
            (store.put_specification, store.specification, "specification"),
            (store.put_gate, store.gate, "gate"),
        )
        for put, get, name in series:
            assert await get() is None
            await put(1, b"one")
            await put(2, b"two")
            await put(1, b"one")
            await refused(put(2, b"other"), ConflictError, f"{name} 2", f"{name} 3 next")
            await refused(put(4, b"four"), ConflictError, f"{name} 4")
            assert (await get(), await get(1), await get(2), await get(3)) == (b"two", b"one", b"two", None)

    async def test_of_simultaneous_next_gates_exactly_one_wins(self, store: MetadataStore) -> None:
        outcomes = await asyncio.gather(
            *(store.put_gate(1, f"{n}".encode()) for n in range(10)), return_exceptions=True
        )
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 9


class TestTokens:
    async def add(self, store: MetadataStore, uses: int = 1) -> None:
        assert await store.add_token("t", "hash", role="node", uses=uses, expires_at=100.5, created_at=1.25)

    async def test_of_twenty_simultaneous_uses_of_a_one_use_token_exactly_one_is_accepted(
        self, store: MetadataStore
    ) -> None:
        await self.add(store)
        outcomes = await asyncio.gather(
            *(store.claim_token("t", "hash", 2.0) for _ in range(20)), return_exceptions=True
        )
        assert outcomes.count("node") == 1
        rest = [outcome for outcome in outcomes if outcome != "node"]
        assert all(isinstance(outcome, UnauthenticatedError) and "used" in str(outcome) for outcome in rest)

    async def test_a_refused_token_says_why_and_is_not_used_up(self, store: MetadataStore) -> None:
        await self.add(store, uses=2)
        await refused(store.claim_token("x", "hash", 2.0), UnauthenticatedError, "never gave out")
        await refused(store.claim_token("t", "hush", 2.0), UnauthenticatedError, "wrong secret")
        await refused(store.claim_token("t", "hash", 100.5), UnauthenticatedError, "expired")
        assert await store.claim_token("t", "hash", 100.4) == "node"
        await store.revoke_token("t")
        await store.revoke_token("t")
        await refused(store.claim_token("t", "hash", 2.0), UnauthenticatedError, "revoked")
        await refused(store.revoke_token("x"), NotFoundError, "x")

    async def test_another_role_and_the_same_claimant_again_use_no_token_up(
        self, store: MetadataStore
    ) -> None:
        await self.add(store)
        assert await store.claim_token("t", "hash", 2.0, role="client", claimant="a") == "node"
        for now in (2.0, 200.0):
            assert await store.claim_token("t", "hash", now, role="node", claimant="a") == "node"
        await refused(store.claim_token("t", "hash", 2.0, role="node", claimant="b"), UnauthenticatedError)
        await store.revoke_token("t")
        await refused(store.claim_token("t", "hash", 2.0, claimant="a"), UnauthenticatedError, "revoked")

    async def test_tokens_are_listed_without_their_hash_until_revoked(self, store: MetadataStore) -> None:
        await self.add(store)
        await store.claim_token("t", "hash", 2.0)
        (view,) = await store.tokens()
        assert (view.id, view.role, view.uses_left) == ("t", "node", 0)
        assert (view.expires_at, view.created_at) == (100.5, 1.25)
        await store.revoke_token("t")
        assert await store.tokens() == []

    async def test_a_token_is_read_as_it_is_kept(self, store: MetadataStore) -> None:
        assert await store.token("t") is None
        await self.add(store, uses=2)
        await store.claim_token("t", "hash", 2.0)
        kept = StoredToken(hash="hash", role="node", uses=1, expires_at=100.5, created_at=1.25)
        assert await store.token("t") == kept
        await store.revoke_token("t")
        assert await store.token("t") == replace(kept, is_revoked=True)

    async def test_adding_a_token_again_does_not_give_its_uses_back(self, store: MetadataStore) -> None:
        await self.add(store)
        await store.claim_token("t", "hash", 2.0)
        assert not await store.add_token("t", "hash", role="node", uses=1, expires_at=100.5, created_at=1.25)
        await refused(store.claim_token("t", "hash", 2.0), UnauthenticatedError, "used")


class TestEvents:
    async def test_events_come_in_order_and_from_any_point(self, store: MetadataStore) -> None:
        assert await store.last_event_id() == ""
        made = [await store.append_event("e", {"kind": str(n), "at": "x"}, n + 0.5) for n in range(5)]
        assert await store.events() == made
        assert await store.events(after=made[1].id) == made[2:]
        assert await store.events(limit=2) == made[:2]
        assert await store.events(after=made[4].id) == []
        assert await store.last_event_id() == made[4].id
        for wrong in ("nonsense", "1-", "-1", "1-2-3"):
            await refused(store.events(after=wrong), InvalidInputError, "event id", wrong)
            await refused(store.wait_events(wrong, 5), InvalidInputError, "event id", wrong)

    async def test_waiting_returns_what_is_there_at_once_and_what_comes_later(
        self, store: MetadataStore
    ) -> None:
        first = await store.append_event("a", {}, 1.0)
        assert await store.wait_events("", 5) == [first]
        waiters = [asyncio.create_task(store.wait_events(first.id, 5)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(waiter.done() for waiter in waiters)
        second = await store.append_event("b", {"x": "é"}, 2.0)
        assert await asyncio.gather(*waiters) == [[second]] * 3

    async def test_waiting_ends_empty_after_its_time(self, store: MetadataStore) -> None:
        assert await store.wait_events("", 0.05) == []

    async def test_a_waiter_that_is_cancelled_at_any_moment_ends_at_once(self, store: MetadataStore) -> None:
        async def follow() -> None:
            while True:
                await store.wait_events(await store.last_event_id(), 30)

        for step in range(60):
            follower = asyncio.create_task(follow())
            await asyncio.sleep(step * 0.0001)
            if step % 3 == 0:
                await store.append_event("e", {}, 1.0)
            follower.cancel()
            done, _ = await asyncio.wait({follower}, timeout=1.5)
            assert done, f"step {step}"


class TestRemembered:
    async def test_the_first_outcome_of_a_call_is_kept(self, store: MetadataStore) -> None:
        assert await store.recall("k") is None
        assert await store.remember("k", "first") == "first"
        assert await store.remember("k", "second") == "first"
        assert await store.recall("k") == "first"


class TestBackup:
    async def test_a_dump_restores_everything_into_an_empty_store(
        self, store: MetadataStore, fresh: "type[MetadataStore]"
    ) -> None:
        fence = (await store.grant_lease(ADA, 100)).fence
        await commit(store, manifest(), fence, "k")
        await commit(store, manifest(number=2), fence)
        await store.withdraw("ada.e2", b"gone", fence, "")
        await store.put_record(ADA, "réc".encode())
        await store.put_specification(1, b"s")
        await store.put_gate(1, b"g")
        await store.put_revocations(1, b"r")
        await store.add_token("t", "h", role="operator", uses=3, expires_at=9e9, created_at=1.0)
        await store.remember("call", "outcome")
        rows = [row async for row in store.dump()]
        assert all(isinstance(key, bytes) and isinstance(payload, bytes) for key, payload, _ in rows)
        other = fresh()
        await other.restore_dump(rows)
        assert await state(other) == await state(store)
        assert await other.recall("call") == "outcome"
        assert await commit(other, manifest(), fence, "k") == await other.head(EXPERT)
        assert (await other.grant_lease(ADA, 10)).fence == fence + 1
        await refused(other.restore_dump(rows), ConflictError, "empty store")
        await other.close()

    async def test_an_empty_store_dumps_to_nothing_that_matters(
        self, store: MetadataStore, fresh: "type[MetadataStore]"
    ) -> None:
        other = fresh()
        await other.restore_dump([row async for row in store.dump()])
        assert await state(other) == await state(store)
        await other.close()


async def test_a_store_answers_and_says_how_durable_it_is(store: MetadataStore, tmp_path: Path) -> None:
    await store.ping()
    assert await store.durability() in {"appendfsync everysec", "memory only: nothing survives a restart"}


class TestLostAndPutBack:
    async def test_a_fence_is_beyond_every_one_that_is_known_to_have_been_given(
        self, store: MetadataStore
    ) -> None:
        assert (await store.grant_lease(ADA, 10, after=41)).fence == 42
        assert (await store.grant_lease(ADA, 10, after=7)).fence == 43

    async def test_what_was_lost_comes_back_as_history_and_head_and_again_changes_nothing(
        self, store: MetadataStore
    ) -> None:
        old, new = manifest(), manifest(version=2)
        assert await store.put_back(new, *envelope_of(new), as_head=True)
        assert await store.put_back(old, *envelope_of(old), as_head=False)
        (head,) = await store.heads()
        assert (head.version, head.manifest) == (2, envelope_of(new)[0])
        assert await store.manifest_at(EXPERT, 1) == envelope_of(old)[0]
        before = await state(store)
        assert not await store.put_back(old, *envelope_of(old), as_head=False)
        assert not await store.put_back(new, *envelope_of(new), as_head=True)
        assert await state(store) == before

    async def test_another_manifest_of_a_known_version_and_a_stale_fence_are_refused(
        self, store: MetadataStore
    ) -> None:
        fence = (await store.grant_lease(ADA, 10)).fence
        await commit(store, manifest(), fence)
        rival = replace(manifest(), created_at=7.0)
        await refused(store.put_back(rival, *envelope_of(rival), as_head=True), ConflictError, "ada.e1@1")
        second = manifest(version=2)
        await refused(
            store.put_back(second, *envelope_of(second), as_head=True, fence=fence + 1), StaleFenceError
        )

    async def test_what_was_withdrawn_comes_back_as_history_alone(self, store: MetadataStore) -> None:
        await store.withdraw(EXPERT, b"stone", None, "")
        assert await store.put_back(manifest(), *envelope_of(manifest()), as_head=True)
        assert await store.heads() == [] and await store.manifest_at(EXPERT, 1) == envelope_of(manifest())[0]
