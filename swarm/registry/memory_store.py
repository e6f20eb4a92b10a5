"""The store in one process's memory: the reference for the rules, and what tests run fast on."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Role
from swarm.domain.membership import Event, Head, Lease, TokenView
from swarm.registry import refusals
from swarm.registry.store import MAX_EVENTS, MEMORY_OF_KEYS_S, StoredToken


class MemoryStore:
    """Implements `MetadataStore`. Every method runs without a pause on one event loop, so it is atomic.

    Each table maps strings to JSON values; envelopes are kept as text.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tables: dict[str, dict[str, Any]] = {}
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._grown = asyncio.Event()

    async def ping(self) -> None:
        return None

    async def durability(self) -> str:
        return "memory only: nothing survives a restart"

    async def grant_lease(self, node: NodeId, ttl_s: float, after: int = 0) -> Lease:
        fence = max(self._table("fence").get(node, 0), after) + 1
        self._table("fence")[node] = fence
        return self._lease(node, fence, ttl_s)

    async def renew_lease(self, node: NodeId, fence: int, ttl_s: float) -> Lease:
        self._check_fence(node, fence)
        return self._lease(node, fence, ttl_s)

    async def drop_lease(self, node: NodeId, fence: int) -> None:
        if self._table("fence").get(node) == fence:
            self._table("lease").pop(node, None)

    async def leases(self) -> list[Lease]:
        now = self._clock()
        fences = self._table("fence")
        return [
            Lease(node=NodeId(node), fence=fences[node], expires_at=expires_at)
            for node, expires_at in sorted(self._table("lease").items())
            if expires_at > now
        ]

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        expert, version = manifest.expert, manifest.version
        done = self._recalled(f"commit:{manifest.owner}:{key}") if key else None
        if done is not None:
            if done != digest:
                raise refusals.key_reused(key)
            return Head(expert=expert, version=version, manifest=digest)
        self._check_not_withdrawn(manifest)
        if digest not in self._table("manifest"):
            if fence is not None:
                self._check_fence(manifest.owner, fence)
            head = self._table("head").get(expert, {"version": 0})["version"]
            if head != manifest.parent_version:
                raise refusals.stale_parent(expert, version, manifest.parent_version, head)
            self._accept(manifest, digest, envelope, "module.published")
        if key:
            self._table("key")[f"commit:{manifest.owner}:{key}"] = [digest, self._clock() + MEMORY_OF_KEYS_S]
        return Head(expert=expert, version=version, manifest=digest)

    async def restore_head(self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int) -> bool:
        expert, version = manifest.expert, manifest.version
        self._check_not_withdrawn(manifest)
        self._check_fence(manifest.owner, fence)
        head = self._table("head").get(expert, {"version": 0, "manifest": ""})
        if version < head["version"]:
            return False
        if version == head["version"]:
            if head["manifest"] != digest:
                raise refusals.other_at_version(expert, version, digest, head["manifest"])
            return False
        self._accept(manifest, digest, envelope, "module.restored")
        return True

    async def put_back(
        self,
        manifest: Manifest,
        digest: Digest,
        envelope: bytes,
        *,
        as_head: bool,
        fence: int | None = None,
        mend: bool = False,
    ) -> bool:
        expert, version = manifest.expert, manifest.version
        if fence is not None:
            self._check_fence(manifest.owner, fence)
        held = self._table("version").get(f"{expert}@{version}")
        if held not in (None, digest) and not mend:
            raise refusals.other_at_version(expert, version, digest, held)
        is_gone = any(target in self._table("tombstone") for target in (expert, manifest.owner))
        if mend:
            self._table("manifest")[digest] = envelope.decode()
        newest = self._table("head").get(expert, {"version": 0})["version"]
        if as_head and not is_gone and (mend or version > newest):
            self._accept(manifest, digest, envelope, "module.restored")
            return True
        if held == digest and digest in self._table("manifest") and not mend:
            return False
        self._table("manifest").setdefault(digest, envelope.decode())
        self._table("version")[f"{expert}@{version}"] = digest
        return True

    async def head(self, expert: ExpertId) -> Head | None:
        found = self._table("head").get(expert)
        return Head(expert=expert, version=found["version"], manifest=found["manifest"]) if found else None

    async def heads(self, owner: str = "") -> list[Head]:
        return [
            Head(expert=ExpertId(expert), version=found["version"], manifest=found["manifest"])
            for expert, found in sorted(self._table("head").items())
            if not owner or refusals.owner_of_target(expert) == owner
        ]

    async def manifest(self, digest: Digest) -> bytes | None:
        return self._bytes("manifest", digest)

    async def manifest_at(self, expert: ExpertId, version: int) -> Digest | None:
        found = self._table("version").get(f"{expert}@{version}")
        return Digest(found) if found else None

    async def manifests(self, start: int = 0) -> list[Digest]:
        return [Digest(digest) for digest in list(self._table("manifest"))[start:]]

    async def withdraw(
        self, target: str, tombstone: bytes, fence: int | None, key: str
    ) -> tuple[ExpertId, ...]:
        owner = refusals.owner_of_target(target)
        done = self._recalled(f"withdraw:{owner}:{key}") if key else None
        if done is not None:
            first, *experts = done
            if first != target:
                raise refusals.key_reused(key)
            return tuple(ExpertId(expert) for expert in experts)
        if fence is not None:
            self._check_fence(owner, fence)
        self._table("tombstone").setdefault(target, tombstone.decode())
        heads = self._table("head")
        gone = tuple(
            ExpertId(e) for e in sorted(heads) if e == target or refusals.owner_of_target(e) == target
        )
        for expert in gone:
            del heads[expert]
            self._append("expert.withdrawn", {"expert": expert, "owner": owner}, self._clock())
        if key:
            told = [target, *gone]
            self._table("key")[f"withdraw:{owner}:{key}"] = [told, self._clock() + MEMORY_OF_KEYS_S]
        return gone

    async def tombstones(self) -> dict[str, bytes]:
        return {target: text.encode() for target, text in self._table("tombstone").items()}

    async def tombstone_count(self) -> int:
        return len(self._table("tombstone"))

    async def put_record(self, member: NodeId, envelope: bytes) -> bool:
        return bool(self._table("node").setdefault(member, envelope.decode()) == envelope.decode())

    async def record(self, member: NodeId) -> bytes | None:
        return self._bytes("node", member)

    async def records(self) -> dict[NodeId, bytes]:
        return {NodeId(member): text.encode() for member, text in self._table("node").items()}

    async def put_revocations(self, number: int, envelope: bytes) -> None:
        if self._put_next("revocations", number, envelope):
            self._append("revocations.changed", {"number": str(number)}, self._clock())

    async def revocations(self) -> bytes | None:
        return self._numbered("revocations", 0)

    async def put_specification(self, version: int, envelope: bytes) -> None:
        self._put_next("specification", version, envelope)

    async def specification(self, version: int = 0) -> bytes | None:
        return self._numbered("specification", version)

    async def put_gate(self, version: int, envelope: bytes) -> None:
        self._put_next("gate", version, envelope)

    async def gate(self, version: int = 0) -> bytes | None:
        return self._numbered("gate", version)

    async def add_token(
        self,
        token_id: str,
        secret_hash: str,
        *,
        role: Role,
        uses: int,
        expires_at: float,
        created_at: float,
    ) -> bool:
        if token_id in self._table("token"):
            return False
        self._table("token")[token_id] = {
            "hash": secret_hash, "role": role, "uses": uses, "expires_at": expires_at,
            "created_at": created_at, "revoked": False,
        }  # fmt: skip
        return True

    async def claim_token(
        self, token_id: str, secret_hash: str, now: float, *, role: str = "", claimant: str = ""
    ) -> Role:
        token = self._table("token").get(token_id)
        if token is None:
            raise refusals.bad_token(token_id, "unknown")
        if token["hash"] != secret_hash:
            raise refusals.bad_token(token_id, "wrong")
        if token["revoked"]:
            raise refusals.bad_token(token_id, "revoked")
        granted: Role = token["role"]
        claim = f"claim:{token_id}:{claimant}"
        if role not in ("", granted) or (claimant and self._recalled(claim) is not None):
            return granted
        if token["expires_at"] <= now:
            raise refusals.bad_token(token_id, "expired")
        if token["uses"] < 1:
            raise refusals.bad_token(token_id, "used")
        token["uses"] -= 1
        if claimant:
            self._table("key")[claim] = ["1", self._clock() + MEMORY_OF_KEYS_S]
        return granted

    async def token(self, token_id: str) -> StoredToken | None:
        found = self._table("token").get(token_id)
        if found is None:
            return None
        kept = {name: found[name] for name in ("hash", "role", "uses", "expires_at", "created_at")}
        return StoredToken(**kept, is_revoked=found["revoked"])

    async def tokens(self) -> list[TokenView]:
        found = {token_id: await self.token(token_id) for token_id in self._table("token")}
        views = [
            token.view(name) for name, token in found.items() if token is not None and not token.is_revoked
        ]
        return sorted(views, key=lambda view: (view.created_at, view.id))

    async def revoke_token(self, token_id: str) -> None:
        token = self._table("token").get(token_id)
        if token is None:
            raise refusals.no_token(token_id)
        token["revoked"] = True

    async def append_event(self, kind: str, fields: Mapping[str, str], at: float) -> Event:
        return self._append(kind, fields, at)

    async def events(self, after: str = "", limit: int = 1000) -> list[Event]:
        start = refusals.event_id(after)
        return [event for event in self._events if not after or refusals.event_id(event.id) > start][:limit]

    async def wait_events(self, after: str, timeout_s: float, limit: int = 1000) -> list[Event]:
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := await self.events(after, limit)):
                    await self._grown.wait()
                return found
        except TimeoutError:
            return []

    async def last_event_id(self) -> str:
        return self._events[-1].id if self._events else ""

    async def remember(self, key: str, outcome: str) -> str:
        known = self._recalled(f"call:{key}")
        if known is None:
            known = outcome
            self._table("key")[f"call:{key}"] = [outcome, self._clock() + MEMORY_OF_KEYS_S]
        return str(known)

    async def recall(self, key: str) -> str | None:
        known = self._recalled(f"call:{key}")
        return None if known is None else str(known)

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes, int]]:
        rows = [(name.encode(), json.dumps(table).encode(), 0) for name, table in self._tables.items()]
        events = [[event.id, event.kind, event.at, list(event.fields)] for event in self._events]
        for row in [*rows, (b"events", json.dumps(events).encode(), 0)]:
            yield row

    async def restore_dump(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        if self._events or any(self._tables.values()):
            raise refusals.not_empty("a store with data in memory")
        for name, payload, _ in rows:
            if name == b"events":
                self._events.extend(
                    Event(id=i, kind=kind, at=at, fields=tuple((name, value) for name, value in fields))
                    for i, kind, at, fields in json.loads(payload)
                )
            else:
                self._tables[name.decode()] = json.loads(payload)

    async def close(self) -> None:
        return None

    def _table(self, name: str) -> dict[str, Any]:
        return self._tables.setdefault(name, {})

    def _bytes(self, table: str, key: str) -> bytes | None:
        text = self._table(table).get(key)
        return None if text is None else str(text).encode()

    def _lease(self, node: NodeId, fence: int, ttl_s: float) -> Lease:
        self._table("lease")[node] = expires_at = self._clock() + ttl_s
        return Lease(node=node, fence=fence, expires_at=expires_at)

    def _check_fence(self, node: str, fence: int) -> None:
        newest = self._table("fence").get(node, 0)
        if fence != newest or not newest:
            raise refusals.stale_fence(node, fence, newest)

    def _check_not_withdrawn(self, manifest: Manifest) -> None:
        for target in (manifest.expert, manifest.owner):
            if target in self._table("tombstone"):
                raise refusals.withdrawn(manifest.expert, manifest.version, target)

    def _recalled(self, key: str) -> Any | None:
        known = self._table("key").get(key)
        return known[0] if known and known[1] > self._clock() else None

    def _accept(self, manifest: Manifest, digest: Digest, envelope: bytes, kind: str) -> None:
        self._table("manifest").setdefault(digest, envelope.decode())
        self._table("version")[f"{manifest.expert}@{manifest.version}"] = digest
        self._table("head")[manifest.expert] = {"version": manifest.version, "manifest": digest}
        fields = {
            "expert": manifest.expert,
            "version": str(manifest.version),
            "manifest": digest,
            "owner": manifest.owner,
        }
        self._append(kind, fields, self._clock())

    def _append(self, kind: str, fields: Mapping[str, str], at: float) -> Event:
        last = refusals.event_id(self._events[-1].id if self._events else "")
        milliseconds = int(self._clock() * 1000)
        number = (milliseconds, 0) if milliseconds > last[0] else (last[0], last[1] + 1)
        event = Event(id=f"{number[0]}-{number[1]}", kind=kind, at=at, fields=tuple(fields.items()))
        self._events.append(event)
        self._grown.set()
        self._grown = asyncio.Event()
        return event

    def _put_next(self, what: str, version: int, envelope: bytes) -> bool:
        """Keep the next of a numbered series; False if it is there already."""
        table = self._table(what)
        if table.get(str(version)) == envelope.decode():
            return False
        if version != len(table) + 1:
            raise refusals.not_next(what, version, len(table))
        table[str(version)] = envelope.decode()
        return True

    def _numbered(self, what: str, version: int) -> bytes | None:
        return self._bytes(what, str(version or len(self._table(what))))
