"""The command line put together: each family of commands adds its own."""

import functools

import typer
import typer.core

from swarm.cli import (
    asking,
    auditing,
    backup,
    bench,
    evaluating,
    experts,
    exporting,
    federate,
    founding,
    gate,
    health,
    importing,
    membership,
    observing,
    replaying,
    services,
    stream,
    training,
    up,
)


@functools.cache
def build() -> typer.Typer:
    """Return the `swarm` command, always the same: families add to groups of their modules, which would have
    everything twice. Nothing here or in what it imports loads torch, grpc or scikit-learn."""
    # Where rich is installed, typer 0.20 prints `\[required]`, escaped for rich, which is not used here.
    typer.core.HAS_RICH = False
    app = typer.Typer(
        help="Grow one modular model together: private data stays home, experts are shared.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_swarm)
    for family in (
        up,
        founding,
        membership,
        services,
        training,
        stream,
        observing,
        experts,
        exporting,
        importing,
        gate,
        health,
        asking,
        auditing,
        evaluating,
        replaying,
        backup,
        bench,
        federate,
    ):
        family.register(app)
    return app


def _swarm(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from swarm import __version__

        typer.echo(__version__)
        raise typer.Exit()
