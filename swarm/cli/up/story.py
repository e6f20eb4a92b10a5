"""The story of `swarm up`: nodes learn alone, the swarm answers, one more joins."""

import asyncio
from dataclasses import dataclass, field, replace

from swarm.cli import places
from swarm.cli.up.deal import joined
from swarm.cli.up.pooled import PooledTask, read_answers, write_task
from swarm.cli.up.questions import ask, pick_examples, truths
from swarm.cli.up.report import Cost, Row, Scores, correct, lost_beyond_error, mean_row, row
from swarm.cli.up.stage import Stage, run_all
from swarm.data.dataset import Dataset
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer
from swarm.rpc.clients import CoordinatorClient

JOINED_WITHIN_SECONDS = 10.0
RAW_DATA = "needs the raw data in one place"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the story came to."""

    rows: list[Row] = field(default_factory=list)
    examples: list[tuple[str, Answer, int]] = field(default_factory=list)
    """Truth, answer and row of a few explained answers."""


class Story:
    """One run on a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._deal, self._tell = stage, stage.plan.deal, stage.tell

    async def tell_all(self) -> Outcome:
        """Run everything and return what it came to."""
        outcome = Outcome()
        first_line = await self._stage.found()
        async with places.coordinator(self._stage.founder) as client:
            await self._join_and_train(client, first_line)
            before = await self._first_report(client, outcome)
            if self._deal.newcomer is not None:
                await self._newcomer(client, self._deal.newcomer, before, outcome)
        return outcome

    async def _join_and_train(self, client: CoordinatorClient, first_line: str) -> None:
        """Let nodes join, each by a one-use token of its own, then train all at the same time."""
        parts, lines = self._deal.nodes, [first_line]
        while len(lines) < len(parts):
            lines.append((await client.create_token())[0].removeprefix("swarm join "))
        await run_all(
            self._stage.join(name, data, line)
            for (name, data), line in zip(parts.items(), lines, strict=True)
        )
        await self._stage.wait_until_live(client, list(parts))
        await run_all(self._stage.train(name) for name in parts)

    async def _first_report(self, client: CoordinatorClient, outcome: Outcome) -> Scores:
        """Fill in the rows of the founding nodes; return the scores of the gate's own answers."""
        self._tell("training is over; routing held-out queries, and training pooled nets for comparison")
        sent = await self._stage.bytes_sent(client)
        judging = await self._stage.judging_flops(client)
        await asyncio.to_thread(
            self._deal.open_test
        )  # nothing is trained or tuned for these queries any more
        pooled = asyncio.create_task(self._pooled(judging))
        try:
            await self._alone_rows(client, outcome)
            for label, top_k in (("ensemble", 0), ("swarm_top1", 1), ("swarm_top2", 2), ("swarm_top4", 4)):
                outcome.rows.append(await self._together_row(client, label, top_k, sent, judging))
            truth = truths(self._deal.old_queries)
            own = await ask(client, self._deal.old_queries.inputs, explain=True)
            before = correct(own.probabilities, own.class_names, truth)
            outcome.examples = pick_examples(own, truth, before)
            outcome.rows += await pooled
        finally:
            pooled.cancel()
        return before

    async def _alone_rows(self, client: CoordinatorClient, outcome: Outcome) -> None:
        queries, truth = self._deal.old_queries.inputs, truths(self._deal.old_queries)
        scores, costs = [], []
        for name in self._deal.nodes:
            answer = await ask(client, queries, owners=(NodeId(name),))
            scores.append(correct(answer.probabilities, answer.class_names, truth))
            flops = await self._stage.own_flops(client, name) or answer.flops_per_query
            costs.append(Cost(train_flops=self._stage.train_flops[name], inference_flops=flops))
            outcome.rows.append(row(f"alone:{name}", scores[-1], costs[-1]))
        outcome.rows.append(mean_row("alone_mean", scores, costs))

    async def _together_row(
        self, client: CoordinatorClient, label: str, top_k: int, sent: int, judging: float
    ) -> Row:
        """Ask all experts with equal weight (top_k 0; needs no gate) or as the gate says."""
        queries = self._deal.old_queries
        before = (await client.status()).socket_bytes
        answer = await ask(client, queries.inputs, top_k=top_k, uniform=not top_k)
        after = (await client.status()).socket_bytes
        moved = after.sent + after.received - before.sent - before.received
        cost = Cost(
            train_flops=sum(self._stage.train_flops.values()) + (judging if top_k else 0),
            inference_flops=answer.flops_per_query,
            bytes_sent=sent,
            sync_rounds=1 if top_k else 0,
        )
        scores = correct(answer.probabilities, answer.class_names, truths(queries))
        return row(label, scores, cost, f"{moved / len(queries):,.0f} bytes a query at the coordinator")

    async def _pooled(self, judging: float) -> list[Row]:
        plan, deal, folder = self._stage.plan, self._deal, self._stage.root / "pooled"
        everything = joined(list(deal.nodes.values()), "pooled")
        total = sum(self._stage.train_flops.values()) + judging
        task = PooledTask(
            net=plan.net,
            seed=plan.seed,
            budgets={"pooled_one_budget": total / len(deal.nodes), "pooled_total_budget": total},
            import_paths=plan.import_paths,
        )
        await asyncio.to_thread(write_task, folder, task, everything, deal.old_queries.inputs)
        said = await self._stage.supervisor.run("pooled training", ["swarm.cli.up.pooled", str(folder)])
        rows = []
        for name, (answers, spent) in read_answers(folder, said).items():
            cost = Cost(
                train_flops=spent.train_flops,
                inference_flops=spent.inference_flops,
                bytes_sent=deal.raw_bytes(),
            )
            scores = correct(answers, everything.class_names, truths(deal.old_queries))
            rows.append(row(name, scores, cost, RAW_DATA))
        return rows

    async def _newcomer(
        self, client: CoordinatorClient, data: Dataset, before: Scores, outcome: Outcome
    ) -> None:
        """Let one more node join with a class that nobody had, and see what changes for everybody."""
        name, new_class = self._deal.newcomer_name, self._deal.new_class
        self._tell(f"one more node joins: {name}, with class {new_class}, which nobody had")
        line, _ = await client.create_token()
        await self._stage.join(name, data, line.removeprefix("swarm join "))
        await self._stage.wait_until_live(client, [name])
        await self._stage.train(name)
        waited = await self._until_answered(client)
        sent = await self._stage.bytes_sent(client)
        if self._deal.new_queries is not None:
            found = f"answered {waited:.1f} s" if waited < JOINED_WITHIN_SECONDS else "NOT answered in time"
            note = f"class {new_class}, {found} after {name}'s training"
            outcome.rows.append(
                (await self._joined(client, "joined_new_class", self._deal.new_queries, sent, note))[0]
            )
        last, now = await self._joined(client, "joined_old_classes", self._deal.old_queries, sent, "")
        verdict = "worse than before by more than" if lost_beyond_error(before, now) else "within"
        note = f"was {before.mean():.3f} before {name} joined: {verdict} one standard error"
        outcome.rows.append(replace(last, note=note))

    async def _joined(
        self, client: CoordinatorClient, label: str, queries: Dataset, sent: int, note: str
    ) -> tuple[Row, Scores]:
        answer = await ask(client, queries.inputs)
        scores = correct(answer.probabilities, answer.class_names, truths(queries))
        judging = await self._stage.judging_flops(client)
        cost = Cost(
            train_flops=sum(self._stage.train_flops.values()) + judging,
            inference_flops=answer.flops_per_query,
            bytes_sent=sent,
            sync_rounds=1,
        )
        return row(label, scores, cost, note), scores

    async def _until_answered(self, client: CoordinatorClient) -> float:
        """Return the seconds until the new class is first answered, at most the time allowed."""
        queries = self._deal.new_queries
        if queries is None:
            return 0.0
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() - start < JOINED_WITHIN_SECONDS:
            answer = await ask(client, queries.inputs)
            if correct(answer.probabilities, answer.class_names, truths(queries)).any():
                return loop.time() - start
            await asyncio.sleep(0.2)
        return JOINED_WITHIN_SECONDS
