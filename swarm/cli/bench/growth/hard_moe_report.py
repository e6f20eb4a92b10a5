"""What the runs of `swarm bench hard-moe` say: figures, the ordering and where it turns, tables, plots."""

import statistics
from collections.abc import Sequence

from swarm.cli.bench.growth.document import markdown_table
from swarm.cli.bench.growth.evidence import Difference, difference, spread, verdict
from swarm.cli.bench.growth.hard_moe import EACH, TOTAL
from swarm.cli.bench.growth.jobs import Run
from swarm.cli.plots import Panel, Series

REGIMES = {"underfit": "underfitting", "overfit": "overfitting"}
NAMES = {
    "single": "single",
    "wide": "wide, equal MACs",
    "ensemble": "ensemble of k",
    "mixture": "mixture of k, branched",
    "mixture_top2": "the same, top 2",
    "mixture_scratch": "mixture of k, from scratch",
    "mixture_scratch_top2": "the same, top 2",
}
RIVALS = ("single", "wide", "ensemble")


def accuracies(runs: Sequence[Run], regime: str, name: str, k: int, budget: str) -> dict[int, float]:
    """Return by seed the accuracy of a row; single and wide are the same for every k at equal steps each."""
    if budget == EACH and name in ("single", "wide"):
        k = 1
    if budget == TOTAL and name not in ("single", "wide"):
        budget = EACH  # a mixture's or an ensemble's own steps are the total
    return {
        run["seed"]: float(row["accuracy"])
        for run in runs
        if run["regime"] == regime
        for row in run["rows"]
        if (row["name"], row["k"], row["budget"]) == (name, k, budget)
    }


def lead(runs: Sequence[Run], regime: str, k: int, rival: str, budget: str) -> Difference | None:
    """Return the branched mixture's accuracy less its rival's, paired over seeds."""
    return difference(
        accuracies(runs, regime, "mixture", k, budget), accuracies(runs, regime, rival, k, budget)
    )


def experts_of(runs: Sequence[Run], regime: str) -> list[int]:
    """Return the numbers of experts that a regime's runs have in common."""
    found = [set(run["settings"]["experts"]) for run in runs if run["regime"] == regime]
    return sorted(set.intersection(*found)) if found else []


def hard_moe_figures(runs: Sequence[Run]) -> dict[str, float]:
    """Return `moe<k>_minus_<rival>_<regime>` at equal steps each, `..._total` at equal total steps, each with
    `_sd`; and `<name>_<regime>` of single and wide, `<name><k>_<regime>` of the others, at equal steps each.

    The mixture's experts branch from the single net; an ensemble of k reads `ensemble<k>`.
    """
    figures: dict[str, float] = {}
    for regime in REGIMES:
        for k in experts_of(runs, regime):
            for rival in RIVALS:
                called = f"moe{k}_minus_{rival}{k if rival == 'ensemble' else ''}_{regime}"
                for budget, end in ((EACH, ""), (TOTAL, "_total")):
                    if gap := lead(runs, regime, k, rival, budget):
                        figures[f"{called}{end}"] = gap.mean
                        figures[f"{called}{end}_sd"] = gap.sd
            for name in NAMES:
                own = list(accuracies(runs, regime, name, k, EACH).values())
                called = f"{name}{'' if name in ('single', 'wide') else k}_{regime}"
                if own:
                    figures[called], figures[f"{called}_sd"] = statistics.fmean(own), spread(own)
    return figures


def turning_point(runs: Sequence[Run], regime: str, rival: str, budget: str) -> str:
    """Say from which k on the mixture is above its rival, or below, by a one-sided paired t test."""
    signs = {
        k: gap.sign
        for k in experts_of(runs, regime)
        if (gap := lead(runs, regime, k, rival, budget)) is not None
    }
    for wanted, said in ((1, "above"), (-1, "below")):
        own = [k for k, sign in signs.items() if sign == wanted]
        if own and len(own) == len(signs):
            return f"{said} at every k"
        steady = [k for k in own if all(signs[other] == wanted for other in signs if other >= k)]
        if steady:
            return f"{said} from k = {min(steady)} on"
    return "at " + ", ".join(f"k = {k} {['below', 'level', 'above'][sign + 1]}" for k, sign in signs.items())


_SETTING = (
    "Fashion-MNIST, MLPs with one hidden layer, Adam at the rate (of two) that is best for the single net"
    " on the held-out tenth; each keeps the weights that were best there, an expert by its own part of it."
    " The gate is balanced k-means on the single net's hidden layer, frozen; experts branch from the single"
    " net (or, beside it, start from scratch) and train on their shard alone; one expert answers. `wide`"
    " takes as many multiply-adds as gate and expert together. Equal steps each: every expert and every net"
    " takes the same number. A branched expert's weights have taken twice that, the single net's steps"
    " before its own. Equal total: single and wide take as many as the gate's net and k experts together."
    " Test accuracy, mean ± standard deviation over the seeds; above and below are what a one-sided paired t"
    " test at 95 % sees."
)


