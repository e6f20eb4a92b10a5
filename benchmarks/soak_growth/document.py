"""The day's section in docs/growth.md, written from what was seen."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results_file import machine
from benchmarks.soak_growth.day import Day
from benchmarks.soak_growth.results import disk_of, forgetting
from benchmarks.soak_growth.story import Story
from benchmarks.soak_growth.swarm_of_five import KEEPERS
from swarm.cli.bench.growth.document import markdown_table, write_section

DOCUMENT = Path(__file__).parents[2] / "docs" / "growth.md"
NAME = "soak-growth"


def update_docs(day: Day, story: Story, figures: Mapping[str, float], command: str) -> None:
    """Write the section of a day that was played to its end."""
    write_section(DOCUMENT, NAME, section(day, story, figures, command))


def section(day: Day, story: Story, figures: Mapping[str, float], command: str) -> str:
    """Return the section in Markdown."""
    return "\n\n".join(
        (
            "## A never-ending day",
            f"`{command}`: {machine()}; {figures['wall_time_s'] / 60:.0f} minutes.",
            f"{figures['mega_batches']:.0f} mega-batches, {figures['samples']:,.0f} samples, for five nodes"
            " in processes of their own, under automatic growth. Before mega-batch: "
            + "; ".join(f"{move.number + 1} {move.node} {move.happening}" for move in story.moves)
            + ".",
            _service(figures),
            markdown_table(
                ("domain", "mega-batches", "by", "accuracy when fed last", "at the end", "forgotten, points"),
                _domains(day, story),
            ),
            markdown_table(("", "first look", "last look", "grows as samples to the"), _growth(day, figures)),
            markdown_table(("proposals", "how many"), _proposals(day)),
            "![Accuracy by domain, growth and disks beside the data](../benchmarks/results/soak-growth.svg)",
        )
    )


def _service(figures: Mapping[str, float]) -> str:
    asked, unanswered = figures["queries_asked"], figures["queries_unanswered"]
    return (
        f"Of {asked:,.0f} queries of eight rows, one after the other all day long, {unanswered:.0f} were not"
        f" answered and {figures['queries_degraded']:.0f} were answered degraded; median"
        f" {1000 * figures['query_p50_s']:.0f} ms, 99th percentile {1000 * figures['query_p99_s']:.0f} ms,"
        " beside five nodes that train on the same cores."
    )


def _domains(day: Day, story: Story) -> list[list[str]]:
    forgotten, last = forgetting(day.sights, story), day.sights[-1]
    rows = []
    for name, value in last.accuracy.items():
        own = [feeding for feeding in story.feedings if feeding.domain == name]
        numbers = [feeding.number + 1 for feeding in own]
        fed_last = value + forgotten.get(name, 0.0) / 100
        rows.append(
            [
                name,
                f"{len(own)}, {numbers[0]} to {numbers[-1]}",
                ", ".join(sorted({feeding.node for feeding in own})),
                f"{fed_last:.3f}" if name in forgotten else "fed to the end",
                f"{value:.3f}",
                f"{forgotten[name]:+.1f}" if name in forgotten else "",
            ]
        )
    return rows


def _growth(day: Day, figures: Mapping[str, float]) -> list[list[str]]:
    first, last = day.sights[0], day.sights[-1]
    return [
        ["samples seen", f"{first.samples:,}", f"{last.samples:,}", ""],
        ["leaves", str(first.leaves), str(last.leaves), f"{figures['growth_leaves']:.2f}"],
        [
            "gate, MB",
            f"{first.gate_bytes / 1e6:.2f}",
            f"{last.gate_bytes / 1e6:.2f}",
            f"{figures['growth_gate_bytes']:.2f}",
        ],
        [
            "FLOPs of a query",
            f"{first.flops_per_query:.3g}",
            f"{last.flops_per_query:.3g}",
            f"{figures['growth_flops_per_query']:.2f}",
        ],
        *(
            [
                f"on disk, {who}, MB",
                f"{disk[0] / 1e6:.1f}",
                f"{disk[-1] / 1e6:.1f}",
                f"{figures[f'growth_disk_{who}_bytes']:.2f}",
            ]
            for who in KEEPERS
            for disk in [disk_of(day, who)]
        ),
    ]


def _proposals(day: Day) -> list[list[str]]:
    found = Counter((proposal.kind, proposal.state) for proposal in day.proposals)
    return [[f"{kind}, {state}", str(count)] for (kind, state), count in sorted(found.items())]
