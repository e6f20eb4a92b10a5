"""The grid over the streams: bounded waiting, late and repeated replies, dead nodes; and a node's own end."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from node import federation as node_side
from node.federation import FederatedClients, allowed_apps
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotReadyError,
    UnreachableError,
    UsageError,
)
from swarm.domain.federation import MAX_PART_BYTES, FederationPart, cut
from swarm.federation import averaging, sums
from swarm.federation.messages import encode_message
from swarm.federation.own_samples import OwnSamples
from swarm.federation.progress import heard_by
from swarm.federation.rounds import RunLimits, ask_nodes
from swarm.federation.stream_grid import Arrived, StreamGrid, node_number
from swarm.federation.task_identity import take_task_identity
from tests.support.federation import LocalWire, run_app, three_nodes
from tests.support.rpc import eventually

app = ClientApp()
NAMES = ("aster", "rose", "tulip")
LIMITS = RunLimits(min_nodes=1, timeout_s=0.2, patience_s=0.0)
Hooks = Callable[[Arrived, int], list[Arrived]]


@app.query("hello")
def hello(message: Message, context: Any) -> Message:
    turn = int(context.state.config_records.get("turn", {"n": 0})["n"]) + 1
    context.state["turn"] = ConfigRecord({"n": turn})
    return Message(RecordDict({"config": ConfigRecord({"turn": turn})}), reply_to=message)


def grid(answers: Hooks | None = None) -> tuple[StreamGrid, LocalWire]:
    take_task_identity(3)
    wire = LocalWire(app, dict.fromkeys(NAMES))  # type: ignore[arg-type]
    if answers is not None:
        wire.answers = answers
    return StreamGrid(wire, "run", 0.2), wire


def turns(over: StreamGrid, limits: RunLimits = LIMITS) -> dict[str, int]:
    return {each.node: each.config["turn"] for each in ask_nodes(over, limits, "query.hello", {}, {})}


def test_replies_are_in_the_order_of_names_and_state_is_kept_over_the_rounds() -> None:
    over, _ = grid()
    assert list(turns(over)) == sorted(NAMES)
    assert turns(over) == dict.fromkeys(NAMES, 2)


def test_a_node_that_dies_is_left_out_named_and_not_waited_for() -> None:
    def dies(reply: Arrived, turn: int) -> list[Arrived]:
        if reply.node == "rose":
            return [
                replace(reply, data=b"", problem=UnreachableError("node rose", found="its stream has ended"))
            ]
        return [reply]

    over, _ = grid(dies)
    assert set(turns(over)) == {"aster", "tulip"}
    assert "its stream has ended" in over.traffic.lost["rose"]


def test_a_late_reply_is_given_up_on_and_does_not_answer_the_next_round() -> None:
    kept: list[Arrived] = []

    def late(reply: Arrived, turn: int) -> list[Arrived]:
        if reply.node == "rose" and turn == 1:
            kept.append(reply)
            return []
        return [*kept, reply] if turn == 2 else [reply]

    over, wire = grid(late)
    assert set(turns(over)) == {"aster", "tulip"} and "0.2 s" in over.traffic.lost["rose"]
    assert wire.forgotten == [kept[0].message]
    assert turns(over)["rose"] == 2, "the answer to the second question, not the late one"


def test_a_reply_that_comes_twice_counts_once() -> None:
    over, _ = grid(lambda reply, turn: [reply, reply, reply])
    assert turns(over) == dict.fromkeys(NAMES, 1)
    assert turns(over) == dict.fromkeys(NAMES, 2)
    assert over.pull_messages(["m1", "m2"]) == []


def test_a_node_cannot_answer_for_another() -> None:
    def swapped(reply: Arrived, turn: int) -> list[Arrived]:
        return [replace(reply, node="tulip") if reply.node == "rose" else reply]

    over, _ = grid(swapped)
    assert set(turns(over)) == {"aster", "tulip"}


def test_a_reply_that_is_none_costs_that_node_only() -> None:
    over, _ = grid(lambda reply, turn: [replace(reply, data=b"\0\0") if reply.node == "rose" else reply])
    assert set(turns(over)) == {"aster", "tulip"} and "reply of node rose" in over.traffic.lost["rose"]


def test_too_few_answers_end_the_round_with_every_reason() -> None:
    gone = UnreachableError("node", found="its stream has ended")
    over, _ = grid(lambda reply, turn: [replace(reply, data=b"", problem=gone)])
    with pytest.raises(
        NotReadyError, match=r"0 answers \(aster, rose, tulip: node: found its stream has ended\)"
    ):
        turns(over)


def test_messages_may_be_pushed_and_pulled_by_hand() -> None:
    over, _ = grid()
    numbers = over.get_node_ids()
    assert [over.node_name(each) for each in numbers] == sorted(NAMES)
    ids = over.push_messages([Message(RecordDict(), dst_node_id=numbers[0], message_type="query.hello")])
    assert [each.metadata.src_node_id for each in over.pull_messages(ids)] == [node_number("aster")]
    with pytest.raises(InvalidInputError, match="node 12"):
        over.push_messages([Message(RecordDict(), dst_node_id=12, message_type="query.hello")])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnSamples]:
    return three_nodes(tmp_path_factory.mktemp("grid"))[1]


def test_averaging_goes_on_without_a_node_that_dies_between_two_rounds(nodes: dict[str, OwnSamples]) -> None:
    wire = LocalWire(averaging.client_app, nodes)
    gone = UnreachableError("node rose", found="its stream has ended")

    def dies(reply: Arrived, turn: int) -> list[Arrived]:
        return [replace(reply, data=b"", problem=gone) if reply.node == "rose" and turn > 2 else reply]

    wire.answers = dies
    over = StreamGrid(wire, "run", 30.0)
    specification = nodes["rose"].specification
    told: list[str] = []
    heard_by(lambda stage, message, fraction, figures: told.append(f"{stage}: {message}"))
    options = {"rounds": 2, "steps": 5, "net": "mlp:8x1"}
    _, figures = run_app(averaging.server_app, over, specification, "average", **options)
    assert figures["nodes"] == 2
    assert "round 1 of 2: 3 of 3 nodes" in told and "round 2 of 2: 2 of 3 nodes; without rose" in told


def test_sums_that_claim_too_much_are_refused_by_the_nodes_name(nodes: dict[str, OwnSamples]) -> None:
    from swarm.federation.messages import array_record, decode_message, named_arrays

    wire = LocalWire(sums.client_app, nodes)

    def inflated(reply: Arrived, turn: int) -> list[Arrived]:
        if reply.node != "rose" or turn != 1:
            return [reply]
        message = decode_message(reply.data, "reply")
        arrays = named_arrays(message.content.array_records["arrays"])
        message.content["arrays"] = array_record({**arrays, "columns": arrays["columns"] * 1000})
        return [replace(reply, data=encode_message(message))]

    wire.answers = inflated
    over = StreamGrid(wire, "run", 30.0)
    with pytest.raises(InvalidInputError, match="rose"):
        run_app(sums.server_app, over, nodes["rose"].specification, "sums")


class FakeChild:
    """A child that answers with the message's bytes, doubled, and counts."""

    started = ended = 0
    answered = 0
    hold: asyncio.Event | None = None

    def __init__(self) -> None:
        self.running = True
        self._frames: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()

    @classmethod
    async def start(cls, module: str, arguments: list[str], log: Path) -> "FakeChild":
        cls.started += 1
        return cls()

    async def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        type(self).answered += 1
        self._frames.put_nowait(({"kind": "reply", "id": header["id"], "detail": "twice"}, payload * 2))

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        if self.hold is not None:
            await self.hold.wait()
        return await self._frames.get()

    async def stop(self, grace_s: float = 2.0) -> int:
        self.running = False
        type(self).ended += 1
        return 0


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederatedClients:
    FakeChild.started = FakeChild.ended = FakeChild.answered = 0
    FakeChild.hold = None
    monkeypatch.setattr(node_side, "FrameChild", FakeChild)
    log = OutboundLog(tmp_path / "outbound.jsonl")
    return FederatedClients(
        NodeHome(tmp_path), log, allowed=frozenset({"sums"}), threads=1, idle_s=0.3, clock=lambda: 5.0
    )


