"""A node's experts answer requests that come together as they answer each alone; one's fault is its own."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.expert_service import ExpertService
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    ShapeMismatchError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import MAX_QUERY_ROWS, ExpertAnswer, ExpertRequest, ExpertTask
from swarm.domain.membership import Caller
from swarm.experts.expert import LoadedExpert
from swarm.rpc.callers import set_current_caller
from tests.support.expert_home import ExpertHome, expert_home, images

FRAGILE = """
import torch

class Fragile(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(64, classes)

    def forward(self, inputs):
        values = inputs.flatten(1)
        return self.head(values) / torch.where(values[:, :1] > 0.9, 0.0, 1.0)

def fragile(*, input_shape, classes):
    return Fragile(classes)
"""


@pytest.fixture
def garden(tmp_path: Path) -> ExpertHome:
    return expert_home(tmp_path, 3)


async def together(service: ExpertService, *requests: ExpertRequest) -> list[Any]:
    """Ask while the answering thread is kept busy, so that all requests wait and go together."""
    may_go, first = threading.Event(), asyncio.get_running_loop().create_future()
    kept = service._batches._compute

    def compute(jobs: Any) -> Any:
        may_go.wait(30)
        return kept(jobs)

    service._batches._compute = compute
    first = asyncio.create_task(service.predict(requests[0]))
    asked = [asyncio.create_task(service.predict(each)) for each in requests]
    while not service._batches._busy or service._room.taken < sum(len(each.inputs) for each in requests):
        await asyncio.sleep(0)
    may_go.set()
    await asyncio.gather(first, return_exceptions=True)
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_requests_that_go_together_are_answered_as_alone(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    sizes: list[int] = []
    store = garden.store()
    service = garden.service(store)
    requests = [garden.request(images(n + 1, n), one) for n in range(6)]
    alone = [await service.predict(request) for request in requests]
    kept = LoadedExpert.values

    def values(self: LoadedExpert, inputs: Any, form: Any) -> Any:
        sizes.append(len(inputs))
        return kept(self, inputs, form)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedExpert, "values", values)
        found = await together(service, *requests)
    assert max(sizes) == sum(range(1, 7))
    for answers, before in zip(found, alone, strict=True):
        assert [(a.expert, a.version, a.module_digests) for a in answers] == [
            (b.expert, b.version, b.module_digests) for b in before
        ]
        for answer, other in zip(answers, before, strict=True):
            np.testing.assert_allclose(answer.values, other.values, rtol=1e-5, atol=1e-6)


async def test_each_expert_answers_only_the_rows_that_its_task_names(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    service, inputs = garden.service(garden.store()), images(6)
    (whole,) = await service.predict(garden.request(inputs, one))
    (some,) = await service.predict(garden.request(inputs, one, rows=np.array([4, 1])))
    np.testing.assert_allclose(some.values, whole.values[[4, 1]], rtol=1e-5, atol=1e-6)
    (none,) = await service.predict(garden.request(inputs, one, rows=np.array([], dtype=np.int64)))
    assert none.values.shape == (0, 2)


async def test_an_answer_that_is_not_finite_fails_its_own_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_nets.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    garden = expert_home(tmp_path / "home")
    digest = garden.add(net="fragile_nets:fragile", import_paths=(str(tmp_path),))
    service = garden.service(garden.store())
    good, bad = images(2), images(2)
    good[:, 0, 0], bad[:, 0, 0] = 1, 16
    await service.predict(garden.request(good, digest))
    found = await together(service, *(garden.request(each, digest) for each in (good, bad, good)))
    assert isinstance(found[1], VerificationError) and "not finite" in str(found[1])
    assert all(isinstance(each[0], ExpertAnswer) for each in (found[0], found[2]))


async def test_a_request_that_cannot_be_answered_is_refused_by_name(garden: ExpertHome) -> None:
    one, two, _ = garden.experts
    service, inputs = garden.service(garden.store()), images(3)
    refused: list[tuple[type[Exception], str, ExpertRequest]] = [
        (TrunkMismatchError, "gate 1", garden.request(inputs, one, trunk=Digest("0" * 64))),
        (ShapeMismatchError, "inputs", garden.request(inputs.astype(np.float32), one)),
        (InvalidInputError, "outside 0..2", garden.request(inputs, one, rows=np.array([3]))),
        (InvalidInputError, "at most 4096", garden.request(inputs, one, rows=np.zeros(4097, int))),
        (NotFoundError, "no expert at this version", await unknown(garden, inputs)),
        (VerificationError, "of rose.e1", mixed(garden, inputs, one, two)),
    ]  # fmt: skip
    for kind, said, request in refused:
        with pytest.raises(kind, match=said):
            await service.predict(request)
    assert service._room.taken == 0


async def unknown(garden: ExpertHome, inputs: np.ndarray) -> ExpertRequest:
    task = ExpertTask(expert=ExpertId("rose.e0"), manifest=Digest("1" * 64), rows=np.arange(3))
    request = garden.request(inputs, next(iter(garden.experts)))
    return ExpertRequest(inputs=inputs, tasks=(*request.tasks, task), trunk=request.trunk, gate_version=1)


def mixed(garden: ExpertHome, inputs: np.ndarray, one: Digest, two: Digest) -> ExpertRequest:
    task = ExpertTask(expert=garden.experts[one].expert, manifest=two, rows=np.arange(3))
    return ExpertRequest(
        inputs=inputs, tasks=(task,), trunk=garden.specification.trunk.digest, gate_version=1
    )


async def test_a_replayable_answer_is_the_same_to_the_bit_in_any_company(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    service = garden.service(garden.store())
    request = garden.request(images(5), one, replayable=True)
    (alone,) = await service.predict(request)
    others = [garden.request(images(n + 1, n), one) for n in range(4)]
    found = await together(service, *others, request)
    assert alone.computed_on and found[-1][0].computed_on == alone.computed_on
    assert found[-1][0].values.tobytes() == alone.values.tobytes()
    (row,) = await service.predict(garden.request(images(5)[2:3], one, replayable=True))
    assert row.values.tobytes() == alone.values[2:3].tobytes()


async def test_more_experts_than_the_budget_holds_are_all_answered_in_one_request_and_by_many_at_once(
    tmp_path: Path,
) -> None:
    garden = expert_home(tmp_path, 6)
    first = garden.store().expert(next(iter(garden.experts)), garden.specification)
    store = garden.store(budget_bytes=2 * first.size_bytes)
    service, plenty = garden.service(store), garden.service(garden.store())
    request = garden.request(images(4), *garden.experts)
    expected = await plenty.predict(request)
    found = await asyncio.gather(
        service.predict(request),
        *(service.predict(garden.request(images(4), digest)) for digest in garden.experts),
        *(service.predict(garden.request(images(4), digest)) for digest in reversed(garden.experts)),
    )
    by_expert = {answer.expert: answer.values for answer in expected}
    for answers in found:
        for answer in answers:
            np.testing.assert_allclose(answer.values, by_expert[answer.expert], rtol=1e-5, atol=1e-6)
    memory = store.memory
    assert memory.loaded == 2 and memory.size_bytes <= memory.budget_bytes
    assert memory.loads > 6 and memory.hits + memory.loads > 12


async def test_a_callers_flood_is_refused_and_another_is_answered(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    service = garden.service(garden.store())
    await service.predict(garden.request(images(1), one))

    async def ask(name: str, rows: int) -> Any:
        set_current_caller(Caller(role="client", id=NodeId(name)))
        return await service.predict(garden.request(images(rows), one))

    flood = [asyncio.create_task(ask("mal", MAX_QUERY_ROWS)) for _ in range(40)]
    calm = asyncio.create_task(ask("ada", 2))
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert len(await calm) == 1
    refused = [each for each in found if isinstance(each, ExhaustedError)]
    assert 0 < len(refused) < 40 and "try again in" in str(refused[0])
    assert all(isinstance(each, ExhaustedError) or len(each) == 1 for each in found)


async def test_who_gives_up_leaves_nothing_behind(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    service = garden.service(garden.store())
    await service.predict(garden.request(images(1), one))
    asked = [asyncio.create_task(service.predict(garden.request(images(64), one))) for _ in range(8)]
    await asyncio.sleep(0)
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert service._room.taken == 0
    assert len(await service.predict(garden.request(images(1), one))) == 1


async def test_experts_that_are_asked_together_again_and_again_are_computed_as_one(tmp_path: Path) -> None:
    garden = expert_home(tmp_path, 5)
    store, passes = garden.store(), list[int]()
    service = garden.service(store)
    request = garden.request(images(3), *garden.experts)
    first = await service.predict(request)
    kept = LoadedExpert.values

    def values(self: LoadedExpert, inputs: Any, form: Any) -> Any:
        passes.append(len(inputs))
        return kept(self, inputs, form)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedExpert, "values", values)
        for _ in range(12):
            again = await service.predict(request)
    assert len(passes) < 6 * 5
    for answer, before in zip(again, first, strict=True):
        assert (answer.expert, answer.manifest) == (before.expert, before.manifest)
        np.testing.assert_allclose(answer.values, before.values, rtol=1e-5, atol=1e-6)
    experts = sum(manifest.weight_bytes() for manifest in garden.experts.values())
    assert store.memory.size_bytes == 2 * experts


async def test_an_input_that_is_not_finite_fails_its_own_request_also_in_a_stack(tmp_path: Path) -> None:
    garden = expert_home(tmp_path, 3, input_dtype="float32")
    service = garden.service(garden.store())
    good, bad = images(2).astype(np.float32), images(2).astype(np.float32)
    bad[1, 0, 0] = np.nan
    for _ in range(8):
        await service.predict(garden.request(good, *garden.experts))
    found = await together(service, *(garden.request(each, *garden.experts) for each in (good, bad, good)))
    assert isinstance(found[1], InvalidInputError) and "in row 1" in str(found[1])
    assert [len(each) for each in (found[0], found[2])] == [3, 3]
