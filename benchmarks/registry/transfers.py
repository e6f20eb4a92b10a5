"""Publish, fetch, the transfer alone, a TLS socket and a file copy, taken in turns."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.registry.talking import MIB, Talker, cpu_s, forget_peak, peak_bytes
from benchmarks.registry.world import World, copy_durably, random_blob
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one act took: seconds, CPU seconds of both sides, and how far each side's memory grew (bytes;
    mapped files count)."""

    wall_s: float
    cpu_s: float
    receiver_growth: int = 0
    sender_growth: int = 0


_GIVEN_BACK_S = 3.0
"""Longer than what was freed before stays with a virtual machine."""

Round = Mapping[str, Taken]
"""One turn of every arm: `tls`, `copy`, `publish`, `fetch`, `stream`."""


def rounds(
    world: World,
    size_bytes: int,
    repeats: int,
    said: Callable[[str], None],
    others: Mapping[str, Callable[[], Taken]] = MappingProxyType({}),
) -> list[Round]:
    """Take each arm `repeats` times over one blob of random bytes, another arm first each time. `others`:
    arms of other projects, over as many bytes."""
    files = BlobFiles(world.cache)
    blob = random_blob(files, size_bytes, seed=size_bytes)
    source = files.path(blob)
    arms: dict[str, Callable[[], Taken]] = {
        "tls": lambda: taken(world.tls_sender, world.tls_receiver, do="send", path=str(source)),
        "copy": lambda: _copied(world, blob),
        "publish": lambda: _published(world, blob),
        "fetch": lambda: _fetched(world, blob, size_bytes),
        "stream": lambda: taken(
            world.registry, world.node, asked=world.node, do="stream", digest=blob, size=size_bytes
        ),
    }
    arms.update(others)
    _published(world, blob)  # so that there is something to fetch, and every page is warm
    for warm in ("stream", *others):
        arms[warm]()
    found: list[Round] = []
    for turn in range(repeats):
        names = list(arms)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        found.append({name: arms[name]() for name in names})
        rates = ", ".join(
            f"{name} {size_bytes / MIB / found[-1][name].wall_s:.0f} MiB/s"
            f" {found[-1][name].cpu_s / size_bytes * 1e9:.2f} CPU s/GB"
            for name in arms
        )
        said(f"{size_bytes // MIB} MiB, turn {turn + 1} of {repeats}: {rates}")
    files.remove(blob)
    BlobFiles(world.blobs).remove(blob)
    return found


def summary(size_bytes: int, found: Sequence[Round]) -> dict[str, float]:
    """Return medians over the turns, with the lowest and highest of each ratio."""
    name = size_bytes // MIB
    ratios = {
        "publish_wall_over_tls": [each["tls"].wall_s / each["publish"].wall_s for each in found],
        "fetch_wall_over_tls": [each["tls"].wall_s / each["fetch"].wall_s for each in found],
        "transfer_cpu_over_tls": [each["stream"].cpu_s / each["tls"].cpu_s for each in found],
        "publish_cpu_over_tls": [each["publish"].cpu_s / each["tls"].cpu_s for each in found],
        "fetch_cpu_over_tls": [each["fetch"].cpu_s / each["tls"].cpu_s for each in found],
        "publish_wall_over_copy": [each["copy"].wall_s / each["publish"].wall_s for each in found],
        "stream_wall_over_tls": [each["tls"].wall_s / each["stream"].wall_s for each in found],
    }
    for other in found[0].keys() - {"tls", "copy", "publish", "fetch", "stream"}:
        ratios[f"fetch_wall_over_{other}"] = [each[other].wall_s / each["fetch"].wall_s for each in found]
    figures: dict[str, float] = {}
    for ratio, values in ratios.items():
        figures[f"{ratio}_{name}"] = statistics.median(values)
        figures[f"{ratio}_{name}_lowest"] = min(values)
        figures[f"{ratio}_{name}_highest"] = max(values)
    for arm in found[0]:
        wall = statistics.median(each[arm].wall_s for each in found)
        figures[f"{arm}_mb_per_s_{name}"] = size_bytes / 1e6 / wall
        cpu = statistics.median(each[arm].cpu_s for each in found)
        figures[f"{arm}_cpu_s_per_gb_{name}"] = cpu / size_bytes * 1e9
    for arm in ("publish", "fetch"):
        figures[f"{arm}_receiver_growth_mb_{name}"] = max(each[arm].receiver_growth for each in found) / 1e6
        figures[f"{arm}_sender_growth_mb_{name}"] = max(each[arm].sender_growth for each in found) / 1e6
    return figures


def _published(world: World, blob: Digest) -> Taken:
    _settle(world, BlobFiles(world.cache).size(blob))
    BlobFiles(world.blobs).remove(blob)
    return taken(world.node, world.registry, do="publish", digests=[blob])


def _fetched(world: World, blob: Digest, size_bytes: int) -> Taken:
    into = world.folder / "fetched"
    _settle(world, size_bytes)
    found = taken(
        world.registry, world.node, asked=world.node,
        do="fetch", digest=blob, size=size_bytes, into=str(into),
    )  # fmt: skip
    shutil.rmtree(into)
    return found


def _copied(world: World, blob: Digest) -> Taken:
    target = world.folder / "copied"
    _settle(world, BlobFiles(world.cache).size(blob))
    cpu, started = time.process_time(), time.perf_counter()
    copy_durably(BlobFiles(world.cache).path(blob), target)
    found = Taken(wall_s=time.perf_counter() - started, cpu_s=time.process_time() - cpu)
    target.unlink()
    return found


def taken(sender: Talker, receiver: Talker, *, asked: Talker | None = None, **request: object) -> Taken:
    """Return what a request took; `asked`: whom it is put to, the sender if nobody else."""
    before = {each.pid: forget_peak(each.pid) for each in (sender, receiver)}
    used = [cpu_s(each.pid) for each in (sender, receiver)]
    wall_s = (asked or sender).ask(**request)["wall_s"]
    return Taken(
        wall_s=wall_s,
        cpu_s=sum(cpu_s(each.pid) for each in (sender, receiver)) - sum(used),
        receiver_growth=max(0, peak_bytes(receiver.pid) - before[receiver.pid]),
        sender_growth=max(0, peak_bytes(sender.pid) - before[sender.pid]),
    )


def _settle(world: World, size_bytes: int) -> None:
    """Let what earlier turns wrote reach the disk, so that nobody pays for another's bytes; and free more
    memory than a file takes right before a turn. A virtual machine gives back what is free for two seconds:
    who writes next would pay for that, several times what the write takes."""
    os.sync()
    scratch, piece = world.folder / "scratch", bytes(MIB)
    with scratch.open("wb", buffering=0) as file:
        for _ in range(0, 3 * size_bytes, MIB):
            file.write(piece)
    time.sleep(_GIVEN_BACK_S)
    scratch.unlink()
