"""What the coordinator itself knows of join tokens: hash, role, uses, and who used them, on disk.

A use is written down before the store is asked for it, so a store that was lost, or went back, gives nobody a
used token again: `synchronise` gives it what is left of each. Tokens of before this book are not in it.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from coordinator.envelope_files import sweep_unfinished
from swarm.domain.members import Role
from swarm.registry.store import MetadataStore
from swarm.trust.key_files import write_file

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedToken:
    """One token; `claimants` are the joins that used it."""

    hash: str
    role: Role
    uses: int
    expires_at: float
    created_at: float
    claimants: tuple[str, ...] = ()
    is_revoked: bool = False

    @property
    def left(self) -> int:
        return max(0, self.uses - len(self.claimants))


class TokenBook:
    """One small file for each token. For one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        self._known: dict[str, BookedToken] = {}
        for path in folder.glob("*.json"):
            try:
                fields = json.loads(path.read_bytes())
                self._known[path.stem] = BookedToken(**{**fields, "claimants": tuple(fields["claimants"])})
            except (ValueError, KeyError, TypeError) as error:
                log.error("token.unreadable", file=path.name, reason=repr(error))

    async def made(self, token_id: str, facts: Mapping[str, object]) -> BookedToken:
        """Keep a new token and return it; the known one, as it is used by now, if it was made before."""
        if token_id not in self._known:
            await self._write(token_id, BookedToken(**facts))  # type: ignore[arg-type]
        return self._known[token_id]

    async def claimed(self, token_id: str, secret_hash: str, claimant: str) -> bool:
        """Write down a use that the store is asked for next; say whether it was new. Nothing of a token that
        is not known or has another secret."""
        known = self._known.get(token_id)
        if known is None or known.hash != secret_hash or claimant in known.claimants or not known.left:
            return False
        await self._write(token_id, replace(known, claimants=(*known.claimants, claimant)))
        return True

    async def not_claimed(self, token_id: str, claimant: str) -> None:
        """Take back a use that the store refused."""
        known = self._known[token_id]
        left = tuple(each for each in known.claimants if each != claimant)
        await self._write(token_id, replace(known, claimants=left))

    async def revoked(self, token_id: str) -> None:
        """Keep that a token is useless."""
        known = self._known.get(token_id)
        if known is not None:
            await self._write(token_id, replace(known, is_revoked=True))

    async def synchronise(self, store: MetadataStore, now: float) -> None:
        """Give the store the tokens that it lacks, and no more uses of any than are left."""
        in_store = {view.id: view.uses_left for view in await store.tokens()}
        for token_id, known in list(self._known.items()):
            if token_id in in_store:
                for _ in range(in_store[token_id] - known.left):
                    await store.claim_token(token_id, known.hash, min(now, known.created_at), role=known.role)
                if known.is_revoked:
                    await store.revoke_token(token_id)
            elif known.left and not known.is_revoked and known.expires_at > now:
                await store.add_token(
                    token_id,
                    known.hash,
                    role=known.role,
                    uses=known.left,
                    expires_at=known.expires_at,
                    created_at=known.created_at,
                )

    async def _write(self, token_id: str, token: BookedToken) -> None:
        data = json.dumps(asdict(token)).encode()
        await asyncio.to_thread(write_file, self._folder / f"{token_id}.json", data, 0o600)
        self._known[token_id] = token
