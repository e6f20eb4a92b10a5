"""Typed clients of the coordinator and the registry: domain types in, domain types out.

Statements are returned as the bytes of their envelopes: whoever uses them opens them with a keyring
(`swarm.rpc.verified` does). Mutating calls take an idempotency key; who repeats a call that may have
arrived repeats its key. Without one, each call is an act of its own.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from swarm.digests import digest_of, verify_digest
from swarm.domain.collection import Collection
from swarm.domain.errors import ConflictError, ExhaustedError, ShapeMismatchError, VerificationError
from swarm.domain.gates import GateHistory
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import Answer, Examples, Profile, Query
from swarm.domain.lineage import Lineage
from swarm.domain.members import Role
from swarm.domain.membership import (
    ContributionOutcome,
    Event,
    Head,
    PlacedVersions,
    RegistryHealth,
    SwarmStatus,
    TokenView,
)
from swarm.domain.rebuild import BroughtBack, RebuildReport
from swarm.domain.tensors import MAX_ASKED_BLOBS
from swarm.modules.blobs import BlobFiles
from swarm.modules.partial_blobs import KEPT_FROM_BYTES
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.blob_holders import RpcHolder
from swarm.rpc.channel import Connection
from swarm.rpc.convert.scalars import digests, expert_id
from swarm.rpc.failures import reply_checked
from swarm.rpc.growth_client import GrowthCalls
from swarm.rpc.node_clients import AgentClient, ExpertClient
from swarm.rpc.options import (
    CHUNK_BYTES,
    COLLECT_TIMEOUT_S,
    DIGEST_KEY,
    MAX_CONTRIBUTION_BYTES,
    OFFSET_KEY,
    SIZE_KEY,
    UNARY_TIMEOUT_S,
)
from swarm.rpc.pb import gate_pb2, membership_pb2, registry_pb2
from swarm.transfer import Holders, download

__all__ = ["AgentClient", "CoordinatorClient", "ExpertClient", "RegistryClient"]

CONTRIBUTE_TIMEOUT_S = 1200.0
"""Checks, a solution and two rounds of trials, perhaps behind those of others."""


class CoordinatorClient(GrowthCalls):
    """Membership, gate, growth and inference, over a connection to the coordinator."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def predict(self, query: Query, timeout_s: float = UNARY_TIMEOUT_S) -> Answer:
        """Return the swarm's answer; the coordinator knows how long it may take."""
        reply = await self.connection.unary(m.PREDICT, convert.query_to_pb(query), timeout_s)
        with reply_checked(self.connection.peer):
            answer = convert.answer_from_pb(reply)
            found, rows = len(answer.probabilities), len(query.inputs)
            if found != rows:
                raise ShapeMismatchError("rows", found=f"{found}", expected=f"{rows}, as were asked")
            # A coordinator of before `min_confidence` does not know what it was asked for.
            return answer.at_least(query.min_confidence)

    async def make_profile(
        self, examples: Examples, key: str = "", timeout_s: float = CONTRIBUTE_TIMEOUT_S
    ) -> Profile:
        """Return the profile of an asker's examples; queries that name it are answered by its conventions."""
        request = convert.examples_to_pb(examples, key or _new_key())
        reply = await self.connection.unary(m.MAKE_PROFILE, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.profile_from_pb(reply)

    async def status(self, timeout_s: float = UNARY_TIMEOUT_S) -> SwarmStatus:
        reply = await self.connection.unary(m.STATUS, membership_pb2.StatusRequest(), timeout_s)
        with reply_checked(self.connection.peer):
            return convert.status_from_pb(reply)

    async def placement(self, known: str = "", timeout_s: float = UNARY_TIMEOUT_S) -> PlacedVersions | None:
        """Return which nodes hold what answers; None where that is what the mark `known` says."""
        request = membership_pb2.GetPlacementRequest(known=known)
        reply = await self.connection.unary(m.GET_PLACEMENT, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.placed_from_pb(reply, known)

    async def record(self, member: NodeId, timeout_s: float = UNARY_TIMEOUT_S) -> bytes:
        """Return a member's record, signed by the CA."""
        request = membership_pb2.GetRecordRequest(id=member)
        return (await self.connection.unary(m.GET_RECORD, request, timeout_s)).envelope

    async def specification(self, version: int = 0, timeout_s: float = UNARY_TIMEOUT_S) -> bytes:
        """Return a specification; version 0: the current one."""
        request = membership_pb2.GetSpecificationRequest(version=version)
        return (await self.connection.unary(m.GET_SPECIFICATION, request, timeout_s)).envelope

    async def revocations(self, timeout_s: float = UNARY_TIMEOUT_S) -> bytes:
        """Return the revocation list; empty before the first revocation."""
        request = membership_pb2.GetRevocationsRequest()
        return (await self.connection.unary(m.GET_REVOCATIONS, request, timeout_s)).envelope

    async def renew_certificate(
        self, csr_pem: bytes, key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> bytes:
        """Return a new certificate (PEM) for the caller's signing request."""
        request = membership_pb2.RenewCertificateRequest(csr_pem=csr_pem, idempotency_key=key or _new_key())
        return (await self.connection.unary(m.RENEW_CERTIFICATE, request, timeout_s)).certificate_pem

    async def leave(
        self, reason: str, key: str = "", timeout_s: float = CONTRIBUTE_TIMEOUT_S
    ) -> tuple[int, tuple[ExpertId, ...]]:
        """Leave the swarm for good; return the gate version without the caller, and its experts."""
        request = membership_pb2.LeaveRequest(reason=reason, idempotency_key=key or _new_key())
        return self._left(await self.connection.unary(m.LEAVE, request, timeout_s))

    async def revoke_node(
        self, node: NodeId, reason: str, key: str = "", timeout_s: float = CONTRIBUTE_TIMEOUT_S
    ) -> tuple[int, tuple[ExpertId, ...]]:
        """Revoke a node's certificate and withdraw its experts (operator)."""
        request = membership_pb2.RevokeNodeRequest(
            node=node, reason=reason, idempotency_key=key or _new_key()
        )
        return self._left(await self.connection.unary(m.REVOKE_NODE, request, timeout_s))

    async def create_token(
        self,
        role: Role = "node",
        uses: int = 1,
        lifetime_s: float = 86_400.0,
        key: str = "",
        timeout_s: float = UNARY_TIMEOUT_S,
    ) -> tuple[str, TokenView]:
        """Return a join line and what is known of its token (operator)."""
        request = membership_pb2.CreateTokenRequest(
            role=role, uses=uses, lifetime_s=lifetime_s, idempotency_key=key or _new_key()
        )
        reply = await self.connection.unary(m.CREATE_TOKEN, request, timeout_s)
        with reply_checked(self.connection.peer):
            return reply.join_line, convert.token_from_pb(reply.token)

    async def create_bearer(
        self, holder: NodeId, lifetime_s: float, key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> tuple[str, TokenView]:
        """Return a bearer token for a caller over HTTP, and what is known of it (operator)."""
        request = membership_pb2.CreateBearerRequest(
            holder=holder, lifetime_s=lifetime_s, idempotency_key=key or _new_key()
        )
        reply = await self.connection.unary(m.CREATE_BEARER, request, timeout_s)
        with reply_checked(self.connection.peer):
            return reply.token, convert.token_from_pb(reply.view)

    async def tokens(self, timeout_s: float = UNARY_TIMEOUT_S) -> list[TokenView]:
        """Return all tokens that are not used up (operator)."""
        reply = await self.connection.unary(m.LIST_TOKENS, membership_pb2.ListTokensRequest(), timeout_s)
        with reply_checked(self.connection.peer):
            return [convert.token_from_pb(token) for token in reply.tokens]

    async def revoke_token(self, token_id: str, key: str = "", timeout_s: float = UNARY_TIMEOUT_S) -> None:
        """Make a token useless (operator)."""
        request = membership_pb2.RevokeTokenRequest(id=token_id, idempotency_key=key or _new_key())
        await self.connection.unary(m.REVOKE_TOKEN, request, timeout_s)

    async def events(self, after: str = "", follow: bool = False, limit: int = 100) -> AsyncIterator[Event]:
        """Yield events after an id, oldest first; with follow, new ones as they happen, without end."""
        request = membership_pb2.EventsRequest(after=after, follow=follow, limit=limit)
        idle_s = None if follow else UNARY_TIMEOUT_S
        async for event in self.connection.stream(m.EVENTS, request, idle_s=idle_s):
            yield convert.event_from_pb(event)

    async def contribute(
        self,
        envelope: bytes,
        arrays: bytes | memoryview | Path,
        fence: int,
        key: str = "",
        timeout_s: float = CONTRIBUTE_TIMEOUT_S,
    ) -> ContributionOutcome:
        """Send a contribution and the blob that its tensors point into; return what became of it.

        `arrays` may be the path of a file: it is sent without being held in memory. The answer comes after
        the other nodes have tried the candidate gate.
        """
        size = await asyncio.to_thread(_size, arrays)
        if size > MAX_CONTRIBUTION_BYTES:
            raise ExhaustedError(
                "contribution",
                found=f"{size} bytes",
                expected="at most 256 MiB",
                remedy="fewer leaves or compact sums",
            )
        header = gate_pb2.ContributeHeader(envelope=envelope, fence=fence, idempotency_key=key or _new_key())

        async def messages() -> AsyncIterator[gate_pb2.ContributeChunk]:
            yield gate_pb2.ContributeChunk(header=header)
            if isinstance(arrays, Path):
                with arrays.open("rb") as file:
                    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        yield gate_pb2.ContributeChunk(data=chunk)
            else:
                for part in _chunks(arrays):
                    yield gate_pb2.ContributeChunk(data=part)

        reply = await self.connection.upload(m.CONTRIBUTE, messages(), timeout_s=timeout_s)
        return convert.outcome_from_pb(reply)

    async def contribution(self, digest: Digest, into: Path) -> bytes:
        """Return the envelope of a contribution that the caller gave once, and write its arrays into a file.

        Neither is verified: the caller knows its own signature. NotFoundError where the coordinator keeps no
        such one of the caller's, VerificationError for a reply that is none.
        """
        request, envelope, size = gate_pb2.GetContributionRequest(digest=digest), b"", 0
        with into.open("wb") as file:
            async for chunk in self.connection.stream(m.GET_CONTRIBUTION, request):
                is_first = not envelope
                envelope, size = envelope or chunk.envelope, size + len(chunk.data)
                if is_first != bool(chunk.envelope) or size > MAX_CONTRIBUTION_BYTES:
                    raise VerificationError(
                        f"reply of {self.connection.peer}",
                        found="something else than a contribution",
                        expected="a statement, then at most 256 MiB",
                    )
                await asyncio.to_thread(file.write, chunk.data)
        return envelope

    async def gate(self, version: int = 0, timeout_s: float = UNARY_TIMEOUT_S) -> bytes:
        """Return a gate's statement; version 0: the current one. NotReadyError before the first."""
        request = gate_pb2.GetGateRequest(version=version)
        return (await self.connection.unary(m.GET_GATE, request, timeout_s)).envelope

    async def history(self, newest: int = 0, timeout_s: float = UNARY_TIMEOUT_S) -> GateHistory:
        """Return so many of the newest gates' statements (0: all), asked for page by page."""
        found, before, current = list[bytes](), 0, 0
        while True:
            request = gate_pb2.GateHistoryRequest(before=before, limit=max(0, newest - len(found)))
            reply = await self.connection.unary(m.HISTORY, request, timeout_s)
            current = current or reply.current
            found[:0] = [signed.envelope for signed in reply.gates]
            is_older = 1 < reply.oldest < (before or reply.current + 2)
            if not is_older or 0 < newest <= len(found):
                return GateHistory(envelopes=tuple(found), oldest=reply.oldest, current=current)
            before = reply.oldest

    async def rollback(self, version: int, key: str = "", timeout_s: float = CONTRIBUTE_TIMEOUT_S) -> bytes:
        """Make a new gate version with an old one's content; return its statement (operator)."""
        request = gate_pb2.RollbackRequest(version=version, idempotency_key=key or _new_key())
        return (await self.connection.unary(m.ROLLBACK, request, timeout_s)).envelope

    async def fit(self, key: str = "", timeout_s: float = CONTRIBUTE_TIMEOUT_S) -> ContributionOutcome:
        """Recompute the gate from its contributions (operator)."""
        request = gate_pb2.FitRequest(idempotency_key=key or _new_key())
        return convert.outcome_from_pb(await self.connection.unary(m.FIT, request, timeout_s))

    async def close(self) -> None:
        await self.connection.close()

    def _left(self, reply: membership_pb2.LeaveReply) -> tuple[int, tuple[ExpertId, ...]]:
        with reply_checked(self.connection.peer):
            return reply.gate_version, tuple(map(expert_id, reply.withdrawn_experts))


class RegistryClient:
    """Blobs and manifests, at `open_channel(identity, address, "registry", "registry")`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def missing(
        self, blobs: Sequence[Digest], *, claim: bool = True, timeout_s: float = UNARY_TIMEOUT_S
    ) -> list[Digest]:
        """Return which of blobs the registry lacks, in their order. `claim`: the others stay there until a
        manifest of the caller's that has them is committed, or a day is over."""
        found: list[Digest] = []
        for start in range(0, len(blobs), MAX_ASKED_BLOBS):
            asked = blobs[start : start + MAX_ASKED_BLOBS]
            request = registry_pb2.MissingRequest(digests=asked, unclaimed=not claim)
            reply = await self.connection.unary(m.MISSING, request, timeout_s)
            with reply_checked(self.connection.peer):
                found += digests(reply.digests)
        return list(dict.fromkeys(found))

    async def publish_blob(
        self, blob: Digest, data: bytes | memoryview, on_bytes: Callable[[int], None] = lambda count: None
    ) -> None:
        """Send one blob; returns when it is durable. Sending it again changes nothing; a large one that broke
        off goes on where it stopped. `on_bytes` is told the bytes as they go, and at
        once those that are there already."""
        offset = await self.upload_state(blob) if len(data) >= KEPT_FROM_BYTES else 0
        if not 0 < offset <= len(data):
            await self._send(blob, data, 0, on_bytes)
            return
        try:
            await self._send(blob, data, offset, on_bytes)
        except (VerificationError, ConflictError):
            # What was kept is not what was sent, or not there any more.
            await self._send(blob, data, 0, on_bytes)

    async def upload_state(self, blob: Digest, timeout_s: float = UNARY_TIMEOUT_S) -> int:
        """Return how many bytes the registry has of an upload of ours that broke off."""
        request = registry_pb2.UploadStateRequest(digest=blob)
        return (await self.connection.unary(m.UPLOAD_STATE, request, timeout_s)).offset

    def holder(self) -> RpcHolder:
        """Return the registry as one of those that blobs are fetched from."""
        return RpcHolder(self.connection)

    async def fetch_blob(self, blob: Digest) -> bytes:
        """Return one blob, verified; VerificationError, naming it, where other bytes came."""
        data = b"".join([chunk async for chunk in self._fetch(blob)])
        verify_digest(data, blob, f"blob from {self.connection.peer}")
        return data

    async def fetch_into(self, blob: Digest, files: BlobFiles, size_bytes: int | None = None) -> None:
        """Fetch one blob into files, verified. Where its size is known it is not held in memory, and goes on
        where an earlier try broke off."""
        if files.has(blob):
            return
        if size_bytes is None:
            await asyncio.to_thread(files.put, await self.fetch_blob(blob))
            return
        await download(blob, size_bytes, Holders([self.holder()]), files)

    async def commit(
        self, envelope: bytes, fence: int, key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> Head:
        """Commit a manifest whose blobs are there; return the new head."""
        request = registry_pb2.CommitRequest(
            envelope=envelope, fence=fence, idempotency_key=key or digest_of(envelope)
        )
        reply = await self.connection.unary(m.COMMIT, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.head_from_pb(reply)

    async def announce(
        self, envelopes: Sequence[bytes], fence: int, key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> tuple[list[str], list[str]]:
        """Offer a node's own heads; return which experts were restored, and which refused and why."""
        request = registry_pb2.AnnounceRequest(
            envelopes=envelopes, fence=fence, idempotency_key=key or _new_key()
        )
        reply = await self.connection.unary(m.ANNOUNCE, request, timeout_s)
        return list(reply.restored), list(reply.refused)

    async def bring_back(
        self, envelopes: Sequence[bytes], fence: int, timeout_s: float = COLLECT_TIMEOUT_S
    ) -> BroughtBack:
        """Offer all versions of an owner that the registry had accepted, oldest first; say what it lacks."""
        request = registry_pb2.BringBackRequest(envelopes=envelopes, fence=fence)
        reply = await self.connection.unary(m.BRING_BACK, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.brought_back_from_pb(reply)

    async def rebuild(self, *, begin: bool, timeout_s: float = COLLECT_TIMEOUT_S) -> RebuildReport:
        """Ask everybody to bring what the registry lost (`begin`), or say how that stands (operator)."""
        reply = await self.connection.unary(m.REBUILD, registry_pb2.RebuildRequest(begin=begin), timeout_s)
        with reply_checked(self.connection.peer):
            return convert.rebuild_from_pb(reply)

    async def heads(self, owner: str = "", timeout_s: float = UNARY_TIMEOUT_S) -> list[Head]:
        """Return the heads of an owner's experts, or of all."""
        reply = await self.connection.unary(m.HEADS, registry_pb2.HeadsRequest(owner=owner), timeout_s)
        with reply_checked(self.connection.peer):
            return [convert.head_from_pb(head) for head in reply.heads]

    async def manifest(
        self, digest: str = "", expert: str = "", version: int = 0, timeout_s: float = UNARY_TIMEOUT_S
    ) -> bytes:
        """Return a manifest's envelope by digest, or by expert and version (0: its head)."""
        request = registry_pb2.GetManifestRequest(manifest=digest, expert=expert, version=version)
        return (await self.connection.unary(m.GET_MANIFEST, request, timeout_s)).envelope

    async def withdraw(
        self, tombstone: bytes, fence: int, key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> list[Digest]:
        """Withdraw an expert or a node's experts; return the manifests that descend from them."""
        request = registry_pb2.WithdrawRequest(
            tombstone=tombstone, fence=fence, idempotency_key=key or digest_of(tombstone)
        )
        reply = await self.connection.unary(m.WITHDRAW, request, timeout_s)
        with reply_checked(self.connection.peer):
            return list(digests(reply.descendants))

    async def lineage(
        self, manifest: str = "", expert: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> Lineage:
        """Return ancestors and descendants of one version, by digest or of an expert's head."""
        request = registry_pb2.LineageRequest(manifest=manifest, expert=expert)
        reply = await self.connection.unary(m.LINEAGE, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.lineage_from_pb(reply)

    async def health(self, timeout_s: float = UNARY_TIMEOUT_S) -> RegistryHealth:
        reply = await self.connection.unary(m.HEALTH, registry_pb2.RegistryHealthRequest(), timeout_s)
        return convert.health_from_pb(reply)

    async def collect(self, *, dry_run: bool, timeout_s: float = COLLECT_TIMEOUT_S) -> Collection:
        """Let the registry remove what nothing needs, or say what would go."""
        reply = await self.connection.unary(
            m.COLLECT, registry_pb2.CollectRequest(dry_run=dry_run), timeout_s
        )
        with reply_checked(self.connection.peer):
            return convert.collection_from_pb(reply)

    async def close(self) -> None:
        await self.connection.close()

    async def _send(
        self, blob: Digest, data: bytes | memoryview, offset: int, on_bytes: Callable[[int], None]
    ) -> None:
        told = 0

        def tell(count: int) -> None:
            nonlocal told
            told += count
            on_bytes(count)

        async def messages() -> AsyncIterator[bytes]:
            tell(offset)
            for chunk in _chunks(memoryview(data)[offset:]):
                yield chunk
                tell(len(chunk))

        metadata = ((DIGEST_KEY, blob), (SIZE_KEY, str(len(data))), (OFFSET_KEY, str(offset)))
        try:
            await self.connection.upload(m.PUBLISH, messages(), metadata=metadata)
        except BaseException:
            tell(-told)
            raise

    def _fetch(self, blob: Digest) -> AsyncIterator[bytes]:
        return self.connection.stream(m.FETCH, registry_pb2.BlobRequest(digest=blob))


def _chunks(data: bytes | memoryview) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def _size(data: bytes | memoryview | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _new_key() -> str:
    return uuid.uuid4().hex
