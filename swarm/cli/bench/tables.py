"""docs/benchmarks.md, made of the results alone, so that no number there is without its command."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swarm.cli.bench.cases import TABLES, Case
from swarm.cli.bench.results import figures_of, is_stale, read_results

COLUMNS = {
    "swarm": "**swarm**",
    "root": "root",
    "top2": "gate top-2",
    "poe": "poe",
    "corrected": "corrected",
    "alone_mean": "alone",
    "ensemble": "ensemble",
    "fedavg": "FedAvg",
    "pooled": "pooled, same net",
    "pooled_cnn": "pooled CNN",
}
CURVE_ROUNDS = (1, 2, 5, 10, 20)
STALE = "†"
"""Marks a row with runs under other rules than the present ones."""
HEAD = """# Benchmarks

Every line is a real swarm of processes on one machine: ten nodes with their own folders, keys and data,
joined over mutual TLS. Test accuracy, mean and standard deviation over the seeds; whatever is chosen (ridge,
temperatures, which combination is served) is chosen on data held out before training. `swarm` is what a plain
query gets; pooled nets need the raw data in one place, may spend the FLOPs that the whole swarm spent, gate
included (candidate gates that were refused are not counted), end when their validation accuracy has not risen
for 10 epochs, and answer with the weights that were best there; FedAvg takes 20 rounds and as many local
steps as an expert.
"""


def write_tables(results: Mapping[str, Path], folder: Path, doc: Path) -> None:
    """Write doc from results, by their table's name; other tables' are `<table>.json` in folder."""
    doc.parent.mkdir(parents=True, exist_ok=True)
    doc.write_text(render_tables(read_tables(results, folder)))


def read_tables(results: Mapping[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results there are, as `write_tables` finds them. Errors as in `read_results`."""
    paths = {table: results.get(table, folder / f"{table}.json") for table in TABLES}
    return {table: read_results(path) for table, path in paths.items() if path.exists()}


def render_tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the document in Markdown; results by their table's name."""
    parts = [HEAD]
    for table, cases in TABLES.items():
        if table not in results:
            continue
        result = results[table]
        runs = result["runs"]
        figures = figures_of(runs, {case.name: case.figures for case in cases})
        told = [case for case in cases if f"{case.name}_seeds" in figures]
        parts += [f"## {table}", f"`swarm bench {table}`: {result.get('machine', 'machine unknown')}."]
        parts.append(_accuracies(told, figures, runs))
        parts += [_note(case) for case in told if case.figures["swarm"] != "swarm"]
        if any(_is_marked(case, runs) for case in told):
            again = f"`swarm bench {table}` runs them again"
            parts.append(f"{STALE} Some runs are from before the present rules; {again}.")
        parts.append(_served(told, runs))
        if table == "skew":
            parts += ["### Accuracy against bytes", _bytes(told, figures, runs)]
    return "\n\n".join(parts) + "\n"


def _title(case: Case, runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a case's title, marked where some of its runs are stale."""
    return f"{case.title} {STALE}" if _is_marked(case, runs) else case.title


def _is_marked(case: Case, runs: Sequence[Mapping[str, Any]]) -> bool:
    return any(map(is_stale, _of(case, runs)))


def _of(case: Case, runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a case's runs in order of seed."""
    return sorted((run for run in runs if run["case"] == case.name), key=lambda run: int(run["seed"]))


def _accuracies(
    cases: Sequence[Case], figures: Mapping[str, float], runs: Sequence[Mapping[str, Any]]
) -> str:
    shown = {
        key: title for key, title in COLUMNS.items() if any(f"{case.name}_{key}" in figures for case in cases)
    }
    body = []
    for case in cases:
        seeds = int(figures[f"{case.name}_seeds"])
        cells = [_cell(figures, f"{case.name}_{key}", seeds) for key in shown]
        body.append([_title(case, runs), *cells, f"{figures[f'{case.name}_mb_per_node']:.2f}", str(seeds)])
    return _table(["", *shown.values(), "MB a node", "seeds"], body)


def _cell(figures: Mapping[str, float], name: str, seeds: int) -> str:
    if name not in figures:
        return "-"
    spread = f" ± {figures[f'{name}_sd']:.3f}" if seeds > 1 else ""
    return f"{figures[name]:.3f}{spread}"


def _note(case: Case) -> str:
    return (
        f"{case.title}: every node asks by its own labelled examples; a plain query of the same swarm gets"
        f" `{case.name}_without_examples`."
    )


def _served(cases: Sequence[Case], runs: Sequence[Mapping[str, Any]]) -> str:
    body = []
    for case in cases:
        own = _of(case, runs)
        said = ", ".join(f"{run['gate']['serves']} (seed {run['seed']})" for run in own)
        minutes = sum(sum(run["seconds"].values()) for run in own) / max(len(own), 1) / 60
        commits = ", ".join(dict.fromkeys(run.get("commit") or "unknown" for run in own))
        body.append([_title(case, runs), said, f"{minutes:.1f}", commits])
    return _table(["", "serves", "minutes a run", "commits"], body)


def _bytes(cases: Sequence[Case], figures: Mapping[str, float], runs: Sequence[Mapping[str, Any]]) -> str:
    """Return what a contribution of so many bytes is worth, and FedAvg after so many rounds beside it."""
    body: list[list[str]] = []
    shown: list[object] = []
    for case in cases:
        seeds, sent = int(figures[f"{case.name}_seeds"]), figures[f"{case.name}_sent_mb_per_node"]
        accuracy = _cell(figures, f"{case.name}_swarm", seeds)
        mb = figures[f"{case.name}_mb_per_node"]
        body.append([f"swarm: {_title(case, runs)}", f"{mb:.2f}", f"{sent:.1f}", accuracy])
        curves = [run["curves"]["fedavg"] for run in _of(case, runs) if run.get("curves", {}).get("fedavg")]
        if not curves or _dealing(case) in shown:
            continue
        shown.append(_dealing(case))
        for rounds in CURVE_ROUNDS:
            points = [curve[rounds - 1] for curve in curves if len(curve) >= rounds]
            if points:
                moved = sum(point[0] for point in points) / len(points)
                mean = sum(point[1] for point in points) / len(points)
                body.append([f"FedAvg, {rounds} rounds: {case.title}", "", f"{moved:.1f}", f"{mean:.3f} ¹"])
    note = "¹ On the nodes' validation samples after every round, for which the net moves a third time."
    return _table(["", "contribution, MB a node", "sent in all, MB a node", "accuracy"], body) + f"\n\n{note}"


def _dealing(case: Case) -> object:
    """Return what two cases have in common whose averaged nets learn from the same."""
    deal = case.deal
    return (deal.func, deal.args, case.net, case.steps) if isinstance(deal, partial) else deal


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
