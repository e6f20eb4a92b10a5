"""What is answered in time when five times as much is asked as can be: `python -m benchmarks.serving.load`.

A swarm of two nodes in real processes with mutual TLS. The coordinator has the first core; nodes, which would
be other machines, and the load share the second. The peak is what callers that wait for each answer get at
most, over several numbers of them. Then five times as many queries arrive, at random moments and whatever
becomes of earlier ones, nobody heeding the hint when to ask again. Goodput counts answers within the
deadline. Both in turns, medians.

Queries of 8 rows, a hard case: what refusing one costs counts. For comparison, of 256 rows.

Figures: `peak_per_s`, `goodput_at_5x_over_peak` (`_lowest`, `_highest`), `offered_over_peak`,
`refused_share`, and latencies of what was answered; also with callers that wait for as long as they are
told. Those of the larger queries begin with their rows, `256_rows.`.
"""

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.results_file import machine, write_result
from swarm.domain.inference import Query
from swarm.rpc import convert
from swarm.rpc.methods import PREDICT
from swarm.trust.identity import Identity
from tests.support.garden import IMAGES, Garden, garden

DEADLINE_S = 1.0
CALLERS = (4, 16, 64)
ROWS = (8, 256)
"""Of a query; the first are the main figures'."""
TIMES = 5.0


@dataclass(slots=True)
class Tally:
    """What became of the queries of one stretch of time: seconds until the last answer, and until the last
    was asked."""

    seconds: float = 0.0
    asking_s: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return self.outcomes["OK"] / max(self.seconds, self.asking_s)

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


