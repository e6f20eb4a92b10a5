"""`swarm stream report`: what a stream of mega-batches cost this node, and what it brought."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, table

if TYPE_CHECKING:
    from node.stream.ledger import StreamLedger, Stretch
    from swarm.cli.plots import Panel
    from swarm.domain.errors import UsageError
    from swarm.domain.streams import MegaBatchRecord

Plot = Annotated[
    Path | None, typer.Option(help="Write the figure into this file, .png or .svg.", metavar="FILE")
]


def register(app: typer.Typer) -> None:
    family = typer.Typer(help="Mega-batches that a node learns as they arrive.", no_args_is_help=True)
    family.command("report")(report)
    app.add_typer(family, name="stream")


def report(plot: Plot = None, home: Home = None, json: Json = False) -> None:
    """Show every mega-batch of this node's stream: errors, cumulative error (CER), memory and FLOPs."""
    from node.stream.ledger import LEDGER_FILE, StreamLedger
    from swarm.cli.places import node_place
    from swarm.config import NodeHome
    from swarm.domain.errors import NotReadyError

    if plot is not None:
        from swarm.cli.plots import check_figure

        check_figure(plot)
        _check_folder(plot)
    state = NodeHome(node_place(home).root).state
    ledger = StreamLedger(state / LEDGER_FILE)
    if not ledger.recorded and (plot is not None or (not ledger.taken and not ledger.skipped)):
        raise NotReadyError(
            "stream", found="no mega-batch recorded yet on this node", remedy="swarm train --watch DIR"
        )
    facts = _facts(ledger, state)
    if plot is not None:
        from swarm.cli.plots import write_figure

        try:
            write_figure(plot, figure_of(ledger.stretches))
        except OSError as error:
            raise _unwritable(plot, error.strerror or str(error)) from error
        facts["plot"] = str(plot)
    emit("stream-report", facts, as_json=json, text=_text(ledger, facts))


def _check_folder(plot: Path) -> None:
    if not plot.parent.is_dir():
        raise _unwritable(plot, f"no folder {plot.parent}")


def _unwritable(plot: Path, found: str) -> "UsageError":
    from swarm.domain.errors import UsageError

    return UsageError(
        f"--plot {plot}", found=found, expected="a file that can be written", remedy="make its folder first"
    )


def figure_of(stretches: "Sequence[Stretch]") -> "list[Panel]":
    """Return the panels of a stream: error and CER, memory, and FLOPs by mega-batch.

    Where another data set began to be measured on, error and CER begin anew.
    """
    from swarm.cli.plots import Panel, Series

    records = [one.record for stretch in stretches for one in stretch.recorded]
    numbers = [float(record.number) for record in records]
    memory, forward, total = (
        _running([float(value) for value in column])
        for column in zip(
            *((one.parameters, one.flops_forward, one.flops_total) for one in records),
            strict=True,
        )
    )
    errors, cers = [], []
    for stretch in stretches:
        own = [one.record.error for one in stretch.recorded]
        x = [float(one.record.number) for one in stretch.recorded]
        label = f"on {stretch.measured_on}" if len(stretches) > 1 else ""
        errors.append(Series(label=label or "after the mega-batch", x=x, y=own))
        cers.append(Series(label=label, x=x, y=_running(own)))
    axis = "mega-batch"
    return [
        Panel(
            title="Error",
            x_label=axis,
            y_label="share of samples",
            series=errors,
        ),
        Panel(
            title="Cumulative error (CER)",
            x_label=axis,
            y_label="sum of errors",
            series=cers,
        ),
        Panel(
            title="Cumulative memory",
            x_label=axis,
            y_label="sum of parameters",
            series=[Series(label="", x=numbers, y=memory)],
        ),
        Panel(
            title="Cumulative computation",
            x_label=axis,
            y_label="FLOPs",
            series=[
                Series(label="forward", x=numbers, y=forward),
                Series(label="forward + backward, and all else", x=numbers, y=total),
            ],
        ),
    ]


