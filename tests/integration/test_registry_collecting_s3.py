"""Collection and quotas over a real S3 server: the same promises as over files, through the same port."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from swarm.domain.errors import ExhaustedError, UnreachableError
from swarm.domain.ids import Digest
from swarm.registry.blob_copies import BlobCopies
from swarm.registry.claims import CLAIM_S
from tests.support.registry import expert
from tests.support.s3 import S3Server, environment, s3_server
from tests.unit.test_registry_collecting import UNNAMED_S, Interleaving, World, open_world, version_of

pytest.importorskip("obstore", reason="no obstore: pip install 'swarm[s3]'")
from swarm.registry.s3_blobs import S3Blobs, connect_s3

_BUCKETS = itertools.count()
_NETWORK: Final = {"missing", "size", "sizes", "digests", "stats", "open_verified", "has"}


class OffTheLoop:
    """The store; whatever of it waits for the network fails on the event loop's thread."""

    def __init__(self, blobs: S3Blobs) -> None:
        self.blobs, self.loop = blobs, threading.current_thread()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.blobs, name)

        def called(*arguments: Any) -> Any:
            assert threading.current_thread() is not self.loop, f"{name} on the event loop"
            return method(*arguments)

        return called if name in _NETWORK else method


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


Opener = Callable[..., Any]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Opener]:
    """Opens a world whose blobs are in a bucket of a server."""
    stores: list[S3Blobs] = []

    async def open_one(server: S3Server, **policy: Any) -> tuple[World, str]:
        for name, value in environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        bucket = f"collected-{next(_BUCKETS)}"
        server.client.create_bucket(Bucket=bucket)
        world = await open_world(tmp_path, **policy)
        stores.append(await asyncio.to_thread(connect_s3, f"s3://{bucket}/p", BlobCopies(tmp_path / bucket)))
        world.registry.blobs = OffTheLoop(stores[-1])  # type: ignore[assignment]
        world.restart()
        return world, bucket

    yield open_one
    for store in stores:
        store.close()


def objects(world: World, server: S3Server, bucket: str) -> set[str]:
    """What somebody else sees in the bucket, once all that was removed is deleted."""
    world.registry.blobs.settle()  # type: ignore[attr-defined]
    rows = server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {row["Key"].rpartition("/")[2] for row in rows}


async def test_superseded_and_withdrawn_weights_go_from_the_bucket_and_kept_ones_stay(
    s3: S3Server, opened: Opener
) -> None:
    world, bucket = await opened(s3)
    old, new, gone = version_of(1, 1), version_of(1, 2), version_of(2, 1)
    for each in (old, new, gone):
        await world.publish(*each)
    await world.registry.store.withdraw("ada.e2", b"stone", None, "")
    told = await world.service.collect(dry_run=True)
    assert objects(world, s3, bucket) == {*old[1], *new[1], *gone[1]}
    found = await world.service.collect()
    assert found == told and found.gone_bytes == sum(each.size_bytes for each in found.gone) > 0
    assert {each.blob for each in found.gone} == {*old[1], *gone[1]} - set(new[1])
    assert objects(world, s3, bucket) == set(new[1])
    assert not (await world.service.collect()).gone
    assert found.kept_bytes == sum(map(len, new[1].values()))


async def test_what_a_publish_was_told_is_here_stays_and_what_nothing_names_waits(
    s3: S3Server, opened: Opener
) -> None:
    world, bucket = await opened(s3)
    made, blobs = version_of(1, 1)
    await world.publish(made, blobs)
    assert await world.service.missing(list(blobs), world.registry.caller("ada")) == []
    await world.registry.store.withdraw("ada.e1", b"stone", None, "")
    assert not (await world.service.collect()).gone
    await world.registry.commit(expert(number=2, seed=11)[0])
    _, broken_off = expert(seed=77)
    await world.registry.publish(broken_off)
    assert not (await world.service.collect()).gone
    world.clock.now += UNNAMED_S - 1
    assert not (await world.service.collect()).gone
    world.clock.now += 2
    assert {each.blob for each in (await world.service.collect()).gone} == set(broken_off) - set(blobs)
    assert objects(world, s3, bucket) == set(blobs)


async def test_while_the_bucket_is_away_nothing_goes_nothing_is_claimed_and_health_says_so(
    opened: Opener,
) -> None:
    with s3_server() as server:
        world, _ = await opened(server)
        made, blobs = version_of(1, 1)
        await world.publish(made, blobs)
        await world.registry.store.withdraw("ada.e1", b"stone", None, "")
        journal = (world.folder / "collection.json").exists()
    with pytest.raises(UnreachableError, match="blobs at s3://"):
        await world.service.collect()
    assert await world.service.sweep() == 0
    assert (world.folder / "collection.json").exists() == journal
    with pytest.raises(UnreachableError, match="blobs at s3://"):
        await world.service.missing(list(blobs), world.registry.caller("ada"))
    assert not any(map(world.claims.is_claimed, blobs))
    health = await world.service.health()
    assert "blobs at s3://" in health.blobs_away and health.redis == "ok"


async def test_quotas_count_the_bytes_in_the_bucket_also_after_a_restart(
    s3: S3Server, opened: Opener
) -> None:
    world, _ = await opened(s3)
    made, blobs = version_of(1, 1)
    full = sum(map(len, blobs.values()))
    for _ in range(2):
        world.restart()
        world.service._quotas.most_bytes = full
        await world.registry.publish(blobs)
    await world.registry.commit(made)
    assert [each.size_bytes for each in (await world.service.health()).owners] == [full]
    world.restart()
    world.service._quotas.most_bytes = full
    newer, others = version_of(1, 2)
    with pytest.raises(ExhaustedError, match="bytes of ada"):
        await world.registry.publish(others)
    world.service._quotas.most_bytes = 2 * full
    await world.registry.publish(others)
    await world.registry.commit(newer)
    assert [each.size_bytes for each in (await world.service.health()).owners] == [full + full - _shared()]
    world.clock.now += CLAIM_S + 1  # the first upload was sent twice and committed once
    await world.service.collect()
    assert [each.size_bytes for each in (await world.service.health()).owners] == [full]


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_published_withdrawn_and_collected_over_s3(
    s3: S3Server, opened: Opener, seed: int
) -> None:
    """The interleavings that hypothesis finds over files, a few of them over a network."""
    world, _ = await opened(s3)
    drawn = random.Random(seed)
    acts = [
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
    picked = [(drawn.choice(acts), drawn.randint(1, 4), drawn.randint(0, 1)) for _ in range(25)]
    await Interleaving(world, [drawn.randint(0, 3) for _ in range(60)]).play(picked)


async def test_a_commit_while_many_blobs_are_removed_keeps_its_blobs(s3: S3Server, opened: Opener) -> None:
    world, bucket = await opened(s3, keep_ancestors="none")
    for version in range(1, 8):
        await world.publish(*version_of(1, version))
    again, blobs = expert(number=9, seed=13)
    assert set(blobs) == set(version_of(1, 3)[1])
    await asyncio.gather(
        world.service.collect(), world.publish(again, blobs), world.service.collect(), world.service.health()
    )
    assert set(blobs) <= objects(world, s3, bucket)
    for blob, data in blobs.items():
        view = await asyncio.to_thread(_bytes, world, blob)
        assert view == data


def _bytes(world: World, blob: Digest) -> bytes:
    return bytes(world.registry.blobs.open_verified(blob))


def _shared() -> int:
    first, second = version_of(1, 1)[1], version_of(1, 2)[1]
    return sum(len(data) for blob, data in first.items() if blob in second)
