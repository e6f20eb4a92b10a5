"""What the swarm is compared with: federated averaging over the same nodes, and nets on pooled raw data."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.cli.up.compared_nets import Net, NetCost, NetTask, read_answers, write_task
from swarm.cli.up.deal import joined
from swarm.cli.up.report import Cost, Row, row
from swarm.cli.up.stage import COMMAND, Stage
from swarm.rpc.clients import CoordinatorClient

AVERAGED = ("fedavg", "fedavg_equal_compute")
POOLED = ("pooled_one_budget", "pooled_total_budget", "pooled_equal_macs", "pooled_cnn")
ALL = (*AVERAGED, *POOLED)
CNN = "cnn:16x32"
RAW_DATA = "needs the raw data in one place"
Answers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged:
    """One federated run: where its net's arrays lie, its outputs' class names, and what it cost."""

    name: str
    arrays: Path
    class_names: tuple[str, ...]
    rounds: int
    steps: int
    train_flops: float
    bytes_sent: int

    def curve(self, nodes: int) -> list[tuple[float, float]]:
        """Return for each round the megabytes (10^6 bytes) a node and the validation accuracy so far."""
        with np.load(self.arrays, allow_pickle=False) as archive:
            accuracies = archive["round_accuracies"].tolist()
        each = self.bytes_sent / nodes / self.rounds / 1e6
        return [(each * (turn + 1), accuracy) for turn, accuracy in enumerate(accuracies)]


def equal_steps(total_flops: float, flops_of_one_step: float, rounds: int) -> int:
    """Return the local steps a round, at least 1, for which `rounds` rounds cost total_flops.

    flops_of_one_step is of all nodes together.
    """
    return max(round(total_flops / flops_of_one_step / rounds), 1)


async def average(stage: Stage, client: CoordinatorClient, total_flops: float) -> list[Averaged]:
    """Run federated averaging as often as the plan says.

    `fedavg` takes as many local steps in all as an expert, `fedavg_equal_compute` as many as cost
    total_flops.
    """
    plan = stage.plan
    if not plan.fedavg_rounds or not set(AVERAGED) & set(plan.comparisons):
        return []
    steps = max(plan.steps // plan.fedavg_rounds, 1)
    runs = [await _average(stage, client, "fedavg", plan.fedavg_rounds, steps)]
    if "fedavg_equal_compute" in plan.comparisons:
        one_step = runs[0].train_flops / (plan.fedavg_rounds * steps)
        equal = equal_steps(total_flops, one_step, plan.fedavg_rounds)
        runs.append(await _average(stage, client, "fedavg_equal_compute", plan.fedavg_rounds, equal))
    return runs


async def _average(stage: Stage, client: CoordinatorClient, name: str, rounds: int, steps: int) -> Averaged:
    plan, folder = stage.plan, stage.root / "averaged"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    out = folder / f"{name}.npz"
    stage.tell(f"{name}: {rounds} rounds of {steps} steps at every node")
    before = await stage.bytes_sent(client)
    options = {
        "rounds": rounds,
        "steps": steps,
        "net": plan.net,
        "seed": plan.seed,
        "min-nodes": len(plan.deal.nodes),
        "out": out,
        "home": stage.founder.root,
    }
    flags = [word for option, value in options.items() for word in (f"--{option}", str(value))]

    def hear(line: str) -> None:
        if "accuracy" in line:  # what each node answered is of no interest here
            stage.tell(f"{name}: {line.strip()}")

    said = await stage.supervisor.run(
        "swarm federate average", [COMMAND, "federate", "average", "--json", *flags], on_line=hear
    )
    after = await stage.bytes_sent(client)
    result = json.loads(said)
    return Averaged(
        name=name,
        arrays=out,
        class_names=tuple(result["class_names"]),
        rounds=rounds,
        steps=steps,
        train_flops=float(result["figures"]["train_flops"]),
        bytes_sent=after - before,
    )


class Comparisons:
    """Answers the founding classes' queries with every net that the plan compares with."""

    def __init__(self, stage: Stage, runs: Sequence[Averaged], spent: float, query: float) -> None:
        """spent: the swarm's FLOPs for learning; query: for one answer."""
        self._stage, self._deal, self._runs = stage, stage.plan.deal, runs
        self._spent, self._query = spent, query

    async def rows(self) -> list[Row]:
        """Return a row for each net: the averaged ones first, then the pooled."""
        nets = [*self._averaged_nets(), *self._pooled_nets()]
        if not nets:
            return []
        plan, folder = self._stage.plan, self._stage.root / "compared"
        everything = joined(list(self._deal.nodes.values()), "pooled")
        task = NetTask(seed=plan.seed, nets=tuple(nets), import_paths=plan.import_paths)
        await asyncio.to_thread(write_task, folder, task, everything, self._deal.old_queries.inputs)
        said = await self._stage.supervisor.run(
            "nets to compare with", ["swarm.cli.up.compared_nets", str(folder)], on_line=self._stage.tell
        )
        found = read_answers(folder, said)
        runs = {run.name: run for run in self._runs}
        return [
            self._averaged_row(runs[name], answers, cost)
            if name in runs
            else self._pooled_row(name, answers, everything.class_names, cost)
            for name, (answers, cost) in found.items()
        ]

    def _averaged_nets(self) -> list[Net]:
        net = self._stage.plan.net
        return [
            Net(name=run.name, net=net, arrays=str(run.arrays), classes=len(run.class_names))
            for run in self._runs
        ]

    def _pooled_nets(self) -> list[Net]:
        net, spent = self._stage.plan.net, self._spent
        nets = [
            Net(name="pooled_one_budget", net=net, budget_flops=spent / len(self._deal.nodes)),
            Net(name="pooled_total_budget", net=net, budget_flops=spent),
            Net(name="pooled_equal_macs", budget_flops=spent, query_flops=self._query),
        ]
        if len(self._deal.old_queries.input_shape) >= 2:
            nets.append(Net(name="pooled_cnn", net=CNN, budget_flops=spent))
        return [each for each in nets if each.name in self._stage.plan.comparisons]

    def _averaged_row(self, run: Averaged, answers: Answers, cost: NetCost) -> Row:
        spent = Cost(
            train_flops=run.train_flops,
            inference_flops=cost.inference_flops,
            bytes_sent=run.bytes_sent,
            sync_rounds=run.rounds,
        )
        note = f"{cost.net}, {run.rounds} rounds of {run.steps} steps at every node"
        return row(run.name, self._deal.scores(answers, run.class_names), spent, note)

    def _pooled_row(self, name: str, answers: Answers, names: tuple[str, ...], cost: NetCost) -> Row:
        spent = Cost(
            train_flops=cost.train_flops,
            inference_flops=cost.inference_flops,
            bytes_sent=self._deal.raw_bytes(),
        )
        note = f"{RAW_DATA}; {cost.net}, {cost.steps} steps"
        return row(name, self._deal.scores(answers, names), spent, note)
