"""`python -m benchmarks.unbalanced_classes.one_domain --data-dir DIR [--seeds 0,1,2]`: owners of one domain.

MNIST shared out so that classes are unbalanced: five owners who all have the ten digits, so many of each and
4.5 times as many zeros; and two owners with five digits each, one digit eight times the others. A covariance
of each owner's own has little to know here, and classes that others have too. Least squares, one covariance,
and each owner's own with more or less of the common one; ridge by validation samples, accuracy on test ones.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import over_seeds, write_result
from benchmarks.soak_growth.story import tell_story
from benchmarks.unbalanced_classes.tried_roots import roots_of
from swarm.experts.trunk import Trunk, make_trunk
from swarm.gating.ridge import RIDGES
from swarm.gating.sums import quantised

NAME, TRUNK, SCALE, DIGITS = "unbalanced-one-domain", "randconv-sqrt:200", 1 / 255, 10
VALIDATION = 3000
Rows = NDArray[np.int64]
Part = tuple[NDArray[np.int16], Rows]


def cases(labels: Rows, rng: np.random.Generator) -> Mapping[str, Sequence[Rows]]:
    """Return the rows of each owner by case; labels int64 [N]."""
    found: dict[str, Sequence[Rows]] = {}
    for count in (10, 20, 80):
        left = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(DIGITS)]
        wanted = [round(4.5 * count) if digit == 0 else count for digit in range(DIGITS)]
        found[f"five owners, {count} of each"] = [
            np.concatenate([rows[n * place : n * (place + 1)] for rows, n in zip(left, wanted, strict=True)])
            for place in range(5)
        ]
    left = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(DIGITS)]
    found["digits 0-4 and 5-9"] = [
        np.concatenate([rows[: 400 if digit == 4 else 50] for digit, rows in enumerate(left)][first:last])
        for first, last in ((0, 5), (5, 10))
    ]
    return found


def measured(folder: Path, seed: int) -> dict[str, float]:
    """Return test accuracies by case and root."""
    reference, blobs = make_trunk(TRUNK, (28, 28), scale=SCALE, offset=0.0, seed=0)
    trunk = Trunk.load(reference, lambda digest: memoryview(blobs[digest]), scale=SCALE, offset=0.0)
    domain, rng = tell_story(folder, 20, seed).domains["mnist"], np.random.default_rng(seed)
    rows = rng.permutation(len(domain.training))[: 8000 + VALIDATION]

    def part(images: NDArray[np.generic], labels: Rows) -> Part:
        return quantised(trunk.features(images), reference.fixed_point, reference.has_constant), labels

    q, labels = part(domain.training.inputs[rows], domain.training.labels[rows].astype(np.int64))
    choosing, teaching = (q[:VALIDATION], labels[:VALIDATION]), (q[VALIDATION:], labels[VALIDATION:])
    test = part(domain.test.inputs, domain.test.labels.astype(np.int64))
    figures = {}
    for case, shares in cases(teaching[1], rng).items():
        given = {
            f"node-{place}": (teaching[0][rows], np.char.add("/", teaching[1][rows].astype(str)))
            for place, rows in enumerate(shares)
        }
        for name, roots in roots_of(given, RIDGES, reference.fixed_point)[0].items():
            right = [root.right(*choosing).mean() for root in roots]
            figures[f"{case}.{name}"] = float(roots[int(np.argmax(right))].right(*test).mean())
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.unbalanced_classes.one_domain")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    started = time.monotonic()
    runs = [measured(options.data_dir, int(seed)) for seed in options.seeds.split(",")]
    figures = over_seeds(runs)
    names = list(dict.fromkeys(key.split(".", 1)[0] for key in runs[0]))
    roots = list(dict.fromkeys(key.split(".", 1)[1] for key in runs[0]))
    print(f"| root | {' | '.join(names)} |")
    print("|---|" + "---|" * len(names))
    for root in roots:
        cells = [
            f"{figures[f'{name}.{root}']:.3f} ± {figures[f'{name}.{root}.spread']:.3f}" for name in names
        ]
        print(f"| {root} | {' | '.join(cells)} |")
    figures |= {"seeds": float(len(runs)), "wall_time_s": time.monotonic() - started}
    print(write_result(NAME, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
