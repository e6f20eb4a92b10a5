"""Refining: train what each existing expert adds to the swarm's root, its correction (`order.refine`).

A correction is a second set of weights h for the expert's own net, trained on CE(a(x) / T + h(x)) over the
expert's own classes, where a are the class scores of the gate that the job names. It starts from the expert's
own weights under a zeroed output layer, so it begins as no correction at all (on digits, over trunks, nets
and seeds, that gave a lower validation loss than fresh weights in 11 of 15 runs). The plain weights stay as
they are; training them again makes a version without correction.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.expert_training import TRAIN_FRACTION, Turn, cost_of, metrics_of, train_leaf, turns
from node.jobs import ExistingLeaf, LearningResult, RefinedLeaf
from node.listings import expert_listings
from node.preparing import Bench, feature_parts, load_trunk
from node.shards import nearest_leaves
from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.ids import Digest
from swarm.domain.inference import Listing
from swarm.domain.manifests import Correction
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.trunk import Trunk
from swarm.experts.weights import load_net, pack_net, zero_head
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import CORRECTED_CLASS_TEMPERATURE
from swarm.gating.gate_arrays import ROOT_ARRAYS
from swarm.gating.regions import region_columns
from swarm.modules.packing import unpack


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """One leaf's samples, with the root's scores for its classes as base logits."""

    leaf: ExistingLeaf
    training: Samples
    validation: Samples
    class_counts: dict[str, int]


def refine(bench: Bench, training: Dataset, validation: Dataset, started: float) -> LearningResult:
    """Train the corrections of the job's existing leaves and return the job's result.

    Raises NotReadyError where the node has no leaves yet, or the gate no sums.
    """
    job = bench.job
    trunk, gate = load_trunk(bench), _gate(bench)
    parts, notes = _parts(bench, trunk, gate, training, validation)
    refined: list[RefinedLeaf] = []
    listings: list[Listing] = []
    in_turn = turns([len(part.training) for part in parts])
    for part, turn in zip(parts, in_turn, strict=True):
        net = _initial_net(bench, part.leaf)
        if job.order.dry_run:
            listings += expert_listings(f"{part.leaf.leaf} correction", part.leaf.leaf, pack_net(net)[0])
            continue
        correction, note = _correction(bench, part, net, turn)
        if correction is None:
            notes.append(note)
            continue
        refined.append(
            RefinedLeaf(leaf=part.leaf.leaf, class_counts=part.class_counts, correction=correction)
        )
        listings += expert_listings(f"{part.leaf.leaf} correction", part.leaf.leaf, correction.modules)
    taken = {one.leaf.leaf for one in parts}
    scored = len(training) + len(validation)
    return LearningResult(
        dataset=training.name,
        dry_run=job.order.dry_run,
        leaves=(),
        idle_leaves=tuple(leaf.leaf for leaf in job.existing if leaf.leaf not in taken),
        samples=len(training),
        validation_samples=len(validation),
        features_flops=(trunk.flops_per_query + gate.flops_per_query) * scored,
        clustering_flops=0,
        sums_flops=0,
        duration_s=bench.clock() - started,
        device=str(best_device()),
        listings=tuple(listings),
        notes=tuple(notes),
        refined=tuple(refined),
    )


def _gate(bench: Bench) -> AnalyticGate:
    """Return the gate that is refined against."""
    job = bench.job
    if not job.existing:
        raise NotReadyError(
            "refining",
            found="no leaves on this node yet",
            expected="experts to refine",
            remedy="train some first: swarm train DATA",
        )
    gate = job.gate
    weights = [] if gate is None else [entry for entry in gate.arrays if entry.name in ROOT_ARRAYS]
    if gate is None or not weights:
        raise NotReadyError(
            "refining",
            found="no gate yet" if gate is None else f"gate {gate.version} without sums",
            expected="a gate solved from sums, whose root is to be corrected",
            remedy="contribute with sums first: swarm train DATA --sums auto",
        )
    trunk, arrays = job.specification.trunk, unpack(weights, bench.read_from.open_verified)
    return AnalyticGate.from_statement_arrays(
        arrays, gate.leaves, gate.class_names, trunk.fixed_point, trunk.has_constant
    )


def _parts(
    bench: Bench, trunk: Trunk, gate: AnalyticGate, training: Dataset, validation: Dataset
) -> tuple[list[_Part], list[str]]:
    """Return the leaves that have enough samples among these, and what is to say about the others."""
    job, parts, notes = bench.job, [], []
    scored = [_scored(bench, trunk, gate, part) for part in (training, validation)]
    for row, leaf in enumerate(job.existing):
        known = [
            _samples(bench, leaf, part, part_leaves == row, scores)
            for part, (part_leaves, scores) in zip((training, validation), scored, strict=True)
        ]
        if len(known[0]) < job.specification.min_leaf_count:
            notes.append(f"{leaf.leaf} is not refined: {len(known[0])} of these samples are its own")
            continue
        counted = np.bincount(known[0].labels, minlength=len(leaf.class_names)).tolist()
        counts = {name: count for name, count in zip(leaf.class_names, counted, strict=True) if count}
        parts.append(_Part(leaf=leaf, training=known[0], validation=known[1], class_counts=counts))
    return parts, notes


def _scored(
    bench: Bench, trunk: Trunk, gate: AnalyticGate, data: Dataset
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return each sample's existing leaf, as a row int64 [N], and the gate's class scores float32 [N, C]."""
    columns = region_columns(trunk.feature_size)
    leaves = np.empty(len(data), dtype=np.int64)
    scores = np.empty((len(data), gate.classes), dtype=np.float32)
    for rows, features in feature_parts(trunk, data.inputs):
        leaves[rows] = nearest_leaves(features[:, columns], bench.job.existing)
        scores[rows] = gate.class_scores(gate.scores(features))
        done = 0.06 + (TRAIN_FRACTION - 0.06) * rows.stop / len(data)
        bench.report("features", f"{rows.stop} of {len(data)} samples", done)
    return leaves, scores


