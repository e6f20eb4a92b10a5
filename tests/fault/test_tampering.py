"""One byte changed anywhere, or a statement that is not what it seems: refused by name, and never used."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId, SwarmId
from swarm.domain.manifests import Cost, Manifest, NetReference
from swarm.domain.tensors import TensorEntry
from swarm.experts.expert import LoadedExpert
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_module, pack_single
from swarm.trust.statements import read_statement, sign_statement
from tests.support.coordinator import BackEnd, SmallNode, back_end, refusal, result_or_refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path_factory.mktemp("swarm")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(swarm: BackEnd) -> AsyncIterator[SmallNode]:
    node = await swarm.node("ada", "ab")
    await node.train()
    yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(swarm: BackEnd, ada: SmallNode) -> AsyncIterator[SmallNode]:
    node = await swarm.node("bob", "cd")
    await node.train()
    yield node


@pytest_asyncio.fixture(loop_scope="module")
async def redis(swarm: BackEnd) -> AsyncIterator[Redis]:
    client = Redis.from_url(swarm.redis_url)
    yield client
    await client.aclose()


@contextmanager
def flipped(path: Path, place: int, *, unnoticed: bool = False) -> Iterator[None]:
    """Flip one bit of a file in place; unnoticed: with its time of change as it was."""
    whole, times = path.read_bytes(), path.stat()
    mode = times.st_mode & 0o777
    path.chmod(0o600)
    try:
        with path.open("r+b") as file:
            file.seek(place % len(whole))
            file.write(bytes([whole[place % len(whole)] ^ 1]))
        if unnoticed:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        yield
    finally:
        path.write_bytes(whole)
        path.chmod(mode)


def places(size: int, count: int = 3) -> list[int]:
    return [0, size - 1, *random.Random(size).sample(range(size), min(count, size))]


def says_the_same(path: Path) -> bool:
    """Say whether a contribution's file still has the statement that its name is the digest of."""
    try:
        return read_statement(path.read_bytes(), Contribution).digest == path.stem
    except VerificationError:
        return False


async def test_every_stored_blob_with_one_flipped_bit_is_refused_by_its_name(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode, tmp_path: Path
) -> None:
    stored = (swarm.home.registry / "blobs").rglob("*")
    files = [path for path in stored if path.is_file() and path.name != "registry.lock"]
    assert len(files) >= 4  # two experts, gates' arrays, the trunk
    for path in files:
        blob = Digest(path.name)
        for place in places(path.stat().st_size):
            for unnoticed in (False, True):
                await bob.registry.fetch_blob(blob)  # verified and known as such
                with flipped(path, place, unnoticed=unnoticed):
                    cache = BlobFiles(tmp_path / f"{place}-{unnoticed}-{blob[:8]}")
                    error = await refusal(bob.registry.fetch_into(blob, cache))
                    assert isinstance(error, VerificationError) and blob[:12] in error.subject
                    assert list(cache.digests()) == []
        with flipped(path, 0):
            assert isinstance(await refusal(bob.registry.fetch_blob(blob)), VerificationError)
            assert await bob.registry.missing([blob]) == [blob]  # so that it is sent again


async def test_a_truncated_blob_is_refused_and_can_be_sent_again(swarm: BackEnd, ada: SmallNode) -> None:
    value = (await ada.verified.manifest(ada.expert)).value
    blob = value.blobs()[0]
    path = next((swarm.home.registry / "blobs").rglob(blob))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert isinstance(await refusal(ada.registry.fetch_blob(blob)), VerificationError)
    following = replace(value, version=value.version + 1, parent_version=value.version)
    signed = sign_statement(following, ada.identity.required_signer())
    error = await refusal(ada.registry.commit(signed, ada.fence))
    assert isinstance(error, NotFoundError) and blob[:12] in error.subject
    await ada.registry.publish_blob(blob, whole)
    assert await ada.registry.fetch_blob(blob) == whole


async def test_every_stored_statement_with_one_flipped_bit_is_refused_by_its_name(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode, redis: Redis
) -> None:
    """Manifests come from Redis. Gates, specification, lists and records come from the coordinator, which
    does not believe Redis either."""
    keys = sorted(await redis.keys("{plants}:manifest:*"))
    assert len(keys) >= 2
    for key in keys:
        whole = await redis.get(key)
        digest = key.decode().rpartition(":")[2]
        for place in places(len(whole), 8):
            await redis.set(key, _with_flip(whole, place))
            reader = _reader(bob)
            error = await refusal(reader.manifest(digest))
            assert error.code in ("verification", "not_found", "unknown_member"), (place, error)
        await redis.set(key, whole)
        assert (await _reader(bob).manifest(digest)).digest == digest


