"""`python -m benchmarks.serving.gate_lookup`: one query's lookup in a gate of many prototypes, into
serving-gate-lookup.json.

A lookup is from features to leaf weights: exact (`PrototypeGate.leaf_weights`) or by the index. Recall is how
often the index finds the nearest prototype, and how often the two heaviest leaves are the exact gate's in
their order, of the queries whose second leaf is above the floor. Figures without a kind are of `overlapping`
data (`mixtures.py`); other kinds are measured with the first seed alone. BLAS has one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.results_file import machine, over_seeds, write_result
from benchmarks.serving.mixtures import KINDS, Leaves, leaves_of
from swarm.gating.distances import squared_distances
from swarm.gating.indexed_prototypes import IndexedPrototypes
from swarm.gating.point_index import PointIndex
from swarm.gating.prototype_gate import DEFAULT_FACTOR, PrototypeGate

SIZES = (1_000, 10_000, 100_000)
PROTOTYPES_EACH = 10
_EXACT_LOOKUPS = 200
_HEADLINE = "overlapping"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", default=",".join(map(str, SIZES)), help="prototypes (%(default)s)")
    found.add_argument("--kinds", default=",".join(KINDS), help="data (%(default)s)")
    found.add_argument("--seeds", default="0,1,2", help="(%(default)s)")
    found.add_argument("--queries", type=int, default=1000)
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


def measured(kind: str, size: int, seed: int, queries: int) -> dict[str, float]:
    """Return one seed's figures of one kind of data at one size."""
    data = leaves_of(KINDS[kind], size // PROTOTYPES_EACH, PROTOTYPES_EACH, seed)
    asked, _ = data.drawn(queries, 1)
    gate = _gate(data)
    started = time.perf_counter()
    index = PointIndex.of(gate.prototypes, gate.radii)
    built_s = time.perf_counter() - started
    indexed = IndexedPrototypes(gate=gate, index=index)
    some = asked[:_EXACT_LOOKUPS]
    wide = gate.prototypes.astype(np.float64)
    nearest = np.concatenate([squared_distances(one[None], wide).argmin(axis=1) for one in asked])
    exact = np.concatenate([gate.leaf_weights(one[None]) for one in some])
    listed = indexed.shortlist(some, gate.temperature).dense()
    first, second = (np.argsort(-each, axis=1, kind="stable")[:, :2] for each in (exact, listed))
    above = np.take_along_axis(exact, first, axis=1)[:, 1] > 1e-9
    same = (first == second).all(axis=1)
    return {
        "exact_ms": _median_ms(lambda one: gate.leaf_weights(one[None]), some),
        "indexed_ms": _median_ms(lambda one: indexed.shortlist(one[None], gate.temperature), asked),
        "search_ms": _median_ms(lambda one: index.near(one, 64), asked),
        "recall": float((indexed.nearest(asked)[0] == nearest).mean()),
        "top2_recall": float(same[above].mean()) if above.any() else 1.0,
        "build_s": built_s,
        "index_mb": index.size_bytes / 1e6,
        **_faiss(gate, asked, nearest),
    }


def _gate(data: Leaves) -> PrototypeGate:
    gate = PrototypeGate(
        prototypes=data.prototypes,
        leaf_rows=data.leaf_rows,
        log_prior=np.log1p(data.counts).astype(np.float32),
        radii=data.radii,
        leaves=int(data.leaf_rows[-1]) + 1,
        temperature=1.0,
    )
    return gate.with_temperature(DEFAULT_FACTOR * gate.scale)


def _median_ms(lookup: Callable[[Any], object], rows: Any) -> float:
    taken = []
    for row in rows:
        started = time.perf_counter()
        lookup(row)
        taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))


def _faiss(gate: PrototypeGate, asked: Any, nearest: Any) -> dict[str, float]:
    """Return what faiss takes for the 64 nearest alone, where it is installed: its IVF with as few probes as
    find the nearest prototype as often as 99 of 100."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    cells = max(16, int(3 * np.sqrt(len(gate.prototypes))))
    started = time.perf_counter()
    found = faiss.index_factory(gate.feature_size, f"IVF{cells},Flat")
    found.train(gate.prototypes)
    found.add(gate.prototypes)
    built_s = time.perf_counter() - started
    recall, probes = 0.0, 1
    while recall < 0.99 and probes <= cells:
        found.nprobe = probes
        recall = float((found.search(asked, 1)[1][:, 0] == nearest).mean())
        probes += max(1, probes // 4)
    return {
        "faiss_search_ms": _median_ms(lambda one: found.search(one[None], 64), asked),
        "faiss_recall": recall,
        "faiss_build_s": built_s,
    }


def main() -> None:
    arguments = parser().parse_args()
    say(machine())
    figures: dict[str, float] = {}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for kind, size in product(arguments.kinds.split(","), map(int, arguments.sizes.split(","))):
        if kind != _HEADLINE and size < max(SIZES):
            continue
        with threadpool_limits(limits=1):
            runs = seeds if kind == _HEADLINE else seeds[:1]
            found = over_seeds([measured(kind, size, seed, arguments.queries) for seed in runs])
        say(f"{kind} {size}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        figures |= {f"{kind}_{size}_{name}": value for name, value in found.items()}
    largest = f"{_HEADLINE}_{max(SIZES)}_"
    if f"{largest}indexed_ms" in figures:
        headlines = {
            "gate_lookup_ms_100k": figures[f"{largest}indexed_ms"],
            "gate_recall_100k": figures[f"{largest}recall"],
        }
        figures = headlines | figures
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if not arguments.dry_run:
        write_result("serving-gate-lookup", figures | {"queries": arguments.queries, "seeds": len(seeds)})


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