def part(
    number: int = 0, parts: int = 1, data: bytes = b"ab", message: str = "m1", run: str = "r1"
) -> FederationPart:
    return FederationPart(run=run, message=message, part=number, parts=parts, data=data, app="sums")


async def test_a_message_in_parts_is_answered_in_parts(clients: FederatedClients, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(MAX_PART_BYTES + 10)
    pieces = cut(data)
    assert (await clients.deliver(part(0, 2, pieces[0]))).data == b""
    first = await clients.deliver(part(1, 2, pieces[1]))
    rest = [(await clients.deliver(part(number, 0, b""))).data for number in range(1, first.parts)]
    assert b"".join([first.data, *rest]) == data * 2 and first.parts == 3
    listed = OutboundLog(tmp_path / "outbound.jsonl").read()
    assert [(each.what, each.detail, each.size_bytes) for each in listed] == [
        ("federated sums", "twice", 2 * len(data))
    ]


async def test_the_same_message_again_is_answered_again_and_not_done_again(clients: FederatedClients) -> None:
    one, other = await asyncio.gather(clients.deliver(part()), clients.deliver(part()))
    assert one == other == await clients.deliver(part()) and FakeChild.answered == 1


async def test_work_goes_on_when_whoever_asked_went_away(clients: FederatedClients) -> None:
    FakeChild.hold = asyncio.Event()
    asking = asyncio.create_task(clients.deliver(part()))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    FakeChild.hold.set()
    assert (await clients.deliver(part())).data == b"abab" and FakeChild.answered == 1


async def test_whoever_waits_for_a_reply_hears_that_the_run_ended(clients: FederatedClients) -> None:
    """Silence here was a call without a status: its caller waited until its deadline."""
    FakeChild.hold = asyncio.Event()
    for another in (FederationPart(run="r1"), part(1, 3, run="r2")):
        asking = asyncio.create_task(clients.deliver(part()))
        await asyncio.sleep(0)
        await clients.deliver(another)
        with pytest.raises(ConflictError, match="run r1 was ended before its answer"):
            await asking


async def test_a_message_answered_long_ago_is_not_done_again(clients: FederatedClients) -> None:
    for number in range(6):
        await clients.deliver(part(message=f"m{number}"))
    with pytest.raises(ConflictError, match="answered before"):
        await clients.deliver(part(message="m0"))
    assert FakeChild.answered == 6


async def test_a_message_with_a_part_missing_is_refused(clients: FederatedClients) -> None:
    with pytest.raises(InvalidInputError, match="1 parts"):
        await clients.deliver(part(2, 3))


async def test_an_app_that_the_owner_does_not_allow_is_refused(clients: FederatedClients) -> None:
    with pytest.raises(NotAuthorisedError, match="does not allow"):
        await clients.deliver(replace(part(), app="average"))
    assert FakeChild.started == 0


async def test_a_run_ends_when_it_is_said_when_another_begins_and_when_nothing_comes(
    clients: FederatedClients,
) -> None:
    await clients.deliver(part())
    await clients.deliver(FederationPart(run="r1"))
    await clients.deliver(part(run="r2"))
    await clients.deliver(part(run="r3"))
    assert FakeChild.started == 3
    await eventually(lambda: FakeChild.ended == 3)
    await clients.deliver(part(run="r3", message="m2"))
    assert FakeChild.started == 4


def test_the_owners_setting_is_all_none_or_names() -> None:
    assert allowed_apps("all") >= {"sums", "average"} and allowed_apps("none") == frozenset()
    assert allowed_apps(" sums, kmeans") == {"sums", "kmeans"}
    for wrong in ("", "some", "all,none"):
        with pytest.raises(UsageError, match="federation"):
            allowed_apps(wrong)
