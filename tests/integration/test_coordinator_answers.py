"""Routed answers: failover, degraded answers, bad input, restarts and outages, over real streams."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from swarm.domain.errors import (
    HarmfulContributionError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    ShapeMismatchError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import NodeId
from swarm.domain.inference import MAX_QUERY_ROWS, Examples, Query
from tests.support.commands import Shell
from tests.support.coordinator import SIZE, BackEnd, SmallNode, back_end, refusal, samples, until_heard

Two = tuple[SmallNode, SmallNode]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


async def trained(swarm: BackEnd, name: str, classes: str, **options: Any) -> SmallNode:
    node = await swarm.node(name, classes, **options)
    await node.train()
    return node


async def kept_aside(swarm: BackEnd, name: str, classes: str, **options: Any) -> SmallNode:
    """A node whose conventions would harm those in the gate."""
    node = await swarm.node(name, classes, **options)
    await node.publish()
    error = await refusal(node.contribute())
    assert isinstance(error, HarmfulContributionError) and "where the root answers" in error.found
    return node


async def with_sums(swarm: BackEnd, **options: Any) -> Two:
    """Two nodes whose sums are in the gate, one exact, one compact."""
    ada = await trained(swarm, "ada", "ab", sums="exact", **options)
    return ada, await trained(swarm, "bob", "cd", sums="compact", **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    """ada of a and b, bob of c and d, in a gate of prototypes: for tests that only ask."""
    async with back_end(tmp_path_factory.mktemp("two")) as running:
        yield await trained(running, "ada", "ab"), await trained(running, "bob", "cd")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def corrected(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    """ada and bob in a gate with sums and corrections: for tests that only ask."""
    async with back_end(tmp_path_factory.mktemp("corrected")) as running:
        yield await with_sums(running, corrects=True)


def best(answer: Any) -> list[str]:
    return [answer.class_names[i] for i in answer.probabilities.argmax(axis=1)]


async def also_serves(node: SmallNode, other: SmallNode) -> None:
    """Let a node serve another's expert, and wait until the coordinator knows."""
    node.served.append(other.served[0])
    node.activity = "serving"
    await until_heard(node)


async def test_an_answer_names_who_gave_it_and_what_it_cost(two: Two) -> None:
    ada, bob = two
    answer = await ada.ask("a", "d", "b", top_k=1)
    assert best(answer) == ["a", "d", "b"]
    assert [row[0].owner for row in answer.sources] == ["ada", "bob", "ada"]
    source = answer.sources[1][0]
    assert (source.expert, source.version, source.served_by, source.weight) == (bob.expert, 1, "bob", 1.0)
    assert source.manifest == bob.served[0] and len(source.module_digests) == 1
    assert (answer.gate_version, answer.degraded) == (2, (False,) * 3)
    assert answer.flops_per_query > 100


async def test_top_k_beyond_the_experts_is_clipped_and_owners_and_uniform_are_respected(two: Two) -> None:
    ada, _ = two
    answer = await ada.ask("a", top_k=50)
    assert len(answer.sources[0]) == 2
    assert abs(sum(source.weight for source in answer.sources[0]) - 1) < 1e-6
    only = await ada.ask("a", owners=(NodeId("bob"),))
    assert {source.owner for source in only.sources[0]} == {"bob"} and not only.degraded[0]
    uniform = await ada.ask("a", uniform=True)
    assert [source.weight for source in uniform.sources[0]] == [0.5, 0.5]
    assert isinstance(await refusal(ada.ask("a", owners=(NodeId("nobody"),))), NotFoundError)


async def test_bad_queries_are_refused_by_name_and_the_coordinator_goes_on(two: Two) -> None:
    ada, _ = two
    good = samples("a", 2, 1)
    nan = good.copy()
    nan[1, 2] = np.nan
    cases: list[tuple[Any, type[SwarmError], str]] = [
        (nan, InvalidInputError, "nan"),
        (good[:, :3], ShapeMismatchError, "shape [2, 3]"),
        (good[0], ShapeMismatchError, "shape [6]"),
        (good.astype(np.float64), ShapeMismatchError, 'astype("float32")'),
        (np.zeros((MAX_QUERY_ROWS + 1, SIZE), np.float32), InvalidInputError, str(MAX_QUERY_ROWS)),
    ]
    for inputs, expected, named in cases:
        error = await refusal(ada.coordinator.predict(Query(inputs=inputs)))
        assert isinstance(error, expected) and named in str(error)
    assert best(await ada.ask("b")) == ["b"]


