"""The trunk in one thread of its own, for all queries: what waits while it works goes together next.

A lone request never waits for company: a batch is whatever came while the trunk was busy.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import ExhaustedError, SwarmError
from swarm.domain.inference import MAX_QUERY_ROWS
from swarm.gating.tiles import in_tiles

MOST_WAITING_ROWS = 16 * MAX_QUERY_ROWS

Inputs = NDArray[np.generic]
Features = NDArray[np.float32]


class FeatureMap(Protocol):
    """What is asked of a trunk (`swarm.experts.trunk.Trunk`)."""

    flops_per_query: int

    @property
    def device(self) -> Any: ...

    def features(self, inputs: Inputs) -> Features: ...


class FeatureService:
    """Features float32 [B, D] of raw inputs [B, *input_shape], computed off the event loop."""

    def __init__(self, load: Callable[[], FeatureMap]) -> None:
        self._load = load
        self._trunk: FeatureMap | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trunk")
        self._waiting: deque[tuple[Inputs, asyncio.Future[Features]]] = deque()
        self._waiting_rows = 0
        self._working: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Load the trunk; raises what loading raises. Later calls load it again if this failed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._loaded)

    @property
    def flops_per_query(self) -> int:
        """FLOPs of one input's features; 0 before the trunk is loaded."""
        return 0 if self._trunk is None else self._trunk.flops_per_query

    async def features(self, inputs: Inputs) -> Features:
        """Return the inputs' features. Raises ExhaustedError when too much waits already."""
        if self._waiting_rows + len(inputs) > MOST_WAITING_ROWS:
            raise ExhaustedError(
                "coordinator",
                found=f"{self._waiting_rows} queries waiting",
                expected=f"at most {MOST_WAITING_ROWS}",
                remedy="send fewer at a time and try again",
            )
        future: asyncio.Future[Features] = asyncio.get_running_loop().create_future()
        self._waiting.append((inputs, future))
        self._waiting_rows += len(inputs)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    async def replayable(self, inputs: Inputs) -> tuple[Features, str]:
        """Return the inputs' features, computed so that they can be again to the bit, and on what: in tiles
        and one thread, with nobody else's rows. Raises as `features` does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._compute_alone, inputs)

    async def close(self) -> None:
        """Stop; who still waits is cancelled."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                if batch:
                    await self._answer(batch)
        finally:
            self._working = None

    def _next_batch(self) -> list[tuple[Inputs, asyncio.Future[Features]]]:
        batch: list[tuple[Inputs, asyncio.Future[Features]]] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0][0]) <= MAX_QUERY_ROWS):
            inputs, future = self._waiting.popleft()
            self._waiting_rows -= len(inputs)
            if not future.done():
                batch.append((inputs, future))
                rows += len(inputs)
        return batch

    async def _answer(self, batch: list[tuple[Inputs, asyncio.Future[Features]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._compute, [inputs for inputs, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                # One request's inputs may be at fault: each alone says which.
                for one in batch:
                    await self._answer([one])
                return
            _settle(batch[0][1], error=error)
            return
        for (_, future), features in zip(batch, found, strict=True):
            _settle(future, features=features)

    def _compute(self, inputs: list[Inputs]) -> list[Features]:
        trunk = self._loaded()
        if len(inputs) == 1:
            return [trunk.features(inputs[0])]
        ends = np.cumsum([len(part) for part in inputs])[:-1]
        return np.split(trunk.features(np.concatenate(inputs)), ends)

    def _compute_alone(self, inputs: Inputs) -> tuple[Features, str]:
        from swarm.experts.one_thread import computed_on, one_thread

        trunk = self._loaded()
        with one_thread():
            return in_tiles(trunk.features, inputs), computed_on(trunk.device)

    def _loaded(self) -> FeatureMap:
        if self._trunk is None:
            self._trunk = self._load()
        return self._trunk


def _settle(
    future: asyncio.Future[Features], *, features: Features | None = None, error: Exception | None = None
) -> None:
    if future.done():
        return
    if features is not None:
        future.set_result(features)
        return
    named = (
        error
        if isinstance(error, SwarmError)
        else SwarmError("trunk", found=f"{type(error).__name__}: {error}")
    )
    future.set_exception(named)