def render_hard_moe(runs: Sequence[Run], command: str) -> str:
    """Return the section for people, made of the runs alone."""
    minutes = sum(run["cpu_s"] for run in runs) / 60
    parts = [
        "## Hard mixtures: one net, many alike, one wide, or experts",
        f"`{command}`: {runs[0]['machine']}; {minutes:.0f} CPU minutes, one thread a process; commits"
        f" {', '.join(dict.fromkeys(run['commit'] or 'unknown' for run in runs))}.",
        _SETTING,
    ]
    for regime in REGIMES:
        own = [run for run in runs if run["regime"] == regime]
        if own:
            parts += [
                f"### {_title(own)}",
                f"{own[0]['settings']['steps']} steps each; wide has {own[0]['wide_width']} hidden units;"
                f" learning rates {', '.join(str(run['learning_rate']) for run in own)}.",
                _table(own, regime),
                _turns(own, regime),
            ]
    parts += [_claims(runs), "![Accuracy against the number of experts](../benchmarks/results/hard-moe.svg)"]
    return "\n\n".join(part for part in parts if part)


def _title(runs: Sequence[Run]) -> str:
    settings = runs[0]["settings"]
    name = REGIMES[runs[0]["regime"]]
    return f"{name.capitalize()}: {settings['samples']:,} samples, width {settings['width']}"


def _table(runs: Sequence[Run], regime: str) -> str:
    experts = experts_of(runs, regime)
    lines = [(name, EACH, title) for name, title in NAMES.items()]
    lines += [("single", TOTAL, "single, equal total"), ("wide", TOTAL, "wide, equal total")]
    body = [
        [title, *(_cell(list(accuracies(runs, regime, name, k, budget).values())) for k in experts)]
        for name, budget, title in lines
    ]
    return markdown_table(["", *(f"k = {k}" for k in experts)], body)


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ± {spread(values):.3f}" if values else "-"


def _turns(runs: Sequence[Run], regime: str) -> str:
    body = [
        [rival, *(turning_point(runs, regime, rival, budget) for budget in (EACH, TOTAL))] for rival in RIVALS
    ]
    return markdown_table(["the mixture, beside", "equal steps each", "equal total steps"], body)


def _claims(runs: Sequence[Run]) -> str:
    """Return the prototype's statements of what pays, each with its verdict at both budgets."""
    asked = [
        ("A mixture of 8 beats an ensemble of 8 when underfitting", "underfit", 8, "ensemble", 1),
        ("A mixture of 24 beats a wide net of equal MACs when underfitting", "underfit", 24, "wide", 1),
        ("A mixture of 8 does not yet beat it", "underfit", 8, "wide", -1),
        ("A mixture of 16 loses to one net when overfitting", "overfit", 16, "single", -1),
    ]
    body = []
    for text, regime, k, rival, wanted in asked:
        gaps = [lead(runs, regime, k, rival, budget) for budget in (EACH, TOTAL)]
        cells = ["-" if gap is None else f"**{verdict([gap.sign * wanted])}** ({gap})" for gap in gaps]
        body.append([text, *cells])
    return markdown_table(["claim", "equal steps each", "equal total steps"], body)


def hard_moe_panels(runs: Sequence[Run]) -> list[Panel]:
    """Return one panel for each regime: accuracy against the number of experts."""
    shown = (
        ("single", EACH, "single"),
        ("wide", EACH, "wide"),
        ("ensemble", EACH, "ensemble"),
        ("mixture", EACH, "mixture, branched"),
        ("mixture_scratch", EACH, "mixture, from scratch"),
        ("single", TOTAL, "single, equal total"),
        ("wide", TOTAL, "wide, equal total"),
    )
    panels = []
    for regime in REGIMES:
        experts = experts_of(runs, regime)
        if not experts:
            continue
        title = _title([run for run in runs if run["regime"] == regime])
        series = []
        for name, budget, label in shown:
            values = [list(accuracies(runs, regime, name, k, budget).values()) for k in experts]
            series.append(
                Series(
                    label=label,
                    x=experts,
                    y=[statistics.fmean(each) for each in values],
                    spread=[spread(each) for each in values],
                )
            )
        panels.append(Panel(title=title, x_label="experts k", y_label="test accuracy", series=series))
    return panels
