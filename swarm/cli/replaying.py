"""`swarm replay`: compute a saved answer again, from what its digests name, and say if it is the same."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import Home, ImportPath, Json, import_paths
from swarm.cli.output import emit, run_async

TOLERANCE = 1e-4
"""On another type of device probabilities that differ by no more than this count as close."""
NOT_THE_SAME = 7


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


def replay(
    answer: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWER.json",
            help="What `swarm predict --save` wrote, or the protocol's response to `replayable`.",
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--input",
            help="Its inputs, where they lie elsewhere by now: .npy, .npz, or the protocol's REQUEST.json.",
            metavar="FILE",
        ),
    ] = "",
    request_id: Annotated[
        str,
        typer.Option(
            help="The id of the request that this is to be the answer to; without it that of REQUEST.json.",
            metavar="ID",
        ),
    ] = "",
    import_path: ImportPath = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Compute a saved answer again from its gate, experts and inputs; 0 only where it is the same to the bit.

    Everything is fetched by the digests that the answer names, and verified. --import-path is for experts of
    nets, or a trunk, of somebody's own: their code is to be on this machine, as its owner has it.
    """
    from swarm.cli.answer_files import read_answer
    from swarm.cli.comparing import compared
    from swarm.cli.places import find_place
    from swarm.cli.recomputing import computed_again
    from swarm.cli.request_files import requested_id
    from swarm.cli.verified import verified_registry
    from swarm.cli.vouched import voucher_of

    place, saved = find_place(home), read_answer(answer)
    asked = request_id or (requested_id(Path(source)) if source.endswith(".json") else "")
    paths = import_paths(import_path) if import_path else ()

    async def work() -> bool:
        async with verified_registry(place) as registry:
            again, computed_on = await computed_again(registry, saved, source, paths)
            # Only now: what a member signed before it left or was revoked still computes the same.
            await registry.learn_revocations()
            voucher = await voucher_of(registry, saved, asked)
        found = compared(saved, again, computed_on, TOLERANCE)
        facts, text = found.facts() | voucher.facts(), f"{found.text()}\n{voucher.text()}"
        emit("replay", facts, as_json=json, text=text)
        return found.is_same and not voucher.otherwise

    if not run_async(work()):
        raise typer.Exit(NOT_THE_SAME)
