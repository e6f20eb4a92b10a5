"""Who stands in for whom: worked out by everybody alike, and moved as little as can be."""

from hypothesis import given
from hypothesis import strategies as st

from node.standing_in import stand_ins
from swarm.domain.ids import ExpertId, NodeId

NAMES = [NodeId(name) for name in ("ada", "bob", "cy", "dora", "eve", "flo")]
NODES = st.sets(st.sampled_from(NAMES), min_size=1)
EXPERTS = [ExpertId(f"ada.e{number}") for number in range(1, 200)]


@given(NODES, st.integers(0, 4))
def test_so_many_others_never_the_owner(nodes: set[NodeId], count: int) -> None:
    found = stand_ins(EXPERTS[0], NodeId("ada"), nodes, count)
    assert len(found) == len(set(found)) == min(count, len(nodes - {"ada"}))
    assert set(found) <= nodes - {"ada"}


@given(NODES, st.sampled_from(["bob", "cy", "zoe"]))
def test_one_that_goes_moves_only_what_it_held(nodes: set[NodeId], gone: str) -> None:
    for expert in EXPERTS[:20]:
        before = stand_ins(expert, NodeId("ada"), nodes | {NodeId(gone)}, 2)
        after = stand_ins(expert, NodeId("ada"), nodes - {NodeId(gone)}, 2)
        assert [node for node in before if node != gone] == list(after)[: len(before) - (gone in before)]


def test_experts_are_spread_over_the_nodes() -> None:
    nodes = [NodeId(name) for name in ("ada", "bob", "cy", "dora", "eve")]
    counts = dict.fromkeys(nodes, 0)
    for expert in EXPERTS:
        for node in stand_ins(expert, NodeId("ada"), nodes, 2):
            counts[node] += 1
    assert counts.pop(NodeId("ada")) == 0 and min(counts.values()) > 60
