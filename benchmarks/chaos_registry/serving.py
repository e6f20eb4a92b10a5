"""`python -m benchmarks.chaos_registry.serving IDENTITY BLOBS REDIS_URL [FAULT [at-once]]`: a real registry.

`at-once`: a collection waits for nothing (neither the week of blobs that nothing names nor the day of
claims), so that what it leaves behind shows. FAULT is as in SWARM_FAULT_POINT, for a process that is forked.
"""

import asyncio
import sys
from pathlib import Path

from swarm.fault_points import aim
from swarm.registry.app import RegistryConfig, serve
from swarm.registry.claims import Claims
from swarm.registry.collecting import Collector


def main(identity: str, blobs: str, redis_url: str, fault: str = "", how: str = "") -> None:
    aim(fault)
    if how == "at-once":
        for cls, name in ((Collector, "unnamed_s"), (Claims, "lasts_s")):
            defaults = cls.__init__.__kwdefaults__
            assert defaults is not None
            defaults[name] = -1.0
        Claims.claim = Claims.hold  # type: ignore[method-assign, assignment]
        Path(identity).with_name("claims.jsonl").unlink(missing_ok=True)
    config = RegistryConfig(
        identity=Path(identity), blobs=Path(blobs), redis_url=redis_url, port=0, coordinator="127.0.0.1:9"
    )
    asyncio.run(serve(config, lambda ready: print(ready, flush=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
