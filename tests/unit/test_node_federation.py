"""A node's part in federated runs: one at a time, and nobody waits for the answer of one that was ended."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from node.federation import FederatedClients
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.errors import ConflictError
from swarm.domain.federation import FederationPart


@pytest.mark.parametrize("another", ["r2", "r1"])
async def test_whoever_waits_for_a_run_that_is_ended_is_told(tmp_path: Path, another: str) -> None:
    home = NodeHome(tmp_path)
    home.run.mkdir(parents=True)
    clients = FederatedClients(home, OutboundLog(home.outbound), allowed=frozenset({"sums"}), threads=1)
    part = FederationPart(run="r1", message="m1", parts=1, app="sums", data=b"what begins a child")
    waiting = asyncio.create_task(clients.deliver(part))
    await asyncio.sleep(0)
    # The coordinator ends the run, or begins another one.
    ending = FederationPart(run=another) if another == "r1" else replace(part, run=another, part=1, parts=2)
    try:
        await asyncio.gather(clients.deliver(ending), return_exceptions=True)
        with pytest.raises(ConflictError, match="run r1 was ended before its answer"):
            await asyncio.wait_for(waiting, 60)
    finally:
        await clients.stop()
