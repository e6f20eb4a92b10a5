"""`python -m benchmarks.unbalanced_classes.over_a_day --data-dir DIR [--seed 0]`: the root of a growing day.

The never-ending day (`benchmarks.soak_growth`) without its processes: after so many of its mega-batches, the
root of the sums of all that its owners were fed with. Accuracy is on 4000 training images of each domain that
the day feeds to nobody (characters: its test images), so that what is chosen by these figures is not chosen
by the day's. One covariance for all owners is what one gets without each owner's own; with each owner's own,
`common` and `handicap` of `solve_by_class` are tried. `forgotten` is what a domain lost since it was fed
last, in points.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import write_result
from benchmarks.soak_growth.story import Story, tell_story
from benchmarks.unbalanced_classes.tried_roots import LEAST_SQUARES, roots_of
from swarm.experts.trunk import Trunk, make_trunk
from swarm.gating.class_columns import ClassColumns
from swarm.gating.sums import quantised

NAME, TRUNK, SCALE = "root-over-a-day", "randconv-sqrt:200", 1 / 255
LENGTH, LOOKS = 200, (80, 100, 120, 130, 160, 180, 200)
RIDGE, HELD_BACK = 100.0, 4000
Features = NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fed:
    """What one mega-batch gives: features in fixed point int16 [N, M], and targets `domain/class` [N]."""

    number: int
    node: str
    q: Features
    targets: NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Day:
    """Its mega-batches, and by domain what judges: features and class names [N]."""

    story: Story
    fed: Sequence[Fed]
    judged: Mapping[str, tuple[Features, NDArray[np.str_]]]
    fixed_point: float


def load(folder: Path, seed: int) -> Day:
    """Return the day's features. NotFoundError says which collection is missing."""
    reference, blobs = make_trunk(TRUNK, (28, 28), scale=SCALE, offset=0.0, seed=0)
    trunk = Trunk.load(reference, lambda digest: memoryview(blobs[digest]), scale=SCALE, offset=0.0)
    story, rng = tell_story(folder, LENGTH, seed), np.random.default_rng(seed)

    def featured(images: NDArray[np.generic]) -> Features:
        return quantised(trunk.features(images), reference.fixed_point, reference.has_constant)

    fed = []
    for feeding in story.feedings:
        data = story.domains[feeding.domain].training
        names = np.array(data.class_names)[data.labels[feeding.rows]]
        targets = np.char.add(f"{feeding.domain}/", names)
        q = featured(data.inputs[feeding.rows])
        fed.append(Fed(number=feeding.number, node=feeding.node, q=q, targets=targets))
    judged = {}
    for name, domain in story.domains.items():
        used = [feeding.rows for feeding in story.feedings if feeding.domain == name]
        free = np.setdiff1d(np.arange(len(domain.training)), np.concatenate(used))
        data = domain.test if name == "characters" else domain.training
        rows = np.arange(len(data)) if name == "characters" else rng.permutation(free)[:HELD_BACK]
        judged[name] = featured(data.inputs[rows]), np.array(data.class_names)[data.labels[rows]]
    return Day(story=story, fed=fed, judged=judged, fixed_point=reference.fixed_point)


def roots_after(day: Day, look: int) -> tuple[dict[str, ClassColumns], list[str]]:
    """Return the roots by name, and the classes' names."""
    of_node: dict[str, list[Fed]] = {}
    for each in day.fed:
        if each.number < look:
            of_node.setdefault(each.node, []).append(each)
    given = {
        node: (np.concatenate([each.q for each in parts]), np.concatenate([each.targets for each in parts]))
        for node, parts in of_node.items()
    }
    roots, class_names = roots_of(given, (RIDGE,), day.fixed_point)
    return {name: of_ridge for name, (of_ridge,) in roots.items() if name != LEAST_SQUARES}, class_names


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.unbalanced_classes.over_a_day")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, day = time.monotonic(), load(options.data_dir, options.seed)
    last_fed, figures, when_fed = day.story.last_fed, {}, {}
    print(f"| root | after | {' | '.join(day.judged)} |")
    print("|---|---|" + "---|" * len(day.judged))
    for look in LOOKS:
        roots, class_names = roots_after(day, look)
        for name, root in sorted(roots.items()):
            cells = []
            for domain, (q, truth) in day.judged.items():
                known = np.isin(truth, class_names)
                began = any(
                    each.number < look for each in day.fed if each.targets[0].startswith(f"{domain}/")
                )
                if not began or not known.any():
                    cells.append("")
                    continue
                rows = np.searchsorted(class_names, truth[known])
                accuracy = float(root.right(q[known], rows).mean())
                figures[f"{name}.{look}.{domain}"] = accuracy
                cells.append(f"{accuracy:.3f}")
                if look > last_fed[domain]:
                    lost = 100 * (when_fed.setdefault((name, domain), accuracy) - accuracy)
                    figures[f"{name}.forgotten.{domain}"] = lost
            print(f"| {name} | {look} | {' | '.join(cells)} |", flush=True)
    for name in sorted(roots):
        lost = [figures.get(f"{name}.forgotten.{domain}") for domain in day.judged]
        cells = ["" if each is None else f"{each:.2f}" for each in lost]
        print(f"| {name} | forgotten | {' | '.join(cells)} |")
    figures |= {"seed": float(options.seed), "wall_time_s": time.monotonic() - started}
    print(write_result(NAME, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
