"""Answers over more leaves than are looked up exactly: who is asked, who steps in, and the same again."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from swarm.answering.active_gate import ActiveGate
from swarm.answering.combining import Reply
from swarm.answering.expert_calls import Asked
from swarm.answering.gate_entropy import gate_entropy
from swarm.answering.gate_reading import Reading, distances_out, in_full, read_gate
from swarm.answering.replaying import answered_again, read_in_tiles
from swarm.answering.routing import allowed_leaves, planned
from swarm.answering.ways import Way
from swarm.domain.combination import Combination
from swarm.domain.ids import NodeId
from swarm.domain.inference import Query
from swarm.domain.replay import Said
from swarm.gating.distances import squared_distances
from swarm.gating.out_of_distribution import out_of_distribution
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.shortlist import Shortlist
from tests.support.answers import (
    CLASSES,
    EXPERT_FLOPS,
    KNOWS,
    TRUNK_FLOPS,
    SmallSwarm,
    best,
    gate,
    inputs,
    leaves,
)

EACH, SPREAD = 2600, 0.25
OWNERS = ("ada", "bob", "dan", "eve")
WAY = Way(combination=Combination(name="prototypes", temperature=0.05, top_k=1))


def many() -> ActiveGate:
    """A gate without sums in which each owner's expert answers for EACH leaves around the classes' mean."""
    small = gate("prototypes", sums=False)
    assert small.prototypes is not None
    own = [replace(leaf, has_columns=False) for leaf in leaves()]
    rng = np.random.default_rng(0)
    spread = SPREAD * rng.normal(size=(4 * EACH, 4))
    prototypes = np.repeat(small.prototypes.prototypes, EACH, axis=0) + spread
    near = np.sqrt(squared_distances(asked_of(2000, 3), prototypes).min(axis=0))
    return ActiveGate(
        statement=replace(
            small.statement,
            value=replace(small.value, leaves=tuple(leaf for leaf in own for _ in range(EACH))),
        ),
        prototypes=PrototypeGate(
            prototypes=prototypes.astype(np.float32),
            leaf_rows=np.arange(4 * EACH, dtype=np.int32),
            log_prior=np.zeros(4 * EACH, np.float32),
            radii=np.repeat(near[:, None], 3, axis=1).astype(np.float32),
            leaves=4 * EACH,
            temperature=1.0,
        ),
        analytic=None,
    )


@pytest.fixture(scope="module")
def active() -> ActiveGate:
    found = many()
    assert found.indexed is not None
    return found


def asked_of(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (inputs("abcd")[rng.integers(4, size=count)] + SPREAD * rng.normal(size=(count, 4))).astype(
        np.float32
    )


def reply_of(said: Said, samples: np.ndarray) -> Reply:
    """What an owner of the small swarm says: it is sure of the largest of its own classes."""
    known = KNOWS[OWNERS[said.speaker // EACH]]
    rows = np.array(said.rows, dtype=np.int64)
    own = samples[rows][:, [CLASSES.index(name) for name in known]]
    values = np.eye(len(known), dtype=np.float32)[own.argmax(axis=1)]
    asked = Asked(
        served_by=said.served_by, class_names=tuple(known), values=values, flops_per_query=EXPERT_FLOPS
    )
    return Reply(leaf=said.leaf, rows=rows, answer=asked, speaker=said.speaker)


def test_who_is_asked_is_who_the_whole_gate_would_ask(active: ActiveGate) -> None:
    swarm = SmallSwarm(active)
    heads = [swarm.heads.answering(leaf) for leaf in active.value.leaves]
    features = asked_of(200)
    listed = read_gate(WAY, active, features)
    assert isinstance(listed.weights, Shortlist) and listed.weights.leaves.shape[1] < 100
    whole = Reading(weights=in_full(WAY, active, features)(np.arange(200)), features=features)
    # A leaf without a twin: each leaf an expert of its own.
    alone = [
        SimpleNamespace(identity=str(row)) if head is not None else None for row, head in enumerate(heads)
    ]
    allowed = np.ones(len(heads), dtype=bool)
    for top_k in (1, 2):
        way = replace(WAY, combination=replace(WAY.combination, top_k=top_k))
        boards = [planned(way, each, alone, allowed) for each in (listed, whole)]  # type: ignore[arg-type]
        chosen = [
            {(leaf, row) for leaf, rows in board.wanted().items() for row in rows.tolist()}
            for board in boards
        ]
        assert len(chosen[0] & chosen[1]) >= 0.99 * len(chosen[1])


async def test_an_owner_that_is_away_is_replaced_by_one_that_no_list_names(active: ActiveGate) -> None:
    swarm = SmallSwarm(active)
    first = await swarm.ask("c", combination="prototypes")
    owner = first.sources[0][0].owner
    assert (first.degraded, best(first)) == ((False,), "c")
    assert first.flops_per_query > TRUNK_FLOPS
    for each in OWNERS:
        if each != "ada":
            swarm.gone(each)
    second = await swarm.ask("c", combination="prototypes")
    assert owner != "ada" and second.degraded == (True,)
    assert [source.owner for source in second.sources[0]] == ["ada"]


async def test_more_experts_than_a_list_has_are_found_by_the_whole_gate(active: ActiveGate) -> None:
    answer = await SmallSwarm(active).ask("ab", combination="prototypes", top_k=4)
    for row in (0, 1):
        assert {source.owner for source in answer.sources[row]} == set(OWNERS)
        assert sum(source.weight for source in answer.sources[row]) == pytest.approx(1)


@pytest.mark.parametrize("owner", OWNERS)
async def test_an_owner_whose_leaves_are_far_answers_where_the_query_names_it(
    active: ActiveGate, owner: str
) -> None:
    answer = await SmallSwarm(active).ask("abcd", owners=(NodeId(owner),))
    assert [[source.owner for source in row] for row in answer.sources] == [[owner]] * 4
    assert not any(answer.degraded)


def test_how_far_out_and_how_undecided_are_those_of_the_whole_gate(active: ActiveGate) -> None:
    features = asked_of(300)
    listed = read_gate(WAY, active, features)
    whole = Reading(weights=in_full(WAY, active, features)(np.arange(300)), features=features)
    entropies = np.array([gate_entropy(WAY, active, each) for each in (listed, whole)])
    cold = replace(WAY, combination=replace(WAY.combination, temperature=0.0002))
    near = read_gate(cold, active, features)
    full = replace(near, weights=in_full(cold, active, features)(np.arange(300)))
    cold_entropies = np.array([gate_entropy(cold, active, each) for each in (near, full)])
    assert (np.abs(cold_entropies[0] - cold_entropies[1]) < 1e-2).mean() >= 0.99
    assert (entropies[0] <= entropies[1] + 1e-3).mean() >= 0.99
    assert active.prototypes is not None
    exact = out_of_distribution(active.prototypes, features, active.reach)
    found = distances_out(active, listed)
    assert found is not None and np.isclose(found, exact, rtol=1e-4).mean() >= 0.99


@pytest.mark.parametrize(("away", "top_k"), [("", 1), ("", 3), ("bob dan eve", 1), ("eve", 4)])
async def test_an_answer_over_many_leaves_is_computed_again_to_the_bit(
    active: ActiveGate, away: str, top_k: int
) -> None:
    swarm = SmallSwarm(active)
    swarm.features._trunk = SimpleNamespace(  # type: ignore[assignment]
        flops_per_query=TRUNK_FLOPS, features=lambda rows: rows, device=SimpleNamespace(type="cpu")
    )
    for owner in away.split():
        swarm.gone(owner)
    samples = asked_of(21)
    query = Query(inputs=samples, combination="prototypes", top_k=top_k, replayable=True)
    answer = await swarm.router.predict(query, 20.0)
    assert answer.record is not None
    replies = [reply_of(said, samples) for said in answer.record.said]
    heads = [swarm.heads.answering(leaf) for leaf in active.value.leaves]
    again = answered_again(
        answer.record,
        query,
        active,
        samples,
        replies,
        heads,
        lambda way, reading: planned(way, reading, heads, allowed_leaves((), way, active, heads)),
    )
    assert again.probabilities.tobytes() == answer.probabilities.tobytes()
    assert again.degraded == answer.degraded and any(answer.degraded) == bool(away)
    assert again.out_of_distribution is not None and answer.out_of_distribution is not None
    assert again.out_of_distribution.tobytes() == answer.out_of_distribution.tobytes()


def test_a_tiles_readings_have_the_bits_of_the_rows_alone(active: ActiveGate) -> None:
    features = asked_of(37)
    tiled, alone = read_in_tiles(WAY, active, features), read_gate(WAY, active, features[20:21])
    assert isinstance(tiled.weights, Shortlist) and isinstance(alone.weights, Shortlist)
    assert len(tiled.weights) == 37
    mine, same = tiled.weights.rows()[20], alone.weights.rows()[0]
    assert np.array_equal(mine[0], same[0]) and mine[1].tobytes() == same[1].tobytes()
    assert tiled.in_full is not None and alone.in_full is not None
    assert tiled.in_full(np.array([20])).tobytes() == alone.in_full(np.array([0])).tobytes()
