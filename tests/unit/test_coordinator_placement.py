"""On which nodes experts are placed: pure rules, and what holds for any swarm."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.placement import Place, Placeable, Places, plan_placement
from swarm.domain.ids import Digest, ExpertId, NodeId

ADA, BOB, EVE, DAN = (NodeId(name) for name in ("ada", "bob", "eve", "dan"))
NAMES = (ADA, BOB, EVE, DAN)


def version(owner: NodeId = ADA, number: int = 0, size_bytes: int = 10) -> Placeable:
    return Placeable(
        manifest=Digest(f"{owner}-{number}"),
        expert=ExpertId(f"{owner}.e{number}"),
        owner=owner,
        size_bytes=size_bytes,
    )


def places(*names: NodeId, room_bytes: int = 100) -> dict[NodeId, Place]:
    return {name: Place(node=name, room_bytes=room_bytes) for name in names}


ADAS = version()


def holders(found: Places, of: Placeable = ADAS) -> tuple[NodeId, ...]:
    return found[of.manifest]


def test_the_owner_counts_as_one_and_where_it_is_away_another_takes_its_place() -> None:
    assert holders(plan_placement([ADAS], places(ADA, BOB, EVE), {}, 1)) == ()
    assert len(holders(plan_placement([ADAS], places(ADA, BOB, EVE), {}, 2))) == 1
    assert set(holders(plan_placement([ADAS], places(BOB, EVE), {}, 2))) == {BOB, EVE}
    assert holders(plan_placement([ADAS], places(ADA), {}, 2)) == (), "nobody else is there"


def test_who_has_it_loaded_or_held_is_preferred_and_who_is_busy_or_full_is_not() -> None:
    there = places(ADA, BOB, EVE)
    loaded = there | {EVE: replace(there[EVE], loaded={ADAS.manifest})}
    held = there | {EVE: replace(there[EVE], held={ADAS.manifest})}
    both = held | {BOB: replace(there[BOB], loaded={ADAS.manifest})}
    assert holders(plan_placement([ADAS], loaded, {}, 2)) == (EVE,)
    assert holders(plan_placement([ADAS], held, {}, 2)) == (EVE,)
    assert holders(plan_placement([ADAS], both, {}, 2)) == (BOB,)
    for busy in (BOB, EVE):
        asked = there | {busy: replace(there[busy], busy=1.0)}
        assert holders(plan_placement([ADAS], asked, {}, 2)) == ({BOB, EVE}.difference({busy}).pop(),)


def test_who_may_not_or_has_no_room_is_left_out() -> None:
    there = places(ADA, BOB, EVE)
    for out in (BOB, EVE):
        other = ({BOB, EVE}.difference({out}).pop(),)
        declines = there | {out: replace(there[out], declined={ADAS.manifest})}
        assert holders(plan_placement([ADAS], declines, {}, 2)) == other
        full = there | {out: replace(there[out], room_bytes=9)}
        assert holders(plan_placement([ADAS], full, {}, 2)) == other
        none = there | {out: replace(there[out], room_bytes=0)}
        assert holders(plan_placement([ADAS], none, {}, 2)) == other


def test_what_was_decided_stays_when_others_would_be_better() -> None:
    there = places(ADA, BOB, EVE)
    first = plan_placement([ADAS], there, {}, 2)
    (holder,) = holders(first)
    other = {BOB, EVE}.difference({holder}).pop()
    tempting = there | {
        other: replace(there[other], loaded={ADAS.manifest}),
        holder: replace(there[holder], busy=1.0),
    }
    assert plan_placement([ADAS], tempting, first, 2) == first


def test_a_holder_or_an_owner_that_is_away_for_a_moment_is_waited_for() -> None:
    first = plan_placement([ADAS], places(ADA, BOB, EVE), {}, 2)
    (holder,) = holders(first)
    rest = {ADA, BOB, EVE} - {holder}
    assert plan_placement([ADAS], places(*rest), first, 2, away={holder}) == first
    assert plan_placement([ADAS], places(BOB, EVE), first, 2, away={ADA}) == first
    (instead,) = holders(plan_placement([ADAS], places(*rest), first, 2))
    assert instead not in (ADA, holder)


def test_what_nobody_there_has_and_somebody_waits_for_is_given_to_another_at_once() -> None:
    lone = plan_placement([ADAS], places(BOB, EVE), {}, 1, away={ADA})
    assert holders(lone) == ()
    waited = plan_placement([ADAS], places(BOB, EVE), {}, 1, away={ADA}, waited_for={ADAS.manifest})
    assert len(holders(waited)) == 1
    before = {ADAS.manifest: (DAN,)}
    both = plan_placement([ADAS], places(BOB, EVE), before, 2, away={ADA, DAN}, waited_for={ADAS.manifest})
    assert holders(both)[0] == DAN and len(holders(both)) == 2


def test_one_that_comes_back_moves_nothing_to_it() -> None:
    first = plan_placement([ADAS], places(ADA, BOB, EVE), {}, 2)
    (holder,) = holders(first)
    second = plan_placement([ADAS], places(*({ADA, BOB, EVE} - {holder})), first, 2)
    assert plan_placement([ADAS], places(ADA, BOB, EVE), second, 2) == second


def test_experts_are_spread_over_the_nodes_by_their_room() -> None:
    versions = [version(ADA, number) for number in range(12)]
    there = places(ADA, BOB, EVE, room_bytes=80)
    found = plan_placement(versions, there, {}, 2)
    counts = [sum(name in found[each.manifest] for each in versions) for name in (BOB, EVE)]
    assert sum(counts) == 12 and min(counts) >= 4
    tight = plan_placement(versions, places(ADA, BOB, EVE, room_bytes=40), {}, 2)
    assert sum(map(len, tight.values())) == 8, "no room for more"


@given(
    owners=st.lists(st.sampled_from(NAMES), max_size=8),
    there=st.lists(st.sampled_from(NAMES), unique=True),
    next_there=st.lists(st.sampled_from(NAMES), unique=True),
    room=st.integers(0, 60),
    replicas=st.integers(1, 4),
)
def test_a_plan_keeps_its_limits_and_planning_again_changes_nothing(
    owners: list[NodeId], there: list[NodeId], next_there: list[NodeId], room: int, replicas: int
) -> None:
    versions = [version(owner, number) for number, owner in enumerate(owners)]
    before: Places = {}
    for names in (there, next_there):
        live = places(*names, room_bytes=room)
        found = plan_placement(versions, live, before, replicas)
        for each in versions:
            chosen = found[each.manifest]
            assert len(set(chosen)) == len(chosen) and each.owner not in chosen and set(chosen) <= set(names)
            assert len(chosen) + (each.owner in names) <= max(replicas, 1)
        for name in names:
            assert sum(each.size_bytes for each in versions if name in found[each.manifest]) <= room
        assert plan_placement(versions, live, found, replicas) == found
        before = found
