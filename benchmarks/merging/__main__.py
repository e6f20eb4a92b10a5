"""`python -m benchmarks.merging --data-dir DIR [--seeds 0 1 2]`: what is lost when two children become one.

An expert is trained on a shard of all classes, split by 2-means over its features, and a copy trained on each
half. Accuracies are on test samples, by the half that the split sends them to; methods are chosen on held-out
validation samples. Comparators: the parent itself after as many steps more on the whole shard; and, since
whoever merges its own leaves has both halves' data, `tuned`: some more steps on the whole shard from a merge,
from the parent and from either child. Without a common ancestor: two nets of other random weights, both
trained on the whole shard.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.results_file import write_result
from swarm.data.sources import load_test, load_training
from swarm.data.validation import split_validation
from swarm.experts.merging import SCALES, merged
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Feed, Samples
from swarm.experts.training import TrainSettings, train_expert
from swarm.experts.trunk import Trunk, make_trunk
from swarm.experts.weights import load_tensors, state_tensors
from swarm.gating.distances import squared_distances
from swarm.gating.kmeans import lloyd_kmeans
from swarm.gating.regions import region_columns

COLLECTIONS = {"mnist": "mnist", "fashion": "fashion-mnist"}
SHARD, VALIDATION_SHARE = 8000, 0.2
NET, TRUNK = "mlp:128x2", "randconv-sqrt:50"
STEPS, TUNING_STEPS = 500, 100
MERGES: Mapping[str, tuple[str, float]] = {
    **{method: (method, scale) for method, scale in SCALES.items()},
    "magmax_whole": ("magmax", 1.0),
    "ties_whole": ("ties", 1.0),
}
"""Each method at its own scale, and the two that shrink their task vector without shrinking it."""
CPU = torch.device("cpu")

Weights = dict[str, Tensor]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Halved:
    """Samples and the half of each, 0 or 1."""

    samples: Samples
    half: Labels

    def of(self, half: int) -> Samples:
        return self.samples.at(np.flatnonzero(self.half == half))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shards:
    """One seed's samples of one collection."""

    training: Halved
    validation: Halved
    test: Halved


def shards(folder: Path, seed: int) -> Shards:
    """Draw a shard, hold back its validation samples, and halve all by 2-means over the training samples."""
    whole, test = load_training(str(folder)), load_test(str(folder))
    everything = Samples(inputs=whole.inputs, labels=whole.labels, scale=whole.scale, offset=whole.offset)
    shard = everything.few(SHARD, seed)
    training, validation = (shard.at(rows) for rows in split_validation(shard.labels, VALIDATION_SHARE, seed))
    reference, blobs = make_trunk(TRUNK, whole.input_shape, scale=whole.scale, offset=whole.offset, seed=0)
    trunk = Trunk.load(
        reference,
        lambda digest: memoryview(blobs[digest]),
        scale=whole.scale,
        offset=whole.offset,
        device=CPU,
    )
    columns = region_columns(trunk.feature_size)

    def points(samples: Samples) -> NDArray[np.float32]:
        return trunk.features(samples.inputs)[:, columns]

    centres = lloyd_kmeans(points(training), 2, seed=seed).centres

    def halved(samples: Samples) -> Halved:
        return Halved(
            samples=samples, half=squared_distances(points(samples), centres).argmin(1).astype(np.int64)
        )

    labels = test.labels_among(whole.class_names)
    return Shards(
        training=halved(training),
        validation=halved(validation),
        test=halved(replace(everything, inputs=test.inputs, labels=labels)),
    )


class Bench:
    """Nets of one kind, trained on the CPU for a fixed number of steps."""

    def __init__(self, samples: Samples, classes: int) -> None:
        self._reference = net_reference(NET, samples.input_shape, classes)

    def fresh(self, seed: int) -> Weights:
        torch.manual_seed(seed)
        return self._copied(build_net(self._reference))

    def trained(
        self, start: Weights, training: Samples, validation: Samples, seed: int, steps: int = STEPS
    ) -> Weights:
        settings = TrainSettings(steps=steps, seed=seed)
        return self._copied(train_expert(self._net(start), training, validation, settings, device=CPU).net)

    def right(self, weights: Weights, samples: Samples) -> NDArray[np.bool_]:
        """Return for each sample whether the weights tell its class, bool [N]."""
        net = self._net(weights).eval()
        with torch.inference_mode():
            return np.concatenate(
                [
                    (net(inputs).argmax(1) == labels).numpy()
                    for inputs, labels, *_ in Feed(samples, CPU, 1024, 0)
                ]
            )

    def _net(self, weights: Weights) -> nn.Module:
        net = build_net(self._reference)
        load_tensors(net, weights)
        return net

    @staticmethod
    def _copied(net: nn.Module) -> Weights:
        return {name: tensor.detach().clone() for name, tensor in state_tensors(net).items()}


