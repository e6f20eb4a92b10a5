"""`swarm train` and `swarm outbound`: learn from private data, and see what left the machine."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, ImportPath, Json, check_sums, import_paths, resolved_source, seconds
from swarm.cli.output import advised, bytes_text, emit, printable, progress, run_async, table
from swarm.cli.streaming import (
    Idle,
    KeepMegabytes,
    Most,
    Stop,
    Test,
    Wait,
    Watch,
    check_source,
    stream_options,
    told_on_leaving,
)

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.agent import TrainStep
    from swarm.domain.inference import Listing


UPDATES = ("fine-tune", "replay", "ewc", "si", "lwf")
REMEMBERED = ("herding", "reservoir", "coreset")
HEADS = ("own", "nearest-mean")
"""The names in `swarm.experts.updating`, which the command does not load."""
_ALWAYS_SHOWN = ("skipped", "trouble")
_OF_REPLAY = {"memory": "--memory", "remember": "--remember", "head": "--head"}


def register(app: typer.Typer) -> None:
    app.command("train")(train)
    app.command("outbound")(outbound)


def train(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="digits, an IDX folder, a file.npz, or package.module:dataset.")
    ] = "",
    net: Annotated[str, typer.Option(help="mlp:128x2, cnn, linear, or package.module:factory.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps for each expert at most.")] = 1000,
    budget: Annotated[str | None, typer.Option(help="Train for this long instead of by steps: 10m.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would leave this machine, and stop there.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Makes a run repeatable.")] = 0,
    share: Annotated[
        str, typer.Option(help="serve-only (nobody else holds the modules), borrow, or public.")
    ] = "borrow",
    sums: Annotated[
        str,
        typer.Option(help="The gate's sums: auto (exact if that fits into --sums-mb), exact, compact, none."),
    ] = "auto",
    sums_mb: Annotated[
        float, typer.Option("--sums-mb", help="Megabytes for the whole contribution (not for exact).")
    ] = 4.0,
    no_borrow: Annotated[
        bool, typer.Option("--no-borrow", help="Start new experts from random weights, never from a peer's.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            help="Only train what the experts here add to the root; lost when they are trained anew.",
        ),
    ] = False,
    update: Annotated[
        str,
        typer.Option(
            help="Against forgetting, for experts that continue: fine-tune, replay, ewc, si or lwf"
            " (default: replay with --watch, else fine-tune)."
        ),
    ] = "",
    memory: Annotated[
        int, typer.Option(min=0, help="How many samples replay remembers for an expert; 0: its own number.")
    ] = 0,
    remember: Annotated[
        str,
        typer.Option(
            help="Which samples replay remembers: herding (near their class's mean feature), reservoir"
            " (uniform over everything seen) or coreset (gradients match everyone's; default: herding).",
            metavar="HOW",
        ),
    ] = "",
    head: Annotated[
        str,
        typer.Option(
            help="The last layer that replay leaves: own, or nearest-mean (iCaRL: the mean of what is"
            " remembered of each class; the net has to end in nn.Linear; default: own).",
            metavar="WHICH",
        ),
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            help="Begin new experts with this expert of another swarm: its manifest, as swarm import"
            " --trust-foreign printed it.",
            metavar="DIGEST",
        ),
    ] = "",
    watch: Watch = "",
    wait: Wait = 1,
    test: Test = "",
    idle: Idle = None,
    most: Most = 0,
    keep_mb: KeepMegabytes = 1000.0,
    stop: Stop = False,
    import_path: ImportPath = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Cluster these data, train an expert for each cluster, publish the modules, contribute to the gate.

    With --watch: learn mega-batches as they arrive in a folder. The node goes on when this command ends;
    the same command follows it again.
    """
    from swarm.cli.places import agent, node_place
    from swarm.domain.agent import TrainOrder
    from swarm.domain.errors import NotReadyError, UsageError

    if share not in ("serve-only", "borrow", "public"):
        raise UsageError(
            "--share",
            found=repr(share[:40]),
            expected="serve-only, borrow or public",
            remedy="leave --share out for borrow",
        )
    check_sums(sums, sums_mb)
    if net:
        check_net(net)
    with advised("--budget", "for example --budget 10m, or --steps N without it"):
        budget_s = 0.0 if budget is None else seconds(budget, "--budget")
    for flag, value, known in (
        ("--update", update, UPDATES),
        ("--remember", remember, REMEMBERED),
        ("--head", head, HEADS),
    ):
        if value not in ("", *known):
            raise UsageError(flag, found=repr(value[:40]), expected=", ".join(known))
    if refine:
        _check_refines_alone(context)
    elif not stop:
        _check_replays(context, update, is_stream=bool(watch))
    check_source(context, data, watch, stop=stop, refine=refine, dry_run=dry_run)
    if start:
        _check_starts_alone(context)
    place = node_place(home)
    order = TrainOrder(
        data=resolved_source(watch or data),
        net=net,
        budget_s=budget_s,
        steps=steps,
        dry_run=dry_run,
        seed=seed,
        share=share,  # type: ignore[arg-type]  # checked above
        import_paths=import_paths(import_path),
        sums=sums,  # type: ignore[arg-type]  # checked above
        sums_mb=sums_mb,
        borrow=not no_borrow,
        refine=refine,
        update=update,
        memory=memory,
        remember=remember,
        head=head,
        start=_found_start(place, start),
        stream=stream_options(wait, test, idle, most, keep_mb) if watch else None,
        stop=stop,
    )

    async def work() -> "TrainStep":
        last: TrainStep | None = None
        shown = Throttle()
        async with agent(place) as client:
            async for step in client.train(order):
                if shown.due(step.stage):
                    progress(f"{step.stage:>10} {step.fraction:4.0%}  {step.message}")
                last = step
        if last is None or last.stage != "done":
            raise NotReadyError("training", found="the agent ended early", remedy="swarm doctor")
        return last

    with told_on_leaving(watch):
        done = run_async(work())
    facts = {"dry_run": dry_run, "message": done.message, "figures": done.figures, "listings": done.listings}
    text = printable(done.message) + (f"\n{listing_table(done.listings)}" if dry_run else "")
    emit("train", facts, as_json=json, text=text)


