"""The figures of all seeds, and their table."""

import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.absent_owners.rules import (
    ALL,
    COMBINATIONS,
    DOMAIN,
    EVERY,
    EVERYBODY,
    LACKING,
    NEXT_LEAF,
    RULES,
    VALIDATION,
)
from benchmarks.absent_owners.world import CASES
from swarm.cli.bench.growth.evidence import difference, spread
from swarm.cli.bench.growth.jobs import Run


def figures_of(runs: Sequence[Run]) -> dict[str, float]:
    """Return `<case>.<combination>.<rule>.<place>` (mean), `..._spread` (standard deviation over seeds), and
    `<case>.<combination>.<rule>.chosen`: under how many seeds it is best on validation (ties: the first)."""
    figures = {"seeds": float(len(runs)), "cpu_s": math.fsum(run["cpu_s"] for run in runs)}
    for case in CASES:
        told = [run["cases"][case]["accuracies"] for run in runs]
        for label, rules in told[0].items():
            for rule, places in rules.items():
                for place in places:
                    values = [each[label][rule][place] for each in told]
                    figures[f"{case}.{label}.{rule}.{place}"] = statistics.fmean(values)
                    figures[f"{case}.{label}.{rule}.{place}_spread"] = spread(values)
            if label != "root":
                best = [best_rule({rule: each[label][rule][VALIDATION] for rule in RULES}) for each in told]
                for rule in RULES:
                    figures[f"{case}.{label}.{rule}.chosen"] = float(best.count(rule))
    return figures


def best_rule(on_validation: Mapping[str, float]) -> str:
    return max(RULES, key=lambda rule: on_validation[rule])


def tables(runs: Sequence[Run], figures: Mapping[str, float]) -> str:
    """Return the figures in Markdown, a table for each case."""
    lines: list[str] = []
    for name, case in CASES.items():
        lines += [
            "",
            f"### Owners with {case.title}",
            "",
            "| | the absent owner's domain | all domains | rows that chose it | these rows, over next leaf"
            " | validation | best there, seeds |",
            "|---" * 7 + "|",
        ]
        for label in (*COMBINATIONS, EVERY):
            best = best_rule({rule: figures[f"{name}.{label}.{rule}.{VALIDATION}"] for rule in RULES})
            for rule in (EVERYBODY, *RULES):
                key = f"{name}.{label}.{rule}"
                cells = [_cell(figures, f"{key}.{place}") for place in (DOMAIN, ALL, LACKING)]
                told = rule if rule != best else f"**{rule}**"
                cells.append(
                    "" if rule in (EVERYBODY, NEXT_LEAF) else _over_next_leaf(runs, name, label, rule)
                )
                cells.append(_cell(figures, f"{key}.{VALIDATION}"))
                cells.append("" if rule == EVERYBODY else f"{figures[f'{key}.chosen']:.0f}")
                lines.append(f"| {label}: {told} | {' | '.join(cells)} |")
        key = f"{name}.root.{EVERYBODY}"
        rooted = [_cell(figures, f"{key}.{place}") for place in (DOMAIN, ALL)]
        lines.append(
            f"| root for everything | {' | '.join(rooted)} | | | {_cell(figures, f'{key}.{VALIDATION}')} | |"
        )
    return "\n".join([*lines, "", "**bold**: the rule that is best on validation samples, mean over seeds."])


def _over_next_leaf(runs: Sequence[Run], case: str, label: str, rule: str) -> str:
    by_seed = [
        {int(run["seed"]): float(run["cases"][case]["accuracies"][label][each][LACKING]) for run in runs}
        for each in (rule, NEXT_LEAF)
    ]
    return str(difference(by_seed[0], by_seed[1]))


def _cell(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.3f} ± {figures[f'{key}_spread']:.3f}"
