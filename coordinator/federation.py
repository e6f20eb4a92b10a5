"""Federated runs in the coordinator: one at a time, each in a child process; here its bytes go to the nodes.

The coordinator itself holds no sums and loads no Flower. Each part of a node's reply goes to the child before
the next one is fetched, and is joined there. What the child asks a node is held here until the node has
answered, for it may have to be asked again; so is the result, of at most 60 MiB.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter

from coordinator.federation_exchange import Exchange
from coordinator.live_nodes import LiveNode, LiveNodes
from swarm.domain.errors import ConflictError, ExhaustedError, NotReadyError, SwarmError
from swarm.domain.federation import FederationOrder, FederationPart, FederationStep
from swarm.domain.ids import NodeId, node_id
from swarm.domain.specification import Specification
from swarm.federation.child import FrameChild
from swarm.federation.frames import error_of, problem_of
from swarm.federation.options import parse_options
from swarm.federation.packing import unpack_named

CHILD = "coordinator.federated_run"
HEARTBEAT_S = 20.0
_KNOWN_KEYS = 64
_KEPT_STEPS = 1000
_RESULT_BYTES = 60 << 20
_log = structlog.get_logger(__name__)


class Federation:
    """FederationPort. `log` is the file that the children's standard error goes to."""

    def __init__(self, live: LiveNodes, specification: Callable[[], Specification], log: Path) -> None:
        self._live, self._specification, self._log = live, specification, log
        self._present: _Run | None = None
        self._past: list[str] = []

    async def run(self, order: FederationOrder) -> AsyncIterator[FederationStep]:
        """Carry out an order and tell its steps; the same key again follows the same run.

        When nobody follows it any more, it ends. Raises UsageError for a wrong app or option, ConflictError
        while another run is under way or where this key's run is over, and what the run ends with. A run that
        is being ended is waited for.
        """
        if self._present is not None and self._present.is_abandoned:
            await self._present.ended()
        run = self._started(order)
        async for step in run.follow():
            yield step

    async def close(self) -> None:
        """End what runs."""
        if self._present is not None:
            await self._present.end()

    def _started(self, order: FederationOrder) -> "_Run":
        present = self._present
        if present is not None and present.key == order.idempotency_key:
            return present
        if present is not None and not present.over:
            raise ConflictError(
                "federated run",
                found=f"a run of {present.order.app} that is not over",
                expected="one run at a time",
                remedy="wait for it, or end it with Ctrl-C where it was started",
            )
        if order.idempotency_key in self._past:
            raise ConflictError(
                "federated run",
                found="an order that was carried out already",
                expected="a new order",
                remedy="order it again under a new key",
            )
        settings = parse_options(order.app, order.options)
        for node in sorted(only_nodes(settings)):
            if self._live.get(node) is None:
                raise NotReadyError(
                    f"node {node}", found="not connected", expected="a connected node", remedy="swarm status"
                )
        text = TypeAdapter(Specification).dump_json(self._specification()).decode()
        run = self._present = _Run(order, self._live, settings, text, self._log)
        self._past = [*self._past, order.idempotency_key][-_KNOWN_KEYS:]
        run.start()
        run.when_over = self._forget
        return run

    def _forget(self, run: "_Run") -> None:
        if self._present is run:
            self._present = None


