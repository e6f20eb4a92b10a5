"""Bearer tokens of HTTP callers, `swb1.<id>.<secret>`: made by the operator, kept as hashes."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from coordinator.envelope_files import sweep_unfinished
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, UnauthenticatedError
from swarm.domain.ids import NodeId
from swarm.domain.membership import TokenView
from swarm.trust.key_files import write_file
from swarm.trust.signing import Signer
from swarm.trust.tokens import secret_hash

LONGEST_LIFETIME_S: Final = 366 * 86_400.0
MOST_TOKENS: Final = 10_000
_PREFIX: Final = "swb1"
_TOKEN: Final = re.compile(r"swb1\.(b[0-9a-f]{8})\.([0-9a-f]{64})")
_REMEDY: Final = "ask the operator for a new one: swarm token create --bearer NAME"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerToken:
    """What is kept of one token; `holder` is the name that its caller goes by."""

    hash: str
    holder: str
    expires_at: float
    created_at: float
    is_revoked: bool = False


class BearerTokens:
    """The coordinator's bearer tokens. `clock`: seconds since the epoch. For one event loop."""

    def __init__(self, folder: Path, signer: Signer, clock: Callable[[], float]) -> None:
        self._folder, self._signer, self._clock = folder, signer, clock
        self._known: dict[str, BearerToken] = {}
        self._changing = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        for path in folder.glob("*.json"):
            try:
                self._known[path.stem] = BearerToken(**json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                log.error("bearer_token.unreadable", file=path.name, reason=repr(error))

    async def create(self, holder: NodeId, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        """Return a new token, which nobody can show again, and what is kept of it.

        The same key gives the same again. Raises InvalidInputError for a lifetime beyond a year or so,
        ConflictError for a key whose token was revoked.
        """
        if not 0 < lifetime_s <= LONGEST_LIFETIME_S:
            raise InvalidInputError(
                "bearer token",
                found=f"a lifetime of {lifetime_s:g} s",
                expected=f"up to {LONGEST_LIFETIME_S / 86_400:.0f} days",
            )
        async with self._changing:
            return await self._create(holder, lifetime_s, key)

    async def _create(self, holder: NodeId, lifetime_s: float, key: str) -> tuple[str, TokenView]:
        if len(self._known) >= MOST_TOKENS:
            await self._forget_expired()
        # As for join tokens: the signature is never shown, and a resent call makes the same token.
        seed = self._signer.sign(b"swarm bearer token\0" + key.encode())
        token_id = "b" + hashlib.sha256(b"id" + seed).hexdigest()[:8]
        secret = hashlib.sha256(b"secret" + seed).hexdigest()
        if token_id not in self._known:
            now = self._clock()
            made = BearerToken(
                hash=secret_hash(secret), holder=holder, expires_at=now + lifetime_s, created_at=now
            )
            await self._write(token_id, made)
            log.info("bearer_token.created", token=token_id, holder=holder)
        known = self._known[token_id]
        if known.is_revoked or known.holder != holder:
            raise ConflictError(
                f"bearer token {token_id}",
                found="one that was revoked" if known.is_revoked else f"one of {known.holder}",
                expected="a new idempotency key for a new token",
            )
        return f"{_PREFIX}.{token_id}.{secret}", _view(token_id, known)

    def holder(self, text: str) -> str:
        """Return the name of a token's holder; UnauthenticatedError, without repeating it, says why not."""
        match = _TOKEN.fullmatch(text)
        known = self._known.get(match[1]) if match is not None else None
        if match is None or known is None or not hmac.compare_digest(known.hash, secret_hash(match[2])):
            raise UnauthenticatedError(
                "bearer token", found="one that is not known here", expected="swb1.ID.SECRET", remedy=_REMEDY
            )
        if known.is_revoked or known.expires_at <= self._clock():
            raise UnauthenticatedError(
                f"bearer token {match[1]} of {known.holder}",
                found="revoked" if known.is_revoked else "expired",
                expected="one that is valid",
                remedy=_REMEDY,
            )
        return known.holder

    def views(self) -> list[TokenView]:
        """Return the tokens that were not revoked, oldest first."""
        found = [_view(token_id, known) for token_id, known in self._known.items() if not known.is_revoked]
        return sorted(found, key=lambda view: (view.created_at, view.id))

    def has(self, token_id: str) -> bool:
        """Say whether this is the id of a bearer token."""
        return token_id in self._known

    async def revoke(self, token_id: str) -> None:
        """Make a token useless from the next call on; NotFoundError if there is none."""
        async with self._changing:
            known = self._known.get(token_id)
            if known is None:
                raise NotFoundError(
                    f"bearer token {token_id[:40]}",
                    found="none of that id",
                    remedy="list them: swarm token list",
                )
            if not known.is_revoked:
                await self._write(token_id, replace(known, is_revoked=True))
                log.info("bearer_token.revoked", token=token_id, holder=known.holder)

    async def _forget_expired(self) -> None:
        for token_id in [name for name, known in self._known.items() if known.expires_at <= self._clock()]:
            await asyncio.to_thread((self._folder / f"{token_id}.json").unlink, missing_ok=True)
            del self._known[token_id]
        if len(self._known) >= MOST_TOKENS:
            raise ConflictError(
                "bearer tokens", found=f"{len(self._known)} valid ones", expected=f"fewer than {MOST_TOKENS}"
            )

    async def _write(self, token_id: str, token: BearerToken) -> None:
        data = json.dumps(asdict(token)).encode()
        await asyncio.to_thread(write_file, self._folder / f"{token_id}.json", data, 0o600)
        self._known[token_id] = token


def as_revoked(kept: bytes) -> bytes | None:
    """Return what is kept of a token as one that was revoked; None where it is revoked, or is no token."""
    try:
        known = BearerToken(**json.loads(kept))
    except (ValueError, TypeError):
        return None
    return None if known.is_revoked else json.dumps(asdict(replace(known, is_revoked=True))).encode()


def _view(token_id: str, known: BearerToken) -> TokenView:
    return TokenView(
        id=token_id,
        role="client",
        uses_left=0,
        expires_at=known.expires_at,
        created_at=known.created_at,
        bearer=known.holder,
    )
