"""The port to the swarm's metadata: heads, manifests, members, leases, tokens, gates, events.

Every method is atomic: a change happens entirely or not at all, and refusals are by name
(`swarm.registry.refusals`). Where a method takes an idempotency key, the same key acts once and returns
the first outcome; an empty key leaves that to the content. An outage of the store is an UnreachableError.
Times are seconds since the epoch. `tests/contract/test_store_contract.py` holds every adapter to this.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Role
from swarm.domain.membership import Event, Head, Lease, TokenView

MEMORY_OF_KEYS_S = 24 * 3600
"""How long an idempotency key is remembered."""

MAX_EVENTS = 10_000
"""About how many events are kept; older ones are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """What a store has of one join token; `uses` are those that it has left."""

    hash: str
    role: Role
    uses: int
    expires_at: float
    created_at: float
    is_revoked: bool = False

    def view(self, token_id: str) -> TokenView:
        """Return what people see of it."""
        return TokenView(
            id=token_id,
            role=self.role,
            uses_left=self.uses,
            expires_at=self.expires_at,
            created_at=self.created_at,
        )


class MetadataStore(Protocol):
    """What the registry and the coordinator keep in common."""

    async def ping(self) -> None:
        """Return if the store answers; UnreachableError otherwise."""

    async def durability(self) -> str:
        """Say what survives a crash of the store, for people (`appendfsync everysec`)."""

    # Leases

    async def grant_lease(self, node: NodeId, ttl_s: float, after: int = 0) -> Lease:
        """Give node a new lease. Its fence is larger than any before, and than `after`, which the caller
        knows to have been given though the store may have forgotten; older leases are stale at once."""

    async def renew_lease(self, node: NodeId, fence: int, ttl_s: float) -> Lease:
        """Prolong the lease, also one that ran out and was not superseded; StaleFenceError if it was."""

    async def drop_lease(self, node: NodeId, fence: int) -> None:
        """End the lease if fence is still the newest; a superseded one changes nothing."""

    async def leases(self) -> list[Lease]:
        """Return the leases that have not run out, by node."""

    # Experts

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        """Make manifest the head of its expert, if its parent is the head and fence is the owner's newest.

        Fence None: nobody leases the owner's experts (the coordinator's root).

        The same key or the same digest again returns the first outcome. Records the event
        `module.published`. Raises StaleParentError, StaleFenceError; ConflictError for an expert or owner
        that was withdrawn, or a key that was used for something else.
        """

    async def restore_head(self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int) -> bool:
        """Take over a head that its owner kept, where it is newer than ours; say whether it was.

        Raises StaleFenceError; ConflictError for what was withdrawn and for another manifest of the same
        version.
        """

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
        """Take over a version that was accepted before and that this store lost; say whether it was lost.

        With `as_head` it becomes the head if it is newer than ours and not withdrawn; else it is history
        alone. With `mend` what the store has in its place is known to be damaged, and is replaced. A fence
        must be the owner's newest: StaleFenceError. Raises ConflictError, with nothing
        changed, for another manifest of the same version.
        """

    async def head(self, expert: ExpertId) -> Head | None:
        """Return the expert's newest accepted version, None if there is none or it was withdrawn."""

    async def heads(self, owner: str = "") -> list[Head]:
        """Return all heads, or those of one owner, by expert."""

    async def manifest(self, digest: Digest) -> bytes | None:
        """Return the envelope of a manifest, also of a superseded or withdrawn version."""

    async def manifest_at(self, expert: ExpertId, version: int) -> Digest | None:
        """Return which manifest an expert's version is, also of a withdrawn expert."""

    async def manifests(self, start: int = 0) -> list[Digest]:
        """Return the digests of all manifests from row start on, oldest first. The list only grows."""

    async def withdraw(
        self, target: str, tombstone: bytes, fence: int | None, key: str
    ) -> tuple[ExpertId, ...]:
        """Withdraw an expert, or all experts of a node, for good; return those that had a head.

        A fence (None: not the owner's own doing) must be the owner's newest: StaleFenceError. ConflictError
        for a key under which something else was withdrawn. Withdrawing again keeps the first tombstone.
        Records `expert.withdrawn` for each.
        """

    async def tombstones(self) -> dict[str, bytes]:
        """Return the tombstones' envelopes by expert or node id."""

    async def tombstone_count(self) -> int:
        """Return how many tombstones there are."""

    # Members

    async def put_record(self, member: NodeId, envelope: bytes) -> bool:
        """Keep a member's record; False if another record has this name. The same bytes again: True."""

    async def record(self, member: NodeId) -> bytes | None:
        """Return a member's record."""

    async def records(self) -> dict[NodeId, bytes]:
        """Return all records."""

    async def put_revocations(self, number: int, envelope: bytes) -> None:
        """Replace the revocation list by the next one; ConflictError unless number is the next.

        The same bytes again change nothing. Records `revocations.changed`.
        """

    async def revocations(self) -> bytes | None:
        """Return the newest revocation list."""

    # Specification and gate: numbered from 1, nothing is ever replaced

    async def put_specification(self, version: int, envelope: bytes) -> None:
        """Keep the next specification; ConflictError unless it is the next. Same bytes again: no change."""

    async def specification(self, version: int = 0) -> bytes | None:
        """Return a specification, the newest for 0."""

    async def put_gate(self, version: int, envelope: bytes) -> None:
        """Keep the next gate; ConflictError unless it is the next. Same bytes again: no change."""

    async def gate(self, version: int = 0) -> bytes | None:
        """Return a gate, the newest for 0."""

    # Tokens

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
        """Keep a token's hash; False, with nothing changed, if there is a token of this id."""

    async def claim_token(
        self, token_id: str, secret_hash: str, now: float, *, role: str = "", claimant: str = ""
    ) -> Role:
        """Use a token once and return its role.

        A token of another role than the given one is not used up. The same claimant again (within 24 h) uses
        it no second time. UnauthenticatedError says why not: unknown, wrong, revoked, expired or used.
        """

    async def token(self, token_id: str) -> StoredToken | None:
        """Return what the store has of a token, None where it has nothing that can be read as one."""

    async def tokens(self) -> list[TokenView]:
        """Return the tokens that were not revoked, used and expired ones too, oldest first."""

    async def revoke_token(self, token_id: str) -> None:
        """Make a token useless; NotFoundError if there is none. Again: no change."""

    # Events

    async def append_event(self, kind: str, fields: Mapping[str, str], at: float) -> Event:
        """Append an event. Ids grow: `<milliseconds>-<number>`."""

    async def events(self, after: str = "", limit: int = 1000) -> list[Event]:
        """Return up to limit events after an id (empty: from the oldest kept), oldest first."""

    async def wait_events(self, after: str, timeout_s: float, limit: int = 1000) -> list[Event]:
        """Return as `events` does, waiting until there is one; empty after timeout_s."""

    async def last_event_id(self) -> str:
        """Return the newest event's id, empty if there is none."""

    # Idempotent calls of others

    async def remember(self, key: str, outcome: str) -> str:
        """Keep a call's outcome for 24 h and return it; the first outcome, if there is one already."""

    async def recall(self, key: str) -> str | None:
        """Return the outcome that was kept under key."""

    # Backup

    def dump(self) -> AsyncIterator[tuple[bytes, bytes, int]]:
        """Yield (key, payload, time to live in ms or 0) of everything, as of one moment."""

    async def restore_dump(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Take in what `dump` of the same kind of store gave; ConflictError unless this store is empty."""

    async def close(self) -> None:
        """Let go of connections."""
