"""`swarm replay`: compute a saved answer again, from what its digests name, and say if it is the same."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, run_async

TOLERANCE = 1e-4
"""On another type of device probabilities that differ by no more than this count as close."""
NOT_THE_SAME = 7


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


def replay(
    answer: Annotated[Path, typer.Argument(metavar="ANSWER.json", help="What `swarm predict --save` wrote.")],
    source: Annotated[
        str, typer.Option("--input", help="The inputs, where they lie elsewhere by now.", metavar="FILE")
    ] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Compute a saved answer again from its gate, experts and inputs; 0 only where it is the same to the bit.

    Everything is fetched by the digests that the answer names, and verified.
    """
    from swarm.cli.answer_files import read_answer
    from swarm.cli.comparing import compared
    from swarm.cli.places import find_place
    from swarm.cli.recomputing import computed_again
    from swarm.cli.verified import verified_registry

    place, saved = find_place(home), read_answer(answer)

    async def work() -> bool:
        async with verified_registry(place) as registry:
            again, computed_on = await computed_again(registry, saved, source)
        found = compared(saved, again, computed_on, TOLERANCE)
        emit("replay", found.facts(), as_json=json, text=found.text())
        return found.is_same

    if not run_async(work()):
        raise typer.Exit(NOT_THE_SAME)
