"""What owners bring back is admitted as what they publish is, bounded, and safe from collections."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.domain.ids import ExpertId, LeafId
from swarm.domain.manifests import Manifest
from swarm.domain.rebuild import BroughtBack
from swarm.registry import rebuilding
from swarm.registry.admission import MAX_MANIFEST_BYTES
from tests.support.registry import Registry, expert, open_registry
from tests.support.trust import tombstone


async def bring(registry: Registry, *versions: Manifest) -> BroughtBack:
    bob = registry.caller("bob")
    envelopes = [registry.signed(each, "bob") for each in versions]
    return await registry.service.bring_back(bob, envelopes, registry.fences["bob"])


async def newest(registry: Registry, version: int, seed: int = 0) -> Manifest:
    made, blobs = expert("bob", version=version, seed=seed)
    await registry.publish(blobs, "bob")
    return made


async def test_a_report_over_an_expert_of_many_missing_versions_is_short(tmp_path: Path) -> None:
    registry = await open_registry(tmp_path)
    made = await newest(registry, 10**9)
    below = replace(made, version=made.version - 1, parent_version=made.version - 2)
    assert (await bring(registry, below, made)).restored == (
        f"bob.e1@{below.version}",
        f"bob.e1@{made.version}",
    )
    report = await registry.service.rebuild(begin=False)
    assert [each.version for each in report.missing if each.owner == "bob"] == [
        f"bob.e1@1 to {below.version - 1}"
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trunk": "f" * 64}, "trunk ffffffffffff"),
        ({"swarm": "other"}, "swarm other"),
        ({"metrics": {f"m{row}": 1 / 3 for row in range(30_000)}}, f"at most {MAX_MANIFEST_BYTES}"),
    ],
)
async def test_history_that_could_not_have_been_published_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    registry = await open_registry(tmp_path)
    made = await newest(registry, 3)
    found = await bring(registry, replace(expert("bob", version=2)[0], **changes), made)
    assert found.restored == ("bob.e1@3",)
    assert len(found.refused) == 1 and why in found.refused[0]
    assert len(await registry.store.manifests()) == 1


async def test_history_is_taken_below_a_head_alone(tmp_path: Path) -> None:
    registry = await open_registry(tmp_path)
    made, blobs = expert("bob", version=3)
    older = expert("bob", version=2)[0]
    found = await bring(registry, older, made)
    assert not found.restored and not found.refused and set(found.missing_blobs) == set(blobs)
    assert not await registry.store.manifests()

    async def missing() -> set[tuple[str, str]]:
        report = await registry.service.rebuild(begin=False)
        return {(each.version, each.what.split()[0]) for each in report.missing if each.owner == "bob"}

    assert await missing() == {("bob.e1@2", "manifest"), ("bob.e1@3", "blob")}
    await registry.publish(blobs, "bob")
    assert await missing() == {("bob.e1@2", "manifest"), ("bob.e1@3", "manifest")}
    assert (await bring(registry, older, made)).restored == ("bob.e1@2", "bob.e1@3")
    (came,) = (await registry.service.rebuild(begin=False)).came
    assert (came.restored, came.blobs) == (2, len(blobs))
    assert await missing() == {("bob.e1@1", "manifest")}


async def test_nothing_is_refused_while_a_newer_head_waits_for_its_weights(tmp_path: Path) -> None:
    registry = await open_registry(tmp_path)
    first = await newest(registry, 1)
    await registry.commit(first)
    middle, (made, blobs) = await newest(registry, 2), expert("bob", version=3, seed=3)
    found = await bring(registry, first, middle, made)
    assert (
        not found.restored
        and not found.refused
        and set(found.missing_blobs) == set(blobs) - set(middle.blobs())
    )
    await registry.publish(blobs, "bob")
    assert (await bring(registry, first, middle, made)).restored == ("bob.e1@2", "bob.e1@3")


@pytest.mark.parametrize("limit", ["MOST_HISTORY", "MOST_HISTORY_BYTES"])
async def test_what_nobody_here_knows_fills_no_more_than_its_owners_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    registry = await open_registry(tmp_path)
    made = await newest(registry, 9)
    older = [expert("bob", version=version)[0] for version in range(1, 9)]
    size = len(registry.signed(older[0], "bob"))
    monkeypatch.setattr(rebuilding, limit, 5 if limit == "MOST_HISTORY" else 5 * size + 100)
    found = await bring(registry, *older, made)
    assert found.restored == tuple(f"bob.e1@{version}" for version in range(5, 10))
    assert len(found.refused) == 4 and all("5 manifests of bob" in each for each in found.refused)
    again = await bring(registry, *older, made)
    assert not again.restored and len(again.refused) == 4


async def test_a_collection_amid_a_bring_back_leaves_the_new_heads_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await open_registry(tmp_path)
    store, service = registry.store, registry.service
    service._collector._unnamed._wait_s = -1.0  # what nothing names goes at once
    made, blobs = expert("bob")
    await registry.publish(blobs, "bob")
    await registry.commit(replace(made, expert=ExpertId("bob.e2"), leaf=LeafId("bob.l2")))
    stone = registry.signed(tombstone("bob.e2"), "bob")
    await service.withdraw(registry.caller("bob"), stone, registry.fences["bob"], "")
    put_back = store.put_back

    async def and_meanwhile(*args: Any, **named: Any) -> bool:
        assert not {each.blob for each in (await service.collect()).gone} & set(blobs)
        return await put_back(*args, **named)

    monkeypatch.setattr(store, "put_back", and_meanwhile)
    assert (await bring(registry, made)).restored == ("bob.e1@1",)
    assert [head.version for head in await service.heads("bob")] == [1]
    assert not registry.blobs.missing(list(blobs))
