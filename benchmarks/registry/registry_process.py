"""The real registry.

python -m benchmarks.registry.registry_process IDENTITY BLOBS REDIS_URL [direct-io]
"""

import asyncio
import json
import sys
from pathlib import Path

from swarm.registry.app import RegistryConfig, serve
from swarm.telemetry import configure_logging

DIRECT_IO = "direct-io"


async def _serve_until_stdin_ends(config: RegistryConfig) -> None:
    serving = asyncio.create_task(serve(config, lambda port: print(json.dumps({"port": port}), flush=True)))
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def main(identity: str, blobs: str, redis_url: str, writes: str = "") -> None:
    configure_logging("registry", level="warning")
    config = RegistryConfig(
        identity=Path(identity),
        blobs=Path(blobs),
        redis_url=redis_url,
        port=0,
        coordinator="127.0.0.1:9",
        direct_io=writes == DIRECT_IO,
    )
    asyncio.run(_serve_until_stdin_ends(config))


if __name__ == "__main__":
    main(*sys.argv[1:])
