"""The training process's side of borrowing: say whose experts would help, and wait for them."""

import time
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.choosing_start import nearest_experts
from node.loans import LOANS_TIMEOUT_S, MOST_WANTED, Loan, Loans, Wanted
from node.preparing import FEATURES_FRACTION, Bench
from node.shards import Shard
from swarm.domain.ids import ExpertId

_LOOK_AGAIN_S = 0.1


def borrowed(
    bench: Bench, shards: Sequence[Shard], regions: NDArray[np.float32]
) -> tuple[tuple[Loan, ...], int]:
    """Return what peers lend for the new shards, and the FLOPs of finding out whom to ask.

    regions [N, R] are the training samples' features in region columns. Nothing is asked for where every
    leaf goes on from its own weights, in a dry run, or where no peer is known.
    """
    job = bench.job
    new = any(shard.existing is None for shard in shards)
    if not new or job.order.dry_run or not job.order.borrow or not job.lenders:
        return (), 0
    experts, flops = _nearest(bench, shards, regions)
    if not (bench.folder / Loans.FILE).exists():
        Wanted(experts=experts).write(bench.folder)
        bench.report("borrow", f"asks for {', '.join(experts)} and the root", FEATURES_FRACTION)
    loans = _awaited(bench.folder)
    if loans is None:
        bench.report("borrow", "nobody lent anything in time", FEATURES_FRACTION)
        return (), flops
    for expert, why in loans.refused.items():
        bench.report("borrow", f"{expert} is not lent: {why}", FEATURES_FRACTION)
    return loans.loans, flops


def interleaved(rankings: Sequence[Sequence[ExpertId]]) -> tuple[ExpertId, ...]:
    """Return all rankings as one: the first of each, then the second of each, nobody twice."""
    ranked = chain.from_iterable(zip_longest(*rankings))
    return tuple(dict.fromkeys(expert for expert in ranked if expert is not None))


def _nearest(
    bench: Bench, shards: Sequence[Shard], regions: NDArray[np.float32]
) -> tuple[tuple[ExpertId, ...], int]:
    job, read = bench.job, bench.read_from.open_verified
    new = [shard for shard in shards if shard.existing is None]
    found = [nearest_experts(regions[shard.rows], job.lenders, read, seed=job.order.seed) for shard in new]
    return interleaved([ranking for ranking, _ in found])[:MOST_WANTED], sum(flops for _, flops in found)


def _awaited(folder: Path) -> Loans | None:
    """Return the loans once the agent has written them, None when it takes too long."""
    deadline = time.monotonic() + 2 * LOANS_TIMEOUT_S
    while time.monotonic() < deadline:
        if (folder / Loans.FILE).exists():
            return Loans.read(folder)
        time.sleep(_LOOK_AGAIN_S)
    return None
