"""`swarm up`: a whole swarm on this machine, from data to a report."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import ImportPath, Json, check_sums, import_paths


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
    net: Annotated[
        str, typer.Option(help="mlp:128x2, cnn, linear, or package.module:factory.")
    ] = "mlp:128x2",
    trunk: Annotated[
        str, typer.Option(help="The trunk; auto: 64 random filters, 400 for images from 16x16.")
    ] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps for each expert at most.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Makes a run repeatable.")] = 0,
    sums: Annotated[
        str, typer.Option(help="What nodes contribute: auto, exact, compact, or none (prototypes only).")
    ] = "auto",
    sums_mb: Annotated[
        float, typer.Option(help="Megabytes for a node's whole contribution (not for exact).")
    ] = 4.0,
    refine: Annotated[
        bool, typer.Option("--refine/--no-refine", help="Train corrections of the gate's root, too.")
    ] = True,
    fedavg_rounds: Annotated[
        int, typer.Option(min=0, help="Rounds of federated averaging to compare with; 0: leave it out.")
    ] = 20,
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Compare with averaged and with pooled nets."),
    ] = True,
    newcomer: Annotated[
        bool,
        typer.Option("--newcomer/--no-newcomer", help="Keep one class back for a node that joins last."),
    ] = True,
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
    from swarm.cli.up.command import Request, Settings, run_up
    from swarm.cli.up.comparisons import ALL

    check_sums(sums, sums_mb)
    settings = Settings(
        net=net,
        trunk=trunk,
        steps=steps,
        seed=seed,
        sums=sums,
        sums_mb=sums_mb,
        refine=refine,
        fedavg_rounds=fedavg_rounds,
        comparisons=ALL if baselines else (),
        import_paths=import_paths(import_path),
    )
    run_up(
        Request(
            nodes=nodes,
            data=str((data_dir / data).expanduser()) if data_dir else data,
            partition=partition,
            newcomer=newcomer,
            settings=settings,
            keep=keep,
            home=home,
        ),
        as_json=json,
    )