def _facts(ledger: "StreamLedger", state: Path) -> dict[str, Any]:
    from node.stream.novelty import fresh_counts
    from swarm.domain.streams import cumulative_flops, cumulative_memory

    records, stretches = ledger.records, ledger.stretches
    flops = cumulative_flops(records)
    fresh, novel = fresh_counts(state)
    rows = []
    for number, one in sorted(ledger.recorded.items()):
        taken = ledger.taken[number]
        rows.append(
            {
                **_fields(one.record),
                "file": taken.file,
                "error_before": taken.error_before,
                "held_out": taken.held_out,
                "measured_on": one.measured_on,
                "judged": one.judged,
                "learned": one.learned,
                "fresh": taken.fresh,
                "novel": taken.novel,
                "novelty_by": taken.novelty_by,
                "experts": one.experts,
                "gate_version": one.gate_version,
                "note": one.note,
                "is_refused": one.is_refused,
            }
        )
    return {
        "measured": [
            {
                "measured_on": each.measured_on,
                "first": each.first,
                "last": each.last,
                "cer": each.cer,
                "judged": [one.judged for one in each.recorded],
            }
            for each in stretches
        ],
        "mega_batches": rows,
        "waiting": ledger.waiting,
        "cer": stretches[0].cer if len(stretches) == 1 else None,
        "cumulative_memory": cumulative_memory(records),
        "cumulative_flops_forward": flops.forward,
        "cumulative_flops": flops.total,
        "fresh": fresh,
        "fresh_novel": novel,
        "skipped": ledger.left_out,
    }


def _fields(record: "MegaBatchRecord") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _text(ledger: "StreamLedger", facts: dict[str, Any]) -> str:
    from swarm.gating.regions import MIN_CLASS_COUNT

    header = (
        "number", "samples", "error before", "error", "measured on", "learned", "parameters", "forward",
        "FLOPs", "seconds", "novel", "experts", "gate",
    )  # fmt: skip
    rows = []
    short = _short_names([each["measured_on"] for each in facts["measured"]])
    for row in facts["mega_batches"]:
        before = row["error_before"]
        rows.append(
            (
                row["number"],
                row["samples"],
                "-" if before is None else f"{before:.4f}",
                f"{row['error']:.4f}",
                f"{row['judged']} {short[row['measured_on']]}",
                _range(row["learned"]),
                row["parameters"],
                f"{row['flops_forward']:.2e}",
                f"{row['flops_total']:.2e}",
                f"{row['seconds']:.1f}",
                f"{row['novel']} of {row['fresh']}",
                ", ".join(row["experts"]) or "none yet",
                row["gate_version"],
            )
        )
    lines = [
        table(header, rows) if rows else "no mega-batch recorded yet",
        *(_measured(each) for each in facts["measured"]),
        "errors: of this node's own experts; before: on each mega-batch's own held-out samples",
        f"cumulative memory {facts['cumulative_memory']} parameters; FLOPs"
        f" {facts['cumulative_flops_forward']:.3e} forward, {facts['cumulative_flops']:.3e} with backward and"
        " all else",
        f"novel: {facts['fresh_novel']} of the newest {facts['fresh']} training samples can be a new leaf's,"
        f" which takes two classes with {MIN_CLASS_COUNT} of them or more (the column counts all; of what is"
        " known 1 % lie as far out)",
    ]
    if facts["waiting"]:
        lines.append(f"waiting to be learned: {_range(facts['waiting'])}")
    lines += [f"skipped: {one.file}: {one.reason}" for one in ledger.left_out]
    lines += [
        f"mega-batch {row['number']}: {'refused: ' if row['is_refused'] else ''}{row['note']}"
        for row in facts["mega_batches"]
        if row["note"]
    ]
    if "plot" in facts:
        lines.append(f"figure: {facts['plot']}")
    return "\n".join(lines)


def _short_names(measured_on: Sequence[str]) -> dict[str, str]:
    """Return what to call data sets in a narrow column: the file's name, where no other's is the same."""
    from node.stream.taking import VALIDATION_SO_FAR

    ends = {each: Path(each).name for each in measured_on}
    short = {each: end if list(ends.values()).count(end) == 1 else each for each, end in ends.items()}
    return {**short, VALIDATION_SO_FAR: "validation"}


def _measured(stretch: dict[str, Any]) -> str:
    judged = sorted(set(stretch["judged"]))
    samples = f"{judged[0]} to {judged[-1]}" if len(judged) > 1 else f"{judged[0]}"
    numbers = _range(list(range(stretch["first"], stretch["last"] + 1)))
    many = "mega-batches" if stretch["last"] > stretch["first"] else "mega-batch"
    return f"CER {stretch['cer']:.4f} over {many} {numbers}, on {stretch['measured_on']}, {samples} samples"


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "waits"
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _running(values: Sequence[float]) -> list[float]:
    total, found = 0.0, []
    for value in values:
        total += value
        found.append(total)
    return found
