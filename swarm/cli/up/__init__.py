"""`swarm up`: a whole swarm on this machine, from data to a report."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import ImportPath, Json, import_paths


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    nodes: Annotated[int, typer.Option(min=1, max=16, help="How many nodes found the swarm.")] = 3,
    data: Annotated[
        str, typer.Option(help="digits, an IDX folder, a file.npz, or package.module:dataset.")
    ] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder that holds --data, as in --data mnist.", metavar="DIR")
    ] = None,
    partition: Annotated[
        str, typer.Option(help="Who gets what: iid, classes:N, or dirichlet:A.")
    ] = "classes:4",
    net: Annotated[str, typer.Option(help="The experts' net.")] = "mlp:128x2",
    trunk: Annotated[str, typer.Option(help="The trunk.")] = "randconv-sqrt:64",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps for each expert at most.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Makes a run repeatable.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the swarm running and print the commands to use it.")
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where everything lies: .swarm with --keep, else a temporary folder.", metavar="DIR"
        ),
    ] = None,
    import_path: ImportPath = None,
    json: Json = False,
) -> None:
    """Run a whole swarm here: Redis, registry, coordinator, nodes; train, route, report; then one more joins.

    Every node is a set of processes with its own folder, keys and private data. Without --keep, everything is
    stopped and removed at the end, also on Ctrl-C.
    """
    from swarm.cli.up.command import Request, run_up

    source = str((data_dir / data).expanduser()) if data_dir else data
    run_up(
        Request(
            nodes=nodes,
            data=source,
            partition=partition,
            net=net,
            trunk=trunk,
            steps=steps,
            seed=seed,
            keep=keep,
            home=home,
            import_paths=import_paths(import_path),
        ),
        as_json=json,
    )
