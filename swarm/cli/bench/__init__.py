"""`swarm bench NAME`: tables of the literature at small scale.

Each line of `skew` and `domains` is a real swarm of processes; `alma` and `hard-moe` run in plain processes.
"""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import Json, names

bench = typer.Typer(help="Benchmarks: the literature's tables at small scale.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option(help="The folder with the collections of samples (data).", metavar="DIR")
]
Seeds = Annotated[str, typer.Option(help="Seeds, separated by commas; each is one run of each case.")]
Only = Annotated[str, typer.Option(help="These cases only, separated by commas.", metavar="CASE,...")]
Out = Annotated[Path | None, typer.Option(help="The results (benchmarks/results/NAME.json).", metavar="FILE")]
Doc = Annotated[Path | None, typer.Option(help="The tables for people, made of all results.", metavar="FILE")]
Quick = Annotated[bool, typer.Option("--quick", help="Few samples, steps and queries: to try it out.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run also what the results have already.")]
Plain = Annotated[Path | None, typer.Option(help="The section for people (docs/growth.md).", metavar="FILE")]
Scale = Annotated[bool, typer.Option("--full", help="The paper's scale, for hours, not minutes.")]
Full = Annotated[bool, typer.Option("--full", help="Compare with every averaged and pooled net, not a few.")]


def register(app: typer.Typer) -> None:
    bench.command("skew")(skew)
    bench.command("domains")(domains)
    bench.command("alma")(alma)
    bench.command("hard-moe")(hard_moe)
    app.add_typer(bench, name="bench")


def skew(
    data_dir: DataDir = None,
    seeds: Seeds = "0,1,2",
    only: Only = "",
    out: Out = None,
    doc: Doc = None,
    quick: Quick = False,
    fresh: Fresh = False,
    full: Full = False,
    json: Json = False,
) -> None:
    """Ten nodes with skewed labels: MNIST and Fashion-MNIST, 2 classes a node and Dirichlet 0.1."""
    _run("skew", data_dir, seeds, only, out, doc, quick=quick, fresh=fresh, full=full, json=json)


def domains(
    data_dir: DataDir = None,
    seeds: Seeds = "0,1,2",
    only: Only = "",
    out: Out = None,
    doc: Doc = None,
    quick: Quick = False,
    fresh: Fresh = False,
    full: Full = False,
    json: Json = False,
) -> None:
    """Harder and mixed data: CIFAR, four domains, few samples, label conventions that conflict."""
    _run("domains", data_dir, seeds, only, out, doc, quick=quick, fresh=fresh, full=full, json=json)


def alma(
    data_dir: DataDir = None,
    seeds: Seeds = "0,1,2",
    only: Only = "",
    out: Out = None,
    doc: Plain = None,
    quick: Quick = False,
    full: Scale = False,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Anytime learning: waiting, replay and growth over a stream of mega-batches, beside this swarm."""
    _grow("alma", data_dir, seeds, only, out, doc, quick=quick, full=full, fresh=fresh, json=json)


def hard_moe(
    data_dir: DataDir = None,
    seeds: Seeds = "0,1,2",
    only: Only = "",
    out: Out = None,
    doc: Plain = None,
    quick: Quick = False,
    full: Scale = False,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Hard mixtures of experts beside one net, an ensemble and a wide net, underfitting and overfitting."""
    _grow("hard-moe", data_dir, seeds, only, out, doc, quick=quick, full=full, fresh=fresh, json=json)


def _grow(
    name: str,
    data_dir: Path | None,
    seeds: str,
    only: str,
    out: Path | None,
    doc: Path | None,
    *,
    quick: bool,
    full: bool,
    fresh: bool,
    json: bool,
) -> None:
    from swarm.cli.bench.growth.command import GrowthRequest, run_growth

    scale = "-quick" if quick else "-full" if full else ""
    request = GrowthRequest(
        name=name,
        data_dir=(data_dir or Path("data")).expanduser().resolve(),
        data_is_named=data_dir is not None,
        seeds=_numbers(seeds),
        only=names(only),
        out=out or Path("benchmarks/results") / f"{name}{scale}.json",
        doc=doc if doc or out or scale else Path("docs/growth.md"),
        quick=quick,
        full=full,
        fresh=fresh,
    )
    run_growth(request, as_json=json)


def _numbers(seeds: str) -> tuple[int, ...]:
    if not all(seed.isascii() and seed.isdecimal() for seed in names(seeds)) or not names(seeds):
        raise typer.BadParameter(f"--seeds {seeds!r}: write numbers as 0,1,2")
    return tuple(int(seed) for seed in names(seeds))


def _run(
    table: str,
    data_dir: Path | None,
    seeds: str,
    only: str,
    out: Path | None,
    doc: Path | None,
    *,
    quick: bool,
    fresh: bool,
    full: bool,
    json: bool,
) -> None:
    from swarm.cli.bench.runs import BenchRequest, run_bench

    request = BenchRequest(
        table=table,
        data_dir=(data_dir or Path("data")).expanduser().resolve(),
        data_is_named=data_dir is not None,
        seeds=_numbers(seeds),
        only=names(only),
        out=out or Path("benchmarks/results") / f"{table}{'-quick' if quick else ''}.json",
        doc=doc if doc or out or quick else Path("docs/benchmarks.md"),
        quick=quick,
        fresh=fresh,
        full=full,
    )
    run_bench(request, as_json=json)
