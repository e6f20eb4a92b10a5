"""The baselines that need all raw data in one place: `python -m swarm.cli.up.pooled DIR`.

Reads `pooled.npz`, `queries.npy` and `task.json` in the folder, trains one net for each budget, writes each
net's answers as `answers-<name>.npy` and what they cost to stdout, as JSON.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.data.dataset import Dataset
from swarm.data.sources import load_training, save_npz
from swarm.data.validation import split_validation

VALIDATION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledTask:
    """Budgets are training FLOPs by name."""

    net: str
    seed: int
    budgets: dict[str, float]
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledCost:
    """What one pooled net cost."""

    train_flops: float
    inference_flops: float
    steps: int


def write_task(folder: Path, task: PooledTask, training: Dataset, queries: NDArray[np.generic]) -> None:
    """Put a task into folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_npz(folder / "pooled.npz", training)
    np.save(folder / "queries.npy", queries, allow_pickle=False)
    (folder / "task.json").write_text(json.dumps(asdict(task)))


def read_answers(folder: Path, said: str) -> dict[str, tuple[NDArray[np.float32], PooledCost]]:
    """Return each budget's answers and cost, from the folder and what the process said."""
    return {
        name: (np.load(folder / f"answers-{name}.npy", allow_pickle=False), PooledCost(**cost))
        for name, cost in json.loads(said).items()
    }


def main(folder: Path) -> None:
    """Do the task in folder."""
    from swarm.experts.baseline import train_baseline
    from swarm.experts.samples import Samples

    task = PooledTask(**json.loads((folder / "task.json").read_text()))
    data = load_training(str(folder / "pooled.npz"))
    queries = np.load(folder / "queries.npy", allow_pickle=False)
    training, validation = split_validation(data.labels, VALIDATION, task.seed)
    samples = Samples(inputs=data.inputs, labels=data.labels, scale=data.scale, offset=data.offset)
    costs: dict[str, PooledCost] = {}
    for name, budget in task.budgets.items():
        found = train_baseline(
            samples.at(training),
            samples.at(validation),
            queries,
            net=task.net,
            classes=len(data.class_names),
            budget_flops=budget,
            seed=task.seed,
            import_paths=task.import_paths,
        )
        np.save(folder / f"answers-{name}.npy", found.probabilities, allow_pickle=False)
        costs[name] = PooledCost(
            train_flops=float(found.train_flops),
            inference_flops=float(found.inference_flops),
            steps=found.steps,
        )
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
