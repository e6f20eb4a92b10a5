"""Large blobs over mutual TLS from processes that die: what came is not sent again, memory stays small."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import ConflictError, InvalidInputError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import Caller
from swarm.modules import BlobFiles
from swarm.modules.outlines import BLOCK_BYTES, outline_of
from swarm.registry.claims import Claims
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.rpc import methods as m
from swarm.rpc.blob_holders import RpcHolder
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.options import DIGEST_KEY, OFFSET_KEY, SIZE_KEY
from swarm.rpc.servicers import registry_service
from swarm.transfer import Holders, download
from swarm.trust.identity import Identity
from tests.linearizability.cluster import Cluster
from tests.linearizability.relay import Relay
from tests.support.rpc import found_now, node, service, serving

MIB = 1 << 20
BLOB_BYTES = 64 * MIB
_FETCH = """
import asyncio, sys
from pathlib import Path
from swarm.domain.ids import Digest, NodeId
from swarm.modules import BlobFiles
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
def held():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) << 10
async def main(identity, address, blob, size, folder):
    files = BlobFiles(Path(folder))
    async with open_channel(Identity.load(Path(identity)), address, "registry", NodeId("registry")) as to:
        client = RegistryClient(to)
        await client.upload_state(Digest(blob))
        most = before = held()
        task = asyncio.create_task(client.fetch_into(Digest(blob), files, int(size)))
        while not task.done():
            await asyncio.sleep(0.01)
            most = max(most, held())
        await task
    print(most - before)
