"""README's table, made from `results/demo.json`, so that no number there is without its command."""

import re
from pathlib import Path

from benchmarks.results_file import read_result

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- demo table: make bench-demo -->", "<!-- end of demo table -->"
ROWS = {
    "alone": "a node alone (mean)",
    "ensemble": "all experts, equal weight",
    "swarm_top1": "**swarm, top-1**",
    "swarm_top2": "**swarm, top-2**",
    "swarm_top4": "**swarm, top-4**",
    "root": "**the swarm's root alone**",
    "poe": "**gate times root**",
    "corrected": "**root, corrected by experts**",
    "swarm": "**swarm: what it serves by its own evidence**",
    "fedavg": "FedAvg, 20 rounds",
    "fedavg_equal_compute": "FedAvg, 20 rounds, the swarm's total FLOPs",
    "pooled_one_budget": "pooled data, one node's budget ¹",
    "pooled_total_budget": "pooled data, total budget ¹",
    "pooled_equal_macs": "pooled data, total budget, a net of the swarm's FLOPs a query ¹",
    "pooled_cnn": "pooled data, total budget, a CNN ¹",
    "joined_new_class": "fourth node joined: its new class",
    "joined_old_classes": "fourth node joined: the others' classes",
}


def table() -> str:
    """Return the table in Markdown."""
    figures = read_result("demo")
    lines = [
        "| | accuracy | training FLOPs | FLOPs a query | bytes between machines | rounds |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in ROWS.items():
        if f"{name}.accuracy" not in figures:
            continue
        accuracy, spread = figures[f"{name}.accuracy"], figures[f"{name}.accuracy_spread"]
        lines.append(
            f"| {label} | {accuracy:.3f} ± {spread:.3f} | {figures[f'{name}.train_flops']:.1e}"
            f" | {figures[f'{name}.inference_flops']:.1e} | {figures[f'{name}.bytes_sent']:,.0f}"
            f" | {figures[f'{name}.sync_rounds']:.0f} |"
        )
    count, longest = figures["seeds"], figures["wall_time_s_longest"]
    lines.append("")
    lines.append(
        f"Mean and standard deviation over {count:.0f} seeds (for nodes alone: over seeds and nodes), on"
        f" held-out test samples; the longest run took {longest:.0f} s. ¹ Needs the raw data in one place;"
        " its bytes are the samples' own."
    )
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """Return readme with the table between its marks."""
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md: expected the marks {BEGIN} and {END}")
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{table()}\n{END}",
        readme,
        flags=re.DOTALL,
    )


def update_readme() -> None:
    """Write the table into README.md."""
    README.write_text(with_table(README.read_text()))
