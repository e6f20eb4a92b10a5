"""`python -m benchmarks.fuzz`: a million mutated messages and 100,000 tensor headers, into figures."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fuzz.attacking import CLIENTS_FAULT, Attack, Failures, Found, noted_failures
from benchmarks.fuzz.headers import Headers
from benchmarks.fuzz.memory import most_resident
from benchmarks.fuzz.valid import Requests
from benchmarks.fuzz.world import world
from benchmarks.results_file import write_result
from swarm.heap import suit_transfers

ROUND = 20_000
WARM_UP = 0.05
"""Of all messages; memory is compared with what is there after these, caches and all."""
MOST_GROWTH_MB = 50.0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--messages", type=int, default=1_000_000)
    found.add_argument("--headers", type=int, default=100_000)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--over-tls", type=float, default=0.05, help="share that goes over a real connection")
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


async def fuzzed(arguments: argparse.Namespace, folder: Path) -> tuple[Found, float, float]:
    """Return what became of the messages, by how many MB memory grew at most, and the seconds it took."""
    found = Found()
    async with world(folder) as attacked:
        requests = await Requests.of(attacked)
        attack = Attack(attacked, requests, arguments.seed, arguments.over_tls)
        began = time.monotonic()
        found.add(await attack.send(int(arguments.messages * WARM_UP)))
        with most_resident() as most:
            while (left := arguments.messages - found.messages) > 0:
                found.add(await attack.send(min(left, ROUND)))
                rate = found.messages / (time.monotonic() - began)
                say = f"{found.messages} messages, {rate:.0f}/s, {most.growth_mb:.1f} MB more"
                print(say, file=sys.stderr, flush=True)
        return found, most.growth_mb, time.monotonic() - began


def read_headers(headers: Headers, count: int) -> tuple[Found, float]:
    """Return what became of mutated headers, and by how many MB memory grew at most after the first ones."""
    found = headers.read(int(count * WARM_UP))
    with most_resident() as most:
        while (left := count - found.messages) > 0:
            found.add(headers.read(min(left, ROUND)))
    return found, most.growth_mb


def show(found: Found, failures: Failures) -> None:
    """Print what is to be mended."""
    for line in found.faults:
        print(line, file=sys.stderr)
    for kind, text in failures.first.items():
        print(f"{failures.seen[kind]} x {kind}\n{text}", file=sys.stderr)


def main() -> None:
    arguments = parser().parse_args()
    suit_transfers()  # as the registry does
    with tempfile.TemporaryDirectory() as folder, noted_failures() as failures:
        messages, growth, seconds = asyncio.run(fuzzed(arguments, Path(folder)))
        headers, headers_growth = read_headers(Headers(Path(folder), arguments.seed), arguments.headers)
    show(messages, failures)
    show(headers, Failures())
    figures = {
        "messages": messages.messages,
        "headers": headers.messages,
        "accepted": messages.accepted,
        "headers_accepted": headers.accepted,
        "client_errors": sum(messages.codes[code] for code in CLIENTS_FAULT),
        **{f"client_errors_{code.lower()}": messages.codes[code] for code in sorted(CLIENTS_FAULT)},
        "server_errors": messages.server_errors + headers.server_errors,
        "crashes": messages.crashes + headers.crashes,
        "rss_growth_mb": round(growth, 1),
        "headers_rss_growth_mb": round(headers_growth, 1),
        "seed": arguments.seed,
        "seconds": round(seconds, 1),
        "rate": round(messages.messages / seconds, 1),
    }
    for name, value in figures.items():
        print(f"{name}: {value:g}")
    if not arguments.dry_run:
        write_result("fuzz", figures)
    is_large = max(growth, headers_growth) > MOST_GROWTH_MB
    if figures["server_errors"] or figures["crashes"] or is_large:
        sys.exit(1)


if __name__ == "__main__":
    main()
