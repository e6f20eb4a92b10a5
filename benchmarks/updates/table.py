"""The tables of docs/updates.md, made from `results/updates.json`."""

import json
import re
import statistics
from pathlib import Path

from benchmarks.results_file import RESULTS, read_result

DOCS = Path(__file__).parents[2] / "docs" / "updates.md"
BEGIN, END = "<!-- tables: make bench-updates -->", "<!-- end of tables -->"
TITLES = {
    "pairs": "New classes: digits two at a time (5 stages)",
    "halves": "New classes: digits 0 to 4, then 5 to 9 (2 stages)",
    "inputs": "Other inputs: MNIST as it is, with noise, turned by 90 degrees, inverted (4 stages)",
    "usps": "Another source: MNIST, then USPS (2 stages)",
    "same": "No drift: more of MNIST (3 stages)",
}


def tables() -> str:
    """Return all tables in Markdown."""
    figures = read_result("updates")
    about = json.loads((RESULTS / "updates.json").read_text())
    lines = [
        f"{about['machine']}; seeds {figures['seeds']:.0f}, mean ± standard deviation; the run took"
        f" {figures['wall_time_s'] / 60:.0f} minutes on one thread, {about['date']}.",
    ]
    for drift, title in TITLES.items():
        lines += ["", f"### {title}", "", *_results(figures, drift)]
    return "\n".join([*lines, "", "### How settings were chosen", "", *_choosing(figures)])


def update_docs() -> None:
    """Write the tables into docs/updates.md."""
    text = DOCS.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{DOCS.name}: expected the marks {BEGIN} and {END}")
    found = re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{tables()}\n{END}",
        text,
        flags=re.DOTALL,
    )
    DOCS.write_text(found)


def _results(figures: dict[str, float], drift: str) -> list[str]:
    names = [key.split(".")[1] for key in figures if key.startswith(f"{drift}.") and key.endswith(".seen")]
    lines = [
        "| | everything seen | old | new | forgetting | training FLOPs | kB remembered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        row = f"{drift}.{name}."
        cells = [
            f"{figures[row + key]:.3f} ± {figures[f'{row}{key}_spread']:.3f}"
            for key in ("seen", "old", "new", "forgetting")
        ]
        if name == "all samples kept":
            cells[3] = ""
        cells += [f"{figures[row + 'train_flops']:.1e}", f"{figures[row + 'memory_bytes'] / 1000:,.0f}"]
        lines.append(f"| {_labelled(figures, name)} | {' | '.join(cells)} |")
    return lines


def _labelled(figures: dict[str, float], name: str) -> str:
    knobs = [
        f"{knob} {figures[f'chosen.{name}.{knob}']:g}"
        for knob in ("strength", "weight")
        if f"chosen.{name}.{knob}" in figures
    ]
    return f"{name}, {knobs[0]}" if knobs else name


def _choosing(figures: dict[str, float]) -> list[str]:
    lines = [f"| | mean | {' | '.join(TITLES)} |", "|---" * (2 + len(TITLES)) + "|"]
    found: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        if key.startswith("choosing."):
            name, _, drift = key.removeprefix("choosing.").rpartition(".")
            found.setdefault(name, {})[drift] = value
    for name, row in found.items():
        cells = [f"{row[drift]:.3f}" for drift in TITLES]
        lines.append(f"| {name} | {statistics.fmean(row.values()):.3f} | {' | '.join(cells)} |")
    return lines