def measured(folder: Path, seed: int) -> dict[str, float]:
    """Return one seed's figures of one collection, by name."""
    data = shards(folder, seed)
    training, validation = data.training.samples, data.validation.samples
    bench = Bench(training, int(training.labels.max()) + 1)
    parent = bench.trained(bench.fresh(seed), training, validation, seed)
    children = [
        bench.trained(parent, data.training.of(half), data.validation.of(half), seed + 1 + half)
        for half in (0, 1)
    ]
    nets: dict[str, Weights] = {
        "parent": parent,
        "parent_trained_on": bench.trained(parent, training, validation, seed + 3),
        "child_first": children[0],
        "child_second": children[1],
    }
    for name, (method, scale) in MERGES.items():
        nets[name] = merged(method, parent, children, scale=scale)
    for name in ("parent", "child_first", "child_second", *SCALES):
        nets[f"{name}_tuned"] = bench.trained(nets[name], training, validation, seed + 4, TUNING_STEPS)
    beginnings = [bench.fresh(1000 + 2 * seed + row) for row in (0, 1)]
    strangers = [bench.trained(start, training, validation, seed) for start in beginnings]
    nets["stranger_first"], nets["stranger_second"] = strangers
    for method in SCALES:
        nets[f"strangers_{method}"] = merged(method, beginnings[0], strangers)
    figures = {"first_half_share": float((data.test.half == 0).mean())}
    for split, halved in (("validation", data.validation), ("test", data.test)):
        right = {name: bench.right(weights, halved.samples) for name, weights in nets.items()}
        right["routed"] = np.where(halved.half == 0, right["child_first"], right["child_second"])
        for name, each in right.items():
            figures[f"{name}.{split}"] = float(each.mean())
            if split == "test":
                figures[f"{name}.first_half"] = float(each[halved.half == 0].mean())
                figures[f"{name}.second_half"] = float(each[halved.half == 1].mean())
            elif name.removesuffix("_tuned") in (*MERGES, "routed"):
                figures[f"{name}.beyond_routed_se"] = standard_errors(each, right["routed"])
                figures[f"{name}.beyond_parent_se"] = standard_errors(each, right["parent"])
    return figures


def standard_errors(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return (gained - lost) / sqrt(gained + lost) of one over other on the same samples."""
    gained, lost = int((one & ~other).sum()), int((~one & other).sum())
    return (gained - lost) / (gained + lost) ** 0.5 if gained + lost else 0.0


def summary(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """Return `<collection>.<name>.<figure>` (mean) and `..._spread` (standard deviation over seeds), and for
    each method in how many runs it was best on validation (`<method>.chosen`; ties: the first)."""
    figures: dict[str, float] = {}
    for collection, seeds in runs.items():
        for name in seeds[0]:
            values = [run[name] for run in seeds]
            figures[f"{collection}.{name}"] = statistics.fmean(values)
            figures[f"{collection}.{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    every = [run for seeds in runs.values() for run in seeds]
    for method in MERGES:
        best = [max(MERGES, key=lambda name, run=run: run[f"{name}.validation"]) for run in every]  # type: ignore[misc]
        figures[f"{method}.chosen"] = float(best.count(method))
    for name in (*MERGES, *(f"{method}_tuned" for method in SCALES), "routed", "parent"):
        figures[f"{name}.validation"] = statistics.fmean(run[f"{name}.validation"] for run in every)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of mnist and fashion-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    request = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    runs = {
        name: [measured(request.data_dir / folder, seed) for seed in request.seeds]
        for name, folder in COLLECTIONS.items()
    }
    figures = {"seeds": float(len(request.seeds)), **summary(runs)}
    figures["wall_time_s"] = time.monotonic() - started
    print(table(figures))
    print(f"{write_result('merging', figures)} is written")


def table(figures: Mapping[str, float]) -> str:
    """Return the accuracies in Markdown."""
    names = list(dict.fromkeys(key.split(".")[1] for key in figures if key.endswith(".test")))
    lines = [
        "| | " + " | ".join(f"{each}, first half | second half | all" for each in COLLECTIONS) + " |",
        "|---|" + "---|" * 3 * len(COLLECTIONS),
    ]
    for name in names:
        cells = [
            f"{figures[f'{key}']:.3f} ± {figures[f'{key}_spread']:.3f}"
            for collection in COLLECTIONS
            for key in (f"{collection}.{name}.{part}" for part in ("first_half", "second_half", "test"))
        ]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
