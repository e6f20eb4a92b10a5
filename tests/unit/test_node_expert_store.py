"""The experts that a node keeps in memory: within their budget, each loaded once, whoever asks meanwhile."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.experts.expert import LoadedExpert
from tests.support.expert_home import ExpertHome, expert_home, images


@pytest.fixture
def garden(tmp_path: Path) -> ExpertHome:
    return expert_home(tmp_path, 4)


def test_the_bytes_that_count_are_those_of_the_tensors(tmp_path: Path) -> None:
    garden = expert_home(tmp_path)
    plain, corrected = garden.add(net="mlp:8x1"), garden.add(net="mlp:8x1", corrected=True)
    store = garden.store()
    numbers = 64 * 8 + 8 + 8 * 2 + 2
    assert store.expert(plain, garden.specification).size_bytes == 4 * numbers
    assert store.expert(corrected, garden.specification).size_bytes == 8 * numbers
    assert garden.experts[corrected].weight_bytes() == 8 * numbers
    assert (store.memory.loaded, store.memory.size_bytes) == (2, 12 * numbers)


def test_the_least_recently_asked_is_forgotten_first(garden: ExpertHome) -> None:
    one, two, three, _ = garden.experts
    size = garden.experts[one].weight_bytes()
    store = garden.store(budget_bytes=2 * size)
    for digest in (one, two, one, three):
        store.expert(digest, garden.specification)
    assert store.in_memory(one) and store.in_memory(three) and store.in_memory(two) is None
    assert (store.memory.hits, store.memory.loads) == (1, 3)
    tiny = garden.store(budget_bytes=1)
    for digest in garden.experts:
        assert len(tiny.expert(digest, garden.specification).probabilities(images(2))) == 2
        assert tiny.memory.loaded == 1


def test_an_expert_in_use_outlives_its_place_and_then_frees_its_memory(garden: ExpertHome) -> None:
    one, two, *_ = garden.experts
    store = garden.store(budget_bytes=1)
    used = store.expert(one, garden.specification)
    before = used.probabilities(images(3))
    store.expert(two, garden.specification)
    assert store.in_memory(one) is None
    np.testing.assert_array_equal(used.probabilities(images(3)), before)
    gone = weakref.ref(used)
    del used
    gc.collect()
    assert gone() is None


def test_room_is_made_before_an_expert_is_loaded(garden: ExpertHome, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, *_ = garden.experts
    store = garden.store(budget_bytes=garden.experts[one].weight_bytes())
    held: list[int] = []
    load = LoadedExpert.load

    def noted(*given: Any, **named: Any) -> LoadedExpert:
        held.append(store.memory.loaded)
        return load(*given, **named)

    monkeypatch.setattr(LoadedExpert, "load", noted)
    for digest in (one, two, one):
        store.expert(digest, garden.specification)
    assert held == [0, 0, 0]


def test_who_asks_for_what_is_being_loaded_waits_for_it_and_others_do_not(
    garden: ExpertHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, *_ = garden.experts
    store, loading, may_go = garden.store(), threading.Event(), threading.Event()
    store.expert(two, garden.specification)
    loads: list[str] = []
    load = LoadedExpert.load

    def slow(manifest: Any, *given: Any, **named: Any) -> LoadedExpert:
        loads.append(manifest.expert)
        loading.set()
        assert may_go.wait(30)
        return load(manifest, *given, **named)

    monkeypatch.setattr(LoadedExpert, "load", slow)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(store.expert, one, garden.specification) for _ in range(3)]
        assert loading.wait(30)
        assert store.expert(two, garden.specification) is store.loaded(two)
        assert store.loaded(one) is None
        may_go.set()
        found = {id(each.result(30)) for each in asked}
    assert len(found) == 1 and loads == [garden.experts[one].expert]


def test_what_cannot_be_loaded_is_refused_to_all_that_ask_and_tried_again(garden: ExpertHome) -> None:
    one, *_ = garden.experts
    store = garden.store()
    with pytest.raises(NotFoundError, match="no expert at this version"):
        store.expert(Digest("0" * 64), garden.specification)
    (blob, *_) = garden.experts[one].blobs()
    path = next(garden.home.cache.rglob(blob))
    kept = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes(len(kept)))
    for _ in range(2):
        with pytest.raises(VerificationError, match=f"{garden.experts[one].expert}@1"):
            store.expert(one, garden.specification)
    assert store.memory.loaded == 0
    path.write_bytes(kept)
    assert store.expert(one, garden.specification).manifest == garden.experts[one]


def test_stacks_are_within_the_budget_and_the_first_to_go(garden: ExpertHome) -> None:
    one, two, three, four = garden.experts
    size = garden.experts[one].weight_bytes()

    def stacked(store: Any, *digests: Digest) -> Any:
        for digest in garden.experts:
            store.expert(digest, garden.specification)
        kind = (garden.experts[one].net, "probabilities")
        return next((found for _ in range(6) if (found := store.stack(kind, digests))), None)

    assert stacked(garden.store(budget_bytes=5 * size), one, two) is None
    store = garden.store(budget_bytes=6 * size)
    assert stacked(store, one, two).members == (one, two)
    assert store.memory.size_bytes == 6 * size
    another = garden.add(seed=9)
    store.expert(another, garden.specification)
    assert (store.memory.loaded, store.memory.size_bytes) == (5, 5 * size)
    roomy = garden.store(budget_bytes=20 * size)
    assert set(stacked(roomy, one, two).members) == {one, two}
    assert set(stacked(roomy, three, four).members) == {one, two, three, four}
    assert stacked(roomy, one, four).members == stacked(roomy, two, three).members


def test_a_stack_goes_with_the_first_of_its_experts(garden: ExpertHome) -> None:
    one, two, *_ = garden.experts
    size = garden.experts[one].weight_bytes()
    store = garden.store(budget_bytes=4 * size)
    for digest in (one, two):
        store.expert(digest, garden.specification)
    kind: Any = (garden.experts[one].net, "probabilities")
    assert any([store.stack(kind, (one, two)) for _ in range(6)])
    for digest in garden.experts:
        store.expert(digest, garden.specification)
    assert (store.memory.loaded, store.memory.size_bytes) == (4, 4 * size)
    store.expert(garden.add(seed=9), garden.specification)
    assert store.stack(kind, (one, two)) is None
