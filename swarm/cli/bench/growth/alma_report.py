"""What the runs of `swarm bench alma` give: figures, tables and plots."""

import statistics
from collections.abc import Mapping, Sequence

from swarm.cli.bench.growth.alma import SMALL, TITLES, case_name
from swarm.cli.bench.growth.alma_claims import Claim, Point, claims_of, points_of, those, wait_of
from swarm.cli.bench.growth.document import markdown_table
from swarm.cli.bench.growth.jobs import Run
from swarm.cli.plots import Panel, Series

COLLECTIONS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def alma_figures(runs: Sequence[Run]) -> dict[str, float]:
    """Return `<case>_cer` with `_sd`, and the figures by name: `cer_w<wait>` of the smallest SM on MNIST, and
    `split_loss_change_max`, the largest change of a validation loss by any growth of any gMoE."""
    figures: dict[str, float] = {}
    for collection in COLLECTIONS:
        for point in points_of(runs, collection):
            run = point.any_run
            figures[f"{point.case}_cer"] = point.mean("cer")
            figures[f"{point.case}_cer_sd"] = point.sd("cer")
            figures[f"{point.case}_flops"] = point.mean("flops_total")
            smallest = case_name("mnist", "sm", SMALL, run["wait"], replay=False)
            if point.case == smallest:
                figures[f"cer_w{run['wait']}"] = point.mean("cer")
                figures[f"cer_w{run['wait']}_sd"] = point.sd("cer")
    changes = [run["split_loss_change"] for run in runs if "split_loss_change" in run]
    return figures | ({"split_loss_change_max": max(changes)} if changes else {})


def render_alma(runs: Sequence[Run], command: str) -> str:
    """Return the section for people, made of the runs alone."""
    parts = [
        "## Anytime learning: waiting, replay, growth",
        f"`{command}`: {runs[0]['machine']}; {_minutes(runs)}; commits"
        f" {', '.join(dict.fromkeys(run['commit'] or 'unknown' for run in runs))}.",
        _setting(runs[0]["settings"]),
    ]
    for collection, title in COLLECTIONS.items():
        points = points_of(runs, collection)
        if points:
            parts += [f"### {title}", _claims(claims_of(points)), _table(points)]
    parts.append("![CER against FLOPs and memory](../benchmarks/results/alma.svg)")
    return "\n\n".join(parts)


def _minutes(runs: Sequence[Run]) -> str:
    return f"{sum(run['cpu_s'] for run in runs) / 60:.0f} CPU minutes, one thread a process"


def _setting(settings: Mapping[str, object]) -> str:
    return (
        f"{settings['samples']} training samples in B = {settings['mega_batches']} mega-batches; two hidden"
        f" layers, Adadelta at rate 1, batch 128, a tenth held out, at most {settings['epochs']} epochs a"
        f" stage, ending {settings['patience']} after the best validation loss. CER is the sum of the test"
        " errors after each mega-batch (a random answer's before the first training); memory the sum of the"
        " parameters that answered; FLOPs those of learning, validation included, testing not. Ens and UMix"
        " have 5 nets with the same batches; gEns adds a net at each stage; gMoE splits one expert in each"
        " layer about ten times in all. root and swarm are this system in one process: random convolutions"
        f" (K = {settings['filters']}), exact sums, one solution a stage, and for swarm a correction of width"
        " 64 where validation accepts it; beside what answers they keep their sums, M (M + 1) / 2 numbers."
        " Mean ± standard deviation over the seeds; a difference counts where a one-sided paired t test at"
        " 95 % sees it. The best waiting time of each is read off the same test errors."
    )


def _claims(claims: Sequence[Claim]) -> str:
    body = [[claim.text, f"**{claim.verdict}**", claim.evidence] for claim in claims]
    return markdown_table(["claim", "verdict", "evidence"], body)


def _table(points: Sequence[Point]) -> str:
    order = list(TITLES)
    ranked = sorted(
        points,
        key=lambda p: (
            p.any_run["replay"],
            order.index(p.any_run["learner"]),
            p.any_run["width"],
            wait_of(p),
        ),
    )
    body = [
        [
            point.title,
            str(wait_of(point)),
            f"{point.mean('cer'):.2f} ± {point.sd('cer'):.2f}",
            f"{point.mean('final_error'):.3f}",
            f"{point.mean('flops_forward'):.2e}",
            f"{point.mean('flops_total'):.2e}",
            f"{point.mean('memory_sum'):.2e}",
            f"{point.mean('parameters'):,.0f}",
            f"{point.mean('learning_cpu_s'):.1f}",
            str(len(point.runs)),
        ]
        for point in ranked
    ]
    header = ["", "w", "CER", "final error", "FLOPs forward", "FLOPs", "memory", "parameters at the end"]
    return markdown_table([*header, "CPU s", "seeds"], body)


def alma_panels(runs: Sequence[Run]) -> list[Panel]:
    """Return for each collection CER against FLOPs and against memory, and the small SM's error over time."""
    panels = []
    for collection, title in COLLECTIONS.items():
        points = points_of(runs, collection)
        if not points:
            continue
        panels += [
            Panel(
                title=f"{title}: CER against {called}",
                x_label=label,
                y_label="CER (sum of test errors)",
                series=_fronts(points, cost),
                log_x=True,
                log_y=True,
            )
            for cost, called, label in (
                ("flops_total", "compute", "FLOPs of learning"),
                ("memory_sum", "memory", "parameters, summed over mega-batches"),
            )
        ]
        curves = [
            Series(
                label=f"w = {wait_of(point)}",
                x=range(1, 1 + len(point.any_run["errors"])),
                y=[
                    statistics.fmean(part)
                    for part in zip(*(r["errors"] for r in point.runs.values()), strict=True)
                ],
                marked=False,
            )
            for point in sorted(those(points, ("sm",), SMALL), key=wait_of)
            if not point.any_run["replay"]
        ]
        if curves:
            panels.append(
                Panel(
                    title=f"{title}: SM, width {SMALL}",
                    x_label="mega-batches",
                    y_label="test error",
                    series=curves,
                )
            )
    return panels


def _fronts(points: Sequence[Point], cost: str) -> list[Series]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.title, []).append(point)
    return [
        Series(
            label=title,
            x=[point.mean(cost) for point in sorted(own, key=wait_of)],
            y=[point.mean("cer") for point in sorted(own, key=wait_of)],
            names=[f"w{wait_of(point)}" for point in sorted(own, key=wait_of)],
        )
        for title, own in groups.items()
    ]
