"""The registry's rules, over real signatures and real blobs: what is refused is refused by name."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    NotReadyError,
    StaleFenceError,
    StaleParentError,
    SwarmError,
    TrunkMismatchError,
    UnknownMemberError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId
from swarm.domain.manifests import Correction, Manifest, Parent
from swarm.domain.membership import Caller
from swarm.modules import pack_module
from swarm.registry.admission import MAX_TOMBSTONE_BYTES
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.memory_store import MemoryStore
from swarm.trust.statements import sign_statement
from tests.support.registry import Registry, chunked, expert, fetched, open_registry, service_of
from tests.support.trust import revocations, tombstone

OPERATOR = Caller(role="operator", id=NodeId("operator"))
COORDINATOR = Caller(role="coordinator", id=NodeId("coordinator"))


class CountingStones(MemoryStore):
    """Counts how often all tombstones are read."""

    reads = 0

    async def tombstones(self) -> dict[str, bytes]:
        self.reads += 1
        return await super().tombstones()


async def after_total_loss(
    registry: Registry, fresh: MemoryStore | None = None, journal: CommitJournal | None = None
) -> Registry:
    """The metadata is gone; members and leases are back, as after a restart from nothing."""
    fresh = fresh if fresh is not None else MemoryStore()
    envelope = await registry.store.specification()
    assert envelope is not None
    await fresh.put_specification(1, envelope)
    for name, record in (await registry.store.records()).items():
        await fresh.put_record(name, record)
        await fresh.grant_lease(name, 60)
    return registry.over(fresh, journal)


@pytest.fixture
async def registry(tmp_path: Path) -> Registry:
    return await open_registry(tmp_path)


async def state(registry: Registry) -> object:
    store = registry.store
    return await store.heads(), await store.manifests(), await store.tombstones(), await store.events()


async def refused(
    registry: Registry, made: Manifest, error: type[SwarmError], *words: str, **how: Any
) -> None:
    """The commit is refused with these words, and nothing changed."""
    before = await state(registry)
    with pytest.raises(error) as caught:
        await registry.commit(made, **how)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert await state(registry) == before


class TestPublishing:
    async def test_a_published_expert_can_be_read_back_by_others(self, registry: Registry) -> None:
        made, blobs = expert()
        assert await registry.service.missing(list(blobs)) == list(blobs)
        await registry.publish(blobs)
        assert await registry.service.missing([*blobs, digest_of(b"x")]) == [digest_of(b"x")]
        digest = await registry.commit(made)
        (head,) = await registry.service.heads("")
        assert (head.expert, head.version, head.manifest) == ("ada.e1", 1, digest)
        envelope = registry.signed(made)
        assert await registry.service.manifest(digest, "", 0) == envelope
        assert await registry.service.manifest("", "ada.e1", 0) == envelope
        assert await registry.service.manifest("", "ada.e1", 1) == envelope
        for name, data in blobs.items():
            assert await fetched(registry.service, name) == data

    async def test_a_large_blob_leaves_in_mebibytes(self, registry: Registry) -> None:
        data = np.random.default_rng(0).bytes((5 << 19) + 3)
        await registry.publish({digest_of(data): data})
        ada = registry.caller("ada")
        chunks = [chunk async for chunk in registry.service.fetch(digest_of(data), 0, 0, ada)]
        assert [len(chunk) for chunk in chunks] == [1 << 20, 1 << 20, (1 << 19) + 3]
        assert b"".join(chunks) == data

    @pytest.mark.parametrize("size", [-1, 1 << 40])
    async def test_absurd_sizes_are_refused(self, registry: Registry, size: int) -> None:
        with pytest.raises(InvalidInputError, match="bytes"):
            await registry.service.publish(registry.caller("ada"), digest_of(b""), size, chunked(b""))

    async def test_more_than_the_disk_holds_is_refused_before_the_first_byte(
        self, registry: Registry
    ) -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("read")
            yield b""

        service = service_of(registry.store, registry.blobs, registry.keyring, spare_bytes=1 << 60)
        with pytest.raises(ExhaustedError, match="disk of the registry"):
            await service.publish(registry.caller("ada"), digest_of(b""), 5, never())

    async def test_a_publish_that_breaks_off_leaves_nothing(self, registry: Registry) -> None:
        async def breaks() -> AsyncIterator[bytes]:
            yield b"some"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await registry.service.publish(registry.caller("ada"), digest_of(b"some more"), 9, breaks())
        assert registry.blobs.stats() == (0, 0)
        assert list((registry.blobs.folder / "incoming").iterdir()) == []

    async def test_what_is_not_there_is_said_so(self, registry: Registry) -> None:
        with pytest.raises(NotFoundError, match=digest_of(b"x")[:12]):
            await fetched(registry.service, digest_of(b"x"))
        for digest, name, version in ((digest_of(b"x"), "", 0), ("", "ada.e9", 0), ("", "ada.e9", 3)):
            with pytest.raises(NotFoundError):
                await registry.service.manifest(digest, name, version)
        with pytest.raises(NotFoundError, match="lineage"):
            await registry.service.lineage("", "ada.e9")


class TestRefusals:
    async def test_an_unsigned_manifest(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        before = await state(registry)
        for envelope in (b"", b"{}", registry.signed(made)[:-40], b'{"payload":"","signatures":[]}'):
            with pytest.raises((VerificationError, InvalidInputError)):
                await registry.service.commit(registry.caller("ada"), envelope, 1, "k")
        assert await state(registry) == before

    async def test_a_manifest_that_somebody_else_signed(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        await refused(registry, made, VerificationError, "ada.e1@1", "ada", signer="bob")

    async def test_a_flipped_byte_anywhere_in_a_signed_manifest(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        envelope = registry.signed(made)
        before = await state(registry)
        for position in range(0, len(envelope), 97):
            damaged = bytearray(envelope)
            damaged[position] ^= 0x01
            with pytest.raises((VerificationError, InvalidInputError, NotFoundError)):
                await registry.service.commit(registry.caller("ada"), bytes(damaged), 1, "k")
        assert await state(registry) == before

    async def test_another_nodes_signed_manifest(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        envelope = registry.signed(made)
        with pytest.raises(NotAuthorisedError, match=r"ada\.e1@1.*bob"):
            await registry.service.commit(registry.caller("bob"), envelope, registry.fences["bob"], "k")

    async def test_a_manifest_of_an_unknown_member(self, registry: Registry) -> None:
        made, blobs = expert(owner="eve")
        await registry.publish(blobs)
        eve = registry.founded.member("eve")
        envelope = sign_statement(made, eve.required_signer())
        with pytest.raises(UnknownMemberError, match="eve"):
            await registry.service.commit(eve.caller, envelope, 1, "k")

    async def test_a_revoked_nodes_manifest(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        envelope = sign_statement(revocations(1, "ada"), registry.founded.coordinator_signer)
        registry.keyring.set_revocations(envelope)
        await refused(registry, made, VerificationError, "ada.e1@1", "revoked")

    async def test_a_manifest_for_another_trunk(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        other = replace(made, trunk=digest_of(b"another trunk"))
        await refused(registry, other, TrunkMismatchError, "ada.e1@1", digest_of(b"another trunk")[:12])

    async def test_a_manifest_of_another_swarm(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        await refused(registry, replace(made, swarm="weeds"), VerificationError, "weeds", "plants")

    async def test_a_manifest_for_other_inputs(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        other = replace(made, net=replace(made.net, input_shape=(8, 8)))
        await refused(registry, other, InvalidInputError, "ada.e1@1", "[8, 8]", "[4]")

    async def test_new_classes_where_the_specification_is_closed(self, tmp_path: Path) -> None:
        registry = await open_registry(tmp_path, accept_new_classes=False)
        made, blobs = expert()
        await registry.publish(blobs)
        await refused(
            registry, replace(made, class_names=("beech", "yew")), InvalidInputError, "ada.e1@1", "yew"
        )

    async def test_a_missing_blob(self, registry: Registry) -> None:
        made, blobs = expert()
        (large, small) = made.blobs()
        await registry.publish({large: blobs[large]})
        await refused(registry, made, NotFoundError, "ada.e1@1", small[:12], "1 of 2")

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    async def test_weights_that_are_not_finite(self, registry: Registry, bad: float) -> None:
        made, blobs = expert(bad=bad)
        await registry.publish(blobs)
        await refused(registry, made, VerificationError, "ada.e1@1", "module head", "tensor bias", "finite")

    async def test_tensors_that_are_not_the_modules(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        (module,) = made.modules
        turned = replace(
            module, tensors=tuple(replace(t, name=n) for t, n in zip(module.tensors, "abc", strict=True))
        )
        beyond = replace(module, tensors=(*module.tensors[:2], replace(module.tensors[2], offset=1 << 20)))
        for wrong, word in ((turned, "digest"), (beyond, "blob")):
            await refused(
                registry, replace(made, modules=(wrong,)), VerificationError, "ada.e1@1: module head", word
            )
        await refused(registry, replace(made, modules=(module, module)), VerificationError, "twice")

    async def test_one_expert_more_than_an_owner_may_have(self, tmp_path: Path) -> None:
        registry = await open_registry(tmp_path, max_leaves_per_owner=2)
        for number in range(1, 33):
            await registry.add(number=number)
        made, blobs = expert(number=33)
        await registry.publish(blobs)
        await refused(registry, made, ExhaustedError, "experts of ada", "at most 32")
        await registry.add(number=2, version=2)
        await registry.add("bob")

    async def test_a_commit_before_there_is_a_specification(self, registry: Registry) -> None:
        store = MemoryStore()
        await store.put_record(NodeId("ada"), registry.nodes["ada"].record)
        with pytest.raises(NotReadyError, match="specification"):
            await registry.over(store).commit(expert()[0])


class TestDamage:
    async def test_a_flipped_byte_in_each_stored_blob_is_refused_by_name_and_heals_by_publishing_again(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        await registry.commit(made)
        for name, data in blobs.items():
            path = registry.blobs.path(name)
            damaged = bytearray(data)
            damaged[len(data) // 2] ^= 0x40
            path.write_bytes(bytes(damaged))
            with pytest.raises(VerificationError, match=name[:12]):
                await fetched(registry.service, name)
            assert await registry.service.missing(list(blobs)) == [name]
            await registry.publish({name: data})
            assert await fetched(registry.service, name) == data

    async def test_a_flipped_byte_in_a_stored_manifest_is_refused_by_name(self, registry: Registry) -> None:
        digest = await registry.add()
        rows = [row async for row in registry.store.dump()]
        (place,) = [i for i, row in enumerate(rows) if row[0] == b"manifest"]
        payload = bytes(rows[place][1])
        marker = payload.index(b"payload") + 200
        swapped = b"A" if payload[marker : marker + 1] != b"A" else b"B"
        rows[place] = (b"manifest", payload[:marker] + swapped + payload[marker + 1 :], 0)
        damaged = MemoryStore()
        await damaged.restore_dump(rows)
        with pytest.raises((VerificationError, InvalidInputError), match=r"[Mm]anifest"):
            await registry.over(damaged).service.manifest(digest, "", 0)


class TestIdempotency:
    async def test_every_mutating_call_sent_again_leaves_the_same_state_and_answer(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        envelope = registry.signed(made)
        ada, fence = registry.caller("ada"), registry.fences["ada"]
        stone = registry.signed(tombstone("ada.e1"))
        await registry.publish(blobs)
        await registry.publish(blobs)
        assert registry.blobs.stats()[0] == 2
        first = await registry.service.commit(ada, envelope, fence, "c")
        before = await state(registry)
        for key in ("c", "d", "c"):
            assert await registry.service.commit(ada, envelope, fence, key) == first
        for key in ("a", "a", "b"):
            assert await registry.service.announce(ada, [envelope], fence, key) == ([], [])
        assert await state(registry) == before
        gone = await registry.service.withdraw(ada, stone, fence, "w")
        before = await state(registry)
        assert await registry.service.withdraw(ada, stone, fence, "w") == gone
        assert await state(registry) == before


class TestAnnouncing:
    async def test_a_lost_registry_is_rebuilt_from_what_nodes_kept(self, registry: Registry) -> None:
        envelopes = []
        for number in (1, 2):
            made, blobs = expert(number=number, seed=number)
            await registry.publish(blobs)
            await registry.commit(made)
            envelopes.append(registry.signed(made))
        heads = await registry.service.heads("")
        registry = await after_total_loss(registry)
        ada = registry.caller("ada")
        # Nobody remembers who sent what: whoever has the bytes sends them once.
        restored, refused = await registry.service.announce(ada, envelopes, registry.fences["ada"], "")
        assert not restored and "ada.e1@1: blob" in refused[0] and "ada.e2@1: blob" in refused[1]
        for number in (1, 2):
            await registry.publish(expert(number=number, seed=number)[1])
        restored = await registry.service.announce(ada, envelopes, registry.fences["ada"], "a")
        assert restored == (["ada.e1@1", "ada.e2@1"], [])
        assert await registry.service.heads("") == heads
        again = await registry.service.announce(ada, envelopes, registry.fences["ada"], "a")
        assert again == restored
        assert await registry.service.announce(ada, envelopes, registry.fences["ada"], "b") == ([], [])
        assert (await registry.service.lineage("", "ada.e2")).nodes[0].standing == "live"

    async def test_what_cannot_come_back_is_named_and_the_rest_comes(self, registry: Registry) -> None:
        good, blobs = expert(number=1)
        await registry.publish(blobs)
        bare, _ = expert(number=2, seed=5)
        foreign, _ = expert("bob")
        gone, _ = expert(number=3)
        fence = registry.fences["ada"]
        await registry.store.withdraw("ada.e3", b"stone", fence, "")
        envelopes = [
            registry.signed(good),
            registry.signed(bare),
            registry.signed(foreign, "bob"),
            registry.signed(gone),
            b"rubbish",
        ]
        restored, reasons = await registry.service.announce(registry.caller("ada"), envelopes, fence, "k")
        assert restored == ["ada.e1@1"]
        assert len(reasons) == 4
        for reason, word in zip(reasons, ("ada.e2@1: blob", "its owner, bob", "tombstone", ""), strict=True):
            assert word in reason

    async def test_other_heads_under_a_key_that_restored_some_are_refused_not_forgotten(
        self, registry: Registry
    ) -> None:
        envelopes = []
        for number in (1, 2):
            made, blobs = expert(number=number, seed=number)
            await registry.publish(blobs)
            envelopes.append(registry.signed(made))
        ada, fence = registry.caller("ada"), registry.fences["ada"]
        told = await registry.service.announce(ada, envelopes[:1], fence, "k")
        with pytest.raises(ConflictError, match="idempotency key"):
            await registry.service.announce(ada, envelopes[1:], fence, "k")
        assert await registry.service.announce(ada, envelopes[:1], fence, "k") == told
        assert await registry.service.announce(ada, envelopes[1:], fence, "l") == (["ada.e2@1"], [])

    async def test_what_was_refused_is_not_kept_and_comes_under_the_same_key_once_it_can(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        ada, fence = registry.caller("ada"), registry.fences["ada"]
        envelopes = [registry.signed(made), *(b"rubbish %d " % row * 100 for row in range(50))]
        restored, refused = await registry.service.announce(ada, envelopes, fence, "k")
        assert not restored and len(refused) == len(envelopes)
        assert sum([len(key + row) async for key, row, _ in registry.store.dump() if key == b"key"]) < 10
        await registry.publish(blobs)
        assert (await registry.service.announce(ada, envelopes, fence, "k"))[0] == ["ada.e1@1"]
        assert sum([len(key + row) async for key, row, _ in registry.store.dump() if key == b"key"]) < 300

    async def test_a_superseded_node_restores_nothing(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        stale = registry.fences["ada"]
        await registry.store.grant_lease(NodeId("ada"), 60)
        with pytest.raises(StaleFenceError):
            await registry.service.announce(registry.caller("ada"), [registry.signed(made)], stale, "k")
        assert await registry.service.heads("") == []

    async def test_the_coordinator_may_announce_for_a_node(self, registry: Registry) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        envelopes = [registry.signed(made)]
        told = await registry.service.announce(COORDINATOR, envelopes, registry.fences["ada"], "k")
        assert told == (["ada.e1@1"], [])

    async def test_the_coordinator_commits_its_own_root_without_a_lease_and_nothing_else(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        leaf = LeafId("coordinator.l0")
        root = replace(made, owner=COORDINATOR.id, leaf=leaf, expert=ExpertId("coordinator.e0"))
        other = replace(root, leaf=LeafId("coordinator.l1"), expert=ExpertId("coordinator.e1"))
        signer = registry.founded.coordinator_signer
        with pytest.raises(NotAuthorisedError, match="its own root"):
            await registry.service.commit(COORDINATOR, sign_statement(other, signer), 0, "a")
        with pytest.raises(NotAuthorisedError, match="its own root"):
            await registry.service.commit(COORDINATOR, registry.signed(made), registry.fences["ada"], "b")
        with pytest.raises(NotAuthorisedError):
            await registry.service.commit(registry.caller("ada"), sign_statement(root, signer), 0, "c")
        for name, data in blobs.items():
            await registry.service.publish(COORDINATOR, name, len(data), chunked(data))
        head = await registry.service.commit(COORDINATOR, sign_statement(root, signer), 0, "d")
        assert (head.expert, head.version) == ("coordinator.e0", 1)
        with pytest.raises(StaleParentError):
            late = replace(root, version=3, parent_version=2)
            await registry.service.commit(COORDINATOR, sign_statement(late, signer), 0, "e")

    async def test_the_weights_of_a_correction_are_checked_like_the_experts_own(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        bad, more = expert(seed=1, bad=float("nan"))
        await registry.publish(blobs | more)
        correction = Correction(
            modules=bad.modules,
            base=digest_of(b"gate"),
            class_temperature=0.2,
            metrics={},
            cost=made.cost,
        )
        await refused(registry, replace(made, correction=correction), VerificationError, "head", "NaN")


class TestSweeping:
    async def test_weights_of_withdrawn_experts_alone_go_and_everything_else_stays(
        self, tmp_path: Path
    ) -> None:
        registry = await open_registry(tmp_path)
        gate = digest_of(b"a gate's arrays, which no manifest names")
        await registry.publish({gate: b"a gate's arrays, which no manifest names"})
        first, blobs = expert(number=1, seed=1)
        copy, _ = expert(number=2, seed=1)
        trained, more = expert(number=2, version=2, seed=2)
        other, others = expert("bob", seed=3)
        await registry.publish(blobs | more)
        await registry.publish(others, "bob")
        for made in (first, copy, trained, other):
            await registry.commit(made)
        service = service_of(registry.store, registry.blobs, registry.keyring)
        assert await service.sweep() == 0
        await registry.store.withdraw("ada.e2", b"stone", None, "")
        assert await service.sweep() == 2
        kept = {gate, *blobs, *others}
        assert set(registry.blobs.digests()) == kept
        await registry.store.withdraw("bob", b"stone", None, "")
        await service.sweep()
        assert set(registry.blobs.digests()) == {gate, *blobs}
        assert await service.sweep() == 0

    async def test_what_was_just_asked_after_stays_for_who_is_about_to_commit_it(
        self, registry: Registry
    ) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        await registry.commit(made)
        await registry.store.withdraw("ada.e1", b"stone", None, "")
        assert await registry.service.missing(list(blobs), registry.caller("ada")) == []
        assert await registry.service.sweep() == 0
        again, _ = expert(number=2)
        await registry.commit(again)
        assert await registry.service.sweep() == 0

    async def test_nothing_goes_while_the_store_is_away(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, blobs = expert()
        await registry.publish(blobs)
        await registry.commit(made)
        await registry.service.lineage("", "ada.e1")
        await registry.store.withdraw("ada.e1", b"stone", None, "")

        async def away(start: int = 0) -> list[Digest]:
            raise UnreachableError("redis")

        monkeypatch.setattr(registry.store, "manifests", away)
        assert await registry.service.sweep() == 0 and registry.blobs.stats()[0] == len(blobs)


class TestWithdrawal:
    async def test_withdrawing_marks_all_descendants_and_keeps_the_expert_away(
        self, registry: Registry
    ) -> None:
        def borrowed(parent: Digest) -> Any:
            edge = Parent(kind="borrowed-from", manifest=parent)
            return lambda made: replace(made, parents=(edge,))

        first = await registry.add("ada")
        second = await registry.add("ada", version=2)
        child = await registry.add("bob", change=borrowed(first))
        grandchild = await registry.add("bob", number=2, change=borrowed(child))
        stone = registry.signed(tombstone("ada.e1"))
        fence = registry.fences["ada"]
        gone = await registry.service.withdraw(registry.caller("ada"), stone, fence, "w")
        assert gone == [child, grandchild]
        graph = await registry.service.lineage(child, "")
        standings = {node.manifest: node.standing for node in graph.nodes}
        assert standings == {
            first: "withdrawn",
            child: "descends-from-withdrawn",
            grandchild: "descends-from-withdrawn",
        }
        assert {(edge.child, edge.parent) for edge in graph.edges} == {(child, first), (grandchild, child)}
        assert (await registry.service.lineage("", "ada.e1")).nodes[0].manifest == second
        made, _ = expert("ada", version=3)
        await registry.publish(expert("ada", version=3)[1])
        await refused(registry, made, ConflictError, "ada.e1@3", "tombstone")

    async def test_a_withdrawal_that_is_kept_for_ever_is_small(self, registry: Registry) -> None:
        await registry.add("ada")
        ada, fence, before = registry.caller("ada"), registry.fences["ada"], await state(registry)
        stone = registry.signed(replace(tombstone("ada.e1"), reason="x" * MAX_TOMBSTONE_BYTES))
        with pytest.raises(InvalidInputError, match=f"signed withdrawal: .*at most {MAX_TOMBSTONE_BYTES}"):
            await registry.service.withdraw(ada, stone, fence, "")
        assert await state(registry) == before
        stone = registry.signed(replace(tombstone("ada.e1"), reason="\U0001f331" * 500))
        await registry.service.withdraw(ada, stone, fence, "")

    async def test_of_what_nobody_ever_heard_an_owner_withdraws_no_more_than_it_may_have(
        self, tmp_path: Path
    ) -> None:
        registry = await open_registry(tmp_path, max_leaves_per_owner=1)
        await registry.add(number=99)
        ada, fence = registry.caller("ada"), registry.fences["ada"]

        async def withdraw(target: str) -> object:
            return await registry.service.withdraw(ada, registry.signed(tombstone(target)), fence, "")

        for number in range(1, 17):
            await withdraw(f"ada.e{number}")
        with pytest.raises(NotFoundError, match=r"withdrawal of ada\.e17: .*swarm experts"):
            await withdraw("ada.e17")
        assert await registry.store.tombstone_count() == 16
        await withdraw("ada.e1")
        await withdraw("ada.e99")
        assert await registry.service.heads("ada") == []

    async def test_an_expert_whose_head_the_store_has_just_lost_is_withdrawn_all_the_same(
        self, tmp_path: Path
    ) -> None:
        journal = CommitJournal()
        registry = await open_registry(tmp_path, max_leaves_per_owner=1)
        registry = registry.over(registry.store, journal)
        await registry.add()
        registry = await after_total_loss(registry, journal=journal)
        for number in range(2, 18):
            await registry.store.withdraw(f"ada.e{number}", b"stone", None, "")
        stone = registry.signed(tombstone("ada.e1"))
        await registry.service.withdraw(registry.caller("ada"), stone, registry.fences["ada"], "")
        assert "ada.e1" in await registry.store.tombstones()

    async def test_a_member_without_experts_is_withdrawn_and_a_stranger_is_not(
        self, registry: Registry
    ) -> None:
        signer = registry.founded.coordinator_signer
        await registry.service.withdraw(COORDINATOR, sign_statement(tombstone("bob", "node"), signer), 0, "")
        with pytest.raises(NotFoundError, match="withdrawal of zed"):
            await registry.service.withdraw(
                COORDINATOR, sign_statement(tombstone("zed", "node"), signer), 0, ""
            )
        assert set(await registry.store.tombstones()) == {"bob"}

    async def test_tombstones_are_read_again_only_when_there_are_more(self, registry: Registry) -> None:
        store = CountingStones()
        registry = await after_total_loss(registry, store)
        made, blobs = expert()
        await registry.publish(blobs)
        await registry.commit(made)
        await fetched(registry.service, next(iter(blobs)))
        before = store.reads
        for blob in blobs:
            await fetched(registry.service, blob)
        assert store.reads == before
        await store.withdraw("ada.e1", b"stone", None, "")
        for _ in range(2):
            with pytest.raises(NotAuthorisedError, match="withdrawn"):
                await fetched(registry.service, next(iter(blobs)))
        assert store.reads == before + 1

    async def test_only_the_owner_or_the_coordinator_withdraws(self, registry: Registry) -> None:
        await registry.add()
        owners = registry.signed(tombstone("ada.e1"))
        for attempt in (
            registry.service.withdraw(registry.caller("bob"), owners, registry.fences["bob"], "x"),
            registry.service.withdraw(
                registry.caller("bob"), registry.signed(tombstone("ada.e1"), "bob"), 1, "x"
            ),
        ):
            with pytest.raises((NotAuthorisedError, VerificationError), match=r"ada\.e1"):
                await attempt
        assert len(await registry.service.heads("ada")) == 1
        stone = sign_statement(tombstone("ada", "node"), registry.founded.coordinator_signer)
        await registry.service.withdraw(OPERATOR, stone, 0, "x")
        assert await registry.service.heads("ada") == []

    async def test_withdrawn_and_serve_only_weights_stay_in_the_registry(self, registry: Registry) -> None:
        open_made, open_blobs = expert("ada", seed=1)
        kept_made, kept_blobs = expert("bob", seed=2)
        await registry.publish(open_blobs)
        await registry.publish(kept_blobs, "bob")
        await registry.commit(open_made)
        await registry.commit(replace(kept_made, share="serve-only"))
        shared_scale = set(open_blobs) & set(kept_blobs)
        assert not shared_scale
        for name in open_blobs:
            assert await fetched(registry.service, name)
        for name in kept_blobs:
            with pytest.raises(NotAuthorisedError, match=r"bob\.e1.*serve-only"):
                await fetched(registry.service, name)
        stone = registry.signed(tombstone("ada.e1"))
        await registry.service.withdraw(registry.caller("ada"), stone, registry.fences["ada"], "w")
        for name in open_blobs:
            with pytest.raises(NotAuthorisedError, match=r"ada\.e1.*withdrawn"):
                await fetched(registry.service, name)

    async def test_a_blob_whose_owner_shares_it_elsewhere_may_leave(self, registry: Registry) -> None:
        made, blobs = expert("bob")
        await registry.publish(blobs, "bob")
        await registry.commit(replace(made, share="serve-only"))
        shared, _ = expert("bob", 2)
        await registry.commit(shared)
        for name in blobs:
            assert await fetched(registry.service, name) == blobs[name]

    async def test_another_owners_manifest_over_kept_bytes_does_not_set_them_free(
        self, registry: Registry
    ) -> None:
        made, blobs = expert("bob")
        await registry.publish(blobs, "bob")
        await registry.commit(replace(made, share="serve-only"))
        await registry.publish(blobs, "ada")
        await registry.commit(expert("ada")[0])
        for name in blobs:
            with pytest.raises(NotAuthorisedError, match=r"bob\.e1"):
                await fetched(registry.service, name)

    async def test_a_serve_only_manifest_does_not_lock_up_what_another_shared_first(
        self, registry: Registry
    ) -> None:
        made, blobs = expert("bob")
        await registry.publish(blobs, "bob")
        await registry.commit(made)
        await registry.publish(blobs, "ada")
        await registry.commit(replace(expert("ada")[0], share="serve-only"))
        for name in blobs:
            assert await fetched(registry.service, name) == blobs[name]


async def test_twelve_rivals_for_one_head_leave_one_winner_and_whole_state(registry: Registry) -> None:
    rivals = []
    for seed in range(12):
        made, blobs = expert(seed=seed)
        await registry.publish(blobs)
        rivals.append(made)
    outcomes = await asyncio.gather(*(registry.commit(made) for made in rivals), return_exceptions=True)
    winners = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(winners) == 1
    assert all(isinstance(o, ConflictError) for o in outcomes if o not in winners)
    assert [head.manifest for head in await registry.service.heads("")] == winners
    assert await registry.store.manifest_at(ExpertId("ada.e1"), 1) == winners[0]


async def test_the_same_bytes_in_two_modules_are_stored_once(registry: Registry) -> None:
    arrays = {"w": np.ones((200, 200), np.float32)}
    _, one = pack_module("a", arrays)
    _, two = pack_module("b", arrays)
    await registry.publish(one)
    assert await registry.service.missing(list(two)) == []


async def test_health_counts_blobs_and_days(registry: Registry) -> None:
    _, blobs = expert()
    await registry.publish(blobs)
    health = await registry.service.health()
    assert (health.redis, health.blobs, health.certificate_days) == ("ok", 2, 6.5)
    assert health.blob_bytes == sum(map(len, blobs.values()))
    assert health.disk_free_bytes > 0


async def test_blobs_that_went_away_are_told_by_its_health(tmp_path: Path) -> None:
    registry = await open_registry(tmp_path)
    await registry.add()
    shutil.rmtree(tmp_path / "blobs")
    health = await registry.service.health()
    assert "not there any more" in health.blobs_away and health.disk_free_bytes == 0
    with pytest.raises(NotReadyError, match="blobs in"):
        await registry.service.collect()
    with pytest.raises(NotReadyError, match="blobs in"):
        await registry.publish({digest_of(b"x"): b"x"})
