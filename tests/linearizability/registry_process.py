"""`python -m tests.linearizability.registry_process IDENTITY BLOBS REDIS_URL PORT [BUG]`: the real registry.

Where a bug is named, its store is wrapped by that planted bug, and no journal mends what it does.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from swarm.domain.ids import Digest, SwarmId
from swarm.registry import app
from swarm.registry.app import RegistryConfig, serve
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.redis_store import connect_redis
from tests.linearizability.planted import BUGS


class ForgetfulJournal(CommitJournal):
    """Remembers nothing, so it puts nothing back."""

    def __init__(self, _: Path) -> None:
        super().__init__()

    def has(self, manifest: Digest) -> bool:
        return True

    async def note_commit(self, manifest: Digest, envelope: bytes) -> None:
        await asyncio.sleep(0)

    async def note_withdrawal(self, target: str, tombstone: bytes) -> None:
        await asyncio.sleep(0)


def main(identity: str, blobs: str, redis_url: str, port: str, bug: str = "") -> None:
    if bug:

        def connect(url: str, swarm: SwarmId) -> Any:
            return BUGS[bug](connect_redis(url, swarm))

        app.connect_redis = connect  # type: ignore[attr-defined]
        app.CommitJournal = ForgetfulJournal  # type: ignore[attr-defined]
    config = RegistryConfig(
        identity=Path(identity),
        blobs=Path(blobs),
        redis_url=redis_url,
        port=int(port),
        coordinator="127.0.0.1:9",
    )
    asyncio.run(serve(config, lambda ready: print(ready, flush=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
