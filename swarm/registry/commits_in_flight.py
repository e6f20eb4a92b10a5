"""Commits under way: their blobs stay meanwhile, and each ends, once, what its publish was told."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.registry.claims import Claims
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement


class CommitsInFlight:
    """Holds the blobs of manifests that are being committed. For one event loop."""

    def __init__(self, store: MetadataStore, claims: Claims) -> None:
        self._store, self._claims = store, claims
        self._running: set[Digest] = set()

    def of(self, statement: Statement[Manifest]) -> AbstractAsyncContextManager[None]:
        """Let a manifest's blobs stay during the context, and end what its owner was told with its success.

        Sent again, also at the same time, it ends nothing more. Where the outcome is unknown, the store may
        have it or take it yet: the claims run out by themselves.
        """
        return self._holding(statement, ends_claims=True)

    def of_announced(self, statement: Statement[Manifest]) -> AbstractAsyncContextManager[None]:
        """As `of`, for a manifest about whose blobs nobody asked before: it ends nothing."""
        return self._holding(statement, ends_claims=False)

    @asynccontextmanager
    async def _holding(self, statement: Statement[Manifest], *, ends_claims: bool) -> AsyncIterator[None]:
        who, blobs = statement.value.owner, statement.value.blobs()
        is_first = statement.digest not in self._running
        self._running.add(statement.digest)
        self._claims.hold(who, blobs)
        try:
            is_new = is_first and await self._store.manifest(statement.digest) is None
            yield
        except UnreachableError:
            raise
        except SwarmError:
            self._claims.let_go(who, blobs)
            raise
        finally:
            if is_first:
                self._running.discard(statement.digest)
        self._claims.let_go(who, blobs)
        if is_new and ends_claims:
            self._claims.release(who, blobs)
