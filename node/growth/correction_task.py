"""Train a child's correction further on its own part, against the present root, as `node.refining` does."""

import numpy as np
from numpy.typing import NDArray

from node.growth.bench import GrowthBench
from node.growth.jobs import GrowingLeaf
from node.growth.net_training import loss, trained_net
from node.preparing import feature_parts
from swarm.data.dataset import Dataset
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.manifests import Correction
from swarm.experts.nets import build_net
from swarm.experts.weights import load_net
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import CORRECTED_CLASS_TEMPERATURE
from swarm.gating.gate_arrays import ROOT_ARRAYS
from swarm.modules.packing import unpack


def corrected(
    bench: GrowthBench, leaf: GrowingLeaf, samples: Dataset, judged: Dataset | None
) -> Correction | None:
    """Return a child's correction, trained on from its parent's; None where the parent has none.

    The parent's own stays where there is no root to train against or no validation sample to judge by, and
    where training does not lower the loss: a gate that corrects loses nothing by a split.
    """
    manifest, job = leaf.manifest, bench.job
    if manifest.correction is None or job.gate is None or judged is None:
        return manifest.correction
    gate = _root(bench, job.gate)
    if gate is None:
        return manifest.correction
    names = manifest.class_names
    training = bench.as_samples(samples, names, _base(bench, gate, job.gate, samples, names))
    validation = bench.as_samples(judged, names, _base(bench, gate, job.gate, judged, names))
    net = build_net(manifest.net, job.import_paths)
    load_net(net, manifest.correction.modules, bench.read_from.open_verified)
    before = loss(net, validation)
    trained = trained_net(bench, leaf.leaf, net, training, validation, keep_better=True, name="correction")
    if before is None or not trained.metrics["validation_nll"] < before:
        return manifest.correction
    return Correction(
        modules=trained.modules,
        base=Digest(job.gate_digest),
        class_temperature=CORRECTED_CLASS_TEMPERATURE,
        metrics=trained.metrics,
        cost=trained.cost,
    )


def _root(bench: GrowthBench, gate: GateStatement) -> AnalyticGate | None:
    weights = [entry for entry in gate.arrays if entry.name in ROOT_ARRAYS]
    if not weights:
        return None
    trunk = bench.job.specification.trunk
    return AnalyticGate.from_statement_arrays(
        unpack(weights, bench.read_from.open_verified),
        gate.leaves,
        gate.class_names,
        trunk.fixed_point,
        trunk.has_constant,
    )


def _base(
    bench: GrowthBench,
    root: AnalyticGate,
    gate: GateStatement,
    data: Dataset,
    class_names: tuple[str, ...],
) -> NDArray[np.float32]:
    """Return the root's scores for these classes over the class temperature, float32 [N, classes]."""
    found = np.zeros((len(data), len(class_names)), dtype=np.float32)
    columns = [gate.class_names.index(name) if name in gate.class_names else -1 for name in class_names]
    known = [place for place, column in enumerate(columns) if column >= 0]
    bench.flops += (bench.trunk.flops_per_query + root.flops_per_query) * len(data)
    for rows, features in feature_parts(bench.trunk, data.inputs):
        scores = root.class_scores(root.scores(features))
        found[rows, known] = scores[:, [columns[place] for place in known]] / CORRECTED_CLASS_TEMPERATURE
    return found
