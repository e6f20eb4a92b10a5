"""`swarm federate ...`: rounds over the connected nodes in which numbers are pooled (operator)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.destinations import check_destination
from swarm.cli.options import Home, Json
from swarm.cli.output import advised, bytes_text, emit, printable, progress, run_async
from swarm.cli.training import check_net

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from swarm.domain.federation import FederationStep
    from swarm.domain.specification import Specification
    from swarm.rpc.clients import CoordinatorClient

federate = typer.Typer(
    help="Federated rounds: sums, common regions, averaging, evaluation.", no_args_is_help=True
)
_BESIDE = ("round_accuracies",)
"""What lies beside a net's own arrays in the file of `swarm federate average`."""
_OF_A_ROUND = "_round_"
"""Figures of one round of many: shown as they come, in the result for programs."""
_MOST_ARRAY_BYTES = 32 << 20
_MAKE_ONE = "make one: swarm federate average --out FILE.npz"

Rounds = Annotated[int, typer.Option(min=1, help="Rounds at most.")]
Net = Annotated[str, typer.Option(help="The net to train: mlp:128x2, cnn, linear.")]
Seed = Annotated[int, typer.Option(min=0, help="Makes a run repeatable.")]
MinNodes = Annotated[int, typer.Option(min=1, help="How many nodes must answer each round.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=1, help="Seconds that a round may take.")]
Out = Annotated[Path | None, typer.Option(help="Write the result's arrays to this .npz.", metavar="FILE")]


def register(app: typer.Typer) -> None:
    federate.command("sums")(sums)
    federate.command("kmeans")(kmeans)
    federate.command("average")(average)
    federate.command("evaluate")(evaluate)
    app.add_typer(federate, name="federate")


def sums(
    form: Annotated[str, typer.Option(help="F'F exact or compact.")] = "exact",
    rank: Annotated[int, typer.Option(min=1, help="Directions of compact sums.")] = 150,
    min_nodes: MinNodes = 2,
    timeout_s: TimeoutS = 600.0,
    out: Out = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Pool the nodes' sums once and solve: the ridge classifier over everybody's data, exactly."""
    options = {"form": form, "rank": rank, "min-nodes": min_nodes, "timeout-s": timeout_s}
    _run("sums", options, out, home, as_json=json)


def kmeans(
    k: Annotated[int, typer.Option(min=1, help="How many regions.")] = 8,
    novel: Annotated[
        bool, typer.Option("--novel", help="Regions for what is new: of each node's novel samples alone.")
    ] = False,
    rounds: Rounds = 10,
    seed: Seed = 0,
    min_nodes: MinNodes = 2,
    timeout_s: TimeoutS = 600.0,
    out: Out = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Find regions in common: k-means over all nodes' features, without a sample leaving its node."""
    select = "novel" if novel else "all"
    options = {
        "k": k,
        "rounds": rounds,
        "seed": seed,
        "min-nodes": min_nodes,
        "timeout-s": timeout_s,
        "select": select,
    }
    _run("kmeans", options, out, home, as_json=json)


def average(
    net: Net = "mlp:128x2",
    rounds: Rounds = 20,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps at each node, each round.")] = 100,
    seed: Seed = 0,
    min_nodes: MinNodes = 2,
    timeout_s: TimeoutS = 600.0,
    out: Out = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Federated averaging of one net (FedAvg); the .npz holds its weights by name."""
    check_net(net)
    options = {"net": net, "rounds": rounds, "steps": steps, "seed": seed}
    _run("average", {**options, "min-nodes": min_nodes, "timeout-s": timeout_s}, out, home, as_json=json)


def evaluate(
    arrays: Annotated[Path, typer.Argument(help="The .npz of `swarm federate average` or `... sums`.")],
    net: Annotated[str, typer.Option(help="The net that the arrays are of; ridge-root for sums.")] = "",
    min_nodes: MinNodes = 1,
    timeout_s: TimeoutS = 600.0,
    home: Home = None,
    json: Json = False,
) -> None:
    """Let every node judge weights on its own validation samples; only sums come back."""
    import base64

    from swarm.domain.errors import InvalidInputError
    from swarm.federation.packing import pack_named

    if net:
        check_net(net)
    with advised("arrays", _MAKE_ONE):
        found = _weights(arrays)
        factory = net or ("ridge-root" if set(found) == {"root"} else "mlp:128x2")
        packed = pack_named(found, f"arrays {arrays}")
    if len(packed) > _MOST_ARRAY_BYTES:
        raise InvalidInputError(
            f"arrays {arrays}",
            found=f"{len(packed)} bytes",
            expected=f"at most {_MOST_ARRAY_BYTES}",
            remedy="average a smaller net: swarm federate average --net mlp:128x2 --out FILE",
        )
    options = {"net": factory, "arrays": base64.b64encode(packed).decode()}
    _run("evaluate", {**options, "min-nodes": min_nodes, "timeout-s": timeout_s}, None, home, as_json=json)


def _run(
    app: str, options: Mapping[str, object], out: Path | None, home: Path | None, *, as_json: bool
) -> None:
    from swarm.cli.places import coordinator, find_place
    from swarm.federation.options import parse_options

    written = {name: str(value) for name, value in options.items()}
    with advised("option", f"swarm federate {app} --help"):
        parse_options(app, written)
    if out is not None:
        check_destination(out, "--out")
    place = find_place(home)

    async def work() -> "tuple[FederationStep, Specification]":
        from swarm.domain.specification import Specification

        async with coordinator(place) as client:
            envelope = await client.specification()
            specification = place.identity().keyring().open(envelope, Specification).value
            return await run_told(client, app, written), specification

    result, specification = run_async(work())
    if out is not None:
        _write(out, result.arrays)
    facts: dict[str, Any] = {
        "app": app,
        "options": {name: value for name, value in options.items() if name != "arrays"},
        "figures": dict(result.figures),
        "class_names": specification.class_names,
        "without": result.message,
        "arrays": {name: [array.dtype.name, array.shape] for name, array in result.arrays.items()},
        "out": str(out.resolve()) if out is not None else "",
    }
    emit("federation", facts, as_json=as_json, text=_described(app, result, out))


async def run_told(client: "CoordinatorClient", app: str, options: Mapping[str, str]) -> "FederationStep":
    """Carry out a federated run, telling its steps on stderr, and return the last one, with its result."""
    from swarm.domain.errors import SwarmError
    from swarm.domain.federation import FederationOrder
    from swarm.rpc.federation_client import FederationClient

    last, told = None, ""
    with _net_is_built_elsewhere():
        order = FederationOrder(app=app, options=options)
        async for step in FederationClient(client.connection).run_federation(order):
            last = step
            line = _line(step)
            if line != told and step.stage != "done":
                progress(line)
                told = line
    if last is None or last.stage != "done":
        raise SwarmError(f"federated {app}", found="no result", remedy="swarm doctor")
    return last


@contextmanager
def _net_is_built_elsewhere() -> Iterator[None]:
    """Say of a net that cannot be imported whose folders count: those of coordinator and nodes, not ours."""
    from swarm.data.user_code import RUN_WHERE_IT_IS
    from swarm.domain.errors import SwarmError

    try:
        yield
    except SwarmError as error:
        if error.remedy == RUN_WHERE_IT_IS:
            error.remedy = (
                "the coordinator builds the net, and every node: install its module for them, or start swarm"
                " coordinator in the folder that holds it and train with swarm train DATA --import-path DIR"
            )
        elif RUN_WHERE_IT_IS in error.found:
            error.found = error.found.replace(f"; {RUN_WHERE_IT_IS}", "")
            error.remedy = (
                "each node builds the net: install its module there, or name the folder that holds it when"
                " the node trains: swarm train DATA --import-path DIR"
            )
        raise


def _line(step: "FederationStep") -> str:
    figures = "".join(
        f", {name.replace('_', ' ')} {value:.4g}"
        for name, value in sorted(step.figures.items())
        if not name.startswith("bytes_") and _OF_A_ROUND not in name
    )
    return f"{step.fraction:4.0%} {step.stage}" + (f": {step.message}" if step.message else "") + figures


def _described(app: str, result: "FederationStep", out: Path | None) -> str:
    figures = dict(result.figures)
    sent, received = figures.pop("bytes_sent", 0.0), figures.pop("bytes_received", 0.0)
    rounds = [name for name in figures if _OF_A_ROUND in name]
    lines = [
        f"{app}: {figures.pop('nodes', 0):.0f} nodes,"
        f" {bytes_text(sent)} to them and {bytes_text(received)} from them"
    ]
    lines += [
        f"  {name.replace('_', ' ')}: {value:.6g}" for name, value in figures.items() if name not in rounds
    ]
    lines += [f"  without {printable(result.message)}"] if result.message else []
    lines += [f"  written: {out}"] if out is not None else []
    return "\n".join(lines)


def _weights(path: Path) -> "dict[str, NDArray[np.generic]]":
    import zipfile
    import zlib

    import numpy as np

    from swarm.domain.errors import InvalidInputError, NotFoundError

    subject, expected = f"arrays {path}", "a .npz file of swarm federate average or swarm federate sums"
    if not path.is_file():
        there = "a folder" if path.is_dir() else "no such file"
        raise NotFoundError(subject, found=there, expected=expected)
    try:
        archive = np.load(path, allow_pickle=False) if zipfile.is_zipfile(path) else None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            other = "a file of another kind, or the beginning of one"
            raise InvalidInputError(subject, found=other, expected=expected)
        with archive:
            found = {name: archive[name] for name in archive.files if name not in _BESIDE}
    # RuntimeError: an archive with a password, or packed in a way that zipfile does not know.
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        damage = f"an array that cannot be read: {error}"
        raise InvalidInputError(subject, found=damage, expected=expected) from error
    strange = [name for name, array in found.items() if not _is_numbers(array)]
    if strange or not found:
        what = f"{strange[0]}, which is no array of numbers" if strange else "no arrays"
        raise InvalidInputError(subject, found=what, expected=expected)
    return {"root": found["root"]} if "root" in found and "ridges" in found else found


def _is_numbers(array: object) -> bool:
    import numpy as np

    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf"


def _write(out: Path, arrays: "Any") -> None:
    import numpy as np

    beside = out.with_name(f".{out.name}.tmp.npz")
    np.savez(beside, **dict(arrays))
    beside.replace(out)
