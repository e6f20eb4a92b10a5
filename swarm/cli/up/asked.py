"""The rows that come from asking the swarm: its nodes alone, its experts together, every combination."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from swarm.cli.up.questions import How, ask
from swarm.cli.up.report import Cost, Row, Scores, correct, mean_row, row
from swarm.cli.up.stage import Stage
from swarm.cli.up.watching import has_combination
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Examples
from swarm.rpc.clients import CoordinatorClient

TOP_KS = (1, 2, 4)
EXPLAINED = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What all nodes together spent until they could answer so: FLOPs, bytes between machines, rounds in
    which they waited for one another."""

    train_flops: float
    bytes_sent: int
    sync_rounds: int


class Asker:
    """Asks about the founding classes' test samples. `learned` was spent until the gate stood, `refined`
    until it knew the corrections too."""

    def __init__(
        self, stage: Stage, client: CoordinatorClient, gate: GateStatement, learned: Spent, refined: Spent
    ) -> None:
        self._stage, self._client, self._gate = stage, client, gate
        self._deal, self._tell = stage.plan.deal, stage.tell
        self._learned, self._refined = learned, refined

    async def alone(self) -> list[Row]:
        """Return a row for every node's own experts, and their mean; who is not in the gate is left out."""
        queries, scores, costs, rows = self._deal.old_queries.inputs, [], [], []
        inside = {leaf.owner for leaf in self._gate.leaves}
        outside = [name for name in self._deal.nodes if name not in inside]
        for name in self._deal.nodes:
            if name in outside:
                self._tell(f"no row alone:{name}: {name} is not in gate {self._gate.version}")
                continue
            flops = await self._stage.own_flops(self._client, name)
            how = How(owners=(NodeId(name),))
            if flops is not None:
                how["uniform"] = True  # one expert: it alone, whatever the gate would say
            elif has_combination(self._gate, "prototypes"):
                how["combination"] = "prototypes"
            answer = await self._timed(f"alone:{name}", ask(self._client, queries, **how))
            truth = self._deal.truth_of(name)
            scores.append(correct(answer.probabilities, answer.class_names, truth))
            spent = self._stage.expert_flops(name)
            costs.append(Cost(train_flops=spent, inference_flops=flops or answer.flops_per_query))
            rows.append(row(f"alone:{name}", scores[-1], costs[-1]))
        note = f"without {', '.join(outside)}: not in the gate" if outside else ""
        return [*rows, mean_row("alone_mean", scores, costs, note)]

    async def ensemble(self) -> Row:
        """Return the row of all experts with equal weight, which needs no gate."""
        spent = Spent(
            train_flops=self._experts_alone(),
            bytes_sent=self._learned.bytes_sent,
            sync_rounds=0,
        )
        return (await self._together("ensemble", spent, How(uniform=True)))[0]

    async def combinations(self) -> list[Row]:
        """Return a row for each combination; one that the gate does not have is left out, and told."""
        routed = "gate" if has_combination(self._gate, "gate") else "prototypes"
        note = "" if routed == "gate" else "routed by prototypes: this gate has no sums"
        rows = [
            (await self._together(f"swarm_top{k}", self._learned, How(combination=routed, top_k=k), note))[0]
            for k in TOP_KS
        ]
        # The root is solved from sums: no expert has to be trained for it.
        root = replace(self._learned, train_flops=self._learned.train_flops - self._experts_alone())
        for name, spent in (("root", root), ("poe", self._learned), ("corrected", self._refined)):
            if has_combination(self._gate, name):
                chosen = self._gate.combination(name)
                note = f"top-{chosen.top_k}, as chosen on validation data" if name != "root" else ""
                rows.append((await self._together(name, spent, How(combination=name), note))[0])
            else:
                self._tell(f"no row {name}: gate {self._gate.version} has no such combination")
        return rows

    async def served(self) -> tuple[Row, Scores, Answer]:
        """Return the row of what answers a plain query, its scores, and some explained answers."""
        made, scores, _ = await self._together("swarm", self._refined, How())
        explained = await ask(self._client, self._deal.old_queries.inputs[:EXPLAINED], explain=True)
        return made, scores, explained

    async def asker(self) -> Row | None:
        """Return the row of nodes that each ask by their own labelled examples; None where none has any."""
        scores, costs, owners = [], [], []
        for name, examples in self._deal.examples.items():
            labels = tuple(examples.class_names[label] for label in examples.labels)
            profile = await self._client.make_profile(Examples(inputs=examples.inputs, labels=labels))
            queries = self._deal.old_queries.inputs
            answer = await self._timed(f"asker:{name}", ask(self._client, queries, profile=profile.id))
            scores.append(correct(answer.probabilities, answer.class_names, self._deal.truth_of(name)))
            costs.append(self._cost(self._refined, answer))
            owners.append(len(profile.owners))
        if not scores:
            return None
        note = (
            f"each node asks by {len(examples)} labelled examples of its own; "
            f"{min(owners)} to {max(owners)} of {len(self._deal.nodes)} owners agree with them"
        )
        return mean_row("asker", scores, costs, note)

    def _experts_alone(self) -> float:
        return sum(self._stage.expert_flops(name) for name in self._deal.nodes)

    async def _together(
        self, label: str, spent: Spent, how: How, note: str = ""
    ) -> tuple[Row, Scores, Answer]:
        queries = self._deal.old_queries
        before = (await self._client.status()).socket_bytes
        answer = await self._timed(label, ask(self._client, queries.inputs, **how))
        after = (await self._client.status()).socket_bytes
        moved = after.sent + after.received - before.sent - before.received
        notes = [note, f"{moved / len(queries):,.0f} bytes a query at the coordinator"]
        if label == "swarm":
            notes.insert(0, served_because(answer.combination, self._gate.reason))
        scores = self._deal.scores(answer.probabilities, answer.class_names)
        made = row(label, scores, self._cost(spent, answer), "; ".join(filter(None, notes)))
        return made, scores, answer

    async def _timed(self, label: str, asking: Awaitable[Answer]) -> Answer:
        started = time.monotonic()
        answer = await asking
        lost = sum(answer.degraded)
        told = f", {lost} degraded" if lost else ""
        self._tell(
            f"{label}: {len(answer.probabilities)} queries in {time.monotonic() - started:.1f} s{told}"
        )
        return answer

    @staticmethod
    def _cost(spent: Spent, answer: Answer) -> Cost:
        return Cost(
            train_flops=spent.train_flops,
            inference_flops=answer.flops_per_query,
            bytes_sent=spent.bytes_sent,
            sync_rounds=spent.sync_rounds,
        )


def served_because(label: str, reason: str) -> str:
    """Return what a gate serves and why, once: a trial's reason says both."""
    serves = f"serves {label}"
    return reason if serves in reason else f"{serves}: {reason}"
