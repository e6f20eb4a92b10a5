"""Flower's Grid over the nodes' streams: lives in the coordinator's child process, speaks to its parent.

Nothing is waited for without bound. A node that dies, is late or refuses is answered for by an error reply
that names it; what comes after a round is over, or twice, is dropped. Replies are in the order of names.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from swarm.digests import blake3
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.federation.messages import decode_message, encode_message
from swarm.federation.progress import say

NODE_UNAVAILABLE = 5
"""Flower's code for a node that could not be asked."""
_STEP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What came for a message: the reply's bytes, or why there will be none."""

    message: str
    node: str
    data: bytes = b""
    problem: SwarmError | None = None


class Wire(Protocol):
    """The way to the nodes."""

    def nodes(self) -> Sequence[str]:
        """Return the names of the nodes that are connected and may take part."""

    def send(self, message: str, node: str, data: bytes, timeout_s: float) -> None:
        """Send a message; whatever becomes of it comes through `arrival`."""

    def arrival(self, timeout_s: float) -> Arrived | None:
        """Return the next that arrived, None after timeout_s."""

    def forget(self, messages: Sequence[str]) -> None:
        """Nobody waits for these any more."""


def node_number(name: str) -> int:
    """Return the number by which Flower knows a node: 62 bits of its name's hash, above the server's."""
    return (int.from_bytes(blake3(name.encode()).digest(8), "big") >> 2) + 2


@dataclass(slots=True)
class _Sent:
    node: str
    request: Message
    deadline: float
    reply: Message | None = None


@dataclass(slots=True)
class Traffic:
    """Bytes of messages to the nodes and back."""

    sent: int = 0
    received: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    """Why a node did not answer, the last time."""


class StreamGrid(Grid):
    """One run's grid. `timeout_s` is what a message may take where the caller sets no limit."""

    def __init__(self, wire: Wire, run: str, timeout_s: float) -> None:
        self._wire, self._run, self._timeout_s = wire, run, timeout_s
        self._names: dict[int, str] = {}
        self._sent: dict[str, _Sent] = {}
        self._numbers = itertools.count(1)
        self.traffic = Traffic()

    def set_run(self, run: Any) -> None:
        """A run is set by the process that it is; nothing to do."""

    @property
    def run(self) -> Any:
        """Flower's description of the run: none here."""
        return None

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> list[int]:
        """Return the connected nodes' numbers, in the order of their names."""
        names = sorted(self._wire.nodes())
        for name in names:
            self._names[node_number(name)] = name
        return [node_number(name) for name in names]

    def node_name(self, number: int) -> str:
        """Return a node's name; InvalidInputError for a number that is none of its."""
        if number not in self._names:
            raise InvalidInputError(f"node {number}", found="no such node", expected="one of this run's")
        return self._names[number]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return their ids. Each may take the grid's timeout."""
        return self._push(messages, self._timeout_s)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, without waiting."""
        while (arrived := self._wire.arrival(0.0)) is not None:
            self._take(arrived)
        wanted = [each for each in message_ids if each in self._sent]
        now = monotonic()
        for each in wanted:
            if self._sent[each].reply is None and now >= self._sent[each].deadline:
                self._give_up(each, "no answer in time")
        return self._hand_over([each for each in wanted if self._sent[each].reply is not None])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return one reply for each, an error where none came in time."""
        limit = self._timeout_s if timeout is None else min(timeout, self._timeout_s)
        ids = self._push(messages, limit)
        deadline = monotonic() + limit
        open_ids = {each for each in ids if self._sent[each].reply is None}
        while open_ids and (left := deadline - monotonic()) > 0:
            arrived = self._wire.arrival(min(left, _STEP_S))
            if arrived is None:
                continue
            self._take(arrived)
            before = len(open_ids)
            open_ids = {each for each in open_ids if self._sent[each].reply is None}
            if len(open_ids) != before:
                self._tell(ids)
        for each in open_ids:
            self._give_up(each, f"no answer within {limit:g} s")
        if open_ids:
            self._wire.forget(sorted(open_ids))
            self._tell(ids)
        return self._hand_over(ids)

    def _push(self, messages: Iterable[Message], limit_s: float) -> list[str]:
        ids = []
        for message in messages:
            name = self.node_name(message.metadata.dst_node_id)
            each = f"m{next(self._numbers)}"
            data = encode_message(message, each)
            self._sent[each] = _Sent(node=name, request=message, deadline=monotonic() + limit_s)
            self.traffic.sent += len(data)
            self._wire.send(each, name, data, limit_s)
            ids.append(each)
        return ids

    def _take(self, arrived: Arrived) -> None:
        """Note a reply; one that nobody waits for, that came already or from elsewhere changes nothing."""
        sent = self._sent.get(arrived.message)
        if sent is None or sent.reply is not None or sent.node != arrived.node:
            return
        if arrived.problem is not None:
            self._give_up(arrived.message, str(arrived.problem))
            return
        self.traffic.received += len(arrived.data)
        try:
            reply = decode_message(arrived.data, f"reply of node {arrived.node}")
            found = reply.metadata
            if (found.reply_to_message_id, found.src_node_id) != (arrived.message, node_number(arrived.node)):
                raise InvalidInputError(
                    f"reply of node {arrived.node}",
                    found=f"an answer to {found.reply_to_message_id[:40]!r}",
                    expected=f"an answer to {arrived.message!r}",
                )
        except SwarmError as error:
            self._give_up(arrived.message, str(error))
            return
        sent.reply = reply
        if reply.has_error():
            self.traffic.lost[sent.node] = str(reply.error.reason)

    def _give_up(self, message: str, why: str) -> None:
        sent = self._sent[message]
        self.traffic.lost[sent.node] = why
        sent.reply = Message(Error(NODE_UNAVAILABLE, f"{sent.node}: {why}"), reply_to=sent.request)

    def _hand_over(self, ids: Sequence[str]) -> list[Message]:
        done = [self._sent.pop(each) for each in ids]
        done.sort(key=lambda sent: sent.node)
        return [sent.reply for sent in done if sent.reply is not None]

    def _tell(self, ids: Sequence[str]) -> None:
        settled = [self._sent[each] for each in ids if self._sent[each].reply is not None]
        lost = sorted(sent.node for sent in settled if sent.reply is not None and sent.reply.has_error())
        answered = len(settled) - len(lost)
        missing = f"; without {', '.join(lost[:5])}" if lost else ""
        say(f"{answered} of {len(ids)} nodes{missing}", done=len(settled) / len(ids))
