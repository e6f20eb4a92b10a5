"""The story of `swarm up`: nodes learn alone, the swarm answers, one more joins."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarm.cli import places
from swarm.cli.up.asked import EXPLAINED, Asker, Spent, served_because
from swarm.cli.up.comparisons import Averaged, Comparisons, average
from swarm.cli.up.deal import truths
from swarm.cli.up.newcomer import Newcomer
from swarm.cli.up.questions import pick_examples
from swarm.cli.up.report import Row, Scores, in_order
from swarm.cli.up.stage import Stage, run_all
from swarm.cli.up.watching import gate_of_owners, gate_with_corrections, has_combination
from swarm.domain.gates import GateStatement
from swarm.domain.inference import Answer
from swarm.rpc.clients import CoordinatorClient


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the story came to."""

    rows: list[Row] = field(default_factory=list)
    examples: list[tuple[str, Answer, int]] = field(default_factory=list)
    """Truth, answer and row of a few explained answers."""
    contribution_mb: dict[str, float] = field(default_factory=dict)
    """Each founding node's contribution to the gate, in 10^6 bytes."""
    gate: dict[str, object] = field(default_factory=dict)
    """The gate that answered: version, kind, what it serves and why."""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Megabytes a node and validation accuracy after each round of federated averaging."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part of the story took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """The gate that answers, and what was spent until there was one and until it knew the corrections."""

    gate: GateStatement
    learned: Spent
    refined: Spent


class Story:
    """One run on a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._deal, self._tell = stage, stage.plan.deal, stage.tell
        self._outcome = Outcome()

    async def tell_all(self) -> Outcome:
        """Run everything and return what it came to."""
        with self._timed("found"):
            first_line = await self._stage.found()
        async with places.coordinator(self._stage.founder) as client:
            with self._timed("join"):
                await self._join(client, first_line)
            result = await self._learn(client)
            with self._timed("federated averaging"):
                spent = result.refined.train_flops
                runs = await average(self._stage, client, spent)
            self._outcome.curves = {run.name: run.curve(len(self._deal.nodes)) for run in runs}
            asker = Asker(self._stage, client, result.gate, result.learned, result.refined)
            with self._timed("report"):
                before = await self._report(asker, result, runs)
            if self._deal.newcomer is not None:
                with self._timed("newcomer"):
                    newcomer = Newcomer(self._stage, client, result.refined)
                    self._outcome.rows += await newcomer.join(self._deal.newcomer, before)
        return self._outcome

    async def _join(self, client: CoordinatorClient, first_line: str) -> None:
        """Let nodes join, each by a one-use token of its own."""
        for name, reason in self._deal.left_out.items():
            self._tell(f"{name} is left out: {reason}")
        parts, lines = self._deal.nodes, [first_line]
        while len(lines) < len(parts):
            lines.append((await client.create_token())[0].removeprefix("swarm join "))
        await run_all(
            self._stage.join(name, data, line)
            for (name, data), line in zip(parts.items(), lines, strict=True)
        )
        await self._stage.wait_until_live(client, list(parts))

    async def _learn(self, client: CoordinatorClient) -> _Learned:
        """Let all nodes train and contribute at the same time, then correct the gate's root."""
        names = list(self._deal.nodes)
        with self._timed("train"):
            await run_all(self._stage.train(name) for name in names)
        with self._timed("gate"):
            gate = await gate_of_owners(self._stage, client, names)
        sizes = await asyncio.gather(*(self._stage.contribution_mb(name) for name in names))
        self._outcome.contribution_mb = dict(zip(names, sizes, strict=True))
        learned = refined = await self._spent(client, rounds=1)
        if self._stage.plan.refine and has_combination(gate, "root"):
            with self._timed("refine"):
                await run_all(self._stage.refine(name) for name in names)
                gate = await gate_with_corrections(self._stage, client)
            refined = await self._spent(client, rounds=2)
        served = gate.combinations[gate.served]
        self._outcome.gate = {
            "version": gate.version,
            "kind": gate.kind,
            "ridge": gate.ridge,
            "serves": served.label,
            "reason": gate.reason,
            "combinations": list(gate.combinations),
            "evidence": dict(gate.evidence),
        }
        self._tell(f"gate {gate.version}: {served_because(served.label, gate.reason)}")
        return _Learned(gate=gate, learned=learned, refined=refined)

    async def _spent(self, client: CoordinatorClient, rounds: int) -> Spent:
        return Spent(
            train_flops=await self._stage.total_flops(client),
            bytes_sent=await self._stage.bytes_sent(client),
            sync_rounds=rounds,
        )

    async def _report(self, asker: Asker, result: _Learned, runs: Sequence[Averaged]) -> Scores:
        """Fill in the rows of the founding nodes; return the scores of the gate's own answers."""
        self._tell("training is over; routing held-out queries, and training pooled nets for comparison")
        # Nothing is trained or tuned for these queries any more.
        await asyncio.to_thread(self._deal.open_test)
        served, before, explained = await asker.served()
        self._outcome.examples = pick_examples(explained, truths(self._deal.old_queries), before[:EXPLAINED])
        spent, query = result.refined.train_flops, served.inference_flops
        compared = asyncio.create_task(Comparisons(self._stage, runs, spent, query).rows())
        try:
            rows = [*await asker.alone(), await asker.ensemble(), *await asker.combinations(), served]
            asked = await asker.asker()
            rows += [*([asked] if asked else []), *await compared]
        finally:
            compared.cancel()
        self._outcome.rows = in_order(rows)
        return before

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._outcome.seconds[name] = time.monotonic() - started
