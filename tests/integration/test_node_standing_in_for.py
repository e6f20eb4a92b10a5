"""What a node holds of others, fetched from a real registry: kept, let go, left to others."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.standing_in import GRACE_S, StandingIn
from swarm.domain.errors import UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.modules.packing import pack_module
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import sign_statement
from tests.support.published import World, published_world, weights_of
from tests.support.trust import gate, manifest

BOB = NodeId("bob")


def knowing_ada(world: World) -> VerifiedRegistry:
    verified = world.verified()
    verified.keyring.add_record(world.ada.record)
    return verified


class Bob:
    """Another node of the swarm, with a clock and a gate in the test's hand."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        (folder / "own").mkdir(exist_ok=True)
        self.now, self.gate, self.builds = 1000.0, gate(), True
        self.gate_now: GateStatement | None = self.gate
        self.loaded: list[Digest] = []

    async def load(self, _: Manifest, digest: Digest) -> None:
        self.loaded.append(digest)

    def standing_in(self, *, count: int = 2, most_bytes: int = 1 << 30) -> StandingIn:
        return StandingIn(
            node=BOB,
            state=self.folder,
            cache=self.world.cache,
            registry=knowing_ada(self.world),
            gate=lambda: self.gate_now,
            can_build=lambda factory: self.builds,
            own_manifests=self.folder / "own",
            count=count,
            most_bytes=most_bytes,
            load=self.load,
            clock=lambda: self.now,
        )

    @property
    def held(self) -> set[str]:
        return {file.stem for file in (self.world.cache.folder / "manifests").glob("*.json")}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with published_world(tmp_path) as running:
        yield running


@pytest.fixture
def bob(world: World, tmp_path: Path) -> Bob:
    return Bob(world, tmp_path)


async def publish(world: World, **changed: Any) -> tuple[Manifest, Digest]:
    """Publish the next version of ada's expert, with another head."""
    value, blobs = weights_of(replace(manifest(version=changed.pop("version", 1)), parents=(), **changed))
    head, data = pack_module("head", {"weight": np.full((3, 2), value.version, np.float32)})
    value = replace(value, modules=(value.modules[0], head))
    for blob, content in {**blobs, **data}.items():
        if blob in value.blobs():
            await world.client.publish_blob(blob, content)
    kept = await world.client.commit(
        sign_statement(value, world.ada.required_signer()), world.lease.fence, key=f"v{value.version}"
    )
    return value, kept.manifest


async def test_what_the_gate_wants_is_held_verified_and_written_down(world: World, bob: Bob) -> None:
    value, digest = await publish(world)
    await bob.standing_in().look()
    assert bob.held == {digest} and not world.cache.missing(value.blobs())
    assert json.loads((bob.folder / "standing-in.json").read_text()) == {digest: 0.0}
    await bob.standing_in().look()  # a restart
    assert bob.held == {digest}


async def test_a_newer_version_takes_the_place_and_the_older_one_goes_after_a_while(
    world: World, bob: Bob
) -> None:
    old, first = await publish(world)
    standing_in = bob.standing_in()
    await standing_in.look()
    new, second = await publish(world, version=2)
    await standing_in.look()
    assert bob.held == {first, second}  # a query may still come for the one before
    bob.now += GRACE_S - 1
    await standing_in.look()
    assert bob.held == {first, second}
    bob.now += 1
    await bob.standing_in().look()  # since when is remembered over a restart
    assert bob.held == {second} and not world.cache.missing(new.blobs())
    assert world.cache.missing(old.blobs()) == [blob for blob in old.blobs() if blob not in new.blobs()]


async def test_what_is_not_lent_not_buildable_or_too_large_is_left_to_others(world: World, bob: Bob) -> None:
    await publish(world)
    bob.builds = False
    await bob.standing_in().look()
    assert not bob.held
    bob.builds = True
    await bob.standing_in(most_bytes=1000).look()
    assert not bob.held
    await bob.standing_in(count=0).look()
    assert not bob.held
    await publish(world, version=2, share="serve-only")
    await bob.standing_in().look()
    assert not bob.held


