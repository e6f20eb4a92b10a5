"""`python -m benchmarks.unbalanced_classes --data-dir DIR [--seeds 0,1,2]`: a root for unbalanced classes.

Characters come in 15 drawings each and stay; of MNIST, USPS and Fashion-MNIST more and more samples come;
each has its owner. The roots are least squares as it is, with each class weighed by n^-1/2 (as far as sums
allow), with its columns divided by n^1/2 afterwards, and linear discriminants: with a mean for each class and
a scatter that counts samples, or owners, with a mean for each class of each owner, and, as in a gate, with
each owner's own scatter among its classes too. The ridge of each is chosen on validation samples, the
accuracies are on test samples.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from benchmarks.results_file import over_seeds, write_result
from benchmarks.soak_growth.story import tell_story
from swarm.experts.trunk import Trunk, make_trunk
from swarm.gating.class_columns import ClassColumns
from swarm.gating.discriminants import class_samples, discriminants, scatter_weights
from swarm.gating.owner_discriminants import solve_by_class
from swarm.gating.ridge import RIDGES, OwnerSums, total_sums, weight_by_owner
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns

NAME, TRUNK, SCALE = "unbalanced-classes", "randconv-sqrt:200", 1 / 255
KEPT, GROWING, AT_MOST = "characters", ("mnist", "usps", "fashion"), (300, 1000, 3000, 6000)
VALIDATION = 5
"""Every fifth training sample chooses the ridge and trains nothing."""
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Features in fixed point int16 [N, M] and classes int64 [N] of one domain, in the order of arrival."""

    q: NDArray[np.int16]
    labels: Rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """What owners give: their sums, all with the classes `known` as columns [M, C]."""

    owners: Sequence[OwnerSums]
    known: Rows
    fixed_point: float

    @property
    def columns(self) -> Doubles:
        """Each class's sum of features [M, C]."""
        return self._added(weight_by_owner(self.owners))

    @property
    def samples(self) -> Doubles:
        return class_samples(self.columns, self.fixed_point)

    def weighed(self, power: float, divided: float = 0.0) -> list[ClassColumns]:
        """Return least squares with class weights n^-power for each ridge: between the classes exactly,
        within them by the scatter that they have in common; columns divided by n^divided."""
        rows = np.arange(len(self.known))
        return [self._columns(root / self.samples**divided, rows) for root in self._least_squares(power)]

    def _columns(self, root: Doubles, rows: Rows, owners: Rows | None = None) -> ClassColumns:
        return ClassColumns(
            weights=root.astype(np.float32),
            rows=self.known[rows],
            classes=int(self.known.max()) + 1,
            owners=owners,
        )

    def _least_squares(self, power: float = 0.0) -> Doubles:
        samples = self.samples
        weights = samples**-power
        weights *= samples.sum() / (weights @ samples)
        means = self.columns / samples
        base = (
            total_sums(self.owners, weight_by_owner(self.owners))
            + (means * (samples * (weights - 1))) @ means.T
        )
        return self._solved(base, self.columns * weights)

    def discriminants(
        self, weigh: Callable[[Sequence[OwnerSums]], Mapping[str, float]], *, by_owner: bool = False
    ) -> list[ClassColumns]:
        """Return those whose scatter weighs owners so, for each ridge; `by_owner`: a mean for each class of
        each owner."""
        weight_of = weigh(self.owners)
        scattered, columns = self._added(weight_of), self.columns
        rows: Rows = np.arange(len(self.known))
        if by_owner:
            plain = weight_by_owner(self.owners)
            scattered = np.concatenate([weight_of[each.owner] * each.columns for each in self.owners], axis=1)
            columns = np.concatenate([plain[each.owner] * each.columns for each in self.owners], axis=1)
            fed = np.flatnonzero(class_samples(columns, self.fixed_point) > 0)
            rows = np.tile(rows, len(self.owners))[fed]
            scattered, columns = scattered[:, fed], columns[:, fed]
        total = total_sums(self.owners, weight_of)
        found = discriminants(total, scattered, columns, rows, RIDGES, self.fixed_point)
        assert found is not None, "exact sums are positive definite"
        return [self._columns(root, rows) for root in found]

    def served(self) -> list[ClassColumns]:
        """Return what a gate of these sums is, for each ridge."""
        found = solve_by_class(
            self.owners,
            np.concatenate([each.columns for each in self.owners], axis=1),
            np.tile(np.arange(len(self.known)), len(self.owners)),
            np.repeat(np.arange(len(self.owners)), len(self.known)),
            RIDGES,
            self.fixed_point,
            self._least_squares(),
        )
        assert found is not None, "exact sums are positive definite"
        return [self._columns(root, found.targets, found.owners) for root in found.weights]

    def _added(self, weight_of: Mapping[str, float]) -> Doubles:
        added: Doubles = np.sum([weight_of[each.owner] * each.columns for each in self.owners], axis=0)
        return added

    def _solved(self, base: Doubles, targets: Doubles) -> Doubles:
        found = []
        for ridge in RIDGES:
            work = base.copy()
            work[np.diag_indices(len(work))] += ridge * self.fixed_point**2
            found.append(cho_solve(cho_factor(work, overwrite_a=True, check_finite=False), targets))
        return np.stack(found)


