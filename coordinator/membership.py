"""Who is here: streams and leases, joining and leaving, the swarm's status and events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from coordinator.admission import Admission
from coordinator.bearer_tokens import BearerTokens
from coordinator.cut_short_leaves import cut_short_leaves
from coordinator.fence_marks import FenceMarks
from coordinator.gate_keeper import GateKeeper
from coordinator.heads import Heads
from coordinator.join_tokens import JoinTokens
from coordinator.journal import Journal
from coordinator.live_nodes import LeaseWatch, LiveNodes
from coordinator.members import Members
from coordinator.revocations import Revocations
from coordinator.specifications import Specifications
from coordinator.status import StatusView
from swarm.domain.errors import (
    InvalidInputError,
    NotAuthorisedError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.members import Role, Tombstone
from swarm.domain.membership import (
    LEASE_SECONDS,
    Caller,
    Event,
    Heartbeat,
    PlacedVersions,
    SwarmStatus,
    TokenView,
    Welcome,
)
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.rpc.ports import NodeLink
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement

NO_LEASE = 0
"""The fence of a node that connected while the store was away: it is routed to and cannot publish."""
EVENT_WAIT_S = 20.0
MOST_EVENTS = 1000

_T = TypeVar("_T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipParts:
    """What membership works with."""

    store: MetadataStore
    members: Members
    revocations: Revocations
    specifications: Specifications
    heads: Heads
    live: LiveNodes
    keeper: GateKeeper
    admission: Admission
    tokens: JoinTokens
    bearer_tokens: BearerTokens
    journal: Journal
    fences: FenceMarks
    status: StatusView
    signer: Signer
    clock: Callable[[], float]


class Membership:
    """Implements `MembershipPort`."""

    def __init__(self, parts: MembershipParts, lease_s: float = LEASE_SECONDS) -> None:
        self._parts, self._lease_s = parts, lease_s
        self._leaving = asyncio.Lock()
        self._watch = LeaseWatch(self._lease_ran_out)
        self._under_way: set[asyncio.Task[Any]] = set()

    # Streams and leases

    async def node_connected(self, link: NodeLink) -> Welcome:
        """Give a node a lease and what is signed and current. While the store is away it gets no lease."""
        parts = self._parts
        try:
            fence = await self._new_fence(link.node)
        except (UnreachableError, NotReadyError) as error:
            log.warning("lease.not_granted", node=link.node, reason=str(error))
            fence = NO_LEASE
        parts.live.add(link, fence)
        self._watch.renewed(link.node, self._lease_s)
        for envelope in link.hello.manifests:
            try:
                await parts.heads.offer(envelope)
            except UnreachableError as error:
                log.warning("manifest.unverified", node=link.node, reason=str(error))
        return Welcome(
            fence=fence,
            lease_s=self._lease_s,
            specification=parts.specifications.current.envelope,
            gate=b"" if parts.keeper.active is None else parts.keeper.active.envelope,
            revocations=parts.revocations.envelope,
            server_time=parts.clock(),
        )

    async def _new_fence(self, node: NodeId) -> int:
        """Give node a lease, with a fence beyond every one that it was given, also by a store that was lost.

        NotReadyError while the store lacks what is the swarm's: members and tombstones come back first.
        """
        parts = self._parts
        if await parts.store.specification() is None:
            raise NotReadyError(
                "Redis", found="an empty one", expected="the swarm's members and specification"
            )
        lease = await parts.store.grant_lease(node, self._lease_s, parts.fences.newest(node))
        reached("coordinator.fence.granted")
        await parts.fences.note(node, lease.fence)
        return lease.fence

    async def node_heartbeat(self, link: NodeLink, beat: Heartbeat) -> None:
        """Take note that a node lives. StaleFenceError where another stream took its place.

        A node without a lease is sent away as soon as the store is back, and comes again for one.
        """
        node = self._parts.live.of(link)
        if node is None or beat.fence != node.fence:
            raise StaleFenceError(
                f"stream of {link.node}",
                found=f"fence {beat.fence}",
                expected=f"fence {node.fence}" if node else "the newest stream",
                remedy="connect again",
            )
        before = node.trouble
        node.hear(beat, self._parts.clock())
        self._watch.renewed(link.node, self._lease_s)
        if node.fence == NO_LEASE:
            await self._parts.store.ping()
            raise StaleFenceError(
                f"stream of {link.node}",
                found="no lease, because Redis was away",
                expected="a lease, now that it is back",
                remedy="connect again",
            )
        await self._parts.store.renew_lease(link.node, node.fence, self._lease_s)
        if beat.trouble and beat.trouble != before:
            await self._parts.journal.record("node.stream_troubled", node=link.node, because=beat.trouble)
        elif before and not beat.trouble:
            await self._parts.journal.record("node.stream_goes_on", node=link.node)

    async def node_disconnected(self, link: NodeLink) -> None:
        """Route to the node no more. Its lease runs on: it may be back in a moment."""
        self._parts.live.remove(link)

    async def expect_back(self) -> None:
        """After a restart: watch the leases that were granted before it."""
        for lease in await self._parts.store.leases():
            if self._parts.live.get(lease.node) is None:
                self._watch.renewed(lease.node, lease.expires_at - self._parts.clock())

    def _lease_ran_out(self, node: NodeId) -> None:
        async def say() -> None:
            live = self._parts.live.get(node)
            if live is not None:
                self._parts.live.remove(live.link)
                live.link.close("no heartbeat within the lease")
            await self._parts.journal.record("node.lost", node=node)

        task = asyncio.create_task(say())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    # Who and what

    async def placement(self) -> PlacedVersions:
        """Return which nodes hold what answers, beside its owner."""
        return self._parts.status.replicas.placement()

    async def status(self) -> SwarmStatus:
        return await self._parts.status.now()

    async def record(self, member: NodeId) -> bytes:
        return await self._parts.members.envelope(member)

    async def specification(self, version: int) -> bytes:
        return await self._parts.specifications.envelope(version)

    async def revocations(self) -> bytes:
        return self._parts.revocations.envelope

    async def renew_certificate(self, caller: Caller, csr_pem: bytes, key: str) -> bytes:
        return await self._parts.admission.renew(caller, csr_pem, key)

    async def create_token(self, role: Role, uses: int, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        return await self._parts.tokens.create(role, uses, lifetime_s, key)

    async def create_bearer(self, holder: NodeId, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        return await self._parts.bearer_tokens.create(holder, lifetime_s, key)

    async def tokens(self) -> list[TokenView]:
        return [*self._parts.tokens.all(), *self._parts.bearer_tokens.views()]

    async def revoke_token(self, token_id: str, key: str) -> None:
        if self._parts.bearer_tokens.has(token_id):
            await self._parts.bearer_tokens.revoke(token_id)
        else:
            await self._parts.tokens.revoke(token_id)

    async def events(self, after: str, follow: bool, limit: int) -> AsyncIterator[Event]:
        """Yield events after an id, oldest first: up to limit (0: all that are kept), or without end."""
        store, left = self._parts.store, limit or None
        while True:
            size = MOST_EVENTS if follow or left is None else min(left, MOST_EVENTS)
            found = await (
                store.wait_events(after, EVENT_WAIT_S, size) if follow else store.events(after, size)
            )
            for event in found:
                after = event.id
                yield event
            if follow:
                continue
            left = None if left is None else left - len(found)
            if len(found) < size or left == 0:
                return

    # Leaving

    async def leave(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]:
        """Take a member out for good: its leaves, its experts, its certificate, its stream.

        Every step may be done again, so a call that was cut short is completed by the next. Returns the gate
        version without it and the experts that were withdrawn. NotFoundError for a stranger.
        """
        await self._check_leaver(node, reason)
        return await self._to_its_end(self._leave(node, reason, f"leave:{node}:{key}"))

    async def revoke(self, node: NodeId, reason: str, key: str) -> tuple[int, tuple[ExpertId, ...]]:
        """Take a member out as `leave` does, its certificate first: a stolen key waits for no gate.

        The revocation holds also where the rest fails; the same call again completes it.
        """
        await self._check_leaver(node, reason)

        async def work() -> tuple[int, tuple[ExpertId, ...]]:
            was_revoked = self._parts.revocations.is_revoked(node)
            await self._cut_off(node, reason)
            return await self._leave(node, reason, f"leave:{node}:{key}", was_revoked)

        return await self._to_its_end(work())

    async def finish_leaves(self) -> None:
        """Complete what a crash cut short of a leave or a revocation; UnreachableError while the store is
        away. Whoever called finds it done."""
        parts = self._parts
        active, own_key = parts.keeper.active, parts.signer.public_hex
        for node, reason in await cut_short_leaves(
            parts.heads, parts.members, parts.revocations, active, own_key
        ):
            try:
                await self._leave(node, reason, f"leave:{node}:", was_revoked=False)
            except UnreachableError:
                raise
            except SwarmError as error:
                log.error("leave.not_finished", node=node, reason=str(error))

    async def _check_leaver(self, node: NodeId, reason: str) -> None:
        await self._parts.members.envelope(node)
        record = self._parts.members.record(node)
        if record is None or record.role in ("coordinator", "registry"):
            raise NotAuthorisedError(
                f"member {node}", found="a service", expected="a node, operator or client"
            )
        if record.role == "operator":
            others = {each.id for each in self._parts.members.of_role("operator")} - {node}
            if all(self._parts.revocations.is_revoked(each) for each in others):
                raise NotAuthorisedError(
                    f"member {node}",
                    found="the last operator",
                    expected="another who can steer the swarm",
                    remedy="let another join first: swarm token create --role operator",
                )
        if len(reason) > 500 or not reason.isprintable():
            raise InvalidInputError("reason", found=reason[:40], expected="at most 500 printable characters")

    async def _to_its_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run work to its end even when the caller's stream is closed by it."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _leave(
        self, node: NodeId, reason: str, name: str, was_revoked: bool | None = None
    ) -> tuple[int, tuple[ExpertId, ...]]:
        parts = self._parts
        async with self._leaving:
            known = await parts.store.recall(name)
            if known is not None:
                version, experts = json.loads(known)
                return version, tuple(experts)
            gone = await parts.store.withdraw(node, self._tombstone(node, reason), None, name)
            reached("coordinator.leave.withdrawn")
            version = await parts.keeper.withdraw_owner(node, reason)
            reached("coordinator.leave.gate_made")
            await parts.heads.refresh()
            if was_revoked is None:
                was_revoked = parts.revocations.is_revoked(node)
            await self._cut_off(node, reason)
            reached("coordinator.leave.revoked")
            await parts.store.remember(name, json.dumps([version, gone]))
            if not was_revoked:
                await parts.journal.record("node.left", node=node, reason=reason, gate_version=version)
                await parts.journal.record("node.revoked", node=node)
            return version, gone

    async def _cut_off(self, node: NodeId, reason: str) -> None:
        """Revoke a member, tell everyone, and end its stream; again is harmless."""
        parts = self._parts
        envelope = await parts.revocations.revoke(node)
        live = parts.live.get(node)
        parts.live.announce(revocations=envelope)
        self._watch.ended(node)
        if live is not None:
            parts.live.remove(live.link)
            live.link.close("it left the swarm" if not reason else f"it left the swarm: {reason}")
            await parts.store.drop_lease(node, live.fence)

    def _tombstone(self, node: NodeId, reason: str) -> bytes:
        swarm = self._parts.specifications.current.value.swarm
        value = Tombstone(swarm=swarm, kind="node", id=node, reason=reason, created_at=self._parts.clock())
        return sign_statement(value, self._parts.signer)

    async def close(self) -> None:
        """Expect no more leases to run out."""
        self._watch.close()
        await asyncio.gather(*self._under_way, return_exceptions=True)
