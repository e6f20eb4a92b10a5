"""The options of `swarm train --watch`, and what they may stand beside."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import resolved_source, seconds
from swarm.cli.output import advised, progress

if TYPE_CHECKING:
    from swarm.domain.agent import StreamOptions

Watch = Annotated[
    str,
    typer.Option(
        help="Learn mega-batches as they arrive: a folder for file.npz and IDX folders, or"
        " package.module:stream, a function that returns an iterable of (inputs, labels).",
        metavar="SOURCE",
    ),
]
Wait = Annotated[
    int, typer.Option(min=1, help="Train every so many mega-batches; the old experts answer meanwhile.")
]
Test = Annotated[
    str, typer.Option(help="With --watch: data to measure errors on (default: validation samples).")
]
Idle = Annotated[
    str | None, typer.Option(help="With --watch: end after so long without a mega-batch, as 10m.")
]
Most = Annotated[int, typer.Option("--max", min=0, help="With --watch: end after so many mega-batches.")]
KeepMegabytes = Annotated[
    float, typer.Option("--keep-mb", help="With --watch package.module:stream: megabytes of it to keep here.")
]
Stop = Annotated[bool, typer.Option("--stop", help="End the stream that runs on this node.")]
_ONLY_WATCHING = {
    "wait": "--wait",
    "test": "--test",
    "idle": "--idle",
    "most": "--max",
    "keep_mb": "--keep-mb",
}


def check_source(
    context: typer.Context, data: str, watch: str, *, stop: bool, refine: bool, dry_run: bool
) -> None:
    """Raise UsageError unless the command says one thing to do, and nothing that does not go with it."""
    from swarm.domain.errors import UsageError

    named = [name for name, given in (("DATA", data), ("--watch", watch), ("--stop", stop)) if given]
    if len(named) != 1:
        raise UsageError(
            "command line",
            found=" together with ".join(named) or "nothing to train on",
            expected="DATA, --watch SOURCE or --stop",
            remedy="swarm train DATA, or swarm train --help",
        )
    given = [flag for name, flag in _ONLY_WATCHING.items() if _is_given(context, name)]
    if given and not watch:
        raise UsageError(
            "command line",
            found=f"{', '.join(given)} without --watch",
            expected="--watch SOURCE with it",
            remedy="swarm train --watch SOURCE",
        )
    if watch and (refine or dry_run):
        raise UsageError(
            "command line",
            found=f"--watch together with {'--refine' if refine else '--dry-run'}",
            expected="one of them",
            remedy="swarm train DATA --dry-run, before the stream begins",
        )


def stream_options(wait: int, test: str, idle: str | None, most: int, keep_mb: float) -> "StreamOptions":
    """Return the options of a stream; UsageError for what cannot be."""
    from swarm.domain.agent import StreamOptions
    from swarm.domain.errors import UsageError

    with advised("--idle", "for example --idle 10m, or leave it out to go on for ever"):
        idle_s = 0.0 if idle is None else seconds(idle, "--idle")
    if not 0 < keep_mb < float("inf"):
        raise UsageError("--keep-mb", found=f"{keep_mb:g}", expected="a number above 0")
    return StreamOptions(
        wait=wait, test=resolved_source(test) if test else "", idle_s=idle_s, most=most, keep_mb=keep_mb
    )


@contextlib.contextmanager
def told_on_leaving(watch: str) -> Iterator[None]:
    """Say, where the command that follows a stream is interrupted, that the stream goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if watch:
            progress(
                "the node goes on with the stream: the same command follows it again,"
                " swarm train --stop ends it"
            )
        raise


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
