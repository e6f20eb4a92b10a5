"""Micro-batching: what waits while the trunk works goes together; a lone request goes at once."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from swarm.answering.feature_service import MOST_WAITING_ROWS, FeatureService
from swarm.domain.errors import ExhaustedError, InvalidInputError, SwarmError
from swarm.domain.inference import MAX_QUERY_ROWS


class Doubling:
    """A feature map that shows how it was called."""

    flops_per_query = 7

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def features(self, inputs: Any) -> Any:
        self.may_go.wait(5)
        self.batches.append(len(inputs))
        if (inputs < 0).any():
            raise InvalidInputError("inputs", found="a negative value")
        return (inputs * 2).astype(np.float32)


def rows(count: int, value: float = 1.0) -> Any:
    return np.full((count, 3), value, np.float32)


async def test_a_lone_request_is_answered_alone_and_at_once() -> None:
    trunk = Doubling()
    service = FeatureService(lambda: trunk)
    np.testing.assert_array_equal(await service.features(rows(2)), rows(2, 2.0))
    assert (trunk.batches, service.flops_per_query) == ([2], 7)
    await service.close()


async def test_what_comes_while_the_trunk_works_goes_together_and_each_gets_its_own() -> None:
    trunk = Doubling()
    service = FeatureService(lambda: trunk)
    await service.warm()
    trunk.may_go.clear()
    asked = [asyncio.create_task(service.features(rows(1, float(n)))) for n in range(9)]
    await asyncio.sleep(0.05)
    trunk.may_go.set()
    found = await asyncio.gather(*asked)
    assert [float(part[0, 0]) for part in found] == [2.0 * n for n in range(9)]
    assert len(trunk.batches) <= 2 and sum(trunk.batches) == 9
    await service.close()


async def test_a_batch_never_exceeds_the_largest_query() -> None:
    trunk = Doubling()
    service = FeatureService(lambda: trunk)
    await asyncio.gather(*(service.features(rows(MAX_QUERY_ROWS - 1)) for _ in range(3)))
    assert max(trunk.batches) <= MAX_QUERY_ROWS
    await service.close()


async def test_one_bad_request_does_not_spoil_the_others_of_its_batch() -> None:
    trunk = Doubling()
    service = FeatureService(lambda: trunk)
    await service.warm()
    trunk.may_go.clear()
    values = [1.0, -1.0, 2.0, 3.0]
    asked = [asyncio.create_task(service.features(rows(1, value))) for value in values]
    await asyncio.sleep(0.05)
    trunk.may_go.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[1], InvalidInputError)
    assert [float(part[0, 0]) for part in (found[0], *found[2:])] == [2.0, 4.0, 6.0]
    await service.close()


async def test_a_trunk_that_does_not_load_is_an_error_by_name_and_is_tried_again() -> None:
    attempts = []

    def load() -> Doubling:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no such file")
        return Doubling()

    service = FeatureService(load)
    with pytest.raises(SwarmError, match="no such file"):
        await service.features(rows(1))
    assert len(await service.features(rows(1))) == 1
    await service.close()


async def test_too_much_waiting_is_refused() -> None:
    service = FeatureService(Doubling)
    with pytest.raises(ExhaustedError, match="waiting"):
        await service.features(np.zeros((MOST_WAITING_ROWS + 1, 1), np.float32))
    await service.close()