asyncio.run(main(*sys.argv[1:]))
"""


class CountingRelay(Relay):
    """Counts the bytes that pass, both ways together."""

    def __init__(self) -> None:
        super().__init__()
        self.carried = 0
        self.on_carried: Callable[[], None] = lambda: None

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        class Counting:
            def write(_, data: bytes) -> None:
                self.carried += len(data)
                sink.write(data)
                self.on_carried()

            def __getattr__(_, name: str) -> object:
                return getattr(sink, name)

        await super()._copy(source, Counting())  # type: ignore[arg-type]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    made.relay = CountingRelay()
    await made.start()
    yield made
    await made.stop()


def counting(cluster: Cluster) -> CountingRelay:
    assert isinstance(cluster.relay, CountingRelay)
    cluster.relay.carried = 0
    return cluster.relay


def cut_after(relay: CountingRelay, count: int) -> None:
    """Reset all connections once that many bytes have passed."""

    def look() -> None:
        if relay.carried >= count:
            relay.on_carried = lambda: None
            relay.cut()

    relay.on_carried = look


@pytest.mark.slow
async def test_an_upload_to_a_registry_that_is_killed_goes_on_where_it_stopped(cluster: Cluster) -> None:
    data, relay = os.urandom(BLOB_BYTES), counting(cluster)
    blob, client = digest_of(data), cluster.client("ada")
    cut_after(relay, 40 * MIB)
    with pytest.raises(UnreachableError):
        await client.publish_blob(blob, data)
    await cluster.hurt("kill registry")
    assert await client.missing([blob]) == [blob]
    kept = await client.upload_state(blob)
    # Of what passed, two batches were not written yet and the sockets on the way hold up to 6 MiB each.
    assert 8 * MIB < kept < BLOB_BYTES
    assert await cluster.client("bob").upload_state(blob) == 0
    carried = relay.carried
    await client.publish_blob(blob, data)
    assert await client.missing([blob]) == []
    assert relay.carried - carried < 1.05 * (BLOB_BYTES - kept) + MIB
    assert await client.upload_state(blob) == 0
    assert await client.fetch_blob(blob) == data
    await client.close()


@pytest.mark.slow
async def test_a_download_from_a_registry_that_is_killed_goes_on_where_it_stopped(
    cluster: Cluster, tmp_path: Path
) -> None:
    data, client, files = os.urandom(BLOB_BYTES), cluster.client("ada"), BlobFiles(tmp_path / "cache")
    blob = digest_of(data)
    await client.publish_blob(blob, data)
    relay, told, killing = counting(cluster), 0, list[asyncio.Task[None]]()

    def on_bytes(count: int) -> None:
        nonlocal told
        told += count
        if told >= 40 * MIB and not killing:
            killing.append(asyncio.create_task(cluster.hurt("kill registry")))

    with pytest.raises(UnreachableError):
        await download(blob, len(data), Holders([client.holder()]), files, on_bytes=on_bytes)
    await killing[0]
    assert not files.has(blob)
    kept = next((files.folder / "incoming").iterdir()).stat().st_size // BLOCK_BYTES * BLOCK_BYTES
    assert 8 * MIB < kept < BLOB_BYTES
    carried = relay.carried
    # A process of its own goes on: nothing but the file is left of the first try.
    command = [sys.executable, "-c", _FETCH, str(cluster.owners["ada"].folder), f"127.0.0.1:{relay.port}"]
    process = await asyncio.create_subprocess_exec(
        *command, blob, str(len(data)), str(files.folder), stdout=subprocess.PIPE
    )
    await process.communicate()
    assert process.returncode == 0
    assert bytes(files.open_verified(blob)) == data
    assert relay.carried - carried < 1.05 * (BLOB_BYTES - kept) + MIB
    await client.close()


@pytest.mark.chaos
async def test_a_receiver_holds_little_of_a_large_blob(cluster: Cluster, tmp_path: Path) -> None:
    data, relay = os.urandom(256 * MIB), counting(cluster)
    blob, client = digest_of(data), cluster.client("ada")
    await client.publish_blob(blob, data)
    command = [sys.executable, "-c", _FETCH, str(cluster.owners["ada"].folder), f"127.0.0.1:{relay.port}"]
    # Else glibc keeps what messages of 1 MiB leave behind in its heap: some 50 to 75 MiB, whatever the size.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(256 << 10)}
    process = await asyncio.create_subprocess_exec(
        *command, blob, str(len(data)), str(tmp_path / "cache"), stdout=subprocess.PIPE, env=environment
    )
    out, _ = await process.communicate()
    assert int(out) < 64 * MIB
    await client.close()


def sent_by(member: Identity, blob: Digest) -> Claims:
    """What a registry notes when a member has sent a blob."""
    claims = Claims()
    claims.claim(member.id, [blob])
    claims.note_stored(member.id, blob)
    return claims


class Lying(RegistryService):
    """A registry's peer that gives an honest outline and flips a bit of the third block."""

    async def fetch(
        self, digest: Digest, offset: int = 0, length: int = 0, caller: Caller | None = None
    ) -> AsyncIterator[bytes]:
        at = offset
        async for chunk in super().fetch(digest, offset, length, caller):
            bad = 2 * BLOCK_BYTES - at
            yield chunk[:bad] + bytes([chunk[bad] ^ 1]) + chunk[bad + 1 :] if 0 <= bad < len(chunk) else chunk
            at += len(chunk)


async def test_over_the_wire_a_liar_among_holders_is_dropped_and_the_blob_arrives(tmp_path: Path) -> None:
    swarm = found_now(tmp_path / "swarm")
    ada, registry, data = node(swarm, "ada"), service(swarm, "registry"), os.urandom(4 * BLOCK_BYTES + 7)
    files, store = BlobFiles(tmp_path / "blobs"), MemoryStore()
    blob = files.put(data)

    def port(kind: type[RegistryService]) -> RegistryService:
        return kind(
            store=store,
            blobs=files,
            keyring=registry.keyring(),
            certificate_days=lambda: 7.0,
            claims=sent_by(ada, blob),
        )

    cache = BlobFiles(tmp_path / "cache")
    async with (
        serving(registry, [registry_service(port(Lying))]) as (_, false),
        serving(registry, [registry_service(port(RegistryService))]) as (_, true),
        open_channel(ada, false, "registry", NodeId("registry")) as to_liar,
        open_channel(ada, true, "registry", NodeId("registry")) as to_honest,
    ):
        holders = Holders([RpcHolder(to_honest), RpcHolder(to_liar)])
        assert await RpcHolder(to_honest).outline(blob) == outline_of(memoryview(data))
        await download(blob, len(data), holders, cache)
        assert bytes(cache.open_verified(blob)) == data
        assert set(holders.dropped) <= {to_liar.peer}
        cache.remove(blob)
        holders = Holders([RpcHolder(to_liar), RpcHolder(to_honest)])
        with cache.partial(blob, len(data)) as partial:  # so that the liar's block is the first one missing
            partial.write_at(0, data[: 2 * BLOCK_BYTES])
        await download(blob, len(data), holders, cache)
        assert bytes(cache.open_verified(blob)) == data
        assert list(holders.dropped) == [to_liar.peer]


