"""A cut or flipped append-only file, a full and a read-only disk, a writer that slept past its lease."""

import asyncio
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos_registry.site import OWNER, Site, Tally
from swarm.domain.errors import StaleFenceError, SwarmError, VerificationError

VERSIONS = 12


async def append_only_file(folder: Path, cuts: int, flips: int, seed: int) -> Tally:
    """Cut the file at so many offsets and flip so many bits. Redis refuses, and is repaired by the command
    that it names; or it starts. Either way the registry has to have the very same heads again."""
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    async with site.client() as client:
        for version in range(1, VERSIONS + 1):
            await site.publish(client, 1 + version % 3, (version + 2) // 3)
    await site.end_registry(signal.SIGTERM)
    await site.redis.stop()
    (whole,) = [path for path in site.redis.folder.rglob("*.aof") if path.stat().st_size]
    kept = whole.read_bytes()
    try:
        for row in range(cuts + flips):
            data = bytearray(kept)
            at = chance.randrange(1, len(data))
            if row < cuts:
                del data[at:]
            else:
                data[at] ^= 1 << chance.randrange(8)
            whole.write_bytes(bytes(data))
            await _started_over_damage(site, whole, tally)
            tally.trials += 1
            await site.redis.stop()
    finally:
        whole.write_bytes(kept)
        await site.store.close()
    return tally


async def _started_over_damage(site: Site, file: Path, tally: Tally) -> None:
    try:
        await site.redis.start()
    except VerificationError:
        tally.note("refused by name, then repaired")
        command = ["bash", "-c", f"yes | {site.redis.repair_command}"]
        await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        try:
            await site.redis.start()
        except SwarmError:
            tally.note("beyond repair: begun anew")
            _removed(file)
            await site.redis.start()
    except SwarmError:
        tally.note("Redis did not start")
        _removed(file)
        await site.redis.start()
    else:
        tally.note("started without a word")
    await site.put_back_members()
    tally.recoveries.append(await site.start_registry())
    await site.check(tally)
    await site.end_registry(signal.SIGTERM)


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """Mount a small tmpfs; PermissionError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", folder, 0, f"size={size_mb}m")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def set_writable(folder: Path, *, writable: bool, size_mb: int) -> None:
    """Make a mounted tmpfs read-only or writable again; OSError where files are open for writing."""
    _mount("tmpfs", folder, 32 | (0 if writable else 1), f"size={size_mb}m")


def _mount(kind: str, folder: Path, flags: int, options: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(kind.encode(), str(folder).encode(), kind.encode(), flags, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


async def disks(folder: Path, times: int) -> Tally:
    """Fill the disk of journal and blobs, then make it read-only: refusals by name, nothing acknowledged
    lost, and the same accepted once there is room. PermissionError where nothing can be mounted."""
    tally, site = Tally(), Site(folder)
    size_mb = 80
    with small_disk(folder / "registry", size_mb):
        await site.start()
        try:
            for row in range(times):
                async with site.client() as client:
                    await site.publish(client, 1, 2 * row + 1)
                    made = site.version(1, 2 * row + 2)
                    if row % 2:
                        set_writable(folder / "registry", writable=False, size_mb=size_mb)
                    else:
                        _fill(folder / "registry" / "filler")
                    refusal = await _refused(site, client, 2 * row + 2, made)
                    tally.note(f"{'read-only' if row % 2 else 'full'}: {refusal}")
                    if row % 2:
                        set_writable(folder / "registry", writable=True, size_mb=size_mb)
                    (folder / "registry" / "filler").unlink(missing_ok=True)
                    await site.publish(client, 1, 2 * row + 2, made)
                await site.end_registry()
                tally.recoveries.append(await site.start_registry())
                await site.check(tally)
                tally.trials += 1
            await site.count_orphans(tally)
        finally:
            await site.stop()
    return tally


def _fill(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        return


async def _refused(site: Site, client: object, version: int, made: object) -> str:
    try:
        await site.publish(client, 1, version, made)  # type: ignore[arg-type]
    except SwarmError as error:
        return type(error).__name__
    return "accepted"


async def a_holder_that_slept(folder: Path, times: int) -> Tally:
    """A writer is stopped (SIGSTOP), its lease runs out and another one is given; then it goes on: every
    write of it has to be refused by its fence."""
    tally, site = Tally(), Site(folder)
    await site.start()
    try:
        for row in range(times):
            async with site.client() as client:
                await site.publish(client, 1, row + 1)
            old = (await site.store.grant_lease(OWNER, 0.05)).fence
            writer = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "import sys; print('up', flush=True); print(sys.stdin.readline())",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert writer.stdout is not None and writer.stdin is not None
            await writer.stdout.readline()
            os.kill(writer.pid, signal.SIGSTOP)
            while await site.store.leases():  # noqa: ASYNC110 - of Redis
                await asyncio.sleep(0.01)
            site.fence = (await site.store.grant_lease(OWNER, 86_400)).fence
            writer.stdin.write(f"{old}\n".encode())
            os.kill(writer.pid, signal.SIGCONT)
            stale = int(await writer.stdout.readline())
            await writer.wait()
            tally.stale_accepted += await _stale_writes(site, stale, row + 2)
            tally.trials += 1
        await site.check(tally)
    finally:
        await site.stop()
    return tally


async def _stale_writes(site: Site, stale: int, version: int) -> int:
    """Try to commit, announce, bring back and withdraw under a stale fence; return what was accepted."""
    fence, site.fence = site.fence, stale
    envelope, blobs = site.version(1, version)
    accepted = 0
    async with site.client() as client:
        for blob, data in blobs.items():
            await client.publish_blob(blob, data)
        for act in (
            client.commit(envelope, stale),
            client.announce([envelope], stale),
            client.bring_back([envelope], stale),
            site.withdraw(client, 1),
        ):
            try:
                await act
            except StaleFenceError:
                continue
            accepted += 1
    site.fence = fence
    site.tried_to_withdraw.discard(1)
    return accepted


def _removed(file: Path) -> None:
    """Remove an append-only file, with its folder where Redis 7 keeps several."""
    if file.parent.name == "appendonlydir":
        shutil.rmtree(file.parent)
    else:
        file.unlink(missing_ok=True)
