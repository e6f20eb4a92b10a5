"""What answers say of themselves, on real data: `python -m benchmarks.answers --data-dir DIR [--seed 0]`.

A swarm is trained as in the demo (`swarm up`) on one collection, asked about its test images in every way
that its gate knows, and about the test images of another collection that no owner has seen. Writes
`results/answers.json` and prints a table: expected calibration error (15 bins of equal mass) and mean
negative log likelihood before and after the temperature that the nodes' validation data chose; and how well
the out-of-distribution score and the confidence tell the other collection's images from its own (area under
the ROC curve: 0.5 is chance).
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import write_result
from swarm.cli.places import coordinator, find_place
from swarm.cli.up.questions import ask
from swarm.data.dataset import Dataset
from swarm.data.sources import load_test, load_training
from swarm.domain.gates import GateStatement
from swarm.domain.inference import Answer
from swarm.gating.calibration import calibrated, expected_calibration_error

NAME = "answers"
Figures = dict[str, float]


def figures_of(label: str, inside: Answer, outside: Answer, truth: NDArray[np.int64]) -> Figures:
    """Return one combination's figures; truth int64 [N] are columns of the answers' classes."""
    after = inside.probabilities
    before = calibrated(after, 1 / inside.calibration) if inside.calibration else after
    right = after.argmax(axis=1) == truth
    found = {"accuracy": float(right.mean()), "temperature": inside.calibration}
    for name, p in (("before", before), ("after", after)):
        likely = np.maximum(p[np.arange(len(truth)), truth].astype(np.float64), 1e-12)
        found[f"ece_{name}"] = expected_calibration_error(p.max(axis=1), right)
        found[f"nll_{name}"] = float(-np.log(likely).mean())
        found[f"confidence_{name}"] = float(p.max(axis=1).mean())
    found["auroc_confidence"] = area_under_curve(-inside.confidence, -outside.confidence)
    return {f"{label}.{name}": value for name, value in found.items()}


def area_under_curve(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> float:
    """Return how often a score of outside is above one of inside, ties as half: Mann and Whitney 1947."""
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, "left") + np.searchsorted(ordered, outside, "right")
    return float(below.mean() / (2 * len(ordered)))


def distances_of(inside: Answer, outside: Answer) -> Figures:
    """Return how well the out-of-distribution score tells the two apart, and what it calls beyond reach."""
    near, far = inside.out_of_distribution, outside.out_of_distribution
    assert near is not None and far is not None, "every gate has prototypes"
    return {
        "auroc_out_of_distribution": area_under_curve(near, far),
        "own_beyond_reach": float((near > 1).mean()),
        "other_beyond_reach": float((far > 1).mean()),
    }


async def measured(home: Path, test: Dataset, other: NDArray[np.generic]) -> Figures:
    """Return the figures of the running swarm, for every combination of its gate."""
    place = find_place(home)
    found: Figures = {}
    async with coordinator(place) as client:
        gate = place.identity().keyring().open(await client.gate(), GateStatement).value
        columns = {name: column for column, name in enumerate(gate.class_names)}
        truth = np.array([columns[test.class_names[label]] for label in test.labels])
        for place_of, each in enumerate(gate.combinations):
            inside, outside = [
                await ask(
                    client, inputs, combination=each.name, top_k=0 if each.name == "root" else each.top_k
                )
                for inputs in (test.inputs, other)
            ]
            found |= figures_of(each.label, inside, outside, truth)
            if place_of == gate.served:
                found |= figures_of("served", inside, outside, truth) | distances_of(inside, outside)
        found["validation_samples"] = gate.evidence["validation_samples"]
    return found


def some(data: Dataset, count: int, seed: int) -> tuple[NDArray[np.generic], NDArray[np.str_]]:
    """Return at most count inputs and the names of their classes, drawn by seed."""
    rows = np.random.default_rng(seed).permutation(len(data))[:count]
    return data.inputs[rows], np.array(data.class_names)[data.labels[rows]]


def run(request: argparse.Namespace) -> Figures:
    """Train a swarm, ask it, end it; return the figures."""
    own, other = request.data_dir / request.data, request.data_dir / request.other
    with tempfile.TemporaryDirectory(prefix="swarm-answers-") as folder:
        home, file = Path(folder) / "swarm", Path(folder) / "own.npz"
        x_train, y_train = some(load_training(str(own)), request.train, request.seed)
        x_test, y_test = some(load_test(str(own)), request.test, request.seed)
        np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        swarm = [sys.executable, "-m", "swarm.cli"]
        words = ["up", "--keep", "--home", str(home), "--data", str(file), "--seed", str(request.seed)]
        words += ["--trunk", request.trunk, "--no-baselines", "--no-newcomer", "--json"]
        subprocess.run([*swarm, *words], stdout=subprocess.DEVNULL, check=True)
        try:
            strangers, _ = some(load_test(str(other)), request.test, request.seed)
            return asyncio.run(measured(home / "founder", load_test(str(file)), strangers))
        finally:
            subprocess.run([*swarm, "down", "--home", str(home)], stdout=subprocess.DEVNULL, check=True)


def table(found: Figures) -> str:
    """Return the figures for people, a line for each way to answer."""
    names = (
        "accuracy",
        "temperature",
        "ece_before",
        "ece_after",
        "nll_before",
        "nll_after",
        "auroc_confidence",
    )
    labels = dict.fromkeys(key.rpartition(".")[0] for key in found if "." in key)
    lines = [" ".join(f"{name:>17}" for name in ("combination", *names))]
    for label in labels:
        lines.append(" ".join([f"{label:>17}", *(f"{found[f'{label}.{name}']:17.4f}" for name in names)]))
    return "\n".join([*lines, *(f"{key}: {value:.4f}" for key, value in found.items() if "." not in key)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the two collections")
    parser.add_argument("--data", default="fashion-mnist", help="what the swarm learns")
    parser.add_argument("--other", default="mnist", help="what nobody has seen, of the same shape")
    parser.add_argument("--train", type=int, default=6000, help="training samples, of all nodes together")
    parser.add_argument("--test", type=int, default=2000, help="test samples of each collection")
    parser.add_argument("--trunk", default="randconv-sqrt:64")
    parser.add_argument("--seed", type=int, default=0)
    request = parser.parse_args()
    found = run(request) | {"train_samples": float(request.train), "test_samples": float(request.test)}
    print(table(found))
    print(f"{write_result(NAME, found)} is written")


if __name__ == "__main__":
    main()
