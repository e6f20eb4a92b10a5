"""Room is made before anything of an order is laid down; what comes to nothing leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.growth.carrying import Grower
from swarm.domain.errors import SwarmError, TooManyExpertsError, UnreachableError
from swarm.domain.ids import ExpertId
from tests.support.growing import Plot, two_kinds
from tests.unit.test_node_growth_carrying import Coordinator, idle, made

pytestmark = pytest.mark.growth


class Room:
    """Stands for `UnusedExperts`: gives what it was told to, or refuses."""

    def __init__(self, *gone: str, refusal: SwarmError | None = None) -> None:
        self.gone, self.refusal = tuple(map(ExpertId, gone)), refusal
        self.wanted: list[int] = []

    async def make_room(self, wanted: int) -> tuple[ExpertId, ...]:
        self.wanted.append(wanted)
        if self.refusal is not None:
            raise self.refusal
        return self.gone


@pytest.fixture
def plot(tmp_path: Path) -> Plot:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"))
    return plot


def grower_with(plot: Plot, coordinator: Coordinator, room: Room) -> Grower:
    grower = made(plot, coordinator)
    grower._parts = replace(grower._parts, unused=room)  # type: ignore[arg-type]
    return grower


async def test_where_there_is_no_room_the_proposal_fails_by_name_and_nothing_is_laid_down(plot: Plot) -> None:
    coordinator = Coordinator()
    refusal = TooManyExpertsError("experts of rose", found="32 in the registry", expected="at most 30")
    grower = grower_with(plot, coordinator, Room(refusal=refusal))
    await grower.carry_out(plot.order("split", "rose.e1"))
    await idle(grower)
    assert coordinator.told == [("failed", "experts of rose: found 32 in the registry; expected at most 30")]
    assert [leaf.leaf for leaf in plot.book.everything()] == ["rose.l1"] and not len(plot.outbox)
    assert not list((plot.home.state / "growth").iterdir())


async def test_what_was_withdrawn_for_an_order_is_told_as_it_starts(plot: Plot) -> None:
    coordinator, room = Coordinator(), Room("rose.e7", "rose.e8")
    grower = grower_with(plot, coordinator, room)
    await grower.carry_out(plot.order("split", "rose.e1", steps="1"))
    await idle(grower)
    told = ("started", "withdrew rose.e7 rose.e8, which no gate has, to make room")
    assert coordinator.told[0] == told and room.wanted == [2]


async def test_a_registry_that_is_away_holds_up_no_order(plot: Plot) -> None:
    coordinator = Coordinator()
    grower = grower_with(plot, coordinator, Room(refusal=UnreachableError("registry")))
    await grower.carry_out(plot.order("split", "rose.e1", steps="1"))
    await idle(grower)
    assert [stage for stage, _ in coordinator.told] == ["started", "split", "trained"]


async def test_what_still_waits_when_a_proposal_fails_is_not_sent_any_more(plot: Plot) -> None:
    coordinator = Coordinator()
    for key in ("p1-split-rose.e2", "job-rose.e1"):
        plot.outbox.put("publish", key=key, subject="rose.e2@1", envelope=b"{}")
    grower = grower_with(plot, coordinator, Room(refusal=TooManyExpertsError("experts of rose")))
    await grower.carry_out(plot.order("split", "rose.e1"))
    await idle(grower)
    assert [intent.key for intent in plot.outbox.pending()] == ["job-rose.e1"]


async def test_a_folder_without_an_order_is_swept_at_the_start(plot: Plot) -> None:
    folder = plot.home.state / "growth" / "p9"
    folder.mkdir(parents=True)
    (folder / "novel.shard.npz").write_bytes(b"places")
    made(plot, Coordinator()).resume()
    assert not folder.exists()
