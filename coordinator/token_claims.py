"""Using join tokens: the coordinator's book says which there are, the store is asked after it.

Who can write the store can plant a token there, or alter one; neither lets anybody in.
"""

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.token_book import BookedToken, TokenBook, give
from swarm.domain.errors import UnauthenticatedError, UnreachableError
from swarm.domain.members import Role
from swarm.fault_points import reached
from swarm.registry import refusals
from swarm.registry.store import MetadataStore, StoredToken


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """Claims uses of tokens, one after the other. `clock`: seconds since the epoch."""

    book: TokenBook
    store: MetadataStore
    clock: Callable[[], float]

    async def claim(self, token_id: str, secret_hash: str, role: Role, claimant: str) -> Role:
        """Use a token once and return its role; one of another role is not used up.

        The same claimant again uses it no second time. UnauthenticatedError says why not: not in the book,
        otherwise in the store, a wrong secret, revoked, expired or used.
        """
        async with self.book.changing:
            known, stored = self.book.get(token_id), await self.store.token(token_id)
            if known is None:
                raise _not_made_here(token_id, stored, self.clock())
            if stored is not None and (found := known.differences(stored)):
                raise UnauthenticatedError(
                    f"join token {token_id}",
                    found=f"{found} in Redis: it was altered there",
                    expected="what the coordinator wrote down when it made the token",
                    remedy="find out who can write Redis; then make a new one: swarm token create",
                )
            if known.hash != secret_hash:
                raise refusals.bad_token(token_id, "wrong")
            if known.is_revoked:
                raise refusals.bad_token(token_id, "revoked")
            if known.role != role or claimant in known.claimants:
                return known.role
            if known.expires_at <= self.clock():
                raise refusals.bad_token(token_id, "expired")
            if not known.left:
                raise refusals.bad_token(token_id, "used")
            if stored is None:
                await give(self.store, token_id, known)
            return await self._use(token_id, known, claimant)

    async def _use(self, token_id: str, known: BookedToken, claimant: str) -> Role:
        await self.book.claimed(token_id, claimant)
        reached("coordinator.token.booked")
        is_used = False
        try:
            await self.store.claim_token(
                token_id, known.hash, self.clock(), role=known.role, claimant=claimant
            )
            is_used = True
        except UnreachableError:
            is_used = True  # It may have been: better once too little than twice.
            raise
        finally:
            if not is_used:
                await self.book.not_claimed(token_id, claimant)
        return known.role


def _not_made_here(token_id: str, stored: StoredToken | None, now: float) -> UnauthenticatedError:
    if stored is None:
        return refusals.bad_token(token_id, "unknown")
    if stored.expires_at <= now:
        return refusals.bad_token(token_id, "expired")
    return UnauthenticatedError(
        f"join token {token_id}",
        found="a token that Redis has and this coordinator did not make",
        expected="one of the coordinator's own book",
        remedy="make a new one: swarm token create; if nobody made this one, find out who can write Redis",
    )
