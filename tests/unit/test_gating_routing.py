"""Routing is total and deterministic, and identical experts count as one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.routing import plan_route


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[str], int, np.ndarray]:
    leaves = draw(st.integers(1, 8))
    shape = (draw(st.integers(1, 6)), leaves)
    weights = draw(
        arrays(np.float32, shape, elements=st.sampled_from([0.0, 1e-38, 1e-12, 0.1, 0.5, 1.0, 1e38]))
    )
    identity = draw(st.lists(st.sampled_from("abcd"), min_size=leaves, max_size=leaves))
    return weights, identity, draw(st.integers(1, 10)), draw(arrays(np.bool_, leaves))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_routing_is_total(case: tuple) -> None:
    weights, identity, top_k, allowed = case
    plan = plan_route(weights, identity, top_k, allowed)
    distinct = len({name for name, is_open in zip(identity, allowed, strict=True) if is_open})
    assert plan.choices.shape == plan.weights.shape == (len(weights), top_k)
    assert plan.order.shape == plan.order_weights.shape == (len(weights), distinct)
    for choices, shares, order in zip(plan.choices, plan.weights, plan.order, strict=True):
        chosen = choices[choices >= 0]
        assert len(chosen) == min(top_k, distinct)
        assert allowed[chosen].all()
        assert len({identity[row] for row in chosen}) == len(chosen)
        assert {identity[row] for row in order} == {identity[row] for row in np.flatnonzero(allowed)}
        assert chosen.tolist() == order[: len(chosen)].tolist()
        assert np.isfinite(shares).all() and (shares[choices < 0] == 0).all()
        assert shares.sum() == pytest.approx(1 if len(chosen) else 0, abs=1e-5)
        assert (np.diff(shares[choices >= 0]) <= 1e-7).all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_same_case_gives_the_same_plan(case: tuple) -> None:
    first, second = plan_route(*case), plan_route(*case)
    assert first.choices.tolist() == second.choices.tolist()
    assert first.weights.tobytes() == second.weights.tobytes()


def test_ties_go_to_the_lower_leaf() -> None:
    plan = plan_route(np.full((2, 4), 0.25), ["a", "b", "c", "d"], 2)
    assert plan.choices.tolist() == [[0, 1], [0, 1]]


def test_identical_experts_count_as_one_with_the_sum_of_their_weights() -> None:
    plan = plan_route(np.array([[0.3, 0.4, 0.3]]), ["same", "other", "same"], 1)
    assert plan.choices.tolist() == [[0]]
    both = plan_route(np.array([[0.3, 0.4, 0.3]]), ["same", "other", "same"], 2)
    assert both.choices.tolist() == [[0, 1]] and np.allclose(both.weights, [[0.6, 0.4]])


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_splitting_a_leaf_into_identical_children_changes_no_route(top_k: int) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    before = plan_route(weights, ["a", "b", "c"], top_k)
    share = np.random.default_rng(1).random((50, 1))
    children = np.hstack(
        [weights[:, :1], weights[:, 1:2] * share, weights[:, 1:2] * (1 - share), weights[:, 2:]]
    )
    after = plan_route(children, ["a", "b", "b", "c"], top_k)
    names_before = [["abc"[row] for row in rows] for rows in before.choices]
    assert [["abbc"[row] for row in rows] for rows in after.choices] == names_before
    assert np.allclose(before.weights, after.weights, atol=1e-6)


def test_leaves_that_are_not_allowed_are_passed_over() -> None:
    plan = plan_route(np.array([[0.7, 0.2, 0.1]]), ["a", "b", "c"], 2, np.array([False, True, True]))
    assert plan.choices.tolist() == [[1, 2]] and np.allclose(plan.weights, [[2 / 3, 1 / 3]])


def test_without_an_allowed_leaf_nothing_is_chosen() -> None:
    plan = plan_route(np.array([[0.7, 0.3]]), ["a", "b"], 2, np.zeros(2, bool))
    assert plan.choices.tolist() == [[-1, -1]] and plan.order.shape == (1, 0)


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="top_k"):
        plan_route(np.ones((1, 2)), ["a", "b"], 0)
    with pytest.raises(ShapeMismatchError, match="leaf weights"):
        plan_route(np.ones((1, 3)), ["a", "b"], 1)
    with pytest.raises(ShapeMismatchError, match="allowed leaves"):
        plan_route(np.ones((1, 2)), ["a", "b"], 1, np.ones(3, bool))
    for bad in (np.nan, np.inf, -0.1):
        with pytest.raises(InvalidInputError, match="negative or not finite"):
            plan_route(np.array([[bad, 1.0]]), ["a", "b"], 1)


def one_leaf_after_the_other(
    weights: np.ndarray, identity: list[str], allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order, its weights and what each distinct expert has, as the sums are defined."""
    speakers: dict[str, int] = {}
    for row in np.flatnonzero(allowed).tolist():
        speakers.setdefault(identity[row], row)
    merged = np.zeros((len(weights), len(speakers)))
    for column, name in enumerate(speakers):
        for row in np.flatnonzero(allowed).tolist():
            if identity[row] == name:
                merged[:, column] += weights[:, row].astype(np.float64)
    ranked = np.argsort(-merged, axis=1, kind="stable")
    falling = np.take_along_axis(merged, ranked, axis=1)
    scaled = falling / falling.max(axis=1, keepdims=True)
    return np.array([*speakers.values()])[ranked], scaled / scaled.sum(axis=1, keepdims=True), merged


@pytest.mark.parametrize("names", [3, 400, 100_000])
@pytest.mark.parametrize("ties", [False, True])
def test_plans_over_many_leaves_have_the_bits_of_one_leaf_after_the_other(names: int, ties: bool) -> None:
    rng = np.random.default_rng(names)
    weights = rng.random((3, 700)).astype(np.float32)
    if ties:
        weights[rng.random(weights.shape) < 0.9] = 1e-12
    identity = [str(number) for number in rng.integers(names, size=700)]
    allowed = rng.random(700) < 0.8
    plan = plan_route(weights, identity, 4, allowed)
    order, shares, _ = one_leaf_after_the_other(weights, identity, allowed)
    assert np.array_equal(plan.order, order)
    assert plan.order_weights.tobytes() == shares.astype(np.float32).tobytes()
    assert np.array_equal(plan.choices, order[:, :4][:, : plan.choices.shape[1]]) or names < 4
