"""The audit trail of answers: `audit/<day>.jsonl` in the coordinator's folder, one line for each query.

Who asked, when, how many rows, of which model, what became of it, by which gate, and which experts' versions
answered, where the answer says so (answers that are explained do). No inputs, no probabilities, no class.
Lines are written once a second and at the end; a crash may cost the last second's. Days beyond `keep_days`
are removed.
"""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from swarm.domain.inference import Answer

KEEP_DAYS: Final = 30
WRITE_S: Final = 1.0
MOST_UNWRITTEN: Final = 100_000
"""Lines beyond this, which no disk took, are counted and dropped, the oldest first."""
_NAMED: Final = 64
_log = structlog.get_logger()


class AnswerTrail:
    """Implements `Trail`. For one event loop. `clock`: seconds since the epoch."""

    def __init__(
        self, folder: Path, keep_days: int = KEEP_DAYS, clock: Callable[[], float] = time.time
    ) -> None:
        """`keep_days` 0: nothing is written."""
        self._folder, self._keep_days, self._clock = folder, keep_days, clock
        self._lines: deque[tuple[str, str]] = deque()
        self._lost, self._swept = 0, ""

    def answered(
        self, caller: str, model: str, rows: int, duration_s: float, answer: Answer | None, outcome: str
    ) -> None:
        """Note a query's end."""
        if not self._keep_days:
            return
        moment = datetime.fromtimestamp(self._clock(), UTC)
        facts: dict[str, object] = {
            "at": moment.isoformat(timespec="milliseconds"),
            "caller": caller,
            "model": model,
            "rows": rows,
            "outcome": outcome,
            "duration_s": round(duration_s, 6),
        }
        if answer is not None:
            facts |= _facts(answer)
        if len(self._lines) >= MOST_UNWRITTEN:
            self._lines.popleft()
            self._lost += 1
        self._lines.append((f"{moment:%Y-%m-%d}", json.dumps(facts, ensure_ascii=False)))

    async def run(self) -> None:
        """Write until cancelled, then what is left."""
        try:
            while True:
                await asyncio.sleep(WRITE_S)
                await asyncio.to_thread(self.write)
        finally:
            self.write()

    def write(self) -> None:
        """Append what was noted since, and remove days that are too old. What a disk refuses stays for the
        next time."""
        taken: dict[str, list[str]] = {}
        while self._lines:
            day, line = self._lines.popleft()
            taken.setdefault(day, []).append(line)
        for day, lines in taken.items():
            if not self._append(day, lines):
                self._lines.extendleft((day, line) for line in reversed(lines))
        today = f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%d}"
        if self._swept != today:
            self._swept = today
            self._sweep(today)

    def _append(self, day: str, lines: list[str]) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{day}.jsonl"
            with open(path, "a", encoding="utf-8", opener=_private) as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            _log.warning("audit.not_written", lines=len(lines), lost=self._lost, reason=str(error))
            return False
        return True

    def _sweep(self, today: str) -> None:
        oldest = f"{datetime.fromisoformat(today) - timedelta(days=self._keep_days):%Y-%m-%d}"
        for path in self._folder.glob("????-??-??.jsonl"):
            if path.stem < oldest:
                path.unlink(missing_ok=True)


def read_trail(folder: Path, since: str = "", caller: str = "") -> Iterator[dict[str, object]]:
    """Yield the lines of a trail, the oldest first: from the moment `since` on (ISO 8601, UTC), of callers
    whose `role/id` has `caller` in it. A line that a crash cut short is left out.
    """
    for path in sorted(folder.glob("????-??-??.jsonl")):
        if path.stem < since[:10]:
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(found, dict) or str(found.get("at", "")) < since:
                    continue
                if caller in str(found.get("caller", "")):
                    yield found


def _facts(answer: Answer) -> dict[str, object]:
    experts = sorted({f"{source.expert}@{source.version}" for row in answer.sources for source in row})
    served = sorted({source.served_by for row in answer.sources for source in row})
    return {
        "gate_version": answer.gate_version,
        "combination": answer.combination,
        "degraded_rows": sum(answer.degraded),
        "experts": experts[:_NAMED],
        "served_by": served[:_NAMED],
        "missing_experts": list(answer.missing_experts[:_NAMED]),
    }


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
