"""What `swarm up` does around the story: its folder, the deal, the report, and what stays."""

import dataclasses
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.cli.asking import describe_row
from swarm.cli.options import resolved_source
from swarm.cli.output import emit, let_nothing_interrupt, note, progress, run_async
from swarm.cli.processes import noted_ports, recorded_processes, remove_tree
from swarm.cli.up.comparisons import ALL
from swarm.cli.up.deal import Deal, deal
from swarm.cli.up.report import render
from swarm.cli.up.stage import Plan, Stage, trunk_for
from swarm.cli.up.story import Outcome, Story
from swarm.cli.up.supervisor import Supervisor, free_ports
from swarm.config import home_flag
from swarm.data.user_code import is_reference
from swarm.domain.errors import ConflictError, NotFoundError, UsageError
from swarm.domain.inference import Answer

BUILT_FROM_ANYTHING = re.compile(r"mlp:[1-9]\d{0,3}x[1-9] (auto|randconv-sqrt:[1-9]\d{0,2})")
QUERIES = "queries.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How nodes learn and what they are compared with, whatever was dealt to them."""

    net: str
    trunk: str
    steps: int
    seed: int
    sums: str = "auto"
    sums_mb: float = 4.0
    refine: bool = True
    fedavg_rounds: int = 20
    comparisons: tuple[str, ...] = ALL
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The flags of `swarm up`."""

    nodes: int
    data: str
    partition: str
    newcomer: bool
    settings: Settings
    keep: bool
    home: Path | None


def run_up(request: Request, *, as_json: bool) -> None:
    """Run the story and print its report; nothing stays behind unless `keep` asked for it."""
    tell = teller()
    dealt = _deal(request)
    check_buildable(dealt, request.settings)
    root = claim_folder(request.home, keep=request.keep)
    finished = False
    try:
        outcome = run_async(play(dealt, request.settings, root, tell, keep=request.keep))
        finished = True
    finally:
        if not (request.keep and finished) and (request.home is None or not request.keep):
            let_nothing_interrupt()
            remove_tree(root)
    text = "\n".join([*(example_text(*example) for example in outcome.examples), "", render(outcome.rows)])
    emit("report", facts_of(outcome), as_json=as_json, text=text)
    tell("done")
    if request.keep:
        keep_queries(root, dealt)
        note(how_to_use(root, dealt, resolved_source(request.data), request.settings.import_paths))


def _deal(request: Request) -> Deal:
    source = resolved_source(request.data)
    try:
        return deal(
            source,
            request.partition,
            request.nodes,
            request.settings.seed,
            request.settings.import_paths,
            newcomer=request.newcomer,
        )
    except NotFoundError as error:
        if error.subject != f"data {source}" or Path(source).name != source:
            raise
        remedy = "--data-dir DIR, the folder that holds it"
        raise NotFoundError(
            error.subject, found=error.found, expected=error.expected, remedy=remedy
        ) from None


def check_buildable(dealt: Deal, settings: Settings) -> None:
    """Raise before a swarm is founded what building its net or its trunk would raise later.

    What can be built from any data needs no trial, and torch need not be loaded for it.
    """
    if BUILT_FROM_ANYTHING.fullmatch(f"{settings.net} {settings.trunk}"):
        return
    from swarm.experts.factories import is_built_in
    from swarm.experts.nets import build_net, net_reference
    from swarm.experts.trunk import make_trunk

    if not is_built_in(settings.net) and not is_reference(settings.net):
        expected = "mlp:128x2, cnn, linear, or package.module:factory"
        raise UsageError("--net", found=settings.net, expected=expected)
    for data in [*dealt.nodes.values()][:1]:
        shape, paths = data.input_shape, settings.import_paths
        build_net(net_reference(settings.net, shape, len(dealt.class_names), paths), paths)
        make_trunk(
            trunk_for(settings.trunk, shape),
            shape,
            scale=data.scale,
            offset=data.offset,
            seed=settings.seed,
            import_paths=paths,
        )


def teller() -> Callable[[str], None]:
    """Return what prints a line of progress with the seconds since now."""
    started = time.monotonic()

    def tell(message: str) -> None:
        progress(f"[{time.monotonic() - started:6.1f} s] {message}")

    return tell


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the JSON report has it."""
    return {
        "rows": [dataclasses.asdict(item) for item in outcome.rows],
        "contribution_mb": outcome.contribution_mb,
        "gate": outcome.gate,
        "curves": outcome.curves,
        "seconds": outcome.seconds,
    }


