"""The agent's side of federated runs: puts messages together, lets a child process answer, lists what leaves.

One run at a time, as on the coordinator; a message that comes again is answered again from what was kept.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import structlog

from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    UsageError,
)
from swarm.domain.federation import APP_NAMES, MAX_MESSAGE_BYTES, FederationPart, cut
from swarm.domain.inference import Listing
from swarm.federation.child import FrameChild
from swarm.federation.frames import error_of

CHILD = "node.federated_client"
IDLE_S = 900.0
_KEPT_REPLIES = 2
_OPEN_MESSAGES = 4
_log = structlog.get_logger(__name__)


def allowed_apps(setting: str) -> frozenset[str]:
    """Return the apps that an owner allows: `all`, `none`, or names with commas between them."""
    words = [word.strip() for word in setting.split(",") if word.strip()]
    if words == ["all"]:
        return frozenset(APP_NAMES)
    if words == ["none"]:
        return frozenset()
    unknown = sorted(set(words) - set(APP_NAMES))
    if unknown or not words:
        raise UsageError(
            "federation",
            found=repr(setting[:80]),
            expected=f"all, none, or some of {', '.join(APP_NAMES)}",
            remedy="correct --federation or SWARM_FEDERATION",
        )
    return frozenset(words)


class FederatedClients:
    """FederationClientPort: the one run that this node takes part in."""

    def __init__(
        self,
        home: NodeHome,
        outbound: OutboundLog,
        *,
        allowed: frozenset[str],
        threads: int,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._outbound, self._allowed = home, outbound, allowed
        self._threads, self._idle_s, self._clock = threads, idle_s, clock
        self._present: _Taking | None = None

    async def deliver(self, part: FederationPart) -> FederationPart:
        """Take a part; the last one of a message is answered with the reply's first part.

        Raises NotAuthorisedError for an app that the owner does not allow, InvalidInputError for parts that
        do not fit together, NotFoundError for a reply that is not kept any more.
        """
        present = self._present
        if not part.message:
            if present is not None and present.run == part.run:
                await self._end_present()
            return FederationPart(run=part.run)
        if part.app not in self._allowed:
            raise NotAuthorisedError(
                f"federated app {part.app or '(none)'}",
                found="an app that this node's owner does not allow",
                expected=", ".join(sorted(self._allowed)) or "none",
                remedy="on the node: swarm node --federation all",
            )
        if present is None or present.run != part.run:
            await self._end_present()
            log = self._home.run / "federation.log"
            present = self._present = _Taking(
                part.run, part.app, str(self._home.root), self._threads, log, self._list
            )
        present.touched_by(self._idle_s, self._end_present)
        return await present.deliver(part)

    async def stop(self) -> None:
        """End the run that this node takes part in."""
        await self._end_present()

    async def _end_present(self) -> None:
        present, self._present = self._present, None
        if present is not None:
            await present.end()

    def _list(self, app: str, detail: str, size_bytes: int) -> None:
        self._outbound.record(
            [
                Listing(
                    what=f"federated {app}",
                    detail=detail,
                    size_bytes=size_bytes,
                    recipient="coordinator",
                    at=self._clock(),
                )
            ]
        )


class _Taking:
    """One run: its child, messages that are not whole yet, and replies that may be asked for again."""

    def __init__(
        self,
        run: str,
        app: str,
        home: str,
        threads: int,
        log: Path,
        listed: Callable[[str, str, int], None],
    ) -> None:
        self.run, self._app, self._home, self._threads, self._log = run, app, home, threads, log
        self._listed = listed
        self._pieces: dict[str, dict[int, bytes]] = {}
        self._replies: dict[str, asyncio.Task[list[bytes]]] = {}
        self._answered: set[str] = set()
        self._child: FrameChild | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def touched_by(self, idle_s: float, end: Callable[[], Coroutine[None, None, None]]) -> None:
        """Expect the next part within idle_s; without one, end. A message under way counts as life."""
        if self._idle is not None:
            self._idle.cancel()

        def over() -> None:
            if any(not task.done() for task in self._replies.values()):
                self.touched_by(idle_s, end)
                return
            _log.info("federation.idle", run=self.run)
            ending = asyncio.ensure_future(end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

        self._idle = asyncio.get_running_loop().call_later(idle_s, over)

    async def deliver(self, part: FederationPart) -> FederationPart:
        """Take a part of a message, or give a part of its reply."""
        if part.app != self._app:
            raise InvalidInputError(
                f"run {part.run}", found=f"app {part.app}", expected=f"app {self._app}, as it began"
            )
        if part.message in self._replies:
            last = part.parts == 0 or part.part == part.parts - 1
            return await self._reply(part, part.part if part.parts == 0 else 0) if last else _taken(part)
        if part.message in self._answered:
            raise ConflictError(
                f"message {part.message}",
                found="answered before, its reply is not kept",
                expected="a new one",
            )
        if part.parts == 0:
            raise NotFoundError(f"message {part.message}", found="no such message here")
        self._keep(part)
        pieces = self._pieces[part.message]
        if part.part < part.parts - 1:
            return _taken(part)
        del self._pieces[part.message]
        if set(pieces) != set(range(part.parts)):
            raise InvalidInputError(
                f"message {part.message}", found=f"{len(pieces)} parts", expected=f"all {part.parts}"
            )
        data = b"".join(pieces[number] for number in range(part.parts))
        self._replies[part.message] = asyncio.create_task(self._answer(part.message, data))
        self._forget_old()
        return await self._reply(part, 0)

    async def end(self) -> None:
        """End the child and whoever waits for it."""
        if self._idle is not None:
            self._idle.cancel()
        for task in self._replies.values():
            task.cancel()
        await asyncio.gather(*self._replies.values(), return_exceptions=True)
        if self._child is not None:
            await self._child.stop()
        _log.info("federation.ended", run=self.run, app=self._app)

    def _keep(self, part: FederationPart) -> None:
        if part.message not in self._pieces:
            while len(self._pieces) >= _OPEN_MESSAGES:
                self._pieces.pop(next(iter(self._pieces)))
            self._pieces[part.message] = {}
        self._pieces[part.message][part.part] = part.data
        if sum(map(len, self._pieces[part.message].values())) > MAX_MESSAGE_BYTES:
            self._pieces.pop(part.message)
            raise InvalidInputError(f"message {part.message}", found=f"more than {MAX_MESSAGE_BYTES} bytes")

    async def _reply(self, part: FederationPart, number: int) -> FederationPart:
        working = self._replies[part.message]
        try:
            # Who asks may go away with its stream; the work goes on and is there when it comes back.
            pieces = await asyncio.shield(working)
        except asyncio.CancelledError:
            if not working.cancelled():
                raise
            raise ConflictError(
                f"run {self.run}", found="its end while it was answering", expected="the run under way"
            ) from None
        if number >= len(pieces):
            raise InvalidInputError(
                f"reply to {part.message}", found=f"part {number}", expected=f"0 to {len(pieces) - 1}"
            )
        return FederationPart(
            run=self.run, message=part.message, part=number, parts=len(pieces), data=pieces[number]
        )

    async def _answer(self, message: str, data: bytes) -> list[bytes]:
        async with self._turn:
            if self._child is None or not self._child.running:
                arguments = [self._app, self._home, str(self._threads)]
                self._child = await FrameChild.start(CHILD, arguments, self._log)
            child = self._child
            try:
                await child.send({"kind": "message", "id": message}, data)
                found = await child.receive()
            except BaseException:
                # Half a conversation cannot be gone on with.
                self._child = None
                await child.stop(0.1)
                raise
            if found is None:
                status = await child.stop()
                self._child = None
                raise SwarmError(
                    "federated client of this node",
                    found=f"its process ended with status {status}",
                    expected="an answer",
                    remedy="on the node: read run/federation.log in its home",
                )
        header, reply = found
        if header.get("kind") != "reply" or header.get("id") != message:
            raise error_of(header.get("problem"))
        await asyncio.to_thread(self._listed, self._app, str(header.get("detail", "")), len(reply))
        return cut(reply)

    def _forget_old(self) -> None:
        done = [name for name, task in self._replies.items() if task.done()]
        for name in done[: max(0, len(self._replies) - _KEPT_REPLIES)]:
            task = self._replies.pop(name)
            task.cancelled() or task.exception()
            self._answered.add(name)


def _taken(part: FederationPart) -> FederationPart:
    return FederationPart(run=part.run, message=part.message, part=part.part, parts=part.parts, app=part.app)