async def test_ranges_and_offsets_that_make_no_sense_are_refused_by_name(tmp_path: Path) -> None:
    swarm = found_now(tmp_path / "swarm")
    ada, registry = node(swarm, "ada"), service(swarm, "registry")
    files, data = BlobFiles(tmp_path / "blobs"), os.urandom(3 * MIB)
    blob, absent = files.put(data), digest_of(b"absent")
    port = RegistryService(
        store=MemoryStore(),
        blobs=files,
        keyring=registry.keyring(),
        certificate_days=lambda: 7.0,
        claims=sent_by(ada, blob),
    )

    async def nothing() -> AsyncIterator[bytes]:
        for _ in ():
            yield b""

    async with (
        serving(registry, [registry_service(port)]) as (_, address),
        open_channel(ada, address, "registry", NodeId("registry")) as connection,
    ):
        holder = RegistryClient(connection).holder()
        assert b"".join([c async for c in holder.read(blob, MIB - 1, MIB + 2)]) == data[MIB - 1 : 2 * MIB + 1]
        for offset, length in ((0, 3 * MIB + 1), (3 * MIB, 1), (-1, 2), (4, -1)):
            with pytest.raises(InvalidInputError, match=f"blob {blob[:12]}: found bytes"):
                _ = [chunk async for chunk in holder.read(blob, offset, length)]
        for size, offset, error in ((10 * MIB, 5, ConflictError), (5, 10, InvalidInputError)):
            told = ((DIGEST_KEY, absent), (SIZE_KEY, str(size)), (OFFSET_KEY, str(offset)))
            with pytest.raises(error, match=f"blob {absent[:12]}"):
                await connection.upload(m.PUBLISH, nothing(), metadata=told)
        with pytest.raises(InvalidInputError, match="swarm-offset"):
            told = ((DIGEST_KEY, absent), (SIZE_KEY, "9"), (OFFSET_KEY, "-1"))
            await connection.upload(m.PUBLISH, nothing(), metadata=told)
        with pytest.raises(SwarmError, match=absent[:12]):
            await holder.outline(absent)


async def test_what_is_kept_of_uploads_counts_against_the_quota_and_a_wrong_beginning_is_sent_again(
    tmp_path: Path,
) -> None:
    swarm = found_now(tmp_path / "swarm")
    ada, registry, files = node(swarm, "ada"), service(swarm, "registry"), BlobFiles(tmp_path / "blobs")
    first, second = os.urandom(8 * MIB), os.urandom(8 * MIB)
    port = RegistryService(
        store=MemoryStore(),
        blobs=files,
        keyring=registry.keyring(),
        certificate_days=lambda: 7.0,
        node_quota_bytes=12 * MIB,
    )
    with files.writer(digest_of(first), len(first), "node-ada") as writer:
        writer.write(b"?" + first[1 : 6 * MIB])
    async with (
        serving(registry, [registry_service(port)]) as (_, address),
        open_channel(ada, address, "registry", NodeId("registry")) as connection,
    ):
        client = RegistryClient(connection)
        assert await client.upload_state(digest_of(first)) == 6 * MIB
        with pytest.raises(SwarmError, match="bytes of ada in the registry"):
            await client.publish_blob(digest_of(second), second)
        await client.publish_blob(digest_of(first), first)
        assert await client.fetch_blob(digest_of(first)) == first
