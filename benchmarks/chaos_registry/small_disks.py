"""A full disk and a read-only one under journal and blobs."""

import ctypes
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos_registry.site import OWNER, PATIENCE_S, Site, Tally
from swarm.domain.errors import ExhaustedError, NotReadyError, SwarmError
from swarm.domain.ids import Digest
from swarm.modules import pack_module
from swarm.registry.blob_transfers import SPARE_BYTES
from swarm.rpc.clients import RegistryClient
from tests.support.trust import manifest

BLOB_BYTES = 16 << 20
SIZE_MB = (SPARE_BYTES + 20 * BLOB_BYTES) >> 20
"""Room also for what a withdrawn version's broken upload keeps for a day."""

MANY = {f"scale{row}": np.zeros(4, np.float32) for row in range(64)}
KINDS = ("full at its journal", "full amid an upload", "read-only at its journal", "read-only at an upload")


async def disks(folder: Path, times: int) -> Tally:
    """Let the disk of journal and blobs take nothing, right before a commit or amid an upload: refusals by
    name, nothing acknowledged lost, and the same accepted once there is room. PermissionError where nothing
    can be mounted."""
    tally, site = Tally(), Site(folder)
    with small_disk(folder / "registry", SIZE_MB):
        # Open as long as the registry runs: on that disk it would keep it from becoming read-only.
        (folder / "registry" / "registry.lock").symlink_to(folder / "registry.lock")
        await site.start()
        try:
            for row in range(times):
                await _one(site, KINDS[row % len(KINDS)], row + 1, tally)
                await site.end_registry()
                tally.recoveries.append(await site.start_registry())
                await site.check(tally, row + 1)
                tally.trials += 1
                async with site.client() as client:
                    await site.withdraw(client, row + 1)
                async with site.client(site.operator) as operator:
                    await operator.collect(dry_run=False)
            await site.count_orphans(tally)
            await site.check(tally)
        finally:
            await site.stop()
    return tally


async def _one(site: Site, kind: str, number: int, tally: Tally) -> None:
    folder = site.folder / "registry"
    filler = folder / "filler"
    async with site.client() as client:
        await site.publish(client, number, 1)
        made = large_version(site, number, 2)
        is_full = kind.startswith("full")
        if kind.endswith("journal"):
            await site.upload(client, made)

        def take_nothing(count: int = 0) -> None:
            if is_full:
                fill(filler)
            else:
                set_writable(folder, writable=False)

        try:
            if kind == "full amid an upload":
                await _refused(_uploaded(site, client, made, take_nothing), kind, tally)
            else:
                take_nothing()
                await _refused(site.publish(client, number, 2, made), kind, tally)
        finally:
            if not is_full:
                set_writable(folder, writable=True)
            filler.unlink(missing_ok=True)
        await site.publish(client, number, 2, made)


async def _uploaded(site: Site, client: RegistryClient, made: Any, on_bytes: Any) -> None:
    for blob, data in made[1].items():
        await client.publish_blob(blob, data, on_bytes)


async def _refused(call: Any, kind: str, tally: Tally) -> None:
    """Note how a call is refused; one that is accepted, or refused without a reason, is missed."""
    try:
        await call
    except (ExhaustedError, NotReadyError) as error:
        tally.note(f"{kind}: {type(error).__name__} of {error.subject.split(' ')[0]}")
    except SwarmError as error:
        tally.missed.append(f"{kind}: {error}")
    else:
        tally.missed.append(f"{kind}: accepted")


def large_version(site: Site, number: int, version: int) -> tuple[bytes, dict[Digest, bytes]]:
    """Return a signed manifest over weights that take a while to send, and its blobs. Its line in the journal
    is longer than what is left of the journal's last page, which a full disk still takes."""
    weights = np.random.default_rng(1000 * number + version).normal(size=BLOB_BYTES // 4).astype(np.float32)
    module, blobs = pack_module("head", {"weight": weights, **MANY})
    made = replace(manifest(OWNER, number, version), modules=(module,), parents=(), share="public")
    return site.signed(made), blobs


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """Mount a small tmpfs; PermissionError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount(folder, 0, size_mb)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def set_writable(folder: Path, *, writable: bool) -> None:
    """Make the tmpfs read-only or writable again, once the registry has no file there open for writing: it
    may close one right after it answered. OSError where one stays open."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            _mount(folder, 32 | (0 if writable else 1), SIZE_MB)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _mount(folder: Path, flags: int, size_mb: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size_mb}m".encode()):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def fill(path: Path) -> None:
    """Leave no byte of the disk free."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