def check_net(net: str) -> None:
    """Raise UsageError for what can be no net's name; whether it can be built is found where it is built."""
    from swarm.data.user_code import is_reference
    from swarm.domain.errors import UsageError
    from swarm.experts.factories import is_built_in

    if not is_built_in(net) and not is_reference(net):
        raise UsageError(
            "--net",
            found=repr(net[:80]),
            expected="mlp:128x2, cnn, linear, or package.module:factory",
            remedy="for example --net mlp:128x2",
        )


def _check_refines_alone(context: typer.Context) -> None:
    from swarm.domain.errors import UsageError

    flags = {
        "net": "--net",
        "sums": "--sums",
        "sums_mb": "--sums-mb",
        "no_borrow": "--no-borrow",
        "share": "--share",
        "update": "--update",
        "start": "--start",
        **_OF_REPLAY,
    }
    given = [flag for name, flag in flags.items() if _is_given(context, name)]
    if given:
        raise UsageError(
            "command line",
            found=f"--refine together with {', '.join(given)}",
            expected="--refine without them: a correction is of the expert's own net, and all else stays",
            remedy=f"train anew with {', '.join(given)} first, then swarm train DATA --refine",
        )


def _check_starts_alone(context: typer.Context) -> None:
    """Raise UsageError where --start comes with what it decides itself, or with a stream."""
    from swarm.domain.errors import UsageError

    given = [flag for flag in ("--net", "--watch", "--stop") if _is_given(context, flag.removeprefix("--"))]
    if given:
        raise UsageError(
            "command line",
            found=f"--start together with {', '.join(given)}",
            expected="--start without them: it brings its own net, for one order",
            remedy="swarm train DATA --start DIGEST",
        )


def _found_start(place: "Place", start: str) -> str:
    """Return the whole digest of an imported expert; empty where none was named."""
    from node.starts import Starts
    from swarm.config import NodeHome

    return Starts(NodeHome(place.root)).find(start) if start else ""


def _check_replays(context: typer.Context, update: str, *, is_stream: bool) -> None:
    """Raise UsageError where replay's own flags are given and something else than replay would train."""
    from swarm.domain.errors import UsageError

    name = update or ("replay" if is_stream else "fine-tune")
    given = [flag for option, flag in _OF_REPLAY.items() if _is_given(context, option)]
    if given and name != "replay":
        raise UsageError(
            "command line",
            found=f"{', '.join(given)} with {name}{'' if update else ', which is what trains unless told'}",
            expected="--update replay: nothing else remembers samples",
            remedy=f"swarm train .. --update replay, or leave {' and '.join(given)} out",
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class Throttle:
    """Lets through the first step of each stage, then at most two a second; what is amiss always."""

    def __init__(self) -> None:
        self._stage, self._at = "", 0.0

    def due(self, stage: str) -> bool:
        now = time.monotonic()
        if stage not in _ALWAYS_SHOWN and stage == self._stage and now - self._at < 0.5:
            return False
        self._stage, self._at = stage, now
        return True


def listing_table(listings: "tuple[Listing, ...] | list[Listing]") -> str:
    """Return what leaves as a table with its total."""
    rows = [(item.what, item.detail, bytes_text(item.size_bytes), item.recipient) for item in listings]
    total = sum(item.size_bytes for item in listings)
    shown = table(("what", "detail", "size", "recipient"), rows)
    return f"{shown}\n{len(rows)} items, {bytes_text(total)}; raw data never leave this machine"


def outbound(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    home: Home = None,
    json: Json = False,
) -> None:
    """List what left this machine: when, what, how much, to whom."""
    from node.outbound import OutboundLog
    from swarm.cli.clock import stamp
    from swarm.cli.places import node_place
    from swarm.config import NodeHome

    found = OutboundLog(NodeHome(node_place(home).root).outbound).read(limit)
    rows = [
        (stamp(item.at), item.what, item.detail, bytes_text(item.size_bytes), item.recipient)
        for item in found
    ]
    text = table(("at", "what", "detail", "size", "recipient"), rows)
    emit("outbound", {"listings": found}, as_json=json, text=text)