async def test_what_came_by_hand_stays_when_the_gate_no_longer_wants_it(world: World, bob: Bob) -> None:
    value, digest = await publish(world)
    by_hand = world.cache.folder / "manifests" / f"{digest}.json"
    by_hand.parent.mkdir(parents=True, exist_ok=True)
    by_hand.write_bytes((await knowing_ada(world).manifest(digest)).envelope)
    await knowing_ada(world).blobs(value)
    standing_in = bob.standing_in()
    await standing_in.look()
    bob.gate_now = None
    for _ in range(2):
        await standing_in.look()
        bob.now += 2 * GRACE_S
    assert bob.held == {digest} and not world.cache.missing(value.blobs())


async def test_an_outage_takes_nothing_away(world: World, bob: Bob, monkeypatch: pytest.MonkeyPatch) -> None:
    _, digest = await publish(world)
    await bob.standing_in().look()
    standing_in = bob.standing_in()  # what it verified before is forgotten by a restart

    async def away(*_: object, **__: object) -> bytes:
        raise UnreachableError("registry", found="no connection")

    monkeypatch.setattr(world.client, "manifest", away)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            await standing_in.look()
        bob.now += 2 * GRACE_S
    assert bob.held == {digest}


async def test_a_record_that_cannot_be_read_loses_nothing(world: World, bob: Bob) -> None:
    _, digest = await publish(world)
    (bob.folder / "standing-in.json").write_text("{")
    await bob.standing_in().look()
    assert bob.held == {digest}


async def test_what_is_placed_here_is_held_without_a_gate_loaded_and_remembered(
    world: World, bob: Bob
) -> None:
    _, digest = await publish(world)
    bob.gate_now = None
    standing_in = bob.standing_in(count=1)
    standing_in.place([digest])
    await standing_in.look()
    assert bob.held == {digest} and bob.loaded == [digest] and standing_in.declined == ()
    bob.now += 2 * GRACE_S
    again = bob.standing_in()  # a restart, while the coordinator is away
    await again.look()
    assert bob.held == {digest} and bob.loaded == [digest] * 2
    again.place([])
    await again.look()
    bob.now += 2 * GRACE_S
    await again.look()
    assert bob.held == set() and bob.loaded == [digest] * 2


async def test_what_is_placed_here_comes_before_what_the_hash_wants(world: World, bob: Bob) -> None:
    value, digest = await publish(world)
    size = sum(module.size_bytes for module in value.modules)
    _, newer = await publish(world, version=2)
    standing_in = bob.standing_in(most_bytes=size + size // 2)
    standing_in.place([digest])
    await standing_in.look()
    assert bob.held == {digest} != {newer}


async def test_what_this_node_may_or_can_not_hold_of_its_placement_it_declines(
    world: World, bob: Bob
) -> None:
    _, digest = await publish(world)
    bob.gate_now, bob.builds = None, False
    standing_in = bob.standing_in()
    standing_in.place([digest])
    await standing_in.look()
    assert standing_in.declined == (digest,) and not bob.held and not bob.loaded
    bob.builds = True
    await standing_in.look()
    assert standing_in.declined == () and bob.held == {digest}
    none = bob.standing_in(count=0)
    assert none.room_bytes == 0 and standing_in.room_bytes == 1 << 30
    await none.look()
    assert none.declined == (digest,), "who holds nothing of others declines what it was told before"


async def test_own_experts_are_loaded_and_not_fetched(world: World, bob: Bob) -> None:
    _, digest = await publish(world)
    envelope = (await knowing_ada(world).manifest(digest)).envelope
    (bob.folder / "own" / f"{digest}.json").write_bytes(envelope)
    bob.gate_now = None
    standing_in = bob.standing_in()
    standing_in.place([digest])
    await standing_in.look()
    assert bob.loaded == [digest] and not bob.held and standing_in.declined == ()
