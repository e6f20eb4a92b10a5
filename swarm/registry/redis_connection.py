"""A connection to Redis: scripts, commands, and what its troubles are called. Nothing else knows the client.

Keys share the hash tag `{<swarm>}`. Needs no Redis newer than 6.2: no functions, no WAITAOF.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from swarm.domain.errors import ExhaustedError, UnreachableError, UsageError, VerificationError
from swarm.domain.ids import SwarmId

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ANSWER_S: Final = 5.0
_CONNECT_S: Final = 3.0
_CANCEL_AGAIN_S: Final = 0.05


def redis_client(url: str) -> Redis:
    """Return a client at `redis://`, `rediss://` or `unix://` url; it connects on first use.

    Raises UsageError for another kind of url.
    """
    try:
        # A command is sent once: a second try could use a token or append an event twice.
        return Redis.from_url(
            url,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        raise UsageError(
            "Redis URL", found=str(error), expected="redis://HOST:PORT/0 or unix:///path/to/redis.sock"
        ) from None


class RedisConnection:
    """Scripts and commands of one swarm, on a client that does not decode replies."""

    def __init__(self, client: Redis, swarm: SwarmId, address: str) -> None:
        self._redis, self._prefix, self._address = client, f"{{{swarm}}}:", address
        prelude = (_SCRIPTS / "prelude.lua").read_text()
        self._scripts = {
            path.stem: client.register_script(prelude + path.read_text())
            for path in sorted(_SCRIPTS.glob("*.lua"))
            if path.stem != "prelude"
        }

    async def ping(self) -> None:
        await self._ask(self._redis.ping())

    async def durability(self) -> str:
        try:
            config = await self._ask(self._redis.config_get("append*"))
        except VerificationError:
            return "unknown: this Redis does not show its configuration"
        settings = {text(name): text(value) for name, value in config.items()}
        if settings.get("appendonly") != "yes":
            return "snapshots only: the last minutes may be lost in a crash"
        return f"appendfsync {settings.get('appendfsync', 'unknown')}"

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    async def _ask(self, command: Awaitable[Any]) -> Any:
        """Await a command; outages and a Redis that cannot write become errors with a remedy.

        The client may lose a cancellation that comes while it takes a connection, and go on; so the command
        has a task of its own, which is cancelled until it ends.
        """
        task = asyncio.ensure_future(command)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
            if not task.cancelled():
                task.exception()  # Seen, so that nobody logs it: the caller has gone.
            raise
        try:
            return task.result()
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        except (MovedError, ClusterDownError) as error:
            raise self._elsewhere(error) from error
        except (ResponseError, OutOfMemoryError) as error:
            if isinstance(error, OutOfMemoryError) or str(error).startswith("MISCONF"):
                raise self._cannot_write(error) from error
            raise self._refused(error) from error

    async def _run(self, script: str, *args: str | bytes | float) -> list[Any]:
        reply = await self._ask(self._scripts[script](keys=[self._prefix], args=list(args)))
        return cast(list[Any], reply)

    async def _get(self, *parts: str) -> bytes | None:
        return cast(bytes | None, await self._ask(self._redis.get(self._key(*parts))))

    async def _get_all(self, table: str, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        rows = await self._ask(self._redis.mget([self._key(table, name) for name in names]))
        return cast(list[bytes | None], rows)

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"Redis at {self._address}",
            found=str(error) or type(error).__name__,
            expected="an answer",
            remedy="see that it runs: swarm doctor; what was not acknowledged can be sent again",
        )

    def _elsewhere(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"Redis at {self._address}",
            found=f"a node of a cluster without this swarm's slot: {error}",
            expected="the node that has it",
            remedy=f"see redis-cli cluster keyslot '{self._prefix}' and cluster slots; docs/registry.md",
        )

    def _refused(self, error: Exception) -> VerificationError:
        return VerificationError(
            f"Redis at {self._address}",
            found=str(error),
            expected="rows as the swarm's services write them",
            remedy="somebody else wrote there, or its file was damaged: see that nobody else uses it,"
            " then restart the coordinator and the registry, which put back what was acknowledged",
        )

    def _cannot_write(self, error: Exception) -> ExhaustedError:
        return ExhaustedError(
            f"Redis at {self._address}",
            found=str(error),
            expected="room for its data",
            remedy="free memory or disk space there; what was not acknowledged can be sent again",
        )


def text(value: bytes | str) -> str:
    """Return what Redis gave; bytes that no text has become ones that no name has."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def number(value: bytes | str | None) -> int:
    """Return a count that Redis gave, 0 for none and for what is damaged."""
    try:
        return int(value or 0)
    except ValueError:
        return 0


def triples(reply: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(reply[1::3], reply[2::3], reply[3::3], strict=True)


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