@pytest.mark.parametrize(
    "series", ["gate:2", "specification:1", "revocations:1", "node:ada", "node:coordinator"]
)
async def test_a_flipped_statement_in_redis_never_replaces_the_coordinators_own(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode, redis: Redis, series: str
) -> None:
    key = f"{{plants}}:{series}"
    whole = await redis.get(key)
    if whole is None:
        pytest.skip("not kept in Redis")
    wanted = [
        await ada.coordinator.gate(),
        await ada.coordinator.specification(),
        await ada.coordinator.revocations(),
    ]
    try:
        for place in places(len(whole), 2):
            await redis.set(key, _with_flip(whole, place))
            found = [
                await ada.coordinator.gate(), await ada.coordinator.specification(),
                await ada.coordinator.revocations(),
            ]  # fmt: skip
            assert found == wanted
            assert (await ada.ask("a", "c")).gate_version == 2
    finally:
        await redis.set(key, whole)


async def test_each_damaged_contribution_is_named_and_no_gate_is_made_of_it(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode
) -> None:
    folder = swarm.home.coordinator / "contributions"
    operator = await swarm.operator()
    before = await ada.coordinator.gate()
    version = read_statement(before, GateStatement).value.version
    files = sorted(folder.iterdir())
    assert len(files) == 4
    for path in files:
        for place in places(path.stat().st_size, 2):
            with flipped(path, place):
                if path.suffix == ".json" and says_the_same(path):
                    continue  # the flip is in the signature, which was checked when the contribution came
                # A fit tries the last solution anew; whatever solves reads the files.
                error = await refusal(operator.rollback(version))
                assert isinstance(error, VerificationError), (path.name, place, error)
                assert path.stem[:12] in error.subject or "contribution" in error.subject
    assert await ada.coordinator.gate() == before


async def test_a_damaged_contribution_puts_off_no_revocation(swarm: BackEnd, ada: SmallNode) -> None:
    eve = await swarm.node("eve", "ab")
    (path, *_) = sorted((swarm.home.coordinator / "contributions").glob("*.json"))
    with flipped(path, 10):
        await result_or_refusal((await swarm.operator()).revoke_node(NodeId("eve"), "stolen"))
        assert "revoked" in (await refusal(eve.coordinator.status())).found
    await (await swarm.operator()).revoke_node(NodeId("eve"), "stolen")
    await eve.disconnect()