async def play(
    dealt: Deal, settings: Settings, root: Path, tell: Callable[[str], None], *, keep: bool = False
) -> Outcome:
    """Run a whole swarm over what was dealt, in the empty folder root; return what it came to."""
    if not dealt.nodes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dealt.left_out.items())
        raise UsageError("partition", found=f"no node with enough samples ({reasons})")
    join_port, port, registry_port, http_port = free_ports(4)
    plan = Plan(
        deal=dealt,
        net=settings.net,
        trunk=settings.trunk,
        steps=settings.steps,
        seed=settings.seed,
        ports=(join_port, port, registry_port),
        import_paths=settings.import_paths,
        sums=settings.sums,
        sums_mb=settings.sums_mb,
        refine=settings.refine,
        fedavg_rounds=settings.fedavg_rounds,
        comparisons=settings.comparisons,
        listening=keep,
    )
    environment = {
        "SWARM_JOIN_PORT": str(join_port),
        "SWARM_COORDINATOR_PORT": str(port),
        "SWARM_REGISTRY_PORT": str(registry_port),
        "SWARM_HTTP_PORT": str(http_port),
        "SWARM_THREADS": "1",
    }
    async with Supervisor(root, keep=keep, environment=environment, tell=tell) as supervisor:
        return await Story(Stage(supervisor, plan, tell)).tell_all()


def claim_folder(home: Path | None, *, keep: bool) -> Path:
    """Return an empty folder of mode 0700 to work in.

    Raises ConflictError where a swarm lies there already, UsageError where there can be no folder.
    """
    if home is None and not keep:
        return Path(tempfile.mkdtemp(prefix="swarm-up-home-"))
    root = (home or Path(".swarm")).expanduser().resolve()
    try:
        taken = root.exists() and any(root.iterdir())
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(
            f"folder {root}",
            found="a file" if root.is_file() else error.strerror or str(error),
            expected="an empty folder, or a path where one can be made",
            remedy="choose another: --home DIR",
        ) from error
    if taken:
        running = [record.name for _, record in recorded_processes(root / "run") if record.process()]
        raise ConflictError(
            f"folder {root}",
            found=f"{', '.join(running)} running from it" if running else "files in it",
            expected="an empty folder",
            remedy=f"swarm down {home_flag(root)}, then remove it; or choose another: --home DIR",
        )
    os.chmod(root, 0o700)
    return root


def example_text(truth: str, answer: Answer, index: int) -> str:
    """Return one row of an explained answer for people, and whether it is right."""
    right = answer.class_names[int(answer.probabilities[index].argmax())] == truth
    wrong = "" if right else " (answered wrongly)"
    first, *sources = describe_row(answer, index)
    return "\n".join([f"a query of class {truth}{wrong}, explained:", f"  {first}", *sources])


def keep_queries(root: Path, dealt: Deal) -> None:
    """Write a few held-out inputs beside the homes, to ask the kept swarm about; its nodes never see them."""
    from numpy import save

    save(root / QUERIES, dealt.old_queries.inputs[:8])


def how_to_use(root: Path, dealt: Deal, source: str, import_paths: Sequence[str]) -> str:
    """Return the commands for a swarm that was kept, which was dealt the samples of source."""
    first = next(iter(dealt.nodes))
    paths = import_paths if is_reference(source) else ()
    data = shlex.join([source, *(word for path in paths for word in ("--import-path", path))])
    port = noted_ports(root / "founder" / "run", "coordinator").get("--http-port")
    by_http = [f"  curl -s http://127.0.0.1:{port}/v2/models/swarm    # docs/serving.md"] if port else []
    return "\n".join(
        [
            f"The swarm goes on running from {root}. As its founder:",
            f"  export SWARM_HOME={shlex.quote(str(root / 'founder'))}",
            "  swarm status; swarm experts; swarm gate show; swarm events; swarm doctor",
            f"  swarm predict {shlex.quote(str(root / QUERIES))} --explain",
            f"  swarm eval {data}; swarm token create",
            *by_http,
            "Its nodes listen on loopback: should the coordinator die, swarm predict asks one of them.",
            f"As node {first}: swarm outbound {home_flag(root / first / 'home')}",
            f"Stop it: swarm down {home_flag(root)}",
        ]
    )
