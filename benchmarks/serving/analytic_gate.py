"""`python -m benchmarks.serving.analytic_gate [--data-dir DIR]`: the analytic gate at many leaves, into
serving-analytic-gate.json.

Two stages (an index lists regions, their columns decide) beside the full solution (all columns), one query at
a time: how often the leaf that scores highest is the same, what both take, and what they hold in memory.
Leaves are those of `instruments.py`, with one class and 1 to 4 times as many samples as each other. BLAS has
one thread. Figures are the mean over seeds of the queries; the gate is the same.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from benchmarks.results_file import machine, over_seeds, write_result
from benchmarks.serving.instruments import Floats, ManyLeaves
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.indexed_columns import IndexedColumns
from swarm.gating.prototype_gate import PrototypeGate

SIZES = (1_000, 10_000, 100_000)
RIDGE, FIXED_POINT, MOST, TEMPERATURE = 300.0, 32.0, 4.0, 0.1
_AT_ONCE, _FULL_LOOKUPS = 2048, 60


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data-dir", type=Path, help="a folder of the four collections (else: digits)")
    found.add_argument("--sizes", default=",".join(map(str, SIZES)), help="leaves (%(default)s)")
    found.add_argument("--seeds", default="0,1,2", help="of the queries (%(default)s)")
    found.add_argument("--queries", type=int, default=500)
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


def gates_of(leaves: ManyLeaves, count: int) -> tuple[AnalyticGate, PrototypeGate]:
    """Return the gate solved over so many leaves, and their prototypes, one each."""
    rng = np.random.default_rng(5)
    samples = 10.0 * np.exp(rng.uniform(0, np.log(MOST), count))
    gram = leaves.gram(count, rng) * FIXED_POINT**2 * samples.sum()
    factor = cho_factor(gram + RIDGE * FIXED_POINT**2 * np.eye(leaves.size))
    means = np.empty((count, leaves.size), dtype=np.float32)
    weights = np.empty((leaves.size, count), dtype=np.float32)
    for first in range(0, count, _AT_ONCE):
        last = min(first + _AT_ONCE, count)
        means[first:last] = leaves.means(first, last)
        weights[:, first:last] = cho_solve(
            factor, (FIXED_POINT * samples[first:last, None] * means[first:last]).T
        )
    gate = AnalyticGate(
        weights=weights,
        leaf_rows=np.arange(count),
        class_rows=np.arange(count) % leaves.kinds,
        leaves=count,
        classes=leaves.kinds,
        fixed_point=FIXED_POINT,
        has_constant=True,
    )
    prototypes = PrototypeGate(
        prototypes=means,
        leaf_rows=np.arange(count, dtype=np.int32),
        log_prior=np.log1p(samples).astype(np.float32),
        radii=np.ones((count, 3), dtype=np.float32),
        leaves=count,
        temperature=1.0,
    )
    return gate, prototypes


def measured(leaves: ManyLeaves, count: int, queries: int, seeds: list[int]) -> dict[str, float]:
    """Return the figures of a gate of so many leaves."""
    gate, prototypes = gates_of(leaves, count)
    began = time.perf_counter()
    indexed = IndexedColumns.made(gate, prototypes)
    found = {"build_s": time.perf_counter() - began}
    found |= {"gate_mb": gate.weights.nbytes / 1e6, "index_mb": indexed.index.size_bytes / 1e6}
    return found | over_seeds(
        [_asked(gate, indexed, *leaves.queries(count, queries, seed)) for seed in seeds]
    )


def _asked(gate: AnalyticGate, indexed: IndexedColumns, asked: Floats, own: Any) -> dict[str, float]:
    full = np.concatenate([gate.scores(asked[at : at + 50]) for at in range(0, len(asked), 50)])
    ranked = np.argsort(-full, axis=1)[:, :2]
    listed = [indexed.shortlist(query[None], TEMPERATURE) for query in asked]
    tops = np.array([each.leaves[0, np.argsort(-each.weights[0], kind="stable")[:2]] for each in listed])
    two_stages = _taken_ms(lambda one: indexed.shortlist(one[None], TEMPERATURE), asked)
    product = _taken_ms(lambda one: gate.scores(one[None]), asked[:_FULL_LOOKUPS])
    whole = _taken_ms(
        lambda one: gate.leaf_weights(gate.scores(one[None]), TEMPERATURE), asked[:_FULL_LOOKUPS]
    )
    return {
        "ms": float(np.median(two_stages)),
        "mean_ms": float(np.mean(two_stages)),
        "p99_ms": float(np.quantile(two_stages, 0.99)),
        "product_ms": float(np.median(product)),
        "full_ms": float(np.median(whole)),
        "over_full": float(np.median(two_stages) / np.median(whole)),
        "agreement": float((tops[:, 0] == ranked[:, 0]).mean()),
        "top2_agreement": float((tops == ranked).all(axis=1).mean()),
        "accuracy": float((tops[:, 0] == own).mean()),
        "full_accuracy": float((ranked[:, 0] == own).mean()),
    }


def _taken_ms(lookup: Callable[[Any], object], rows: Any) -> list[float]:
    taken = []
    for row in rows:
        started = time.perf_counter()
        lookup(row)
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def main() -> None:
    arguments = parser().parse_args()
    print(machine(), file=sys.stderr)
    figures: dict[str, float] = {}
    leaves = ManyLeaves(arguments.data_dir)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for size in map(int, arguments.sizes.split(",")):
        with threadpool_limits(limits=1):
            found = measured(leaves, size, arguments.queries, seeds)
        print(
            f"{size}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), file=sys.stderr
        )
        figures |= {f"analytic_gate_{size}_{name}": value for name, value in found.items()}
    largest = f"analytic_gate_{max(SIZES)}_"
    if f"{largest}ms" in figures:
        headlines = {
            "analytic_gate_ms_100k": figures[f"{largest}ms"],
            "analytic_gate_agreement_100k": figures[f"{largest}agreement"],
        }
        figures = headlines | figures
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if not arguments.dry_run:
        write_result("serving-analytic-gate", figures | {"kinds": leaves.kinds, "queries": arguments.queries})


if __name__ == "__main__":
    main()
