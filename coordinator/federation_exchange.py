"""One message of a federated run to a node and its reply back, part by part over the node's stream."""

import asyncio

from coordinator.live_nodes import LiveNodes
from swarm.domain.errors import DeadlineError, ExhaustedError, InvalidInputError, UnreachableError
from swarm.domain.federation import MAX_MESSAGE_BYTES, MAX_PARTS, FederationPart, cut
from swarm.domain.ids import NodeId

PART_TIMEOUT_S = 60.0
REJOIN_S = 15.0
"""How long a node that lost its stream within a round may take to come back and be asked again."""


class Exchange:
    """The messages of one run of one app."""

    def __init__(self, live: LiveNodes, run: str, app: str) -> None:
        self._live, self._run, self._app = live, run, app

    async def ask(self, message: str, node: NodeId, data: bytes, timeout_s: float) -> bytes:
        """Bring a message to a node and its reply back; a node whose stream broke is asked again when it is
        back within REJOIN_S: it answers the same message again without doing it again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                return await self._ask_once(message, node, data, deadline)
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

    async def _ask_once(self, message: str, node: NodeId, data: bytes, deadline: float) -> bytes:
        parts = cut(data)
        loop = asyncio.get_running_loop()
        found = self._live.get(node)
        if found is None:
            raise UnreachableError(f"node {node}", found="its stream has ended", remedy="run: swarm status")
        link = found.link
        reply = FederationPart(run=self._run)
        for number, piece in enumerate(parts):
            last = number == len(parts) - 1
            left = max(deadline - loop.time(), 0.1)
            reply = await link.federate(
                FederationPart(
                    run=self._run,
                    message=message,
                    part=number,
                    parts=len(parts),
                    data=piece,
                    app=self._app,
                ),
                left if last else min(left, PART_TIMEOUT_S),
            )
        total, pieces = reply.parts, [reply.data]
        if not 1 <= total <= MAX_PARTS or reply.part != 0:
            raise InvalidInputError(f"reply of node {node}", found=f"{total} parts", expected="1 or more")
        for number in range(1, total):
            ask = FederationPart(run=self._run, message=message, part=number, app=self._app)
            piece_of = await link.federate(ask, min(max(deadline - loop.time(), 0.1), PART_TIMEOUT_S))
            if (piece_of.part, piece_of.parts) != (number, total):
                raise InvalidInputError(
                    f"reply of node {node}", found=f"part {piece_of.part}", expected=f"part {number}"
                )
            pieces.append(piece_of.data)
        whole = b"".join(pieces)
        if len(whole) > MAX_MESSAGE_BYTES:
            raise ExhaustedError(f"reply of node {node}", found=f"{len(whole)} bytes")
        return whole
