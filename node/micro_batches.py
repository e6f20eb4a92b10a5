"""One thread that answers: what came while it worked goes together next, and each gets its own part.

Nobody waits for company: a lone job starts at once, and a batch is whatever waits when the thread is free.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, TypeVar

from node.fair_queue import FairQueue

MOST_ROWS: Final = 1024
"""A batch ends with the job that brings it to so many rows."""

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
Compute = Callable[[Sequence[_Job]], Sequence[_Result | Exception]]


class MicroBatches(Generic[_Job, _Result]):
    """Jobs of callers that take turns, computed batch by batch off the event loop.

    `compute` runs in the thread and gives for each job its result or its own error. `together` False: one job
    at a time. `worked` hears of each batch its rows and seconds.
    """

    def __init__(
        self,
        compute: Compute[_Job, _Result],
        *,
        together: bool = True,
        worked: Callable[[int, float], None] = lambda rows, seconds: None,
        name: str = "answers",
    ) -> None:
        self._compute, self._together, self._worked = compute, together, worked
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._queue: FairQueue[tuple[_Job, int, asyncio.Future[_Result]]] = FairQueue()
        self._busy = False

    def submit(self, caller: str, job: _Job, rows: int) -> "asyncio.Future[_Result]":
        """Return the job's result as it comes. Cancelled before its turn, the job is not computed."""
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._queue.put(caller, (job, rows, future))
        if not self._busy:
            self._start_next()
        return future

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        for _, _, future in self._queue.clear():
            future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start_next(self) -> None:
        batch, rows = self._next_batch()
        self._busy = bool(batch)
        if batch:
            jobs = [job for job, _ in batch]
            futures = [future for _, future in batch]
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._compute, jobs)
            work.add_done_callback(partial(self._finished, futures, rows, time.monotonic()))

    def _next_batch(self) -> tuple[list[tuple[_Job, "asyncio.Future[_Result]"]], int]:
        batch: list[tuple[_Job, asyncio.Future[_Result]]] = []
        total = 0
        while (found := self._queue.next()) is not None:
            job, rows, future = found
            if not future.done():
                if batch and (not self._together or total + rows > MOST_ROWS):
                    break
                batch.append((job, future))
                total += rows
            self._queue.take()
        return batch, total

    def _finished(
        self,
        futures: "Sequence[asyncio.Future[_Result]]",
        rows: int,
        started: float,
        work: "asyncio.Future[Sequence[_Result | Exception]]",
    ) -> None:
        self._worked(rows, time.monotonic() - started)
        if work.cancelled():
            self._busy = False
            for future in futures:
                future.cancel()
            return
        self._start_next()
        failed = work.exception()
        found: Sequence[_Result | BaseException]
        found = [failed] * len(futures) if failed is not None else work.result()
        for future, result in zip(futures, found, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
