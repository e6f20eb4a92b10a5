"""The report: one row for each way to learn from the same data, and what each cost. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
ORDER = (
    *("alone", "alone_mean", "ensemble", "swarm_top1", "swarm_top2", "swarm_top4"),
    *("fedavg", "fedavg_equal_compute"),
    *("root", "poe", "corrected", "swarm", "asker"),
    *("pooled_one_budget", "pooled_total_budget", "pooled_equal_macs", "pooled_cnn"),
    *("joined_new_class", "joined_old_classes"),
)
"""The rows as they are shown; the part of a name after a colon tells rows of one kind apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to answer: accuracy 0..1 on held-out queries with its standard error, and its cost.

    `train_flops` of everybody together (nodes alone and their ensemble: the experts; with a gate also
    features, sums, solving and judging; the root: those without the experts), `inference_flops` per query,
    `bytes_sent` between machines until it could answer, `sync_rounds` in which nodes waited for one another.
    """

    name: str
    accuracy: float
    standard_error: float
    train_flops: float
    inference_flops: float
    bytes_sent: int
    sync_rounds: int
    note: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.accuracy <= 1 and math.isfinite(self.standard_error)):
            raise ValueError(f"{self.name}: accuracy {self.accuracy} +- {self.standard_error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a way of learning cost; see Row."""

    train_flops: float = 0.0
    inference_flops: float = 0.0
    bytes_sent: int = 0
    sync_rounds: int = 0


def correct(probabilities: NDArray[np.float32], names: Sequence[str], truth: Sequence[str]) -> Scores:
    """Return 1.0 where the most probable class name is the truth: float64 [B]."""
    chosen = np.asarray(names, dtype=object)[np.argmax(probabilities, axis=1)]
    return np.asarray(chosen == np.asarray(truth, dtype=object), dtype=np.float64)


def row(name: str, scores: Scores, cost: Cost, note: str = "") -> Row:
    """Return a row from each query's score in [0, 1]: float64 [B]. The error is of the mean over queries."""
    if scores.size == 0:
        raise ValueError(f"{name}: no queries to score")
    return Row(
        name=name,
        accuracy=float(scores.mean()),
        standard_error=float(scores.std() / math.sqrt(scores.size)),
        train_flops=cost.train_flops,
        inference_flops=cost.inference_flops,
        bytes_sent=cost.bytes_sent,
        sync_rounds=cost.sync_rounds,
        note=note,
    )


def mean_row(name: str, scores: Sequence[Scores], costs: Sequence[Cost], note: str = "") -> Row:
    """Return the mean over ways: of scores per query (so the error is again over queries) and of costs."""
    count = len(costs)
    mean_cost = Cost(
        train_flops=sum(c.train_flops for c in costs) / count,
        inference_flops=sum(c.inference_flops for c in costs) / count,
        bytes_sent=round(sum(c.bytes_sent for c in costs) / count),
        sync_rounds=max(c.sync_rounds for c in costs),
    )
    return row(name, np.mean(np.stack(scores), axis=0), mean_cost, note)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows as ORDER has them; rows of one kind stay in theirs."""
    return sorted(rows, key=lambda item: ORDER.index(item.name.partition(":")[0]))


def lost_beyond_error(before: Scores, after: Scores) -> bool:
    """Say whether the same queries are answered worse than before by more than one paired standard error."""
    lost = int(np.sum(before > after))
    gained = int(np.sum(after > before))
    return lost - gained > math.sqrt(lost + gained)


def render(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people."""
    header = ("", "accuracy", "training FLOPs", "FLOPs/query", "bytes sent", "rounds")
    body = [
        (
            item.name,
            f"{item.accuracy:.3f} ±{item.standard_error:.3f}",
            f"{item.train_flops:.2e}",
            f"{item.inference_flops:.2e}",
            f"{item.bytes_sent:,}",
            str(item.sync_rounds),
        )
        for item in rows
    ]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [header, *body]
    ]
    notes = dict.fromkeys(f"  {item.name}: {item.note}" for item in rows if item.note)
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)
