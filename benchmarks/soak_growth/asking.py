"""Questions without a pause: was every one of them answered, and how fast?"""

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import SwarmError
from swarm.domain.inference import Query
from swarm.rpc.clients import CoordinatorClient

ROWS = 8
PAUSE_S = 0.25
PATIENCE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Service:
    """What became of the questions so far; `seconds` are the answers' latencies."""

    asked: int = 0
    answered: int = 0
    degraded: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the counts, and the latencies' median and 99th percentile."""
        latencies = np.array(self.seconds or [0.0])
        return {
            "queries_asked": float(self.asked),
            "queries_unanswered": float(self.asked - self.answered),
            "queries_degraded": float(self.degraded),
            "query_p50_s": float(np.quantile(latencies, 0.5)),
            "query_p99_s": float(np.quantile(latencies, 0.99)),
        }


async def ask_for_ever(
    client: CoordinatorClient, inputs: NDArray[np.generic], seed: int, found: Service
) -> None:
    """Ask about a few rows of inputs [N, ...] at a time until cancelled; failures are kept, not retried."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(len(inputs), size=ROWS)
        started = time.monotonic()
        found.asked += 1
        try:
            answer = await client.predict(Query(inputs=inputs[rows]), PATIENCE_S)
        except SwarmError as error:
            found.failures.append(str(error))
        except asyncio.CancelledError:
            found.asked -= 1
            raise
        else:
            sums = answer.probabilities.sum(axis=1)
            if len(answer.probabilities) == ROWS and np.allclose(sums, 1, atol=1e-3):
                found.answered += 1
                found.degraded += any(answer.degraded)
                found.seconds.append(time.monotonic() - started)
            else:
                found.failures.append(f"no probabilities: {sums}")
        await asyncio.sleep(PAUSE_S)
