"""One more node joins: what its new class is worth to all, and what it borrowed from whom."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarm.cli.up.asked import Spent
from swarm.cli.up.deal import truths
from swarm.cli.up.questions import ask
from swarm.cli.up.report import Cost, Row, Scores, correct, lost_beyond_error, row
from swarm.cli.up.stage import Stage
from swarm.data.dataset import Dataset
from swarm.rpc.clients import CoordinatorClient

WITHIN_SECONDS = 10.0
_START = re.compile(r"(borrows from|starts from random weights).*")


class Newcomer:
    """Joins, trains (borrowing from whom it helps), and asks the same questions again."""

    def __init__(self, stage: Stage, client: CoordinatorClient, before: Spent) -> None:
        """before: what the others spent to learn."""
        self._stage, self._client, self._before = stage, client, before
        self._deal, self._tell = stage.plan.deal, stage.tell

    async def join(self, data: Dataset, before: Scores) -> list[Row]:
        """Let it join with a class that nobody had; return what changes. before: the old queries' scores."""
        name, new_class = self._deal.newcomer_name, self._deal.new_class
        self._tell(f"one more node joins: {name}, with class {new_class}, which nobody had")
        already = await self._stage.bytes_sent(self._client)
        line, _ = await self._client.create_token()
        await self._stage.join(name, data, line.removeprefix("swarm join "))
        await self._stage.wait_until_live(self._client, [name])
        await self._stage.train(name, borrow=True)
        waited = await self._until_answered()
        sent = self._before.bytes_sent + await self._stage.bytes_sent(self._client) - already
        borrowed = borrow_note(self._stage.said[name], self._stage.figures[name])
        rows = []
        if self._deal.new_queries is not None:
            found = f"answered {waited:.1f} s" if waited < WITHIN_SECONDS else "NOT answered in time"
            note = f"class {new_class}, {found} after {name}'s training; {borrowed}"
            rows.append((await self._row("joined_new_class", self._deal.new_queries, sent, note))[0])
        last, now, given = await self._row("joined_old_classes", self._deal.old_queries, sent, "")
        verdict = "worse than before by more than" if lost_beyond_error(before, now) else "within"
        note = f"was {before.mean():.3f} before {name} joined: {verdict} one standard error"
        if lost_beyond_error(before, now):
            note += lost_note(before, now, given, new_class)
        return [*rows, replace(last, note=note)]

    async def _row(self, label: str, queries: Dataset, sent: int, note: str) -> tuple[Row, Scores, list[str]]:
        """Return a row, the queries' scores and the class that each got."""
        answer = await ask(self._client, queries.inputs)
        scores = correct(answer.probabilities, answer.class_names, truths(queries))
        cost = Cost(
            train_flops=await self._stage.total_flops(self._client),
            inference_flops=answer.flops_per_query,
            bytes_sent=sent,
            sync_rounds=self._before.sync_rounds,
        )
        given = [answer.class_names[index] for index in answer.probabilities.argmax(axis=1)]
        return row(label, scores, cost, note), scores, given

    async def _until_answered(self) -> float:
        """Return the seconds until the new class is first answered, at most the time allowed."""
        queries = self._deal.new_queries
        if queries is None:
            return 0.0
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() - start < WITHIN_SECONDS:
            answer = await ask(self._client, queries.inputs)
            if correct(answer.probabilities, answer.class_names, truths(queries)).any():
                return loop.time() - start
            await asyncio.sleep(0.2)
        return WITHIN_SECONDS


def lost_note(before: Scores, now: Scores, given: Sequence[str], new_class: str) -> str:
    """Return how many of the answers that were right before are now the new class."""
    lost = [name for name, was, is_now in zip(given, before, now, strict=True) if was > is_now]
    taken = lost.count(new_class)
    of_them = f"{taken} of the {len(lost)} lost answers {'is' if taken == 1 else 'are'} now class {new_class}"
    return f"; {of_them}, which the swarm did not know before"


def borrow_note(said: str, figures: Mapping[str, float]) -> str:
    """Return what a training borrowed and how much that helped, from its words and its `borrow_` figures."""
    found = _START.search(said)
    told = found[0].split(" (")[0] if found else ""
    facts = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in sorted(figures.items())
        if name.startswith(("borrow_", "random_"))
    )
    if not told and not facts:
        return "borrowed nothing"
    return "; ".join(filter(None, [told, facts]))
