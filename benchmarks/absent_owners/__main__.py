"""`python -m benchmarks.absent_owners --data-dir DIR [--seeds 0,1,2]`: who answers for absent owners.

The ten owners of `swarm bench domains`, each with one expert and its sums, in one process. Ridge,
temperatures and strengths are chosen on validation samples with everybody there. Then each owner in turn is
away, nobody else holds its expert, and the rows that the gate would have sent to it are answered by each of
RULES. Validation samples say which rule is best; the other accuracies are on test samples.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.absent_owners.rules import (
    Accuracies,
    Scene,
    accuracies,
    chosen_ridge,
)
from benchmarks.absent_owners.table import figures_of, tables
from benchmarks.absent_owners.teaching import (
    Taught,
    logits_of,
    taught_by,
    trained_correction,
)
from benchmarks.absent_owners.world import (
    CASES,
    Case,
    Floats,
    Pool,
    Settings,
    World,
    dealt_evenly,
    load_world,
)
from benchmarks.results_file import RESULTS
from swarm.cli.bench.growth.jobs import Job, Run, done, write_growth_results
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import (
    Speaker,
)
from swarm.gating.ridge import RIDGES

NAME = "absent-owners"


def measured_case(
    world: World, case: Case, pools: tuple[Pool, Pool], taught: Taught
) -> tuple[Accuracies, dict[str, float]]:
    """Return one case's accuracies, and facts about it."""
    names = [name.partition(" ")[2] if case.shared else name for name in world.class_names]
    class_of = np.unique(names, return_inverse=True)[1].astype(np.int64)
    validation, trunk, experts = pools[1], world.trunk.reference, taught.experts
    leaf_rows = np.repeat(np.arange(len(experts)), [len(each.classes) for each in experts])
    class_rows = class_of[np.concatenate([each.classes for each in experts])]
    labels = class_of[validation.samples.labels]
    ridge = chosen_ridge(world, taught.solved, class_rows, labels, validation)
    gate = AnalyticGate(
        weights=taught.solved[ridge].astype(np.float32),
        leaf_rows=leaf_rows,
        class_rows=class_rows,
        leaves=len(experts),
        classes=int(class_of.max()) + 1,
        fixed_point=trunk.fixed_point,
        has_constant=trunk.has_constant,
    )
    corrections = [
        trained_correction(world, pools, gate, owner, expert) for owner, expert in enumerate(experts)
    ]

    def scene(pool: Pool, probabilities: Sequence[Floats]) -> Scene:
        speakers = []
        for expert, plain, correction in zip(experts, probabilities, corrections, strict=True):
            added = (
                np.zeros_like(plain) if correction is None else logits_of(correction, pool.samples).numpy()
            )
            speakers.append(
                Speaker(
                    class_rows=class_of[expert.classes],
                    probabilities=plain,
                    corrections=added - added.mean(axis=1, keepdims=True),
                )
            )
        return Scene(
            gate=gate,
            prototypes=taught.prototypes,
            speakers=speakers,
            features=pool.features,
            labels=class_of[pool.samples.labels],
            domains=world.class_domains[pool.samples.labels],
        )

    judged, tested = scene(validation, taught.on_validation), scene(world.test, taught.on_test)
    facts = {"ridge": RIDGES[ridge], "corrections": float(sum(each is not None for each in corrections))}
    return accuracies(world, judged, tested), facts


def measured(*, data_dir: Path, seed: int, **settings: Any) -> Run:
    """Return one seed's accuracies and facts by case, and the seconds of processor time."""
    started = time.process_time()
    world = load_world(data_dir, seed, Settings(**settings))
    found: dict[str, Any] = {}
    for evenly in (False, True):
        pools = world.training, world.validation
        if evenly:
            pools = dealt_evenly(world, pools[0]), dealt_evenly(world, pools[1])
        taught = taught_by(world, *pools)
        for name, case in CASES.items():
            if case.evenly == evenly:
                told, facts = measured_case(world, case, pools, taught)
                found[name] = {"accuracies": told, **facts}
                print(f"seed {seed}: {case.title}: measured", file=sys.stderr, flush=True)
    return {"cases": found, "cpu_s": time.process_time() - started}


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the four collections")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="separated by commas")
    parser.add_argument(
        "--trunk", default="", help="another trunk, whose root is weaker or stronger: tables only, no file"
    )
    request = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(**({"trunk": request.trunk} if request.trunk else {}))
    jobs = [
        Job(
            case=NAME,
            seed=seed,
            work=measured,
            settings=asdict(settings),
            data_dir=str(request.data_dir),
        )
        for seed in request.seeds
    ]
    runs = list(done(jobs, 1))
    figures = figures_of(runs)
    print(tables(runs, figures))
    if settings != Settings():
        return
    command = f"python -m benchmarks.absent_owners --seeds {','.join(map(str, request.seeds))}"
    path = RESULTS / f"{NAME}.json"
    write_growth_results(path, runs, figures, command)
    print(f"\n{path} is written")


if __name__ == "__main__":
    main()
