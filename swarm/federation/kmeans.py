"""Regions in common: k-means over all nodes' features; centroids, sums and counts travel, never a sample.

Each node gives the centroids of its own k-means with their counts as candidates; the server seeds by them
(weighted k-means++ and Lloyd). Then Lloyd's rounds: the nodes sum their features per nearest centre. A
cluster with fewer samples at a node than the specification's minimum count is not sent. A centre that nobody
is nearest to moves to the candidate farthest from all centres. Source: Lloyd 1982; Arthur and Vassilvitskii
2007.

With `select` novel, regions are sought for what is new: each node clusters its novel samples alone, and those
with too few of them take no part.

Features count within what the trunk's fixed point holds, as in sums. So what a node says has bounds: at most
k candidates, centroids and means within that range, and it counts by at most UNBALANCED lower medians of the
nodes' samples. Within these bounds its word is taken.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.specification import Specification, TrunkReference
from swarm.federation.centres import (
    Counts,
    Doubles,
    Floats,
    cluster_sums,
    most_regions,
    next_centres,
    seed_centres,
)
from swarm.federation.messages import array_record, named_arrays
from swarm.federation.own_samples import (
    OwnSamples,
    asked,
    introduced,
    novel_features,
    own_features,
    own_samples,
)
from swarm.federation.progress import say, stage
from swarm.federation.rounds import (
    Answer,
    RunLimits,
    ask_nodes,
    check_counts,
    check_within,
    checked_array,
    checked_number,
    finish,
    most_samples,
    node_weights,
    specification_of,
    told_clipped,
)
from swarm.gating.distances import squared_distances
from swarm.gating.kmeans import lloyd_kmeans
from swarm.gating.regions import region_columns
from swarm.gating.sums import MAX_INT16

client_app = ClientApp()
server_app = ServerApp()

_TOLERANCE = 1e-4
_ROUNDING = 1.0 + 1e-5
"""Means and sums of numbers within a bound may be beyond it by so much."""


@client_app.query("candidates")
def give_candidates(message: Message, context: Context) -> Message:
    """Answer with the centroids float32 [m, R] of this node's own k-means and their counts int64 [m]."""
    question, samples = asked(message), own_samples(context)
    minimum = samples.specification.min_leaf_count
    features = _region_features(samples, question)
    k = min(int(question["k"]), len(features) // minimum)
    if k < 1:
        raise NotReadyError(
            f"data of node {samples.node}",
            found=f"{len(features)} training samples",
            expected=f"at least {minimum}, the least that a centroid may stand for",
        )
    found = lloyd_kmeans(features, k, seed=int(question["seed"]))
    counts = np.bincount(found.labels, minlength=k)
    kept = counts >= minimum
    if not kept.any():
        # Its clusters are all too small to be shown; the mean of everything is not.
        centres, counts = features.mean(axis=0, dtype=np.float64)[None].astype(np.float32), counts.sum()[None]
    else:
        centres, counts = found.centres[kept], counts[kept]
    arrays = {"centroids": centres.astype(np.float32), "counts": counts.astype(np.int64)}
    return Message(
        RecordDict({"arrays": array_record(arrays), "config": introduced(samples)}), reply_to=message
    )


@client_app.query("cluster_sums")
def give_cluster_sums(message: Message, context: Context) -> Message:
    """Answer with sums float64 [k, R] and counts int64 [k] of this node's features by nearest centre.

    Clusters below the minimum count are sent as zeros; the inertia covers what is sent.
    """
    samples = own_samples(context)
    features = _region_features(samples, asked(message))
    centres = named_arrays(next(iter(message.content.array_records.values())))["centres"]
    if centres.ndim != 2 or centres.shape[1] != features.shape[1]:
        raise InvalidInputError(
            "centres", found=str(list(centres.shape)), expected=f"[k, {features.shape[1]}]"
        )
    distances = squared_distances(features, centres.astype(np.float32))
    sums, counts, inertia = cluster_sums(features, distances, samples.specification.min_leaf_count)
    metrics = MetricRecord({"inertia": inertia, "samples": int(counts.sum())})
    content = RecordDict(
        {
            "arrays": array_record({"sums": sums, "counts": counts}),
            "metrics": metrics,
            "config": introduced(samples),
        }
    )
    return Message(content, reply_to=message)


def largest_feature(trunk: TrunkReference) -> float:
    """Return the largest feature that the trunk's fixed point holds; regions are sought within +- that."""
    return MAX_INT16 / trunk.fixed_point


@server_app.main()
def find_regions(grid: Grid, context: Context) -> None:
    """Seed, then iterate until the centres stand still or the rounds are over."""
    limits, specification = RunLimits.of(context), specification_of(context)
    settings = context.run_config
    wanted, rounds, seed = int(settings["k"]), int(settings["rounds"]), int(settings["seed"])
    k = wanted or specification.max_prototypes_per_leaf
    select = str(settings.get("select", "all"))
    columns = region_columns(specification.trunk.feature_size)
    stage("candidates", 0.0, 0.2)
    offered = ask_nodes(grid, limits, "query.candidates", {}, {"k": k, "seed": seed, "select": select})
    candidates, stands_for, most = pooled_candidates(offered, k, specification, fill=wanted > 0)
    if not wanted:
        k = most_regions(stands_for, len(offered), k, specification.min_leaf_count)
    centres = seed_centres(candidates, stands_for, k, seed)
    counts = np.zeros(k)
    inertia, reseeded, done = 0.0, 0, 0
    for number in range(1, rounds + 1):
        stage(f"round {number} of {rounds}", 0.2 + 0.8 * (number - 1) / rounds, 0.8 / rounds)
        answers = ask_nodes(grid, limits, "query.cluster_sums", {"centres": centres}, {"select": select})
        sums, counts, inertia, told = pooled_sums(answers, k, most, specification)
        moved = next_centres(centres, sums, counts, candidates)
        empty, done = int((counts == 0).sum()), number
        reseeded += empty
        shift = float(np.square(moved.astype(np.float64) - centres).sum())
        spread = float(np.square(moved.astype(np.float64) - moved.mean(axis=0)).sum())
        say(told, 1.0, {"inertia": inertia, "empty": empty})
        last = number == rounds or (not empty and shift <= _TOLERANCE**2 * max(spread, 1e-30))
        if last and not empty:
            # Sums and counts are about these centres; what they would move by is below the tolerance.
            centres = moved
        elif not last:
            centres = moved
        if last:
            break
    # A clipped node's share of a sample is a sample all the same: a cluster that has one is not empty.
    whole = np.ceil(counts).astype(np.int64)
    finish(
        context,
        {"centres": centres, "counts": whole, "columns": columns},
        {
            "nodes": len(offered),
            "rounds": done,
            "inertia": inertia,
            "samples": int(whole.sum()),
            "empty_clusters": int((whole == 0).sum()),
            "reseeded": reseeded,
        },
    )


def pooled_candidates(
    answers: Sequence[Answer], k: int, specification: Specification, *, fill: bool = True
) -> tuple[Floats, Doubles, int]:
    """Return all centroids float32 [m, R], how many samples each stands for, float64 [m], and how many a
    node counts by at most in this run.

    Raises InvalidInputError by the name of a node that gives none, more than k, or what cannot be; and, with
    `fill`, where the samples that they name cannot fill k regions.
    """
    found = [_checked_candidates(answer, k, specification) for answer in answers]
    samples = [int(counts.sum()) for _, counts in found]
    if fill:
        _check_can_fill(k, sum(samples), specification.min_leaf_count)
    most = most_samples(samples)
    weights = node_weights(samples, most)
    stands_for = [counts * weight for (_, counts), weight in zip(found, weights, strict=True)]
    say(told_clipped(answers, weights), 1.0)
    return np.concatenate([centroids for centroids, _ in found]), np.concatenate(stands_for), most


def _check_can_fill(k: int, samples: int, minimum: int) -> None:
    """Raise InvalidInputError for more regions than can have samples: centres of empty ones would be sent to
    every node in every round."""
    most = samples // minimum
    if k > most:
        raise InvalidInputError(
            "regions",
            found=f"{k} asked for, and {samples} samples in the clusters that the nodes found",
            expected=f"at most {most}: at each node, fewer than {minimum} samples of a region are not told",
            remedy=f"ask for fewer: swarm federate kmeans --k {most}",
        )


def _checked_candidates(answer: Answer, k: int, specification: Specification) -> tuple[Floats, Counts]:
    size = len(region_columns(specification.trunk.feature_size))
    centroids: Floats = checked_array(answer, "centroids", "float32", (-1, size))
    if not 1 <= len(centroids) <= k:
        raise InvalidInputError(
            f"centroids of node {answer.node}", found=f"{len(centroids)}", expected=f"1 to {k}, as asked"
        )
    check_within(answer, "centroids", centroids, largest_feature(specification.trunk) * _ROUNDING)
    counts: Counts = checked_array(answer, "counts", "int64", (len(centroids),))
    check_counts(answer, "counts", counts, specification.min_leaf_count)
    return centroids, counts


def pooled_sums(
    answers: Sequence[Answer], k: int, most: int, specification: Specification
) -> tuple[Doubles, Doubles, float, str]:
    """Return sums float64 [k, R], counts float64 [k] and inertia of all nodes, and who answered.

    A node with more than `most` samples counts as if it had those: taken from the candidates, since later
    answers leave out small clusters. InvalidInputError by the name of a node whose numbers cannot be.
    """
    found = [_checked_sums(answer, k, specification) for answer in answers]
    weights = node_weights([int(own.sum()) for _, own, _ in found], most)
    sums, counts, inertia = np.zeros(found[0][0].shape), np.zeros(k), 0.0
    for (own_sums, own_counts, own_inertia), weight in zip(found, weights, strict=True):
        sums += weight * own_sums
        counts += weight * own_counts
        inertia += weight * own_inertia
    return sums, counts, inertia, told_clipped(answers, weights)


def _checked_sums(answer: Answer, k: int, specification: Specification) -> tuple[Doubles, Counts, float]:
    largest = largest_feature(specification.trunk) * _ROUNDING
    size = len(region_columns(specification.trunk.feature_size))
    counts: Counts = checked_array(answer, "counts", "int64", (k,))
    check_counts(answer, "counts", counts, specification.min_leaf_count, or_none=True)
    sums: Doubles = checked_array(answer, "sums", "float64", (k, size))
    check_within(answer, "sums", sums, largest * counts[:, None].astype(np.float64))
    # Centres that noise seeded lie a little outside, hence not twice the largest feature but thrice.
    farthest = size * (3 * largest) ** 2
    return sums, counts, checked_number(answer, "inertia", farthest * float(counts.sum()))


def _region_features(samples: OwnSamples, question: Mapping[str, Any]) -> Floats:
    columns = region_columns(samples.specification.trunk.feature_size)
    largest = largest_feature(samples.specification.trunk)
    is_novel = question.get("select", "all") == "novel"
    features = novel_features(samples) if is_novel else own_features(samples)
    minimum = samples.specification.min_leaf_count
    if is_novel and len(features) < minimum:
        raise NotReadyError(
            f"novel samples of node {samples.node}",
            found=str(len(features)),
            expected=f"at least {minimum}, the least that a leaf may stand for",
        )
    found: Floats = np.ascontiguousarray(features[:, columns])
    return np.clip(found, -largest, largest, out=found)
