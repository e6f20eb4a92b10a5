"""What a new leaf's expert starts from: the best of peers' experts, the root and random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.jobs import Lender
from node.loans import MOST_WANTED, Loan
from swarm.domain.errors import SwarmError
from swarm.domain.ids import ROOT_EXPERT, ExpertId
from swarm.domain.manifests import NetReference
from swarm.experts.borrowing import RANDOM, Candidate, Net, head_start, rank_candidates
from swarm.experts.factories import is_built_in
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.weights import load_net, warm_start
from swarm.gating.distances import squared_distances
from swarm.modules.packing import ReadBlob, unpack

SEARCHED_ROWS = 1000
"""Nearness to prototypes is judged on at most so many samples of the shard."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """The net that training begins with. `borrowed_from` is empty for random weights; `metrics` say how the
    choice came about (they go into the manifest), `flops` what it cost, `is_noted` that its message is for
    the person who trains also without them."""

    net: Net
    reference: NetReference
    borrowed_from: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    flops: int = 0
    message: str = "starts from random weights"
    is_noted: bool = False


def nearest_experts(
    regions: NDArray[np.float32], lenders: Sequence[Lender], read: ReadBlob, *, seed: int
) -> tuple[tuple[ExpertId, ...], int]:
    """Return the lenders' experts, nearest first, at most MOST_WANTED, and the FLOPs of finding them.

    regions [N, R] are the samples' features in region columns. A lender's distance is the mean over the
    samples of the squared distance to its nearest prototype.
    """
    rows = np.random.default_rng(seed).permutation(len(regions))[:SEARCHED_ROWS]
    points = regions[np.sort(rows)].astype(np.float64)
    nearness: dict[ExpertId, float] = {}
    flops = 0
    for lender in lenders:
        prototypes = unpack((lender.prototypes,), read)[lender.prototypes.name].astype(np.float64)
        if prototypes.ndim != 2 or prototypes.shape[1] != points.shape[1]:
            continue
        mean = float(squared_distances(points, prototypes).min(axis=1).mean())
        nearness[lender.expert] = min(mean, nearness.get(lender.expert, np.inf))
        flops += 2 * len(points) * prototypes.size
    ordered = sorted(nearness, key=lambda expert: (nearness[expert], expert))
    return tuple(ordered[:MOST_WANTED]), flops


def choose_start(
    fresh: Net,
    reference: NetReference,
    class_names: Sequence[str],
    loans: Sequence[Loan],
    read: ReadBlob,
    training: Samples,
    validation: Samples,
    *,
    import_paths: Sequence[str],
    seed: int,
    tell: Callable[[str], None],
) -> Start:
    """Return the start for a leaf whose randomly initialised net is `fresh`, built from `reference`.

    A loan that cannot be loaded is told and left out. The best of the others, unless random weights rank
    above it, has a few steps to show that it helps; if it is not ahead then, random weights are taken: they
    win ties. The root is ranked for what it tells: it has no weights to train on from, and what builds on it
    is the correction (`swarm train --refine`).
    """
    candidates, by_name = [Candidate(name=RANDOM, net=fresh)], {}
    for loan in loans:
        try:
            candidates.append(Candidate(name=loan.name, net=_built(loan, read, import_paths)))
            by_name[loan.name] = loan
        except SwarmError as error:
            tell(f"{loan.name} is not borrowed: {error}")
    if not by_name:
        return Start(net=fresh, reference=reference)
    ranked = rank_candidates(candidates, training, validation, seed=seed)
    accuracy = {entry.name: entry.accuracy for entry in ranked}
    flops = sum(entry.flops for entry in ranked)
    passed_over = {name for name, loan in by_name.items() if loan.expert == ROOT_EXPERT} | {RANDOM}
    best = next((entry for entry in ranked if entry.name not in passed_over), None)
    metrics = {
        "borrow_candidates": float(len(ranked)),
        "borrow_knn": best.accuracy if best is not None else accuracy[RANDOM],
        "borrow_knn_random": accuracy[RANDOM],
        "borrow_flops": float(flops),
    }
    table = ", ".join(f"{entry.name} {entry.accuracy:.3f}" for entry in ranked)
    if best is None or best.accuracy < accuracy[RANDOM]:
        message = f"starts from random weights (nearest neighbours: {table})"
        return Start(net=fresh, reference=reference, metrics=metrics, flops=flops, message=message)
    loan = by_name[best.name]
    try:
        own = net_reference(loan.net.factory, reference.input_shape, len(class_names), import_paths)
        net = build_net(own, import_paths)
        warm_start(net, loan.modules, read, loan.class_names, class_names)
    except SwarmError as error:
        message = f"starts from random weights: {best.name} cannot have {len(class_names)} classes: {error}"
        return Start(net=fresh, reference=reference, metrics=metrics, flops=flops, message=message)
    trial = head_start(net, fresh, training, validation, seed=seed)
    flops += trial.flops
    metrics |= {
        "borrow_flops": float(flops),
        f"borrow_accuracy_at_{trial.steps}": trial.borrowed,
        f"borrow_nll_at_{trial.steps}": trial.borrowed_nll,
        f"random_accuracy_at_{trial.steps}": trial.random,
        f"random_nll_at_{trial.steps}": trial.random_nll,
    }
    found = (
        f"after {trial.steps} steps validation accuracy {trial.borrowed:.3f}, loss {trial.borrowed_nll:.3g};"
        f" from random weights {trial.random:.3f}, {trial.random_nll:.3g}; nearest neighbours: {table}"
    )
    if not trial.helped:
        message = f"starts from random weights: {best.name} did not help ({found})"
        return Start(net=fresh, reference=reference, metrics=metrics, flops=flops, message=message)
    return Start(
        net=net,
        reference=own,
        borrowed_from=loan.manifest,
        metrics=metrics,
        flops=flops,
        message=f"borrows from {best.name} ({found})",
    )


def _built(loan: Loan, read: ReadBlob, import_paths: Sequence[str]) -> Net:
    """Return a loan's net with its weights; a user's own factory must be the code that it was made with."""
    if not is_built_in(loan.net.factory):
        here = net_reference(loan.net.factory, loan.net.input_shape, loan.net.classes, import_paths)
        if here.code_digest != loan.net.code_digest:
            raise SwarmError(
                f"net {loan.net.factory}",
                found=f"code with digest {here.code_digest[:12]}",
                expected=f"digest {loan.net.code_digest[:12]}",
                remedy="install the version of the code that the lender uses",
            )
    net = build_net(loan.net, import_paths)
    load_net(net, loan.modules, read)
    return net
