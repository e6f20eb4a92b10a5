"""Replies on their way to a run's process: part by part, begun again, bounded, never another node's."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from coordinator.federated_run import Replies
from coordinator.federation_exchange import Exchange
from coordinator.live_nodes import LiveNodes
from swarm.domain.errors import InvalidInputError, UnreachableError
from swarm.domain.federation import MAX_PART_BYTES, MAX_PARTS, FederationPart, cut
from swarm.domain.ids import NodeId

ROSE = NodeId("rose")
REPLY = [b"one", b"two", b"three"]


class FakeNode:
    """A node that is connected, its own link; `change` may make its parts wrong or break its stream."""

    def __init__(self, change: Callable[[FederationPart, int], FederationPart] = lambda part, turn: part):
        self.link, self.change = self, change
        self.got: list[bytes] = []
        self.given: list[int] = []

    def get(self, node: NodeId) -> "FakeNode":
        return self

    async def federate(self, part: FederationPart, timeout_s: float) -> FederationPart:
        if part.parts:
            self.got.append(part.data)
        if part.parts and part.part < part.parts - 1:
            return part
        number = 0 if part.parts else part.part
        self.given.append(number)
        answer = FederationPart(
            run=part.run, message=part.message, part=number, parts=len(REPLY), data=REPLY[number]
        )
        return self.change(answer, len(self.given))


async def asked(node: FakeNode, data: bytes = b"question") -> list[tuple[int, int, bytes]]:
    handed: list[tuple[int, int, bytes]] = []

    async def hand_on(piece: FederationPart) -> None:
        assert len(node.given) == len(handed) + 1, "each part before the next one is asked for"
        handed.append((piece.part, piece.parts, piece.data))

    await Exchange(cast(LiveNodes, node), "run", "sums").ask("m1", ROSE, data, 5.0, hand_on)
    return handed


async def test_each_part_of_a_reply_is_handed_on_before_the_next_one_is_asked_for() -> None:
    node = FakeNode()
    assert await asked(node) == [(number, 3, piece) for number, piece in enumerate(REPLY)]


@pytest.mark.parametrize("size", [0, 1, MAX_PART_BYTES, 2 * MAX_PART_BYTES + 1])
async def test_a_question_goes_in_the_parts_that_it_is_cut_into(size: int) -> None:
    node, data = FakeNode(), bytes(size)
    await asked(node, data)
    assert node.got == cut(data)


async def test_a_reply_begins_again_where_the_stream_broke_in_its_middle() -> None:
    def breaks(part: FederationPart, turn: int) -> FederationPart:
        if turn == 2:
            node.given.pop()
            node.change = lambda part, turn: part
            raise UnreachableError("node rose", found="its stream has ended")
        return part

    node, replies = FakeNode(breaks), Replies()
    replies.expect("m1", "rose")
    handed = await asked(node)
    assert [part for part, _, _ in handed] == [0, 0, 1, 2]
    found = [replies.take(header(part, parts), data) for part, parts, data in handed]
    assert found[:-1] == [None] * 3
    assert found[-1] is not None and found[-1].data == b"".join(REPLY)


async def test_a_part_out_of_turn_is_refused_by_the_nodes_name() -> None:
    def skips(part: FederationPart, turn: int) -> FederationPart:
        return FederationPart(run="run", message="m1", part=2, parts=3) if turn == 2 else part

    with pytest.raises(InvalidInputError, match=r"reply of node rose.*part 2"):
        await asked(FakeNode(skips))


async def test_a_reply_without_parts_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="0 parts"):
        await asked(FakeNode(lambda part, turn: FederationPart(run="run", message="m1")))


def header(part: int, parts: int, node: str = "rose", message: str = "m1") -> dict[str, Any]:
    return {"kind": "piece", "id": message, "node": node, "part": part, "parts": parts}


@pytest.fixture
def replies() -> Replies:
    found = Replies()
    found.expect("m1", "rose")
    found.expect("m2", "tulip")
    return found


def test_pieces_of_several_replies_may_come_among_each_other(replies: Replies) -> None:
    assert replies.take(header(0, 2), b"a") is None
    assert replies.take(header(0, 2, "tulip", "m2"), b"x") is None
    one, other = replies.take(header(1, 2), b"b"), replies.take(header(1, 2, "tulip", "m2"), b"y")
    assert one is not None and (one.message, one.node, one.data) == ("m1", "rose", b"ab")
    assert other is not None and other.data == b"xy"


def test_pieces_that_come_late_twice_or_from_another_node_change_nothing(replies: Replies) -> None:
    assert replies.take(header(0, 2), b"a") is None
    assert replies.take(header(0, 1, "tulip"), b"z") is None
    whole = replies.take(header(1, 2), b"b")
    assert whole is not None and whole.data == b"ab"
    assert replies.take(header(0, 1), b"a") is None, "a reply that is there already"
    assert replies.take(header(0, 2, "tulip", "m2"), b"x") is None
    replies.forget(["m2"])
    assert replies.take(header(1, 2, "tulip", "m2"), b"y") is None, "a reply that nobody waits for"
    assert replies.take(header(0, 1, "tulip", "m3"), b"y") is None, "a message that was never sent"


@pytest.mark.parametrize(("part", "parts"), [(2, 3), (1, 1), (1, MAX_PARTS + 1)])
def test_pieces_that_do_not_fit_together_lose_that_reply_only(
    replies: Replies, part: int, parts: int
) -> None:
    assert replies.take(header(0, 3), b"a") is None
    lost = replies.take(header(part, parts), b"b")
    assert lost is not None and isinstance(lost.problem, InvalidInputError)
    assert "rose" in str(lost.problem)
    whole = replies.take(header(0, 1, "tulip", "m2"), b"x")
    assert whole is not None and whole.data == b"x"


def test_a_reply_larger_than_any_message_is_refused(
    replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.federated_run.MAX_MESSAGE_BYTES", 3)
    assert replies.take(header(0, 2), b"ab") is None
    lost = replies.take(header(1, 2), b"cd")
    assert lost is not None and "4 bytes" in str(lost.problem)
