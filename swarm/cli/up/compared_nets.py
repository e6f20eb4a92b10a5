"""The nets that a swarm is compared with: `python -m swarm.cli.up.compared_nets DIR`, a process of its own.

Reads `pooled.npz`, `queries.npy` and `task.json` in the folder, trains each net on all raw data in one place
(or loads the weights that federated averaging left), writes each net's answers as `answers-<name>.npy` and
what they cost to stdout, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.data.dataset import Dataset
from swarm.data.sources import load_training, save_npz
from swarm.data.validation import split_validation

VALIDATION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """One net: trained for budget_flops, or with the weights in the file `arrays` for so many `classes`.

    Without the name of a net: an MLP of two layers, as wide as an answer may cost query_flops.
    """

    name: str
    net: str = ""
    budget_flops: float = 0.0
    query_flops: float = 0.0
    arrays: str = ""
    classes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetTask:
    """All nets, one after another."""

    seed: int
    nets: tuple[Net, ...]
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetCost:
    """What one net cost here; `net` is its factory."""

    net: str
    train_flops: float
    inference_flops: float
    steps: int


def write_task(folder: Path, task: NetTask, training: Dataset, queries: NDArray[np.generic]) -> None:
    """Put a task into folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_npz(folder / "pooled.npz", training)
    np.save(folder / "queries.npy", queries, allow_pickle=False)
    (folder / "task.json").write_text(json.dumps(asdict(task)))


def read_answers(folder: Path, said: str) -> dict[str, tuple[NDArray[np.float32], NetCost]]:
    """Return each net's answers and cost, from the folder and what the process said."""
    return {
        name: (np.load(_answers(folder, name), allow_pickle=False), NetCost(**cost))
        for name, cost in json.loads(said).items()
    }


def main(folder: Path) -> None:
    """Do the task in folder."""
    read = json.loads((folder / "task.json").read_text())
    nets = tuple(Net(**one) for one in read.pop("nets"))
    task = NetTask(nets=nets, seed=read["seed"], import_paths=tuple(read["import_paths"]))
    data = load_training(str(folder / "pooled.npz"))
    queries = np.load(folder / "queries.npy", allow_pickle=False)
    train = _trainer(task, data, queries)
    costs: dict[str, NetCost] = {}
    for net in nets:
        started = time.monotonic()
        answers, costs[net.name] = _loaded(net, task, data, queries) if net.arrays else train(net)
        np.save(_answers(folder, net.name), answers, allow_pickle=False)
        told = f"{net.name}: {costs[net.name].net}, {costs[net.name].steps} steps here"
        print(f"{told}, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}), flush=True)


def _loaded(
    net: Net, task: NetTask, data: Dataset, queries: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NetCost]:
    from swarm.experts.averaged_net import answers_with

    with np.load(net.arrays, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    answers, flops = answers_with(
        arrays,
        queries,
        net=net.net,
        classes=net.classes,
        scale=data.scale,
        offset=data.offset,
        import_paths=task.import_paths,
    )
    return answers, NetCost(net=net.net, train_flops=0.0, inference_flops=float(flops), steps=0)


def _trainer(
    task: NetTask, data: Dataset, queries: NDArray[np.generic]
) -> Callable[[Net], tuple[NDArray[np.float32], NetCost]]:
    """Return the function that trains a net on the pooled data; all nets see the same split."""
    from swarm.experts.baseline import train_baseline, widened_mlp
    from swarm.experts.samples import Samples

    training, validation = split_validation(data.labels, VALIDATION, task.seed)
    samples = Samples(inputs=data.inputs, labels=data.labels, scale=data.scale, offset=data.offset)
    classes = len(data.class_names)

    def train(net: Net) -> tuple[NDArray[np.float32], NetCost]:
        factory = net.net or widened_mlp(data.input_shape, classes, net.query_flops)
        found = train_baseline(
            samples.at(training),
            samples.at(validation),
            queries,
            net=factory,
            budget_flops=net.budget_flops,
            classes=classes,
            seed=task.seed,
            import_paths=task.import_paths,
        )
        return found.probabilities, NetCost(
            net=factory,
            train_flops=float(found.train_flops),
            inference_flops=float(found.inference_flops),
            steps=found.steps,
        )

    return train


def _answers(folder: Path, name: str) -> Path:
    return folder / f"answers-{name}.npy"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
