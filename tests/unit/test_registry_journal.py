"""What was acknowledged is in the journal, and a store that lost or damaged it gets it back."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import ExhaustedError, NotReadyError, StaleParentError, UnreachableError
from swarm.domain.ids import ExpertId
from swarm.domain.members import Tombstone
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.registry import Registry, expert, open_registry
from tests.support.trust import SWARM

E1 = ExpertId("ada.e1")
SIGNER = Signer.generate()


def over(registry: Registry, journal: CommitJournal, store: MemoryStore | None = None) -> Registry:
    """The same registry with a journal, over another store where one is given."""
    found = registry.over(store if store is not None else registry.store)
    found.service = RegistryService(
        store=found.store,
        blobs=found.blobs,
        keyring=found.keyring,
        certificate_days=lambda: 6.5,
        spare_bytes=0,
        journal=journal,
    )
    return found


async def emptied(registry: Registry) -> MemoryStore:
    """A store with members, specification and fences, and nothing else."""
    store = MemoryStore()
    for member, record in (await registry.store.records()).items():
        await store.put_record(member, record)
        registry.fences[member] = (await store.grant_lease(member, 60)).fence
    envelope = await registry.store.specification()
    assert envelope is not None
    await store.put_specification(1, envelope)
    return store


async def test_a_store_that_lost_everything_gets_every_acknowledged_version_back(tmp_path: Path) -> None:
    path = tmp_path / "commits.jsonl"
    registry = over(await open_registry(tmp_path), CommitJournal(path))
    digests = [await registry.add(version=version) for version in (1, 2, 3)]
    await registry.add("bob")
    stone = Tombstone(swarm=SWARM, kind="expert", id="bob.e1", reason="", created_at=1.0)
    await registry.service.withdraw(
        registry.caller("bob"), registry.signed(stone, "bob"), registry.fences["bob"], ""
    )
    again = over(registry, CommitJournal(path), await emptied(registry))
    assert [(head.expert, head.version, head.manifest) for head in await again.service.heads("")] == [
        ("ada.e1", 3, digests[2])
    ]
    for version, digest in enumerate(digests, 1):
        assert await again.store.manifest_at(E1, version) == digest
    assert set(await again.store.tombstones()) == {"bob.e1"}


async def test_nothing_is_committed_on_top_of_a_head_that_the_store_went_back_to(tmp_path: Path) -> None:
    journal = CommitJournal(tmp_path / "commits.jsonl")
    registry = over(await open_registry(tmp_path), journal)
    await registry.add(version=1)
    store = await emptied(registry)
    kept = await registry.store.manifests()
    envelope = await registry.store.manifest(kept[0])
    assert envelope is not None
    await registry.add(version=2)
    again = over(registry, journal, store)
    made, _ = expert()
    await store.put_back(made, kept[0], envelope, as_head=True)
    rival, blobs = expert(version=2, seed=9)
    await again.publish(blobs)
    with pytest.raises(StaleParentError):
        await again.commit(rival)


async def test_what_a_crash_left_between_store_and_journal_is_recorded(tmp_path: Path) -> None:
    registry = await open_registry(tmp_path)
    digest = await registry.add()
    journal = CommitJournal(tmp_path / "commits.jsonl")
    await over(registry, journal).service.reconciler.reconcile()
    assert journal.has(digest) and journal.version_of(E1) == 1


async def test_damaged_rows_of_the_store_are_mended(tmp_path: Path) -> None:
    journal = CommitJournal(tmp_path / "commits.jsonl")
    registry = over(await open_registry(tmp_path), journal)
    one, two = [await registry.add(version=version) for version in (1, 2)]
    store = registry.store
    assert isinstance(store, MemoryStore)
    store._table("manifest")[one] = "{}"
    store._table("version")["ada.e1@2"] = "f" * 64
    store._table("head")["ada.e1"] = {"version": 7, "manifest": "f" * 64}
    done = await registry.service.reconciler.reconcile(audit=True)
    assert set(done.put_back) == {"ada.e1@1", "ada.e1@2"} and not done.conflicts
    (head,) = await registry.service.heads("")
    assert (head.version, head.manifest) == (2, two)
    assert await registry.service.manifest(one, "", 0)


async def test_a_journal_that_takes_nothing_acknowledges_nothing_and_the_same_again_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = CommitJournal(tmp_path / "commits.jsonl")
    registry = over(await open_registry(tmp_path), journal)

    def refuse(handle: int) -> None:
        raise OSError(30, "Read-only file system")

    made, blobs = expert()
    await registry.publish(blobs)
    with monkeypatch.context() as patch:
        patch.setattr("swarm.registry.commit_journal.os.fsync", refuse)
        with pytest.raises(NotReadyError, match="Read-only"):
            await registry.commit(made)
    assert not CommitJournal(tmp_path / "commits.jsonl").commits
    digest = await registry.commit(made)
    assert CommitJournal(tmp_path / "commits.jsonl").has(digest)


async def test_a_journal_that_another_process_wrote_takes_nothing_more_and_loses_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "commits.jsonl"
    one, other = CommitJournal(path), CommitJournal(path)
    await one.note_commit("1" * 64, b"{}")  # type: ignore[arg-type]
    await one.note_commit("2" * 64, b"{}")  # type: ignore[arg-type]
    with pytest.raises(NotReadyError, match="another process wrote it"):
        await other.note_commit("3" * 64, b"{}")  # type: ignore[arg-type]
    assert not other.has("3" * 64)  # type: ignore[arg-type]
    assert CommitJournal(path).commits == {"1" * 64, "2" * 64}
    path.unlink()
    with pytest.raises(NotReadyError, match="found 0 bytes"):
        await one.note_commit("4" * 64, b"{}")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=2))
async def test_a_cut_or_flipped_journal_never_says_what_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, cut: float, flips: list[tuple[float, int]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = folder / "commits.jsonl"
    written = {}
    journal = CommitJournal(path)
    for version in (1, 2, 3):
        made, _ = expert(version=version)
        envelope = sign_statement(made, SIGNER)
        written[f"{version:064d}"] = envelope
        await journal.note_commit(f"{version:064d}", envelope)  # type: ignore[arg-type]
    data = bytearray(path.read_bytes())
    for place, bit in flips:
        data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data[: int(cut * len(data)) or 1])
    again = CommitJournal(path)
    for entry in again.entries():
        assert entry.envelope in written.values()
    await again.note_commit("f" * 64, b"{}")  # type: ignore[arg-type]
    assert CommitJournal(path).has("f" * 64)  # type: ignore[arg-type]


async def test_which_blobs_an_owner_never_sent_is_known_over_restarts_and_breaks(tmp_path: Path) -> None:
    path = tmp_path / "commits.jsonl"
    made, blobs = expert()
    envelope, (first, second) = sign_statement(made, SIGNER), made.blobs()
    digest = statement_digest(envelope)
    journal = CommitJournal(path)
    for unshown in ({first, second}, {first}, {first, second}, {first}):  # what was shown stays shown
        with journal.expecting(digest, frozenset(unshown)):
            await journal.note_commit(digest, envelope)
    assert journal.unshown(digest) == CommitJournal(path).unshown(digest) == {first}
    await journal.note_commit(digest, envelope)  # by who knows nothing of it
    assert CommitJournal(path).unshown(digest) == {first}
    assert path.read_bytes().count(b"\n") == 2 and len(journal.order) == 1
    damaged = path.read_bytes().replace(first.encode(), second.encode())
    path.write_bytes(damaged)
    assert CommitJournal(path).damaged == 2  # neither line says what it said
    assert set(blobs) == {first, second}


@pytest.mark.parametrize(
    "broken", [asyncio.CancelledError, UnreachableError, ExhaustedError, StaleParentError]
)
async def test_what_an_interrupted_commit_had_not_shown_is_told_to_who_records_it(
    broken: type[BaseException],
) -> None:
    made, _ = expert()
    envelope = sign_statement(made, SIGNER)
    digest, unshown = statement_digest(envelope), frozenset(made.blobs())
    journal = CommitJournal()
    with pytest.raises(broken), journal.expecting(digest, unshown):
        assert journal.unshown(digest) == unshown
        raise broken("commit")
    await journal.note_commit(digest, envelope)
    assert journal.unshown(digest) == (frozenset() if broken is StaleParentError else unshown)
