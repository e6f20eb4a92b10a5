"""Large weights leave a node from a process of their own: all, from where they stopped, and nicely."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from node.sending import BlobSending
from swarm.domain.errors import SwarmError, UnreachableError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles
from swarm.niceness import NICENESS
from tests.linearizability.cluster import Cluster

MIB = 1 << 20
BLOB_BYTES = 24 * MIB


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    await made.start()
    yield made
    await made.stop()


def sending(cluster: Cluster, files: BlobFiles, aside_from_bytes: int = MIB) -> BlobSending:
    return BlobSending(
        cluster.client("ada"),
        files,
        identity=cluster.owners["ada"].folder,
        address=f"127.0.0.1:{cluster.relay.port}",
        log=cluster.folder / "run" / "sender.log",
        aside_from_bytes=aside_from_bytes,
    )


def senders() -> list[psutil.Process]:
    """Return what this process's fork server has forked."""
    own = psutil.Process().children()
    return [forked for each in own if "swarm.forking.server" in each.cmdline() for forked in each.children()]


async def test_a_large_blob_goes_from_a_nicer_process_and_small_ones_from_here(
    cluster: Cluster, tmp_path: Path
) -> None:
    files, told = BlobFiles(tmp_path / "cache"), list[int]()
    large, small = files.put(os.urandom(BLOB_BYTES)), files.put(b"small")
    aside, niceness = sending(cluster, files), set[int]()

    def on_bytes(count: int) -> None:
        told.append(count)
        niceness.update(sender.nice() for sender in senders())

    await aside.publish_blob(small, files.open_unverified(small))
    assert aside.socket_bytes.sent == 0
    await aside.publish_blob(large, files.open_unverified(large), on_bytes)
    assert sum(told) == BLOB_BYTES
    assert niceness == {NICENESS} and not senders()
    client = cluster.client("ada")
    assert await client.missing([large, small]) == []
    assert await client.fetch_blob(large) == bytes(files.open_unverified(large))
    assert BLOB_BYTES < aside.socket_bytes.sent < 1.1 * BLOB_BYTES and aside.socket_bytes.received > 0
    await client.close()


async def test_what_a_process_that_was_killed_had_sent_is_not_sent_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    files = BlobFiles(tmp_path / "cache")
    blob = files.put(os.urandom(4 * BLOB_BYTES))
    aside, sent = sending(cluster, files), 0

    def on_bytes(count: int) -> None:
        nonlocal sent
        sent += count
        if sent > 3 * BLOB_BYTES:
            for sender in senders():
                sender.kill()

    with pytest.raises(SwarmError, match=r"its process ended with -9"):
        await aside.publish_blob(blob, files.open_unverified(blob), on_bytes)
    told: list[int] = []
    await aside.publish_blob(blob, files.open_unverified(blob), told.append)
    assert told[0] > 8 * MIB and sum(told) == 4 * BLOB_BYTES
    client = cluster.client("ada")
    assert await client.missing([blob]) == []
    await client.close()


async def test_what_is_wrong_is_raised_as_it_is_where_the_agent_sends(
    cluster: Cluster, tmp_path: Path
) -> None:
    files = BlobFiles(tmp_path / "cache")
    blob = files.put(os.urandom(2 * MIB))
    files.path(blob).write_bytes(bytes(2 * MIB))
    aside = sending(cluster, files)
    with pytest.raises(VerificationError, match=blob[:12]):
        await aside.publish_blob(blob, files.open_unverified(blob))
    await cluster.relay.close()
    with pytest.raises(UnreachableError, match="registry"):
        await aside.publish_blob(blob, files.open_unverified(blob))


async def test_who_stops_sending_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "cache")
    blob: Digest = files.put(os.urandom(4 * BLOB_BYTES))
    began = asyncio.Event()
    task = asyncio.create_task(
        sending(cluster, files).publish_blob(blob, files.open_unverified(blob), lambda count: began.set())
    )
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not senders()
