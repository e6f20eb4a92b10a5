"""What is answered in time when five times as much is asked as can be: `python -m benchmarks.serving.load`.

A swarm of two nodes in real processes with mutual TLS, and a load of one thread that takes a twentieth of a
core (`light_calls`). The peak is what callers that wait for each answer get, so many as get most. Then five
times as many queries arrive, at random moments and whatever becomes of earlier ones, nobody heeding the hint
when to ask again. Goodput counts answers within the deadline. In turns, each beside the mean of the peaks
before and after it; medians.

Queries of 8 rows, a hard case: what refusing one costs counts. For comparison, of 256 rows, and harder yet
(`pinned.`): the coordinator, which alone refuses, has the first core and nothing else; nodes, which would be
other machines, share the second with the load.

Figures: `peak_per_s`, `goodput_at_5x_over_peak` (`_lowest`, `_highest`), `offered_over_peak`,
`refused_share` (ended without an answer, nearly all with a hint, others by the deadline), `reset_share` (by
gRPC, beyond what a connection takes), and latencies of what was answered; `heeding_over_peak`: 320 callers
with gRPC's own client, which wait for as long as they are told, over 16 such callers. Those of the larger
queries begin with their rows, `256_rows.`.
"""

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.results_file import machine, write_result
from benchmarks.serving.light_calls import LightCalls, Tally
from swarm.domain.inference import Query
from swarm.rpc import convert
from swarm.rpc.methods import PREDICT
from swarm.trust.identity import Identity
from tests.support.garden import IMAGES, Garden, garden

DEADLINE_S = 1.0
CALLERS = (4, 8, 16, 32, 64)
TRIES = 3
FEW, MANY = 16, 320
"""Callers with gRPC's own client: as many as get most, and far more."""
ROWS = (8, 256)
"""Of a query; the first are the main figures'."""
TIMES = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The peaks before and after a flood, and what became of it."""

    before: Tally
    over: Tally
    after: Tally
    few_per_s: float
    many_per_s: float

    @property
    def peak_per_s(self) -> float:
        return (self.before.per_s + self.after.per_s) / 2

    def share(self, outcome: str) -> float:
        """Return the share of the flood's queries that had an outcome."""
        return self.over.outcomes[outcome] / sum(self.over.outcomes.values())


