"""What a day comes to: figures, and the plot of accuracies, gate size and cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.soak_growth.day import Day, Sight
from benchmarks.soak_growth.story import Story
from benchmarks.soak_growth.swarm_of_five import KEEPERS
from swarm.cli.plots import Panel, Series, write_figure


def figures_of(day: Day, story: Story) -> dict[str, float]:
    """Return the day's figures. `forgetting_<domain>` (points) compares the accuracy when a domain was fed
    last with the final one, for domains that are no longer fed; `growth_*` are exponents: how much faster
    than the samples seen something grows (1: as fast)."""
    last, figures = day.sights[-1], day.service.figures()
    for name, value in last.accuracy.items():
        figures[f"accuracy_{name}"] = value
    forgotten = forgetting(day.sights, story)
    figures |= {f"forgetting_{name}": points for name, points in forgotten.items()}
    figures["forgetting_max"] = max(forgotten.values(), default=0.0)
    samples = [float(seen.samples) for seen in day.sights]
    for name, values in (
        ("gate_bytes", [float(seen.gate_bytes) for seen in day.sights]),
        ("flops_per_query", [seen.flops_per_query for seen in day.sights]),
        ("leaves", [float(seen.leaves) for seen in day.sights]),
        *((f"disk_{who}_bytes", disk_of(day, who)) for who in KEEPERS),
    ):
        figures[name] = values[-1]
        figures[f"growth_{name}"] = exponent(samples, values)
    states = [proposal.state for proposal in day.proposals]
    figures |= {
        "mega_batches": float(last.number + 1),
        "samples": samples[-1],
        "gate_versions": float(last.gate_version),
        "proposals": float(len(states)),
        **{f"proposals_{state}": float(states.count(state)) for state in sorted(set(states))},
        "wall_time_s": day.seconds,
    }
    return figures


def disk_of(day: Day, who: str) -> list[float]:
    """Return the bytes that one of KEEPERS had on disk at each look."""
    return [float(getattr(seen.disk, who)) for seen in day.sights]


def forgetting(sights: Sequence[Sight], story: Story) -> dict[str, float]:
    """Return by how many points each domain that is no longer fed has fallen since it was fed last."""
    found = {}
    for name, number in story.last_fed.items():
        after = [seen for seen in sights if seen.number >= number]
        if len(after) > 1:
            found[name] = 100 * (after[0].accuracy[name] - after[-1].accuracy[name])
    return found


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return b of y = a x^b by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(day: Day, path: Path) -> None:
    """Draw accuracy by domain, and how gate, cost and disks grow beside the data."""
    numbers = [seen.number + 1 for seen in day.sights]
    names = list(dict.fromkeys(name for seen in day.sights for name in seen.accuracy))
    accuracy = []
    for name in names:
        seen = [each for each in day.sights if name in each.accuracy]
        accuracy.append(
            Series(label=name, x=[s.number + 1 for s in seen], y=[s.accuracy[name] for s in seen])
        )
    first = day.sights[0]
    growth = [
        Series(label="samples seen", x=numbers, y=[s.samples / first.samples for s in day.sights]),
        Series(label="gate's bytes", x=numbers, y=[s.gate_bytes / first.gate_bytes for s in day.sights]),
        Series(
            label="FLOPs of a query",
            x=numbers,
            y=[s.flops_per_query / first.flops_per_query for s in day.sights],
        ),
        Series(label="leaves", x=numbers, y=[s.leaves / first.leaves for s in day.sights]),
    ]
    disk = [Series(label="samples seen", x=numbers, y=[s.samples / first.samples for s in day.sights])]
    for who in KEEPERS:
        found = disk_of(day, who)
        disk.append(Series(label=who, x=numbers, y=[each / found[0] for each in found]))
    write_figure(
        path,
        [
            Panel(title="accuracy by domain", x_label="mega-batch", y_label="test accuracy", series=accuracy),
            Panel(
                title="growth since the first look",
                x_label="mega-batch",
                y_label="times",
                series=growth,
                log_y=True,
            ),
            Panel(
                title="bytes on disk since the first look",
                x_label="mega-batch",
                y_label="times",
                series=disk,
                log_y=True,
            ),
        ],
    )
