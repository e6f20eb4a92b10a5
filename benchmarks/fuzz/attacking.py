"""Mutated messages in their thousands, and what came back."""

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from google.protobuf.message import EncodeError, Message

from benchmarks.fuzz.delivering import Outcome, Sent, over_socket
from benchmarks.fuzz.mutations import Mutator
from benchmarks.fuzz.signed import mutated_statement
from benchmarks.fuzz.valid import COMPUTING, SELDOM, Requests
from benchmarks.fuzz.world import World
from swarm.rpc import methods as m
from swarm.rpc.methods import AnyMethod
from swarm.rpc.status import TABLE

SERVERS_FAULT: Final = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Everything that a call needs runs, so one that finds something away, or is late, is no client's fault."""
CLIENTS_FAULT: Final = (
    frozenset(row.grpc for row in TABLE.values()) | {"UNIMPLEMENTED", "CANCELLED"}
) - SERVERS_FAULT
MOST_VERSIONS: Final = 500
"""What is accepted is kept. After so many versions the attacker's are of one that is taken, refused at the
last check of all, and memory tells of leaks alone."""
_AT_ONCE: Final = 16
_KEPT: Final = 50


@dataclass
class Found:
    """Outcomes by code, and those that no client may cause."""

    codes: Counter[str] = field(default_factory=Counter)
    by_method: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    server_errors: int = 0
    crashes: int = 0

    @property
    def messages(self) -> int:
        return sum(self.codes.values())

    @property
    def accepted(self) -> int:
        return self.codes["OK"]

    def add(self, other: "Found") -> None:
        """Count other's outcomes too."""
        self.codes += other.codes
        self.by_method += other.by_method
        self.faults += other.faults[: _KEPT - len(self.faults)]
        self.server_errors += other.server_errors
        self.crashes += other.crashes

    def note(self, method: AnyMethod, sent: Sent, outcome: Outcome) -> None:
        self.codes[outcome.code] += 1
        self.by_method[(method.name, outcome.code)] += 1
        if outcome.code == "OK" or outcome.code in CLIENTS_FAULT:
            return
        if outcome.code in ("CRASH", "HANG"):
            self.crashes += 1
        else:
            self.server_errors += 1
        if len(self.faults) < _KEPT:
            shown = " | ".join(part[:300].hex() for part in sent.parts[:3])
            self.faults.append(f"{outcome.code} {method.path} {outcome.details} {sent.metadata} {shown}")


class Attack:
    """Sends messages that are almost right, one seed's choice, some of them over TLS."""

    def __init__(self, world: World, requests: Requests, seed: int, share_over_tls: float = 0.05) -> None:
        self._world, self._requests, self._share = world, requests, share_over_tls
        self._chance = random.Random(seed)
        self._mutator = Mutator(self._chance)
        self._recent: dict[AnyMethod, list[bytes]] = {}
        self._computing: set[AnyMethod] = set()
        self._versions_left = MOST_VERSIONS
        self._weights = [SELDOM.get(method, 1.0) for method in requests.methods]

    async def send(self, count: int) -> Found:
        """Send so many messages, some at a time; return how they ended."""
        found = Found()
        left = iter(range(count))
        await asyncio.gather(*(self._sender(left, found) for _ in range(_AT_ONCE)))
        self._world.forget()
        return found

    async def _sender(self, left: Iterator[int], found: Found) -> None:
        for _ in left:
            method = self._chance.choices(self._requests.methods, self._weights)[0]
            while method in self._computing:
                method = self._chance.choices(self._requests.methods, self._weights)[0]
            if method in COMPUTING:
                self._computing.add(method)
            try:
                await self.one(method, found)
            finally:
                self._computing.discard(method)

    async def one(self, method: AnyMethod, found: Found) -> None:
        """Send one mutated message to a method."""
        sent = self._mutated(method)
        caller = self._world.caller_of(method)
        offered, in_process = self._world.place_of(method)
        if offered is not None and self._chance.random() < self._share:
            outcome = await over_socket(self._world.channel(offered, caller), method, _for_socket(sent))
        else:
            outcome = await in_process.call(method, sent, caller.certificate_pem)
        found.note(method, sent, outcome)
        if (
            method in (m.COMMIT, m.ANNOUNCE, m.BRING_BACK)
            and outcome.code == "OK"
            and self._versions_left > 0
        ):
            self._versions_left -= 1
            await self._requests.follow_head()

    def _mutated(self, method: AnyMethod) -> Sent:
        made = self._requests.make(method)
        metadata = made.metadata
        if made.envelope is not None and self._chance.random() < 0.5:
            data, put, signer = made.envelope()
            put(mutated_statement(data, self._mutator, signer))
            return Sent(parts=tuple(map(_serialized, made.parts)), metadata=metadata)
        if metadata and self._chance.random() < 0.5:
            metadata = tuple(
                (key, self._mutator.text() if self._chance.random() < 0.5 else value)
                for key, value in metadata
            )
            return Sent(parts=tuple(map(_serialized, made.parts)), metadata=metadata)
        at = self._chance.randrange(len(made.parts))
        by_field = isinstance(made.parts[at], Message) and self._chance.random() < 0.5
        if by_field and made.parts[at].DESCRIPTOR.fields:
            self._mutator.message_changed(made.parts[at])
        parts = list(map(_serialized, made.parts))
        made.parts.clear()  # what is large lies in memory once
        others, whole = self._recent.setdefault(method, []), parts[at]
        if not by_field or self._chance.random() < 0.2:
            parts[at] = self._mutator.bytes_changed(parts[at], others)
        if len(parts) > 1 and self._chance.random() < 0.1:
            self._chance.shuffle(parts)
            parts = parts[: self._chance.randint(0, len(parts))] if method.streams_in else parts
        others.append(whole[:4096])
        del others[:-8]
        return Sent(parts=tuple(parts), metadata=metadata)


def _serialized(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    try:
        found: bytes = part.SerializeToString()
    except (EncodeError, ValueError):
        return b""
    return found


def _for_socket(sent: Sent) -> Sent:
    """gRPC's client sends only printable metadata."""

    def said(text: str) -> str:
        return "".join(each for each in text if " " <= each <= "~")

    return Sent(parts=sent.parts, metadata=tuple((key, said(value)) for key, value in sent.metadata))


class Failures:
    """What services logged as their own failure, with its traceback: the first of each kind."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def __call__(self, _: Any, name: str, event: dict[str, Any]) -> Any:
        error = event.get("exc_info")
        if name in ("error", "exception", "critical") and isinstance(error, BaseException):
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{event.get('event')} {type(error).__name__} at {last.filename}:{last.lineno}"
            self.seen[kind] += 1
            if kind not in self.first:
                self.first[kind] = f"{event.get('method')}\n" + "".join(traceback.format_exception(error))
        elif name in ("error", "exception", "critical"):
            self.seen[str(event.get("event"))] += 1
        raise structlog.DropEvent


@contextmanager
def noted_failures() -> Iterator[Failures]:
    """Take the log's errors instead of printing anything."""
    before = structlog.get_config()
    failures = Failures()
    structlog.configure(processors=[failures], cache_logger_on_first_use=False)
    try:
        yield failures
    finally:
        structlog.configure(**before)