def measured(swarm: Garden, rows: int, rounds: int, seconds: float, seed: int) -> dict[str, float]:
    """Return the figures of so many rounds."""
    folder = Identity.load(swarm.swarm.home.operator / "identity").folder
    query = Query(inputs=np.tile(IMAGES, (-(-rows // len(IMAGES)), 1, 1))[:rows])
    message = convert.query_to_pb(query).SerializeToString()
    chance, port, turns = random.Random(seed), swarm.swarm.port("coordinator"), list[Turn]()
    with LightCalls(port, "coordinator.garden", folder, PREDICT.path, message, DEADLINE_S) as calls:
        calls.closed(FEW, 2.0)
        tried = {callers: list[float]() for callers in CALLERS}
        for _ in range(TRIES):
            for callers, found in tried.items():
                found.append(calls.closed(callers, 2.0).per_s)
        callers = max(tried, key=lambda each: statistics.median(tried[each]))
        for number in range(rounds):
            before = calls.closed(callers, seconds)
            over = calls.opened(moments(TIMES * before.per_s, chance), seconds)
            after = calls.closed(callers, seconds)
            few, many = asyncio.run(heeding(folder, port, message, seconds))
            turn = Turn(before=before, over=over, after=after, few_per_s=few, many_per_s=many)
            turns.append(turn)
            print(
                f"{rows} rows, turn {number + 1} of {rounds}: peak {turn.peak_per_s:.0f}/s"
                f" ({callers} callers, p50 {quantile(before, 0.5) * 1e3:.0f} ms),"
                f" at {TIMES:g}x {over.per_s:.0f}/s (p95 {quantile(over, 0.95) * 1e3:.0f} ms)"
                f" {dict(over.outcomes)}, {MANY} heeding callers {many:.0f}/s beside {FEW} with {few:.0f}/s",
                flush=True,
            )
    return summary(turns)


def moments(per_s: float, chance: random.Random) -> Iterator[float]:
    """Yield random moments, so many a second."""
    at = 0.0
    while True:
        at += chance.expovariate(per_s)
        yield at


def quantile(tally: Tally, share: float) -> float:
    """Return a quantile of what was answered, in seconds."""
    return float(np.quantile(tally.latencies, share)) if tally.latencies else float("nan")


async def heeding(folder: Path, port: int, message: bytes, seconds: float) -> tuple[float, float]:
    """Return how many a second few callers and many have answered that wait for as long as they are told."""
    async with raw_channel(folder, f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(PREDICT.path)
        await answered_per_s(call, message, FEW, 0.5)
        few = await answered_per_s(call, message, FEW, seconds)
        return few, await answered_per_s(call, message, MANY, seconds)


async def answered_per_s(call: Any, message: bytes, callers: int, seconds: float) -> float:
    """Let so many callers ask one query after the other; return how many were answered a second."""
    began = last = time.perf_counter()
    count = 0

    async def caller() -> None:
        nonlocal count, last
        while time.perf_counter() < began + seconds:
            try:
                await call(message, timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                told = dict(error.trailing_metadata() or ())
                await asyncio.sleep(float(told.get("grpc-retry-pushback-ms", 0)) / 1000)
            else:
                count, last = count + 1, time.perf_counter()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / max(last - began, seconds)


def raw_channel(folder: Path, address: str) -> grpc.aio.Channel:
    """Return a channel that sends and takes bytes, under the identity in a folder."""
    certificates = [(folder / name).read_bytes() for name in ("ca.pem", "key.pem", "certificate.pem")]
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(*certificates),
        options=(("grpc.ssl_target_name_override", "coordinator.garden"),),
    )


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the figures of turns, medians; ratios within each turn."""
    ratios = [turn.over.per_s / turn.peak_per_s for turn in turns]
    asked = [sum(turn.over.outcomes.values()) / turn.over.asking_s for turn in turns]
    return {
        "peak_per_s": statistics.median(turn.peak_per_s for turn in turns),
        "peak_p50_ms": statistics.median(quantile(turn.before, 0.5) for turn in turns) * 1e3,
        "goodput_at_5x_over_peak": statistics.median(ratios),
        "goodput_at_5x_over_peak_lowest": min(ratios),
        "goodput_at_5x_over_peak_highest": max(ratios),
        "offered_over_peak": statistics.median(
            per_s / turn.peak_per_s for per_s, turn in zip(asked, turns, strict=True)
        ),
        "goodput_p95_ms": statistics.median(quantile(turn.over, 0.95) for turn in turns) * 1e3,
        "refused_share": statistics.median(turn.share("refused") for turn in turns),
        "reset_share": statistics.median(turn.share("reset") for turn in turns),
        "late_share": statistics.median(turn.share("late") for turn in turns),
        "heeding_over_peak": statistics.median(turn.many_per_s / turn.few_per_s for turn in turns),
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
    rows: Sequence[int] = ROWS, rounds: int = 6, seconds: float = 3.0, seed: int = 0
) -> dict[str, float]:
    """Return this benchmark's figures."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, garden(Path(folder), listens=True) as swarm:
        prefixes = {each: f"{each}_rows." for each in rows[1:]}
        for each in rows:
            made = measured(swarm, each, rounds, seconds, seed)
            found |= {f"{prefixes.get(each, '')}{name}": value for name, value in made.items()}
        print("the coordinator on a core of its own", flush=True)
        cores = os.sched_getaffinity(0)
        pin(swarm)
        try:
            made = measured(swarm, rows[0], rounds, seconds, seed)
        finally:
            os.sched_setaffinity(0, cores)  # or the result says that this machine has one
        return found | {f"pinned.{name}": value for name, value in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(machine())
    found = figures(given.rows, given.rounds, given.seconds, given.seed)
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    print(write_result("serving-load", found))


if __name__ == "__main__":
    main()
