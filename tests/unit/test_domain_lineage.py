"""Which version two others have in common."""

import random

import pytest

from swarm.digests import digest_of
from swarm.domain.ids import Digest
from swarm.domain.lineage import LineageEdge, common_ancestor
from swarm.domain.manifests import ParentKind


def named(name: str) -> Digest:
    return digest_of(name.encode())


def edges(*pairs: str, kind: ParentKind = "trained-from") -> list[LineageEdge]:
    """Edges from words like `child<parent`."""
    split = [pair.split("<") for pair in pairs]
    return [LineageEdge(child=named(child), parent=named(parent), kind=kind) for child, parent in split]


def test_two_children_of_a_split_have_their_parent_in_common() -> None:
    family = [*edges("a1<p", "b1<p", kind="split-from"), *edges("p<q", "a2<a1", "b2<b1")]
    assert common_ancestor(named("a2"), named("b2"), family) == named("p")


def test_a_version_is_the_common_ancestor_of_itself_and_of_its_descendants() -> None:
    family = edges("a2<a1", "a1<a0")
    assert common_ancestor(named("a2"), named("a0"), family) == named("a0")
    assert common_ancestor(named("a0"), named("a2"), family) == named("a0")
    assert common_ancestor(named("a1"), named("a1"), family) == named("a1")
    assert common_ancestor(named("a1"), named("a1"), []) == named("a1")


def test_versions_of_separate_families_have_none() -> None:
    assert common_ancestor(named("a1"), named("b1"), edges("a1<a0", "b1<b0")) is None


def test_the_fewest_steps_in_all_decide_not_those_of_one_side() -> None:
    # near: 1 + 4 = 5 steps; far: 2 + 2 = 4.
    family = edges("a<near", "b<b1", "b1<b2", "b2<b3", "b3<near", "a<a1", "a1<far", "b1<far")
    assert common_ancestor(named("a"), named("b"), family) == named("far")


def test_of_equally_near_ancestors_the_newer_one_is_taken_then_the_lower_digest() -> None:
    family = edges("a<x", "b<x", "a<y", "b<y")
    times = {named("x"): 1.0, named("y"): 2.0}
    assert common_ancestor(named("a"), named("b"), family, created_at=times) == named("y")
    assert common_ancestor(named("a"), named("b"), family) == min(named("x"), named("y"))
    for absurd in (float("nan"), float("inf")):
        claimed = {**times, named("y"): absurd}
        assert common_ancestor(named("a"), named("b"), family, created_at=claimed) == named("x")


def test_who_borrowed_descends_from_the_lender_unless_the_caller_says_otherwise() -> None:
    family = edges("a1<lender", "b1<lender", kind="borrowed-from")
    assert common_ancestor(named("a1"), named("b1"), family) == named("lender")
    assert common_ancestor(named("a1"), named("b1"), family, kinds=["trained-from", "split-from"]) is None


def test_what_was_merged_descends_from_all_that_it_was_merged_of() -> None:
    family = [*edges("m<a", "m<b", kind="merged-from"), *edges("c<b")]
    assert common_ancestor(named("m"), named("c"), family) == named("b")


@pytest.mark.parametrize("claimed", [("a<a", "b<b"), ("a<x", "x<a", "b<y", "y<x"), ("a<b", "b<a")])
def test_a_cycle_in_what_a_peer_claims_ends(claimed: tuple[str, ...]) -> None:
    found = common_ancestor(named("a"), named("b"), edges(*claimed))
    assert found == common_ancestor(named("b"), named("a"), edges(*claimed))
    assert (found is None) == (claimed == ("a<a", "b<b"))


def test_a_long_history_of_shared_descent_is_searched_once_not_by_every_path() -> None:
    # 2^2000 paths lead from a to the first pair.
    ladder = [f"{side}{row}<{other}{row - 1}" for row in range(1, 2000) for side in "xy" for other in "xy"]
    family = edges(*ladder, "a<x1999", "b<y0")
    assert common_ancestor(named("a"), named("b"), family) == named("y0")


def test_the_order_of_edges_and_arguments_changes_nothing() -> None:
    draw = random.Random(0)
    for _ in range(200):
        pairs = [(draw.randrange(8), draw.randrange(8)) for _ in range(12)]
        family = edges(*(f"{max(pair)}<{min(pair)}" for pair in pairs))
        times = {named(str(each)): float(draw.randrange(3)) for each in range(8)}
        first, second = named(str(draw.randrange(8))), named(str(draw.randrange(8)))
        found = common_ancestor(first, second, family, created_at=times)
        draw.shuffle(family)
        again = common_ancestor(second, first, [*family, *family[:3]], created_at=times)
        assert found == again