ROOTS: Mapping[str, Callable[[Sums], list[ClassColumns]]] = {
    "least squares": lambda sums: sums.weighed(0.0),
    "classes weighed": lambda sums: sums.weighed(0.5),
    "columns divided": lambda sums: sums.weighed(0.0, divided=0.5),
    "one mean, scatter by samples": lambda sums: sums.discriminants(weight_by_owner),
    "one mean, scatter by owners": lambda sums: sums.discriminants(scatter_weights),
    "a mean for each owner": lambda sums: sums.discriminants(scatter_weights, by_owner=True),
    "discriminants": lambda sums: sums.served(),
}


def load(folder: Path, seed: int) -> tuple[dict[str, Part], dict[str, Part], float]:
    """Return each domain's training and test samples, shuffled by seed, and the trunk's fixed point."""
    reference, blobs = make_trunk(TRUNK, (28, 28), scale=SCALE, offset=0.0, seed=0)
    trunk = Trunk.load(reference, lambda digest: memoryview(blobs[digest]), scale=SCALE, offset=0.0)
    domains = {name: tell_story(folder, 20, seed).domains[name] for name in (KEPT, *GROWING)}
    names = sorted({name for domain in domains.values() for name in domain.training.class_names})
    rng, parts = np.random.default_rng(seed), []
    for which in ("training", "test"):
        found = {}
        for name, domain in domains.items():
            data = getattr(domain, which)
            rows = rng.permutation(len(data))[: max(AT_MOST) if name != KEPT else None]
            features = trunk.features(data.inputs[rows])
            found[name] = Part(
                q=quantised(features, reference.fixed_point, reference.has_constant),
                labels=data.labels_among(names)[rows],
            )
        parts.append(found)
    return parts[0], parts[1], reference.fixed_point


def measured(folder: Path, seed: int) -> dict[str, float]:
    """Return test accuracies by root, number of samples and domain."""
    training, test, fixed_point = load(folder, seed)
    classes = 1 + max(int(part.labels.max()) for part in training.values())
    figures = {}
    for most in AT_MOST:
        fed = {
            name: len(part.q) if name == KEPT else min(most, len(part.q)) for name, part in training.items()
        }
        teaching, choosing = (
            {
                name: (part.q[: fed[name]][rows], part.labels[: fed[name]][rows])
                for name, part in training.items()
                if len(rows := _rows(fed[name], which))
            }
            for which in (False, True)
        )
        known = np.unique(np.concatenate([labels for _, labels in teaching.values()]))
        owners = [
            OwnerSums(
                owner=name,
                samples=len(q),
                columns=target_columns(q, labels, classes)[:, known],
                exact=pack_triangle(exact_gram(q)),
            )
            for name, (q, labels) in teaching.items()
        ]
        sums = Sums(owners=owners, known=known, fixed_point=fixed_point)
        for name, make in ROOTS.items():
            roots = make(sums)
            right = [np.mean([_accuracy(root, *each) for each in choosing.values()]) for root in roots]
            root = roots[int(np.argmax(right))]
            for domain, part in test.items():
                figures[f"{name}.{most}.{domain}"] = _accuracy(root, part.q, part.labels)
    return figures


def _rows(count: int, validation: bool) -> Rows:
    rows: Rows = np.arange(count)
    return rows[(rows % VALIDATION == VALIDATION - 1) == validation]


def _accuracy(root: ClassColumns, q: NDArray[np.int16], labels: Rows) -> float:
    here = np.isin(labels, root.known)
    return float(root.right(q[here], labels[here]).mean())


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.unbalanced_classes")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    started = time.monotonic()
    runs = [measured(options.data_dir, int(seed)) for seed in options.seeds.split(",")]
    figures = over_seeds(runs)
    domains = (KEPT, *GROWING)
    print(f"| root | samples of each other domain | {' | '.join(domains)} |")
    print("|---|---|" + "---|" * len(domains))
    for name in ROOTS:
        for most in AT_MOST:
            cells = [
                f"{figures[f'{name}.{most}.{domain}']:.3f} ± {figures[f'{name}.{most}.{domain}.spread']:.3f}"
                for domain in domains
            ]
            print(f"| {name} | {most} | {' | '.join(cells)} |")
    figures |= {"seeds": float(len(runs)), "wall_time_s": time.monotonic() - started}
    print(write_result(NAME, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