async def test_what_is_in_the_coordinators_own_folder_is_checked_when_it_starts(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode
) -> None:
    folder = swarm.home.coordinator
    gate = await ada.coordinator.gate()
    version = read_statement(gate, GateStatement).value.version
    cases = [
        folder / "gates" / f"{version}.json", *sorted((folder / "specifications").glob("*.json")),
        *sorted((folder / "revocations").glob("*.json"))[-1:],
        next((folder / "blobs").rglob(read_statement(gate, GateStatement).value.arrays[0].blob)),
        folder / "identity" / "record.json", folder / "identity" / "certificate.pem",
    ]  # fmt: skip
    await swarm.stop_coordinator()
    for path in cases:
        with flipped(path, path.stat().st_size // 2):
            error = await refusal(swarm.start_coordinator())
            assert isinstance(error, SwarmError), path
            assert error.code in ("verification", "invalid_input", "not_found"), (path, error)
    await swarm.start_coordinator()
    for _ in range(100):
        if ada.stream.connected and bob.stream.connected:
            break
        await asyncio.sleep(0.1)
    assert await ada.coordinator.gate() == gate
    assert (await ada.ask("a", "c")).gate_version == version


Change = Callable[[Manifest], Manifest]


async def test_a_manifest_that_is_not_what_it_seems_is_refused_by_name(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode
) -> None:
    good = (await ada.verified.manifest(ada.expert)).value
    good = replace(good, version=good.version + 1, parent_version=good.version)
    nan, nan_blobs = pack_module("means", {"means": np.full((2, 6), np.nan, np.float32)})
    for blob, data in nan_blobs.items():
        await ada.registry.publish_blob(blob, data)
    entry = good.modules[0].tensors[0]
    beyond = replace(entry, offset=1 << 20)
    other = replace(entry, dtype="int32")

    def with_tensor(tensor: TensorEntry) -> Manifest:
        return replace(good, modules=(replace(good.modules[0], tensors=(tensor,)),))

    cases: list[tuple[Manifest, type[SwarmError], str]] = [
        (replace(good, trunk=digest_of(b"another")), TrunkMismatchError, "trunk"),
        (replace(good, swarm=SwarmId("weeds")), VerificationError, "swarm weeds"),
        (replace(good, modules=(nan,)), VerificationError, "NaN"),
        (with_tensor(replace(entry, blob=digest_of(b"nowhere"))), NotFoundError, "missing"),
        (with_tensor(beyond), VerificationError, "bytes"),
        (with_tensor(other), VerificationError, "digest"),
        (replace(good, modules=good.modules * 2), VerificationError, "twice"),
        (replace(good, net=replace(good.net, input_shape=(7,))), InvalidInputError, "input shape"),
        (replace(good, version=900, parent_version=899), ConflictError, "parent 899"),
        (replace(good, owner=NodeId("bob"), leaf="bob.l0", expert="bob.e0"), SwarmError, ""),  # type: ignore[arg-type]
    ]
    for value, expected, words in cases:
        error = await refusal(
            ada.registry.commit(sign_statement(value, ada.identity.required_signer()), ada.fence)
        )
        assert isinstance(error, expected) and words in str(error), (words, error)
    signed = json.loads(sign_statement(good, ada.identity.required_signer()))
    unsigned = [
        json.dumps(signed | {"signatures": []}, sort_keys=True, separators=(",", ":")).encode(),
        sign_statement(good, bob.identity.required_signer()), b"", b"{}", b"\x80" * 50, b"[" * 100_000,
    ]  # fmt: skip
    for envelope in unsigned:
        error = await refusal(ada.registry.commit(envelope, ada.fence))
        assert isinstance(error, VerificationError), error
    assert [h.version for h in await ada.registry.heads("ada")] == [good.version - 1]


async def test_numbers_that_cannot_be_true_make_no_manifest(ada: SmallNode) -> None:
    """They would stop those who add them up, or Redis from telling all heads."""
    good = (await ada.verified.manifest(ada.expert)).value
    for changes in ({"version": 10**18, "parent_version": 10**18 - 1}, {"metrics": {"a": float("nan")}}):
        with pytest.raises(InvalidInputError):
            replace(good, **changes)
    for field in ("train_flops", "inference_flops", "samples_seen", "duration_s"):
        for value in (-1, 10**40):
            with pytest.raises(InvalidInputError, match=field):
                replace(good.cost, **{field: value})
    with pytest.raises(InvalidInputError):
        TensorEntry(
            name="x", dtype="float32", shape=(0, 1 << 62), blob=digest_of(b""), offset=0, size_bytes=0
        )
    assert isinstance(good.cost, Cost)


async def test_a_net_larger_than_its_weights_and_pythons_own_modules_are_not_built(tmp_path: Path) -> None:
    """Whoever judges a gate loads its peers' experts: 65536 x 65536 x 64 numbers would end the judge."""
    from tests.support.learning import make_specification

    blobs = BlobFiles(tmp_path / "blobs")
    specification = make_specification(blobs)
    module, data = pack_module(
        "head", {"weight": np.zeros((2, 64), np.float32), "bias": np.zeros(2, np.float32)}
    )
    for each in data.values():
        blobs.put(each)
    cases: list[tuple[str, type[SwarmError]]] = [
        ("mlp:65536x64", ShapeMismatchError), ("cnn:65536x65536", ShapeMismatchError),
        ("antigravity:fly", InvalidInputError), ("os:system", InvalidInputError),
    ]  # fmt: skip
    for factory, expected in cases:
        value = replace(
            _any_manifest(), swarm=specification.swarm, trunk=specification.trunk.digest, modules=(module,),
            net=NetReference(factory=factory, input_shape=(8, 8), classes=2, code_digest=""),
        )  # fmt: skip
        with pytest.raises(expected, match=r"weights|factory"):
            LoadedExpert.load(value, blobs.open_verified, specification)


def _any_manifest() -> Manifest:
    from tests.support.trust import manifest

    return manifest()


async def test_contributions_that_lie_are_refused_by_name_and_the_gate_stays(
    swarm: BackEnd, ada: SmallNode, bob: SmallNode
) -> None:
    before = await ada.coordinator.gate()
    envelope, _ = await ada.contribution()
    claim = read_statement(envelope, Contribution).value
    leaf = claim.leaves[0]
    rows = leaf.prototypes.shape[0]
    each = np.full(rows, 120 // rows, np.int64)
    each[0] += 120 - each.sum()
    good = {
        "prototypes": np.zeros((rows, 6), np.float32), "prototype_counts": each,
        "radii": np.ones((rows, 3), np.float32),
    }  # fmt: skip

    async def send(arrays: dict[str, Any], **leaf_changes: Any) -> SwarmError:
        entries, _, data = pack_single(arrays)
        named = {entry.name: entry for entry in entries}
        changed = replace(leaf, **(named | leaf_changes))
        value = replace(claim, leaves=(changed,), epoch=claim.epoch + 1)
        signed = sign_statement(value, ada.identity.required_signer())
        return await refusal(ada.coordinator.contribute(signed, data, ada.fence))

    def with_(name: str, value: Any) -> dict[str, Any]:
        return good | {name: value}

    nan = np.full((rows, 6), np.nan, np.float32)
    large = np.full((rows, 6), 1e20, np.float32)
    cases: list[tuple[dict[str, Any], dict[str, Any], type[SwarmError]]] = [
        (with_("prototypes", nan), {}, InvalidInputError),
        (with_("prototypes", large), {}, InvalidInputError),
        (with_("prototypes", np.zeros((rows, 5), np.float32)), {}, ShapeMismatchError),
        (with_("prototypes", np.zeros((rows, 6), np.float64)), {}, ShapeMismatchError),
        (with_("radii", -np.ones((rows, 3), np.float32)), {}, InvalidInputError),
        (with_("radii", np.tile(np.float32([3, 2, 1]), (rows, 1))), {}, InvalidInputError),
        (with_("radii", np.full((rows, 3), np.inf, np.float32)), {}, InvalidInputError),
        (with_("prototype_counts", np.full(rows, 10**18, np.int64)), {}, InvalidInputError),
        (with_("prototype_counts", np.full(rows, -5, np.int64)), {}, InvalidInputError),
        (with_("prototype_counts", each + 1), {}, InvalidInputError),
        (good, {"class_counts": {"a": 10**18, "b": 1}}, InvalidInputError),
        (good, {"class_counts": {"a": -1, "b": 121}}, InvalidInputError),
        (good, {"class_counts": {"a": 1}}, InvalidInputError),
        (good, {"class_counts": {}}, InvalidInputError),
        (good, {"class_counts": {"zebra": 120}}, InvalidInputError),
        (good, {"leaf": "bob.l0", "expert": "bob.e0"}, VerificationError),
        (good, {"leaf": "ada.l9", "expert": "ada.e9"}, NotFoundError),
    ]  # fmt: skip
    for arrays, leaf_changes, expected in cases:
        error = await send(arrays, **leaf_changes)
        assert isinstance(error, expected), (leaf_changes, error)
        assert error.code != "internal"
    many = tuple(replace(leaf, leaf=f"ada.l{n}", expert=f"ada.e{n}") for n in range(50))  # type: ignore[arg-type]
    assert isinstance(await refusal(ada.contribute(leaves=many)), InvalidInputError)
    assert isinstance(await refusal(ada.contribute(leaves=(leaf, leaf))), InvalidInputError)
    sending = ada.coordinator.contribute(envelope, bytes(65 << 20), ada.fence)
    assert isinstance(await refusal(sending), VerificationError)
    sending = ada.coordinator.contribute(envelope, bytes((256 << 20) + 1), ada.fence)
    assert isinstance(await refusal(sending), ExhaustedError)
    assert await ada.coordinator.gate() == before
    assert len(list((swarm.home.coordinator / "contributions").glob("*.json"))) == 2
    assert (await ada.ask("a", "c")).probabilities.argmax(axis=1).tolist() == [0, 2]
    assert isinstance(await refusal(bob.coordinator.contribute(envelope, b"", bob.fence)), NotAuthorisedError)


def _with_flip(whole: bytes, place: int) -> bytes:
    place %= len(whole)
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def _reader(node: SmallNode) -> Any:
    """The node's view of the registry, with nothing remembered."""
    return type(node.verified)(node.registry, node.coordinator, node.keyring, node.verified.cache)
