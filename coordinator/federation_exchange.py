"""One message of a federated run to a node and its reply back, part by part over the node's stream.

A reply is never whole here: each of its parts is handed on before the next one is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.live_nodes import LiveNodes
from swarm.domain.errors import DeadlineError, ExhaustedError, InvalidInputError, UnreachableError
from swarm.domain.federation import MAX_MESSAGE_BYTES, MAX_PART_BYTES, MAX_PARTS, FederationPart
from swarm.domain.ids import NodeId

PART_TIMEOUT_S = 60.0
REJOIN_S = 15.0
"""How long a node that lost its stream within a round may take to come back and be asked again."""


HandOn = Callable[[FederationPart], Awaitable[None]]
"""Takes the next part of a reply; part 0 begins the reply, again where a node had to be asked again."""


class Exchange:
    """The messages of one run of one app."""

    def __init__(self, live: LiveNodes, run: str, app: str) -> None:
        self._live, self._run, self._app = live, run, app

    async def ask(self, message: str, node: NodeId, data: bytes, timeout_s: float, hand_on: HandOn) -> None:
        """Bring a message to a node and hand its reply on, in order; a node whose stream broke is asked again
        when it is back within REJOIN_S: it answers the same message again without doing it again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                await self._ask_once(message, node, data, deadline, hand_on)
                return
            except DeadlineError:
                raise
            except UnreachableError:
                back_by = min(deadline, loop.time() + REJOIN_S)
                while self._live.get(node) is None:
                    if loop.time() >= back_by:
                        raise
                    await asyncio.sleep(0.2)
                await asyncio.sleep(0.1)
                if loop.time() >= deadline:
                    raise

    async def _ask_once(
        self, message: str, node: NodeId, data: bytes, deadline: float, hand_on: HandOn
    ) -> None:
        loop = asyncio.get_running_loop()
        found = self._live.get(node)
        if found is None:
            raise UnreachableError(f"node {node}", found="its stream has ended", remedy="run: swarm status")
        link = found.link
        reply = FederationPart(run=self._run)
        parts = max(1, -(-len(data) // MAX_PART_BYTES))
        for number in range(parts):
            last = number == parts - 1
            left = max(deadline - loop.time(), 0.1)
            reply = await link.federate(
                FederationPart(
                    run=self._run,
                    message=message,
                    part=number,
                    parts=parts,
                    data=data[number * MAX_PART_BYTES : (number + 1) * MAX_PART_BYTES],
                    app=self._app,
                ),
                left if last else min(left, PART_TIMEOUT_S),
            )
        total, size = reply.parts, len(reply.data)
        if not 1 <= total <= MAX_PARTS or reply.part != 0:
            raise InvalidInputError(f"reply of node {node}", found=f"{total} parts", expected="1 or more")
        await hand_on(reply)
        for number in range(1, total):
            ask = FederationPart(run=self._run, message=message, part=number, app=self._app)
            piece = await link.federate(ask, min(max(deadline - loop.time(), 0.1), PART_TIMEOUT_S))
            if (piece.part, piece.parts) != (number, total):
                raise InvalidInputError(
                    f"reply of node {node}", found=f"part {piece.part}", expected=f"part {number}"
                )
            size += len(piece.data)
            if size > MAX_MESSAGE_BYTES:
                raise ExhaustedError(f"reply of node {node}", found=f"{size} bytes")
            await hand_on(piece)
