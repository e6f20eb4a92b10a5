"""Join tokens in Redis, by their hashes. The coordinator's own book says which of them count."""

from collections.abc import Mapping
from typing import cast

from swarm.domain.members import Role
from swarm.domain.membership import TokenView
from swarm.registry import refusals
from swarm.registry.redis_connection import RedisConnection, text
from swarm.registry.store import MEMORY_OF_KEYS_S, StoredToken


class RedisTokens(RedisConnection):
    """The part of `MetadataStore` that is about join tokens."""

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
        reply = await self._run(
            "token_add", token_id, secret_hash, role, uses, repr(expires_at), repr(created_at)
        )
        return bool(reply[1])

    async def claim_token(
        self, token_id: str, secret_hash: str, now: float, *, role: str = "", claimant: str = ""
    ) -> Role:
        reply = await self._run(
            "token_claim", token_id, secret_hash, repr(now), role, claimant, MEMORY_OF_KEYS_S
        )
        if not reply[0]:
            raise refusals.bad_token(token_id, text(reply[1]))
        return cast(Role, text(reply[1]))

    async def token(self, token_id: str) -> StoredToken | None:
        return _token(await self._ask(self._redis.hgetall(self._key("token", token_id))))

    async def tokens(self) -> list[TokenView]:
        names = [text(name) for name in await self._ask(self._redis.smembers(self._key("tokens")))]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(self._key("token", name))
            rows = await self._ask(pipeline.execute())
        found = ((name, _token(row)) for name, row in zip(names, rows, strict=True))
        views = [token.view(name) for name, token in found if token is not None and not token.is_revoked]
        return sorted(views, key=lambda view: (view.created_at, view.id))

    async def revoke_token(self, token_id: str) -> None:
        if not (await self._run("token_revoke", token_id))[1]:
            raise refusals.no_token(token_id)


def _token(row: Mapping[bytes, bytes]) -> StoredToken | None:
    try:
        return StoredToken(
            hash=text(row[b"hash"]),
            role=cast(Role, text(row[b"role"])),
            uses=int(row[b"uses"]),
            expires_at=float(row[b"expires_at"]),
            created_at=float(row[b"created_at"]),
            is_revoked=row[b"revoked"] != b"0",
        )
    except (KeyError, ValueError):
        return None