class _Run:
    """One run: its child, its messages on their way, and everybody who follows it."""

    def __init__(
        self, order: FederationOrder, live: LiveNodes, settings: dict[str, Any], specification: str, log: Path
    ) -> None:
        self.order, self.key = order, order.idempotency_key
        self.id = secrets.token_hex(8)
        self.over = self.is_abandoned = False
        self.when_over: Callable[[_Run], None] = lambda _: None
        self._live, self._settings, self._specification, self._log = live, settings, specification, log
        self._only = only_nodes(settings)
        self._steps: deque[FederationStep] = deque([FederationStep(stage="start")], _KEPT_STEPS)
        self._told = 1
        self._error: SwarmError | None = None
        self._changed = asyncio.Condition()
        self._followers = 0
        self._exchange = Exchange(live, self.id, order.app)
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._asked: set[NodeId] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._carry_out(), name="federated run")

    async def end(self) -> None:
        """End the run and its child."""
        if self._task is not None:
            self._task.cancel()
        await self.ended()

    async def ended(self) -> None:
        """Wait for the end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def follow(self) -> AsyncIterator[FederationStep]:
        """Yield what happens from now on, at least a sign of life every HEARTBEAT_S; last the result."""
        self._followers += 1
        seen = max(self._told - 1, 0)
        try:
            while True:
                async with self._changed:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT_S):
                            while not self.over and self._told == seen:
                                await self._changed.wait()
                    fresh = list(self._steps)[len(self._steps) - min(self._told - seen, len(self._steps)) :]
                    seen, over = self._told, self.over
                for step in fresh or list(self._steps)[-1:]:
                    yield step
                if over and self._error is not None:
                    raise self._error
                if over:
                    return
        finally:
            self._followers -= 1
            if not self._followers:
                if not self.over:
                    _log.info("federation.abandoned", run=self.id, app=self.order.app)
                    self.is_abandoned = True
                    await self.end()
                self.when_over(self)

    async def _carry_out(self) -> None:
        child: FrameChild | None = None
        try:
            child = await FrameChild.start(CHILD, [self.order.app], self._log)
            await child.send(
                {
                    "kind": "order",
                    "run": self.id,
                    "number": int(self.id, 16) >> 2,
                    "app": self.order.app,
                    "settings": self._settings,
                    "specification": self._specification,
                }
            )
            await self._converse(child)
        except SwarmError as error:
            self._error = error
        except asyncio.CancelledError:
            self._error = NotReadyError("federated run", found="ended before it was done")
        except Exception as error:
            _log.exception("federation.failed", run=self.id)
            self._error = SwarmError("federated run", found=f"{type(error).__name__}: {error}")
        finally:
            for task in self._sending.values():
                task.cancel()
            if child is not None:
                await child.stop()
            self._say_goodbye()
            async with self._changed:
                self.over = True
                self._changed.notify_all()

    async def _converse(self, child: FrameChild) -> None:
        while (found := await child.receive()) is not None:
            header, payload = found
            match header.get("kind"):
                case "send":
                    self._send_on(child, header, payload)
                case "nodes":
                    names = sorted(str(node.link.node) for node in self._live if self._takes(node))
                    await child.send({"kind": "nodes", "id": header["id"], "nodes": names})
                case "forget":
                    for each in header["ids"]:
                        task = self._sending.pop(each, None)
                        if task is not None:
                            task.cancel()
                case "step":
                    await self._tell(
                        FederationStep(
                            stage=header["stage"],
                            message=header["message"],
                            fraction=header["fraction"],
                            figures=header["figures"],
                        )
                    )
                case "result":
                    await self._tell(_result(header, payload))
                    return
                case "problem":
                    raise error_of(header.get("problem"))
        status = await child.stop()
        raise SwarmError(
            "federated run",
            found=f"its process ended with status {status}: {child.last_words()}",
            expected="a result",
            remedy=f"read {self._log}",
        )

    def _send_on(self, child: FrameChild, header: dict[str, Any], payload: bytes) -> None:
        each, node, timeout_s = str(header["id"]), node_id(header["node"]), float(header["timeout_s"])
        self._asked.add(node)

        async def send() -> None:
            answer: dict[str, Any] = {"id": each, "node": node}

            async def hand_on(piece: FederationPart) -> None:
                await child.send(
                    {**answer, "kind": "piece", "part": piece.part, "parts": piece.parts}, piece.data
                )

            try:
                await self._exchange.ask(each, node, payload, timeout_s, hand_on)
            except SwarmError as error:
                _log.info("federation.node_lost", run=self.id, node=node, reason=str(error))
                await child.send({**answer, "kind": "lost", "problem": problem_of(error)})
            finally:
                self._sending.pop(each, None)

        self._sending[each] = asyncio.create_task(send())

    def _takes(self, node: LiveNode) -> bool:
        return not node.suspected and (not self._only or node.link.node in self._only)

    def _say_goodbye(self) -> None:
        """Tell the nodes that took part that the run is over; nobody waits for it."""
        for node in self._asked:
            found = self._live.get(node)
            if found is not None:
                farewell = asyncio.create_task(
                    _quietly(found.link.federate(FederationPart(run=self.id), 5.0))
                )
                _farewells.add(farewell)
                farewell.add_done_callback(_farewells.discard)

    async def _tell(self, step: FederationStep) -> None:
        async with self._changed:
            self._steps.append(step)
            self._told += 1
            self._changed.notify_all()


def only_nodes(settings: Mapping[str, Any]) -> frozenset[NodeId]:
    """Return the nodes that alone are to be asked, none for all; InvalidInputError for what is no name."""
    return frozenset(node_id(name) for name in str(settings.get("nodes", "")).split(",") if name)


_farewells: set[asyncio.Task[None]] = set()


async def _quietly(call: Any) -> None:
    with suppress(SwarmError):
        await call


def _result(header: dict[str, Any], payload: bytes) -> FederationStep:
    if len(payload) > _RESULT_BYTES:
        raise ExhaustedError(
            "result of the federated run",
            found=f"{len(payload)} bytes",
            expected=f"at most {_RESULT_BYTES}",
            remedy="ask for a smaller net or fewer clusters",
        )
    return FederationStep(
        stage="done",
        message=header["lost"],
        fraction=1.0,
        figures=header["figures"],
        arrays=unpack_named(payload, "result of the federated run"),
    )
