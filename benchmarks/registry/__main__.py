"""`python -m benchmarks.registry`: the registry's transfers beside a TLS socket, into registry.json.

Each `..._wall_over_tls` is a throughput: ours over the socket's, so 1 is as fast, and more is better. Each
`..._cpu_over_tls` is CPU seconds of both sides for the same bytes: ours over the socket's, less is better.
Both come from turns next to each other; a figure without a size is the worst of the sizes' medians.
`transfer` is the stream alone, dropped where it arrives; `publish` and `fetch` hash on both sides and end
when the bytes are durable (`fsync`) and verified. `rss_growth_mb`: the receiver's, at most, mapped files
among it. `--direct-io` (SWARM_REGISTRY_DIRECT_IO) writes registry-direct-io.json.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.registry.children import child_figures
from benchmarks.registry.commits import commit_figures
from benchmarks.registry.loading import load_figures
from benchmarks.registry.others import arms, installed
from benchmarks.registry.talking import MIB
from benchmarks.registry.transfers import rounds, summary
from benchmarks.registry.world import running
from benchmarks.results_file import machine, write_result

OTHERS = Path("build/others")
OTHERS_BYTES = 512 * MIB
OTHERS_REPEATS = 3
_COPIES = 3  # of each blob at a time: the node's, the registry's, and what is fetched or copied
FASTER = ("publish_wall_over_tls", "fetch_wall_over_tls")
DEARER = ("transfer_cpu_over_tls", "publish_cpu_over_tls", "fetch_cpu_over_tls")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", default="64,512", help="MiB of each blob")
    found.add_argument("--full", action="store_true", help="4096 MiB as well, where the disk has room")
    found.add_argument("--repeats", type=int, default=7)
    found.add_argument("--direct-io", action="store_true", help="a registry that writes past the page cache")
    found.add_argument("--commits", type=int, default=1000)
    found.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    found.add_argument(
        "--others",
        type=Path,
        default=OTHERS,
        help="where pip puts torchft and NVFlare, measured too (%(default)s)",
    )
    found.add_argument("--without-others", action="store_true", help="measure and install nothing of others")
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


async def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    sizes = [int(size) * MIB for size in arguments.sizes.split(",")] + [4096 * MIB] * arguments.full
    figures: dict[str, float] = {}
    done = []
    packages = {} if arguments.without_others else installed(arguments.others.resolve(), say)
    async with running(folder, direct_io=arguments.direct_io) as world:
        for size in sizes:
            if shutil.disk_usage(folder).free < _COPIES * size + (1 << 30):
                say(f"{size // MIB} MiB: left out, the disk of {folder} has no room for it")
                continue
            turns = await asyncio.to_thread(rounds, world, size, arguments.repeats, say)
            figures |= summary(size, turns)
            done.append(size // MIB)
        figures |= await asyncio.to_thread(child_figures, world)
        figures |= await commit_figures(world, arguments.commits)
        # Last, and in turns of their own: what they leave in memory disturbs whoever comes next.
        size = max((size for size in sizes if size <= OTHERS_BYTES), default=sizes[0])
        with arms(packages, size, say) as others:
            turns = (
                await asyncio.to_thread(rounds, world, size, OTHERS_REPEATS, say, others) if others else []
            )
        found = summary(size, turns) if turns else {}
        figures |= {name: value for name, value in found.items() if any(other in name for other in others)}
    # A process of its own: in one that keeps freed memory `torch.load` need not ask the system for any.
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        figures |= fresh.submit(load_figures, folder, max(3, arguments.repeats)).result()
    headlines = {name: min(figures[f"{name}_{size}"] for size in done) for name in FASTER}
    headlines |= {name: max(figures[f"{name}_{size}"] for size in done) for name in DEARER}
    headlines["rss_growth_mb"] = max(
        figures[f"{arm}_receiver_growth_mb_{size}"] for arm in ("publish", "fetch") for size in done
    )
    return headlines | figures | {"repeats": arguments.repeats}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = parser().parse_args()
    say(machine())
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-registry-") as folder:
        figures = asyncio.run(measured(arguments, Path(folder)))
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if not arguments.dry_run:
        write_result("registry-direct-io" if arguments.direct_io else "registry", figures)


if __name__ == "__main__":
    main()
