"""What a node may fill in the registry: each distinct blob once, refused by name, freed by withdrawing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import ExhaustedError
from swarm.domain.membership import Caller
from swarm.registry.service import RegistryService
from tests.support.registry import Registry, chunked, expert, open_registry

OPERATOR = Caller(role="operator", id="operator")  # type: ignore[arg-type]
MADE, BLOBS = expert()
FULL = sum(map(len, BLOBS.values()))


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


async def test_who_is_no_node_has_no_quota(tmp_path: Path) -> None:
    registry = await with_quota(tmp_path, 1)
    for blob, data in BLOBS.items():
        await registry.service.publish(OPERATOR, blob, len(data), chunked(data))
