"""The coordinator's own join tokens, on disk: hash, role, uses, expiry, and who used them.

A token is one that is in this book: what the store has beside it, or otherwise, lets nobody in. A token is
written down before the store hears of it, and a use before the store is asked for it, so a store that was
lost, or went back, gives nobody a used token again: `synchronise` gives it what is left of each.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from coordinator.envelope_files import sweep_unfinished
from swarm.domain.members import Role
from swarm.domain.membership import TokenView
from swarm.registry.store import MetadataStore, StoredToken
from swarm.trust.key_files import sync_folder, write_file

KEPT_AFTER_EXPIRY_S = 30 * 86_400.0
"""How long an expired token stays in the book: longer than anybody asks again for a lost answer."""

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

    def view(self, token_id: str) -> TokenView:
        """Return what people see of it."""
        return TokenView(
            id=token_id,
            role=self.role,
            uses_left=self.left,
            expires_at=self.expires_at,
            created_at=self.created_at,
        )

    def differences(self, stored: StoredToken) -> str:
        """Say in what a store's token is another one, nothing where it is this one.

        A store may lack uses, and may have those that were written down here only.
        """
        found = []
        if stored.role != self.role:
            found.append(f"role {stored.role[:20]} instead of {self.role}")
        if stored.hash != self.hash:
            found.append("the hash of another secret")
        if stored.expires_at != self.expires_at:
            found.append("another expiry")
        if stored.uses > self.uses:
            found.append(f"{stored.uses} uses instead of {self.uses}")
        return ", ".join(found)


class TokenBook:
    """One small file for each token. For one event loop; whoever changes a token holds `changing`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        self.changing = asyncio.Lock()
        self._known: dict[str, BookedToken] = {}
        for path in folder.glob("*.json"):
            try:
                fields = json.loads(path.read_bytes())
                self._known[path.stem] = BookedToken(**{**fields, "claimants": tuple(fields["claimants"])})
            except (ValueError, KeyError, TypeError) as error:
                log.error("token.unreadable", file=path.name, reason=repr(error))

    def get(self, token_id: str) -> BookedToken | None:
        """Return a token, None for one that was not made here."""
        return self._known.get(token_id)

    def views(self) -> list[TokenView]:
        """Return the tokens that were not revoked, used and expired ones too, oldest first."""
        found = [known.view(token_id) for token_id, known in self._known.items() if not known.is_revoked]
        return sorted(found, key=lambda view: (view.created_at, view.id))

    async def made(self, token_id: str, facts: Mapping[str, object]) -> BookedToken:
        """Keep a new token and return it; the known one, as it is used by now, if it was made before."""
        if token_id not in self._known:
            await self._write(token_id, BookedToken(**facts))  # type: ignore[arg-type]
        return self._known[token_id]

    async def claimed(self, token_id: str, claimant: str) -> None:
        """Write down a use that the store is asked for next."""
        known = self._known[token_id]
        await self._write(token_id, replace(known, claimants=(*known.claimants, claimant)))

    async def not_claimed(self, token_id: str, claimant: str) -> None:
        """Take back a use that the store refused."""
        known = self._known[token_id]
        left = tuple(each for each in known.claimants if each != claimant)
        await self._write(token_id, replace(known, claimants=left))

    async def revoked(self, token_id: str) -> bool:
        """Keep that a token is useless; False for one that was not made here."""
        known = self._known.get(token_id)
        if known is not None and not known.is_revoked:
            await self._write(token_id, replace(known, is_revoked=True))
        return known is not None

    async def synchronise(self, store: MetadataStore, now: float) -> None:
        """Give the store the tokens that it lacks, and no more uses of any than are left."""
        async with self.changing:
            await self._forget_old(now)
            in_store = {view.id: view for view in await store.tokens()}
            for token_id, known in self._known.items():
                if token_id in in_store:
                    await self._bring_down(store, token_id, known, now)
                elif known.left and not known.is_revoked and known.expires_at > now:
                    await give(store, token_id, known)
            for token_id in in_store.keys() - self._known.keys():
                if in_store[token_id].expires_at > now:
                    log.error("token.not_made_here", token=token_id, role=in_store[token_id].role)

    async def _bring_down(self, store: MetadataStore, token_id: str, known: BookedToken, now: float) -> None:
        stored = await store.token(token_id)
        if stored is None:
            return
        if found := known.differences(stored):
            log.error("token.differs", token=token_id, store_has=found)
            return
        await _use_up(store, token_id, known, stored.uses, now)
        if known.is_revoked:
            await store.revoke_token(token_id)

    async def _forget_old(self, now: float) -> None:
        old = [name for name, known in self._known.items() if known.expires_at + KEPT_AFTER_EXPIRY_S < now]
        for token_id in old:
            (self._folder / f"{token_id}.json").unlink(missing_ok=True)
            del self._known[token_id]
        if old:
            await asyncio.to_thread(sync_folder, self._folder)

    async def _write(self, token_id: str, token: BookedToken) -> None:
        data = json.dumps(asdict(token)).encode()
        await asyncio.to_thread(write_file, self._folder / f"{token_id}.json", data, 0o600)
        self._known[token_id] = token


async def give(store: MetadataStore, token_id: str, token: BookedToken) -> None:
    """Give the store what is left of a token; no change where it has one of that id."""
    await store.add_token(
        token_id,
        token.hash,
        role=token.role,
        uses=token.left,
        expires_at=token.expires_at,
        created_at=token.created_at,
    )


async def _use_up(store: MetadataStore, token_id: str, known: BookedToken, in_store: int, now: float) -> None:
    """Take from the store's uses of a token those that are booked and were not taken there.

    For whom each was booked, the newest first, so that its join, sent again, is let in; a claimant whom the
    store remembers takes none.
    """
    at = min(now, known.created_at)
    for claimant in (*reversed(known.claimants), *("",) * in_store):
        if in_store <= known.left:
            return
        await store.claim_token(token_id, known.hash, at, role=known.role, claimant=claimant)
        stored = await store.token(token_id)
        in_store = stored.uses if stored is not None else 0