async def test_a_full_batch_is_answered_in_one_go(two: Two) -> None:
    ada, _ = two
    inputs = np.concatenate([samples(name, MAX_QUERY_ROWS // 4, 3) for name in "abcd"])
    answer = await ada.coordinator.predict(Query(inputs=inputs, top_k=1))
    expected = [name for name in "abcd" for _ in range(MAX_QUERY_ROWS // 4)]
    assert np.mean([a == b for a, b in zip(best(answer), expected, strict=True)]) > 0.99


async def test_another_holder_answers_for_an_owner_that_is_gone_without_degrading(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    await also_serves(ada, bob)
    await bob.disconnect()
    answer = await ada.ask("c", top_k=1)
    assert best(answer) == ["c"] and answer.degraded == (False,)
    assert (answer.sources[0][0].owner, answer.sources[0][0].served_by) == ("bob", "ada")
    status = await ada.coordinator.status()
    assert status.leaves_without_owner == ("bob.l0",) and status.stand_ins == {"bob.l0": "ada"}


async def test_a_serve_only_expert_is_asked_of_its_owner_alone(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd", share="serve-only")
    await also_serves(ada, bob)
    assert (await ada.ask("c", top_k=1)).sources[0][0].served_by == "bob"
    await bob.disconnect()
    answer = await ada.ask("c", top_k=1)
    assert answer.degraded == (True,) and answer.sources[0][0].owner == "ada"


@pytest.mark.parametrize("how", ["gone", "refuses", "lies"])
async def test_without_another_holder_the_next_leaf_answers_degraded(swarm: BackEnd, how: str) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    if how == "gone":
        await bob.disconnect()
    elif how == "refuses":
        bob.fails = NotReadyError("expert server", found="starting")
    else:
        bob.answers_wrong = True
    answer = await ada.ask("c", "a", top_k=1)
    assert answer.degraded == (True, False) and answer.missing_experts == (bob.expert,)
    assert [row[0].owner for row in answer.sources] == ["ada", "ada"]


async def test_a_hanging_owner_is_given_up_and_not_waited_for_again(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    bob.hangs = True
    began = asyncio.get_running_loop().time()
    answer = await ada.ask("c", top_k=1, timeout_s=4)
    assert answer.degraded == (True,)
    assert asyncio.get_running_loop().time() - began < 3.5


async def test_with_nobody_left_the_answer_is_not_ready_and_says_whom_it_misses(swarm: BackEnd) -> None:
    ada = await trained(swarm, "ada", "ab")
    bob = await swarm.node("bob", "cd")
    await ada.disconnect()
    error = await refusal(bob.ask("a"))
    assert isinstance(error, NotReadyError) and ada.expert in error.found
    status = await bob.coordinator.status()
    assert status.leaves_without_owner == ("ada.l0",)


async def test_a_new_version_of_an_expert_is_routed_to_without_a_new_gate(swarm: BackEnd) -> None:
    ada = await trained(swarm, "ada", "ab")
    await ada.publish()
    async with asyncio.timeout(5):
        while (answer := await ada.ask("a")).sources[0][0].version != 2:
            await asyncio.sleep(0.05)
    assert answer.gate_version == 1


async def test_a_restart_comes_back_into_the_same_state(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    before = await ada.ask("a", "c")
    await swarm.stop_coordinator()
    assert await swarm.start_coordinator() < 5
    await asyncio.wait_for(asyncio.gather(ada.welcomed.wait(), bob.welcomed.wait()), 10)
    after = await ada.ask("a", "c")
    np.testing.assert_array_equal(after.probabilities, before.probabilities)
    assert (after.gate_version, after.sources) == (before.gate_version, before.sources)
    assert (await ada.contribute()).gate_version == 3


async def test_without_redis_answers_go_on_also_after_a_restart_and_publishing_waits(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    await swarm.redis.stop()
    assert best(await ada.ask("a", "c")) == ["a", "c"]
    status = await ada.coordinator.status()
    assert status.redis != "ok" and all(view.alive for view in status.nodes)
    assert isinstance(await refusal(ada.contribute()), UnreachableError)
    await swarm.stop_coordinator()
    assert await swarm.start_coordinator() < 5
    await asyncio.wait_for(asyncio.gather(ada.welcomed.wait(), bob.welcomed.wait()), 10)
    assert best(await ada.ask("a", "c")) == ["a", "c"]
    assert (ada.fence, (await ada.ask("a")).gate_version) == (0, 2)
    await swarm.redis.start()
    async with asyncio.timeout(15):
        while ada.fence == 0 or bob.fence == 0:
            await asyncio.sleep(0.1)
    assert (await ada.contribute()).gate_version == 3
    assert (await ada.coordinator.status()).redis == "ok"


async def test_a_gate_with_sums_answers_by_its_root_whoever_is_away(swarm: BackEnd) -> None:
    ada, bob = await with_sums(swarm)
    answer = await ada.ask("a", "b", "c", "d")
    assert (best(answer), answer.combination) == (["a", "b", "c", "d"], "root")
    assert {source.owner for row in answer.sources for source in row} == {"coordinator"}
    await bob.disconnect()
    away = await ada.ask("a", "b", "c", "d")
    np.testing.assert_array_equal(away.probabilities, answer.probabilities)
    assert away.degraded == (False,) * 4


async def test_every_combination_can_be_asked_for_by_name(corrected: Two) -> None:
    ada, _ = corrected
    for name in ("prototypes", "root", "gate", "poe", "corrected"):
        answer = await ada.ask("a", "c", combination=name)
        assert (best(answer), answer.degraded) == (["a", "c"], (False, False))
        assert answer.combination.split()[0] == name
    corrected = await ada.ask("a", combination="corrected", top_k=1)
    assert [source.owner for source in corrected.sources[0]] == ["coordinator", "ada"]


async def test_where_no_expert_is_left_the_root_answers_degraded_and_says_so(swarm: BackEnd) -> None:
    ada, bob = await with_sums(swarm)
    root = await ada.ask("a", "c")
    ada.fails = bob.fails = NotReadyError("expert server", found="starting")
    answer = await ada.ask("a", "c", combination="gate")
    assert (best(answer), answer.degraded) == (["a", "c"], (True, True))
    np.testing.assert_array_equal(answer.probabilities, root.probabilities)
    assert [row[0].expert for row in answer.sources] == ["coordinator.e0"] * 2
    assert answer.missing_experts == (ada.expert, bob.expert)


async def test_an_owner_asked_alone_answers_with_its_own_experts(corrected: Two) -> None:
    ada, _ = corrected
    alone = await ada.ask("a", "c", owners=(NodeId("ada"),))
    assert {source.owner for row in alone.sources for source in row} == {"ada"}
    assert alone.combination.startswith("gate") and best(alone)[0] == "a"
    refused = await refusal(ada.ask("a", owners=(NodeId("ada"),), combination="root"))
    assert isinstance(refused, InvalidInputError) and "combination root" in refused.subject


def examples(conventions: dict[str, str], each: int = 8) -> Examples:
    """Samples of all classes, called as the conventions say."""
    return Examples(
        inputs=np.concatenate([samples(name, each, 42) for name in "abcd"]),
        labels=tuple(conventions.get(name, name) for name in "abcd" for _ in range(each)),
    )


async def test_an_asker_is_answered_by_those_who_agree_with_its_examples_also_after_a_restart(
    swarm: BackEnd,
) -> None:
    swapped = {"a": "b", "b": "a"}
    ada = await trained(swarm, "ada", "abcd", sums="exact")
    bob = await kept_aside(swarm, "bob", "abcd", sums="exact", calls=swapped)
    eve = await trained(swarm, "eve", "abcd", sums="compact")
    common = await ada.coordinator.make_profile(examples({}))
    other = await ada.coordinator.make_profile(examples(swapped))
    assert common.owners == (ada.id, eve.id) and common.accuracy == 1
    assert other.owners == (bob.id,) and other.accuracy == 1 > other.accuracy_all
    assert best(await ada.ask("a", "b", "c", profile=common.id)) == ["a", "b", "c"]
    answer = await ada.ask("a", "b", "c", profile=other.id)
    assert (best(answer), answer.combination) == (["b", "a", "c"], "asker")
    await swarm.stop_coordinator()
    await swarm.start_coordinator()
    await asyncio.wait_for(ada.welcomed.wait(), 10)
    again = await ada.ask("a", "b", "c", profile=other.id)
    np.testing.assert_array_equal(again.probabilities, answer.probabilities)


async def test_bad_examples_and_unknown_profiles_are_refused_by_name(corrected: Two) -> None:
    ada, _ = corrected
    good = samples("a", 2, 1)
    cases = [
        (Examples(inputs=good, labels=("a", "fern")), "labels of the examples", "fern"),
        (Examples(inputs=good, labels=("a",)), "examples", "1 labels"),
        (Examples(inputs=good[:, :2], labels=("a", "a")), "inputs", "shape"),
        (Examples(inputs=good.astype(np.float64), labels=("a", "a")), "inputs", "float64"),
    ]
    for given, subject, found in cases:
        error = await refusal(ada.coordinator.make_profile(given))
        assert isinstance(error, InvalidInputError) and subject in error.subject and found in error.found
    unknown = await refusal(ada.ask("a", profile="0" * 64))
    assert isinstance(unknown, NotFoundError) and "--examples" in unknown.remedy


async def test_the_command_asks_by_combination_and_by_examples_and_shows_the_gate(
    swarm: BackEnd, tmp_path: Path
) -> None:
    swapped = {"a": "b", "b": "a"}
    await trained(swarm, "ada", "abcd", sums="exact")
    bob = await kept_aside(swarm, "bob", "abcd", sums="exact", calls=swapped)
    home = tmp_path / "cli"
    home.mkdir()
    (home / "identity").symlink_to(bob.identity.folder)
    given = examples(swapped)
    names = sorted(set(given.labels))
    labels = np.array([names.index(name) for name in given.labels])
    mine, asked = tmp_path / "mine.npz", tmp_path / "asked.npy"
    np.savez(mine, x=given.inputs, y=labels, class_names=np.array(names))
    np.save(asked, np.concatenate([samples(name, 1, 99) for name in "ab"]))
    shell = Shell(tmp_path)

    async def say(*arguments: str, **options: Any) -> Any:
        return await asyncio.to_thread(shell.json, *arguments, "--home", str(home), **options)

    told = await say("predict", str(asked), "--combination", "gate", "--explain")
    assert told["answer"]["combination"].startswith("gate top-")
    told = await say("predict", str(asked), "--examples", str(mine))
    assert told["profile"]["owners"] == ["bob"] and told["answer"]["combination"] == "asker"
    answers = np.array(told["answer"]["probabilities"]).argmax(axis=1)
    assert [told["answer"]["class_names"][row] for row in answers] == ["b", "a"]
    text = await asyncio.to_thread(
        shell.swarm, "predict", str(asked), "--examples", str(mine), "--home", str(home)
    )
    assert text.stdout.startswith("bob agrees with your 32 examples: 1.000 of them right")
    np.savez(mine, x=given.inputs, y=labels, class_names=np.array(["fern", *names[1:]]))
    refused = await say("predict", str(asked), "--examples", str(mine), code=2)
    assert "'fern'" in refused["found"] and "one of a, b, c, d" in refused["expected"]
    shown = await say("gate", "show")
    assert shown["gate"]["kind"] == "analytic" and shown["gate"]["combinations"]
    history = await asyncio.to_thread(shell.swarm, "gate", "history", "--home", str(home))
    assert "analytic" in history.stdout and "serves" in history.stdout.splitlines()[0]
