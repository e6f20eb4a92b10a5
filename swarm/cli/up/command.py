"""What `swarm up` does around the story: its folder, the deal, the report, and what stays."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm.cli.asking import describe_answer
from swarm.cli.options import resolved_source
from swarm.cli.output import emit, let_nothing_interrupt, progress, run_async
from swarm.cli.processes import recorded_processes, remove_tree
from swarm.cli.up.deal import Deal, deal
from swarm.cli.up.report import render
from swarm.cli.up.stage import Plan, Stage
from swarm.cli.up.story import Outcome, Story
from swarm.cli.up.supervisor import Supervisor, free_ports
from swarm.domain.errors import ConflictError
from swarm.domain.inference import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The flags of `swarm up`."""

    nodes: int
    data: str
    partition: str
    net: str
    trunk: str
    steps: int
    seed: int
    keep: bool
    home: Path | None
    import_paths: tuple[str, ...]


def run_up(request: Request, *, as_json: bool) -> None:
    """Run the story and print its report; nothing stays behind unless `keep` asked for it."""
    started = time.monotonic()

    def tell(message: str) -> None:
        progress(f"[{time.monotonic() - started:6.1f} s] {message}")

    dealt = deal(
        resolved_source(request.data), request.partition, request.nodes, request.seed, request.import_paths
    )
    root = claim_folder(request.home, keep=request.keep)
    finished = False
    try:
        outcome = run_async(_run(request, dealt, root, tell))
        finished = True
    finally:
        if not (request.keep and finished) and (request.home is None or not request.keep):
            let_nothing_interrupt()
            remove_tree(root)
    text = "\n".join([*map(_example, outcome.examples), "", render(outcome.rows)])
    rows = [dataclasses.asdict(item) for item in outcome.rows]
    emit("report", {"rows": rows}, as_json=as_json, text=text)
    tell("done")
    if request.keep:
        progress(how_to_use(root, dealt))


async def _run(request: Request, dealt: Deal, root: Path, tell: Callable[[str], None]) -> Outcome:
    join_port, port, registry_port = free_ports(3)
    plan = Plan(
        deal=dealt,
        net=request.net,
        trunk=request.trunk,
        steps=request.steps,
        seed=request.seed,
        ports=(join_port, port, registry_port),
        import_paths=request.import_paths,
    )
    environment = {
        "SWARM_JOIN_PORT": str(join_port),
        "SWARM_COORDINATOR_PORT": str(port),
        "SWARM_REGISTRY_PORT": str(registry_port),
        "SWARM_THREADS": "1",
    }
    async with Supervisor(root, keep=request.keep, environment=environment, tell=tell) as supervisor:
        return await Story(Stage(supervisor, plan, tell)).tell_all()


def claim_folder(home: Path | None, *, keep: bool) -> Path:
    """Return an empty folder of mode 0700 to work in; ConflictError where a swarm lies there already."""
    if home is None and not keep:
        return Path(tempfile.mkdtemp(prefix="swarm-up-home-"))
    root = (home or Path(".swarm")).expanduser().resolve()
    if root.exists() and any(root.iterdir()):
        running = [record.name for _, record in recorded_processes(root / "run") if record.process()]
        raise ConflictError(
            f"folder {root}",
            found=f"{', '.join(running)} running from it" if running else "files in it",
            expected="an empty folder",
            remedy=f"swarm down --home {root}, then remove it; or choose another: --home DIR",
        )
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(root, 0o700)
    return root


def _example(example: tuple[str, Answer, int]) -> str:
    truth, answer, index = example
    one = dataclasses.replace(
        answer,
        probabilities=answer.probabilities[index : index + 1],
        degraded=answer.degraded[index : index + 1],
        sources=answer.sources[index : index + 1],
    )
    lines = describe_answer(one).splitlines()[:-1]
    return "\n".join([f"a query of class {truth}, explained:", *lines])


def how_to_use(root: Path, dealt: Deal) -> str:
    """Return the commands for a swarm that was kept."""
    first = next(iter(dealt.nodes))
    return "\n".join(
        [
            f"The swarm goes on running from {root}. As its founder:",
            f"  export SWARM_HOME={root / 'founder'}",
            "  swarm status; swarm experts; swarm gate show; swarm events; swarm doctor",
            "  swarm predict x.npy --explain; swarm eval digits; swarm token create",
            f"As node {first}: swarm outbound --home {root / first / 'home'}",
            f"Stop it: swarm down --home {root}",
        ]
    )
