"""`python -m benchmarks.soak_growth --data-dir DIR`: a never-ending day, into figures and a plot.

It ends with each bar, met or missed: exit code 1 where one is missed, 3 without the data to play.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results_file import RESULTS, write_result
from benchmarks.soak_growth.bars import bars_of
from benchmarks.soak_growth.day import Day, play
from benchmarks.soak_growth.document import update_docs
from benchmarks.soak_growth.results import draw, figures_of
from benchmarks.soak_growth.story import Story, tell_story
from benchmarks.soak_growth.swarm_of_five import SwarmOfFive
from swarm.cli.up.supervisor import Supervisor, free_ports
from swarm.domain.errors import SwarmError

NO_DATA = 3


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--data-dir", type=Path, default=Path("data"))
    found.add_argument("--mega-batches", type=int, default=200)
    found.add_argument("--look-every", type=int, default=10)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--trunk", default="randconv-sqrt:100")
    found.add_argument("--net", default="mlp:128x2")
    found.add_argument("--steps", type=int, default=100)
    found.add_argument("--growth", default="eager", choices=("manual", "conservative", "eager"))
    found.add_argument("--growth-every-s", type=float, default=30.0)
    found.add_argument("--keep", type=Path, default=None, help="play in this folder, and leave it")
    return found


def main() -> None:
    arguments = parser().parse_args()
    try:
        story = tell_story(arguments.data_dir, arguments.mega_batches, arguments.seed)
    except SwarmError as error:
        print(f'error: {error}\n(make soak-growth ARGS="--data-dir DIR")', file=sys.stderr)
        sys.exit(NO_DATA)
    day = Day()
    try:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True)
            asyncio.run(_played(arguments, story, day, arguments.keep))
        else:
            with tempfile.TemporaryDirectory(prefix="swarm-soak-") as folder:
                asyncio.run(_played(arguments, story, day, Path(folder)))
    except BaseException:
        if day.sights:
            print(f"cut short; so far: {json.dumps(figures_of(day, story), indent=1)}", file=sys.stderr)
        raise
    figures = figures_of(day, story)
    path = write_result("soak-growth", figures)
    draw(day, RESULTS / "soak-growth.svg")
    update_docs(day, story, figures, _command(arguments))
    for failure in day.service.failures[:10]:
        print(f"unanswered: {failure}", file=sys.stderr)
    print(f"{path}, soak-growth.svg beside it and docs/growth.md are written")
    bars = bars_of(figures)
    for bar in bars:
        print(bar)
    if not all(bar.is_met for bar in bars):
        sys.exit(1)


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without the reader's folders."""
    given = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(arguments).items()
        if name not in ("data_dir", "keep") and value != parser().get_default(name)
    ]
    return " ".join(["python -m benchmarks.soak_growth", *given])


async def _played(arguments: argparse.Namespace, story: Story, day: Day, folder: Path) -> None:
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    join_port, port, registry_port, http_port = free_ports(4)
    environment = {
        "SWARM_JOIN_PORT": str(join_port),
        "SWARM_COORDINATOR_PORT": str(port),
        "SWARM_REGISTRY_PORT": str(registry_port),
        "SWARM_HTTP_PORT": str(http_port),
        "SWARM_THREADS": "1",
        "SWARM_GROWTH_EVERY_S": f"{arguments.growth_every_s:g}",
    }
    async with Supervisor(folder, environment=environment, tell=tell) as supervisor:
        swarm = SwarmOfFive(
            supervisor,
            story,
            trunk=arguments.trunk,
            net=arguments.net,
            steps=arguments.steps,
            growth=arguments.growth,
            seed=arguments.seed,
            tell=tell,
        )
        await play(swarm, story, day, arguments.look_every, tell)


if __name__ == "__main__":
    main()