class Asking:
    """Sends one and the same query, already in bytes, over one connection."""

    def __init__(self, call: Any, payload: bytes) -> None:
        self._call, self._payload = call, payload

    async def once(self, tally: Tally) -> float:
        """Ask, and return after how many seconds the server says to ask again, 0 where it says nothing."""
        began = time.perf_counter()
        try:
            await self._call(self._payload, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            tally.outcomes[error.code().name] += 1
            told = dict(error.trailing_metadata() or ())
            return float(told.get("grpc-retry-pushback-ms", 0)) / 1000
        tally.outcomes["OK"] += 1
        tally.latencies.append(time.perf_counter() - began)
        tally.seconds = time.perf_counter() - tally.began
        return 0.0

    async def closed(self, callers: int, seconds: float) -> Tally:
        """Let so many callers ask one query after the other."""
        tally = Tally()
        end = tally.began + seconds

        async def caller() -> None:
            while time.perf_counter() < end:
                wait_s = await self.once(tally)
                if wait_s:
                    await asyncio.sleep(wait_s)

        await asyncio.gather(*(caller() for _ in range(callers)))
        tally.asking_s = seconds
        return tally

    async def opened(self, per_s: float, seconds: float, chance: random.Random) -> Tally:
        """Let queries arrive at random moments, so many a second, whatever becomes of them."""
        tally = Tally()
        tasks: set[asyncio.Task[float]] = set()
        at = 0.0
        while at < seconds:
            ahead = at - (time.perf_counter() - tally.began)
            if ahead > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(self.once(tally))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at += chance.expovariate(per_s)
        tally.asking_s = time.perf_counter() - tally.began
        await asyncio.gather(*tasks)
        return tally


async def measured(swarm: Garden, rows: int, rounds: int, seconds: float, seed: int) -> dict[str, float]:
    """Return the figures of so many rounds."""
    identity = Identity.load(swarm.swarm.home.operator / "identity")
    query = Query(inputs=np.tile(IMAGES, (-(-rows // len(IMAGES)), 1, 1))[:rows])
    payload = convert.query_to_pb(query).SerializeToString()
    chance = random.Random(seed)
    async with raw_channel(identity.folder, f"127.0.0.1:{swarm.swarm.port('coordinator')}") as channel:
        asking = Asking(channel.unary_unary(PREDICT.path), payload)
        await asking.closed(16, 2.0)
        peaks, goodputs, others = [], [], []
        for turn in range(rounds):
            tallies = [await asking.closed(callers, seconds) for callers in CALLERS]
            peak = max(tallies, key=lambda tally: tally.per_s)
            over = await asking.opened(TIMES * peak.per_s, seconds, chance)
            heeding = await asking.closed(int(TIMES * 64), seconds)
            peaks.append(peak)
            goodputs.append(over)
            others.append(heeding)
            print(
                f"{rows} rows, turn {turn + 1} of {rounds}: peak {peak.per_s:.0f}/s"
                f" (p50 {peak.quantile(0.5) * 1e3:.0f} ms), at {TIMES:g}x {over.per_s:.0f}/s"
                f" (p95 {over.quantile(0.95) * 1e3:.0f} ms) {dict(over.outcomes)},"
                f" {int(TIMES * 64)} heeding callers {heeding.per_s:.0f}/s",
                flush=True,
            )
        return summary(peaks, goodputs, others)


def raw_channel(folder: Path, address: str) -> grpc.aio.Channel:
    """Return a channel that sends and takes bytes, under the identity in a folder."""
    certificates = [(folder / name).read_bytes() for name in ("ca.pem", "key.pem", "certificate.pem")]
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(*certificates),
        options=(("grpc.ssl_target_name_override", "coordinator.garden"),),
    )


def summary(peaks: Sequence[Tally], over: Sequence[Tally], heeding: Sequence[Tally]) -> dict[str, float]:
    """Return the figures of rounds, medians; ratios within each round."""
    ratios = [many.per_s / most.per_s for most, many in zip(peaks, over, strict=True)]
    asked = [sum(each.outcomes.values()) for each in over]
    refused = [each.outcomes["RESOURCE_EXHAUSTED"] / count for each, count in zip(over, asked, strict=True)]
    return {
        "peak_per_s": statistics.median(each.per_s for each in peaks),
        "peak_p50_ms": statistics.median(each.quantile(0.5) for each in peaks) * 1e3,
        "goodput_at_5x_over_peak": statistics.median(ratios),
        "goodput_at_5x_over_peak_lowest": min(ratios),
        "goodput_at_5x_over_peak_highest": max(ratios),
        "offered_over_peak": statistics.median(
            count / each.asking_s / most.per_s for count, each, most in zip(asked, over, peaks, strict=True)
        ),
        "goodput_p95_ms": statistics.median(each.quantile(0.95) for each in over) * 1e3,
        "refused_share": statistics.median(refused),
        "late_share": statistics.median(
            each.outcomes["DEADLINE_EXCEEDED"] / count for each, count in zip(over, asked, strict=True)
        ),
        "heeding_over_peak": statistics.median(
            each.per_s / most.per_s for each, most in zip(heeding, peaks, strict=True)
        ),
    }


def pin(swarm: Garden) -> None:
    """Put the coordinator on the first core and everything else on the second, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    processes = [psutil.Process()]
    for pid in [*swarm.pids().values(), swarm.swarm.redis.pid]:
        processes += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        own = cores[:1] if process.pid == swarm.pids()["coordinator"] else cores[1:2]
        for thread in process.threads():
            os.sched_setaffinity(thread.id, own)


def figures(
    rows: Sequence[int] = ROWS, rounds: int = 5, seconds: float = 4.0, seed: int = 0
) -> dict[str, float]:
    """Return this benchmark's figures."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, garden(Path(folder), listens=True) as swarm:
        pin(swarm)
        for each in rows:
            prefix = "" if each == rows[0] else f"{each}_rows."
            made = asyncio.run(measured(swarm, each, rounds, seconds, seed))
            found |= {f"{prefix}{name}": value for name, value in made.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(machine())
    found = figures(given.rows, given.rounds, given.seconds, given.seed)
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    print(write_result("serving-load", found))


if __name__ == "__main__":
    main()
