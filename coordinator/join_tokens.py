"""Join tokens: made by the operator, kept as hashes, imported from the seed that `swarm init` leaves."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from coordinator.addresses import Endpoints
from coordinator.token_book import BookedToken, TokenBook, give
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError
from swarm.domain.members import Role
from swarm.domain.membership import TokenView
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.key_files import sync_folder
from swarm.trust.signing import Signer
from swarm.trust.tokens import JoinToken, new_join_token, secret_hash

LONGEST_LIFETIME_S = 366 * 86_400.0
MOST_USES = 10_000

log = structlog.get_logger()


class JoinTokens:
    """Only hashes are stored, in the coordinator's own book first."""

    def __init__(
        self,
        store: MetadataStore,
        signer: Signer,
        pin: str,
        endpoints: Endpoints,
        seeds: Path,
        clock: Callable[[], float],
        book: TokenBook,
    ) -> None:
        self._store, self._signer, self._pin = store, signer, pin
        self._endpoints, self._seeds, self._clock, self._book = endpoints, seeds, clock, book

    async def create(self, role: Role, uses: int, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        """Return a new join line and its token without the secret; the same key gives the same again."""
        if role not in ("node", "operator", "client"):
            raise InvalidInputError("role", found=role, expected="node, operator or client")
        if not 1 <= uses <= MOST_USES or not 0 < lifetime_s <= LONGEST_LIFETIME_S:
            raise InvalidInputError(
                "join token",
                found=f"{uses} uses for {lifetime_s:g} s",
                expected=f"1 to {MOST_USES} uses, up to {LONGEST_LIFETIME_S / 86_400:.0f} days",
            )
        token = self._token(key) if key else new_join_token(self._pin)
        now = self._clock()
        facts = {"role": role, "uses": uses, "expires_at": now + lifetime_s, "created_at": now}
        made = await self._add(token.id, facts | {"hash": secret_hash(token.secret)})
        if made.is_revoked:
            raise ConflictError(
                f"join token {token.id}",
                found="one that was revoked",
                expected="a new idempotency key for a new token",
            )
        return f"swarm join {token.text}@{self._endpoints.join}", made.view(token.id)

    def all(self) -> list[TokenView]:
        """Return all tokens that were made here and not revoked."""
        return self._book.views()

    async def revoke(self, token_id: str) -> None:
        """Make a token useless; NotFoundError if there is none."""
        async with self._book.changing:
            was_made_here = await self._book.revoked(token_id)
        try:
            await self._store.revoke_token(token_id)
        except NotFoundError:
            if not was_made_here:
                raise

    async def synchronise(self) -> None:
        """Bring the store up to the book; take the seeds into both, then delete them."""
        await self._book.synchronise(self._store, self._clock())
        for path in await asyncio.to_thread(lambda: sorted(self._seeds.glob("*.json"))):
            try:
                seed = json.loads(await asyncio.to_thread(path.read_bytes))
                facts = {name: seed[name] for name in ("role", "uses", "expires_at", "created_at")}
                facts["hash"] = str(seed["hash"])
            except (ValueError, KeyError, TypeError) as error:
                log.error("token.seed_unreadable", file=path.name, reason=repr(error))
                continue
            await self._add(path.stem, facts)
            path.unlink(missing_ok=True)
            await asyncio.to_thread(sync_folder, self._seeds)
            log.info("token.imported", token=path.stem)

    async def _add(self, token_id: str, facts: dict[str, Any]) -> BookedToken:
        async with self._book.changing:
            made = await self._book.made(token_id, facts)
            reached("coordinator.token.made")
            if not made.is_revoked:
                await give(self._store, token_id, made)
        return made

    def _token(self, key: str) -> JoinToken:
        # Ed25519 signatures are deterministic and this one is never shown: a resent call makes the same token
        # without the secret being stored anywhere.
        seed = self._signer.sign(b"swarm join token\0" + key.encode())
        return JoinToken(
            id=hashlib.sha256(b"id" + seed).hexdigest()[:8],
            pin=self._pin,
            secret=hashlib.sha256(b"secret" + seed).hexdigest(),
        )
