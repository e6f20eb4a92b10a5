"""What a node may fill in the registry: each distinct blob once, refused by name, freed by withdrawing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import Digest
from swarm.domain.membership import Caller
from swarm.modules import BlobFiles
from swarm.registry.claims import CLAIM_S
from swarm.registry.collecting import UNNAMED_S
from swarm.registry.room import Room
from swarm.registry.service import RegistryService
from swarm.trust.statements import statement_digest
from tests.support.registry import Registry, chunked, expert, open_registry
from tests.support.trust import tombstone

OPERATOR = Caller(role="operator", id="operator")  # type: ignore[arg-type]
MADE, BLOBS = expert()
FULL = sum(map(len, BLOBS.values()))
LARGE = 8 << 20
"""What is kept, as far as it came, where its upload breaks off."""


class Now:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


async def with_quota(folder: Path, quota: int, retention: RetentionPolicy | None = None) -> Registry:
    registry = await open_registry(folder)
    return replace(
        registry,
        service=RegistryService(
            store=registry.store,
            blobs=registry.blobs,
            keyring=registry.keyring,
            certificate_days=lambda: 6.5,
            spare_bytes=0,
            node_quota_bytes=quota,
            retention=retention,
        ),
    )


async def filled(registry: Registry) -> dict[str, int]:
    return {each.owner: each.size_bytes for each in (await registry.service.health()).owners}


async def test_one_byte_beyond_the_quota_is_refused_by_name_before_it_is_sent(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL - 1)
    with pytest.raises(ExhaustedError) as caught:
        await registry.publish(BLOBS)
    for words in ("bytes of ada in the registry", f"at most {FULL - 1}", "expert remove", "NODE_QUOTA"):
        assert words in str(caught.value)
    assert len(list(registry.blobs.digests())) == 1
    await (await with_quota(tmp_path / "larger", FULL)).publish(BLOBS)


async def test_each_distinct_blob_counts_once_for_each_owner(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL)
    await registry.publish(BLOBS)
    await registry.publish(BLOBS)
    for number in (1, 2, 3):
        await registry.commit(expert(number=number)[0])
    await registry.commit(expert("bob")[0])
    assert await filled(registry) == {"ada": FULL, "bob": FULL}
    assert (await registry.service.health()).node_quota_bytes == FULL


async def test_a_manifest_over_others_blobs_counts_too(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL)
    await registry.publish(BLOBS)
    await registry.commit(MADE)
    other, blobs = expert("bob", seed=1)
    await registry.publish(blobs, "bob")
    await registry.commit(other)
    with pytest.raises(ExhaustedError, match="bytes of bob"):
        await registry.commit(expert("bob", number=2)[0])
    assert [head.expert for head in await registry.service.heads("bob")] == ["bob.e1"]


@pytest.mark.parametrize("way", ["announce", "bring_back"])
async def test_no_way_in_goes_round_the_limits_but_what_was_acknowledged_is_put_back(
    tmp_path: Path, way: str
) -> None:
    registry = await with_quota(tmp_path, FULL)
    await registry.publish(BLOBS)
    await registry.commit(MADE)
    other, blobs = expert("bob", seed=1)
    await registry.publish(blobs, "bob")
    await registry.commit(other)

    async def offered(version: bytes) -> tuple[Sequence[str], Sequence[str]]:
        bob, fence = registry.caller("bob"), registry.fences["bob"]
        if way == "announce":
            return await registry.service.announce(bob, [version], fence, "")
        back = await registry.service.bring_back(bob, [version], fence)
        return back.restored, back.refused

    restored, refused = await offered(registry.signed(expert("bob", number=2)[0], "bob"))
    assert not restored and "bytes of bob" in refused[0]
    assert [head.expert for head in await registry.service.heads("bob")] == ["bob.e1"]
    assert (await offered(registry.signed(other, "bob")))[1] in ([], ())


async def test_withdrawing_makes_room_at_once(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL)
    await registry.add()
    made, blobs = expert(number=2, seed=1)
    with pytest.raises(ExhaustedError):
        await registry.publish(blobs)
    await registry.store.withdraw("ada.e1", b"stone", None, "")
    await registry.publish(blobs)
    await registry.commit(made)


async def test_collecting_superseded_versions_makes_room(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 2 * FULL, RetentionPolicy(keep_versions=1))
    for version in (1, 2):
        await registry.add(version=version)
    with pytest.raises(ExhaustedError):
        await registry.add(version=3)
    assert (await registry.service.collect()).gone_bytes == FULL
    assert await filled(registry) == {"ada": FULL}
    await registry.add(version=3)


async def test_simultaneous_uploads_do_not_fill_more_together(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL)
    _, others = expert(seed=1)
    ada = registry.caller("ada")
    sending = [
        registry.service.publish(ada, blob, len(data), chunked(data))
        for blobs in (BLOBS, others)
        for blob, data in blobs.items()
    ]
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    refused = [each for each in outcomes if each is not None]
    assert refused and all(isinstance(each, ExhaustedError) for each in refused)
    assert registry.blobs.stats()[1] <= FULL


async def begun(data: bytes, stop: asyncio.Event) -> AsyncIterator[bytes]:
    """Half of the bytes, and then nothing until the sender breaks off."""
    yield data[: len(data) // 2]
    await stop.wait()
    raise OSError("broken off")


async def break_off(registry: Registry, blob: Digest, data: bytes, times: int = 1) -> list[BaseException]:
    """Begin so many uploads of one blob by ada at the same time; all break off. Return what ended each."""
    stop, ada = asyncio.Event(), registry.caller("ada")
    sending = [
        asyncio.create_task(registry.service.publish(ada, blob, len(data), begun(data, stop)))
        for _ in range(times)
    ]
    while on_disk(registry) < sum(len(data) // 2 for each in sending if not each.done()):
        await asyncio.sleep(0)
    stop.set()
    return [each for each in await asyncio.gather(*sending, return_exceptions=True) if each is not None]


def on_disk(registry: Registry) -> int:
    return sum(path.stat().st_size for path in registry.blobs.folder.rglob("*") if path.is_file())


async def test_a_false_size_of_a_blob_that_one_has_counts(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, FULL + LARGE // 4)
    await registry.add()
    for blob in set(registry.blobs.digests()):
        (ended,) = await break_off(registry, blob, bytes(LARGE))
        assert isinstance(ended, ExhaustedError)
    assert on_disk(registry) < registry.service._quotas.most_bytes + LARGE // 4


async def test_a_blob_that_only_a_manifest_names_counts_once_it_comes(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, LARGE)
    blobs = [(digest_of(data), data) for data in (bytes([row]) * LARGE for row in range(3))]
    made, _ = expert()
    entry = replace(made.modules[0].tensors[0], dtype="uint8", shape=(LARGE,), size_bytes=LARGE)
    tensors = tuple(replace(entry, name=blob, blob=blob) for blob, _ in blobs)
    history = replace(made, modules=(replace(made.modules[0], tensors=tensors),))
    envelope = registry.signed(history)
    await registry.store.put_back(history, statement_digest(envelope), envelope, as_head=False)
    ada = registry.caller("ada")
    await registry.service.publish(ada, blobs[0][0], LARGE, chunked(blobs[0][1], 1 << 20))
    for blob, data in blobs[1:]:
        with pytest.raises(ExhaustedError):
            await registry.service.publish(ada, blob, LARGE, chunked(data, 1 << 20))
    assert await filled(registry) == {"ada": LARGE}


async def test_uploads_of_one_blob_at_the_same_time_count_each(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 3 * LARGE)
    data = bytes(LARGE)
    ended = await break_off(registry, digest_of(data), data, times=8)
    assert [type(each) for each in ended].count(ExhaustedError) == 5
    (kept,) = registry.blobs.kept("node-ada").values()
    assert kept == LARGE // 2


async def test_what_is_kept_of_a_blob_that_one_has_counts(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 2 * LARGE)
    data, other = bytes(LARGE), b"." * LARGE
    ada = registry.caller("ada")
    await registry.service.publish(ada, digest_of(data), LARGE, chunked(data, 1 << 20))
    await break_off(registry, digest_of(data), data)
    with pytest.raises(ExhaustedError):
        await registry.service.publish(ada, digest_of(other), LARGE, chunked(other, 1 << 20))
    await registry.service.publish(ada, digest_of(data), LARGE, chunked(data, 1 << 20))
    await registry.service.publish(ada, digest_of(other), LARGE, chunked(other, 1 << 20))


async def test_publishing_and_withdrawing_in_turns_fills_no_more(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 2 * FULL)
    ada, refused = registry.caller("ada"), 0
    for number in range(1, 12):
        try:
            await registry.add(number=number)
        except ExhaustedError:
            refused += 1
        else:
            stone = registry.signed(tombstone(f"ada.e{number}"))
            await registry.service.withdraw(ada, stone, registry.fences["ada"], "")
        assert registry.blobs.stats()[1] <= 2 * FULL
    assert refused and (await filled(registry))["ada"] <= 2 * FULL
    await registry.service.collect()
    await registry.add(number=12)


async def test_an_upload_that_nobody_commits_counts_for_as_long_as_it_is_here(tmp_path: Path) -> None:
    registry, now = await with_quota(tmp_path, FULL), Now()
    claims, collector = registry.service._quotas._claims, registry.service._collector
    claims._clock = collector._unnamed._clock = now
    await registry.publish(BLOBS)
    other, blobs = expert(seed=1)
    for _ in range(2):
        now.at += 2 * CLAIM_S
        await registry.service.collect()
        with pytest.raises(ExhaustedError):
            await registry.publish(blobs)
    now.at += UNNAMED_S
    assert (await registry.service.collect()).gone_bytes == FULL
    await registry.publish(blobs)
    await registry.commit(other)
    assert await filled(registry) == {"ada": FULL}


async def test_what_is_refused_is_told_until_nobody_asks_for_it_any_more(tmp_path: Path) -> None:
    registry, now = await with_quota(tmp_path, 1000), Now()
    registry.service._quotas._clock = now
    with pytest.raises(ExhaustedError):
        await registry.publish(BLOBS)
    (told,) = (await registry.service.health()).owners
    assert told.owner == "ada" and told.size_bytes <= 1000 < told.size_bytes + told.refused_bytes
    now.at += 3600
    assert not any(each.refused_bytes for each in (await registry.service.health()).owners)


async def test_room_that_one_upload_was_promised_is_no_room_for_the_next(tmp_path: Path) -> None:
    room, blob = Room(lambda: 100, 10), next(iter(BLOBS))
    with room.reserved(blob, 60) as first:
        with pytest.raises(ExhaustedError, match="60 of them for other uploads"), room.reserved(blob, 31):
            pass
        with room.reserved(blob, 30):
            pass
        first.counting(lambda chunk: None)(bytes(40))
        with room.reserved(blob, 70):
            pass
    with room.reserved(blob, 90):
        pass


class SmallDisk(BlobFiles):
    """A folder on a disk of a fixed size that nothing else uses."""

    def free_bytes(self) -> int:
        return 3 * LARGE - sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


async def test_simultaneous_uploads_do_not_fill_the_disk_together(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 0)
    registry.blobs = SmallDisk(tmp_path / "small")
    registry = registry.over(registry.store)
    data = bytes(LARGE)
    ended = await break_off(registry, digest_of(data), data, times=8)
    assert 5 <= [type(each) for each in ended].count(ExhaustedError) < 8


async def test_who_is_no_node_has_no_quota(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 1)
    for blob, data in BLOBS.items():
        await registry.service.publish(OPERATOR, blob, len(data), chunked(data))
