"""A registry on a disk that takes nothing: it starts, gives what it has, and collects what makes room."""

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import ExhaustedError, NotReadyError
from swarm.domain.ids import expert_of, leaf_of
from swarm.domain.members import Tombstone
from tests.integration.test_registry_process import Running, publish, running, started, stopped
from tests.support.registry import expert
from tests.support.trust import SWARM

__all__ = ["running"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a small file system where the registry's folder will be."""
    folder = tmp_path / "registry"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs", folder], check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    free = os.statvfs(disk)
    assert free.f_bavail == 0
    return ballast


async def test_a_full_disk_is_no_reason_not_to_start_or_to_collect(disk: Path, running: Running) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    await publish(client, running, version=2, seed=1)
    _, blobs = expert(version=2, seed=1)
    gone = Tombstone(
        swarm=SWARM, kind="expert", id=expert_of(leaf_of(running.ada.id, 1)), reason="moved", created_at=1.0
    )
    await client.publish_blob(digest_of(b"uncommitted"), b"uncommitted")
    await client.close()
    assert await stopped(running.process) == 0

    ballast = fill(disk)
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    for name, data in blobs.items():
        assert await client.fetch_blob(name) == data
    with pytest.raises((ExhaustedError, NotReadyError)):
        await publish(client, running, version=3, seed=2)
    ballast.unlink()
    await publish(client, running, version=3, seed=2)
    await client.withdraw(running.signed(gone), running.fence)
    fill(disk)
    operator = running.client(running.founded.member("olga", "operator", datetime.now(UTC)))
    found = await operator.collect(dry_run=False)
    assert found.gone_blobs > 0
    await operator.close()
    await client.close()


async def test_a_read_only_disk_still_gives_what_is_on_it(disk: Path, running: Running) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    _, blobs = expert()
    await client.publish_blob(digest_of(b"uncommitted"), b"uncommitted")
    await client.close()
    assert await stopped(running.process) == 0
    (running.config.blobs / "incoming" / "left-behind").write_bytes(b"of a writer that was killed")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    for name, data in blobs.items():
        assert await client.fetch_blob(name) == data
    with pytest.raises((ExhaustedError, NotReadyError)):
        await publish(client, running, version=2, seed=1)
    await client.close()
    assert await stopped(running.process) == 0
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    await publish(client, running, version=2, seed=1)
    await client.close()
