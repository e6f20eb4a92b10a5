"""Take leaves out of a contribution: what is left is what it would have been without them."""

from dataclasses import replace

import numpy as np

from node.growth.bench import GrowthBench
from node.growth.changes import pruned
from node.growth.jobs import GrowthResult
from node.sums import GramSums, LeafSums, joined, narrowed
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.ids import LeafId


def remove_leaves(bench: GrowthBench) -> GrowthResult:
    """Return the contribution without the job's leaves: exact sums less their own, to the bit; compact ones
    joined anew from what is kept of the others. A sibling that is left alone takes the branch's place.

    Raises InvalidInputError where no leaf would be left, NotReadyError where sums that it takes are not kept.
    """
    job, laid = bench.job, bench.laid
    gone = [leaf.leaf for leaf in job.leaves]
    samples = sum(laid.leaf(leaf).samples for leaf in gone)
    if len(laid.leaves) <= len(gone):
        raise InvalidInputError(
            f"removal of {' and '.join(gone)}",
            found="the node's last leaf",
            expected="another one that stays",
            remedy="leave instead: swarm leave",
        )
    changed = laid.placed(pruned(laid.places(), gone))
    if laid.sums is not None:
        sums = _left(bench, laid.sums)
        if sums.samples != laid.sums.samples - samples:
            raise _not_kept(gone[0])
        changed = replace(changed, sums=sums)
    return GrowthResult(
        task="remove", leaves=(), contribution=changed.lay_down(bench.folder), notes=tuple(bench.notes)
    )


def _left(bench: GrowthBench, total: GramSums) -> GramSums:
    own = [sums.f for sums in map(bench.own_sums, bench.job.leaves) if sums is not None]
    grams = [f.gram for f in own if f.gram is not None]
    if total.gram is not None and len(grams) == len(bench.job.leaves):
        left = total.gram.astype(np.int64)
        for gram in grams:
            left -= gram
        return GramSums(samples=total.samples - sum(f.samples for f in own), gram=narrowed(left))
    others: list[LeafSums] = []
    for other in bench.job.others:
        kept = bench.own_sums(other)
        if kept is None:
            raise _not_kept(other.leaf)
        others.append(kept)
    sums, cost = joined(others, total.rank, bench.job.seed)
    bench.flops += cost
    return sums


def _not_kept(leaf: LeafId) -> NotReadyError:
    return NotReadyError(
        "removal",
        found=f"no sums of {leaf} alone that are kept",
        expected="each leaf's own sums, which training keeps",
        remedy="train once more: swarm train DATA",
    )
