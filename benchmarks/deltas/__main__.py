"""`python -m benchmarks.deltas`: ratio and CPU of deltas for fine-tuned children, into deltas.json.

For each child and precision: `ratio` is the delta's bytes over the whole ones; `made_` and
`undone_cpu_ms_per_mb` are of the blob's megabytes; `break_even_mb_per_s` is the link below which a delta,
made before and undone after, is sooner there than the whole blob: (1 - ratio) / CPU seconds for a megabyte.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.deltas.training import family, weights
from benchmarks.results_file import machine, write_result
from swarm.modules.deltas import DeltaReader, delta_pieces, is_worth_a_delta

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data-dir", type=Path, help="a folder with fashion-mnist in it (else: digits)")
    found.add_argument("--steps", type=int, default=1000, help="optimiser steps of the parent")
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


def figures_of(
    parent: Sequence[NDArray[np.uint8]], child: Sequence[NDArray[np.uint8]], width: int, repeats: int
) -> dict[str, float]:
    """Return the figures of one child, medians over repeats; RuntimeError if it does not come back."""
    size = sum(len(each) for each in child)
    made_s, undone_s, packed = [], [], 0
    for _ in range(repeats):
        started = time.process_time()
        deltas = [
            list(delta_pieces(own.data, base.data, width)) for own, base in zip(child, parent, strict=True)
        ]
        made_s.append(time.process_time() - started)
        started = time.process_time()
        back = []
        for pieces, base in zip(deltas, parent, strict=True):
            reader = DeltaReader(base.data)
            back.append(b"".join(block for piece in pieces for block in reader.feed(piece)))
            reader.finish()
        undone_s.append(time.process_time() - started)
        packed = sum(len(piece) for pieces in deltas for piece in pieces)
        if back != [own.tobytes() for own in child]:
            raise RuntimeError("a delta does not give back its child")
    made, undone = statistics.median(made_s), statistics.median(undone_s)
    return {
        "ratio": packed / size,
        "made_cpu_ms_per_mb": made / size * 1e9,
        "undone_cpu_ms_per_mb": undone / size * 1e9,
        "break_even_mb_per_s": max(0.0, 1 - packed / size) / ((made + undone) / size) / 1e6,
        "is_sent": float(
            all(is_worth_a_delta(own.data, base.data, width) for own, base in zip(child, parent, strict=True))
        ),
    }


def main() -> None:
    arguments = parser().parse_args()
    source = str(arguments.data_dir / "fashion-mnist") if arguments.data_dir else "digits"
    print(f"{machine()}, {source}", file=sys.stderr)
    parent, children = family(source, arguments.steps, arguments.seed)
    figures: dict[str, float] = {}
    for precision, dtype in _PRECISIONS.items():
        base = weights(parent, dtype)
        for name, child in children.items():
            found = figures_of(base, weights(child, dtype), dtype.itemsize, arguments.repeats)
            figures |= {f"{precision}_{name}_{figure}": value for figure, value in found.items()}
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if not arguments.dry_run:
        write_result("deltas", figures | {"steps": arguments.steps, "repeats": arguments.repeats})


if __name__ == "__main__":
    main()