def _samples(
    bench: Bench, leaf: ExistingLeaf, data: Dataset, own: NDArray[np.bool_], scores: NDArray[np.float32]
) -> Samples:
    """Return a leaf's own samples of the classes that its expert knows, under the expert's own columns."""
    specification, gate = bench.job.specification, bench.job.gate
    assert gate is not None
    labels = data.labels_among(leaf.class_names)
    rows = np.flatnonzero(own & (labels >= 0))
    base = np.zeros((len(rows), len(leaf.class_names)), dtype=np.float32)
    for column, name in enumerate(leaf.class_names):
        if name in gate.class_names:
            base[:, column] = scores[rows, gate.class_names.index(name)] / CORRECTED_CLASS_TEMPERATURE
    return Samples(
        inputs=data.inputs[rows],
        labels=labels[rows],
        scale=specification.scale,
        offset=specification.offset,
        base_logits=base,
    )


def _initial_net(bench: Bench, leaf: ExistingLeaf) -> nn.Module:
    """Return the expert's own net with its weights and an output layer of zeros."""
    torch.manual_seed(derived_seed(bench.job.order.seed, "correction", leaf.number))
    net = build_net(leaf.net, bench.job.order.import_paths)
    load_net(net, leaf.modules, bench.read_from.open_verified)
    if not zero_head(net, len(leaf.class_names)) or not _answers_zero(net, leaf):
        raise InvalidInputError(
            f"net {leaf.net.factory}",
            found="no linear output layer that can start from zero",
            expected=f"a last torch.nn.Linear with {len(leaf.class_names)} outputs and nothing after it",
            remedy="let the net end in a linear layer, train it, and refine then",
        )
    return net


def _answers_zero(net: nn.Module, leaf: ExistingLeaf) -> bool:
    with torch.no_grad():
        return not net.eval()(torch.ones(1, *leaf.net.input_shape)).any()


def _correction(bench: Bench, part: _Part, net: nn.Module, turn: Turn) -> tuple[Correction | None, str]:
    """Return the trained correction; or None and why there is none: it does no good on validation samples."""
    result = train_leaf(bench, part.leaf.leaf, net, part.training, part.validation, turn)
    metrics = metrics_of(result)
    if len(part.validation):
        accuracy, nll = _without(part.validation)
        if not metrics["validation_nll"] < nll:
            return None, (
                f"{part.leaf.leaf} is not refined: its correction would not lower the validation loss"
                f" ({nll:.4f} without, {metrics['validation_nll']:.4f} with it)"
            )
        metrics |= {"root_validation_accuracy": accuracy, "root_validation_nll": nll}
    modules, blobs = pack_net(result.net)
    for blob in blobs.values():
        bench.write_to.put(blob)
    correction = Correction(
        modules=modules,
        base=Digest(bench.job.gate_digest),
        class_temperature=CORRECTED_CLASS_TEMPERATURE,
        metrics=metrics,
        cost=cost_of(result),
    )
    return correction, ""


def _without(samples: Samples) -> tuple[float, float]:
    """Return accuracy and mean loss of the base logits alone."""
    logits, labels = torch.from_numpy(samples.base_logits), torch.from_numpy(samples.labels)
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return accuracy, float(nn.functional.cross_entropy(logits, labels))
