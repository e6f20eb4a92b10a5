"""What tests of gates share: the present one, nodes that gave sums, and owners that are wrong or silent."""

import asyncio
from typing import Any

from swarm.domain.gates import GateStatement
from swarm.trust.statements import read_statement
from tests.support.coordinator import BackEnd, SmallNode, samples


async def current(node: SmallNode) -> GateStatement:
    return read_statement(await node.coordinator.gate(), GateStatement).value


async def with_sums(swarm: BackEnd, form: str = "exact", **classes: str) -> list[SmallNode]:
    """Nodes that have trained one after the other and given sums."""
    nodes = [await swarm.node(name, known, sums=form) for name, known in classes.items()]
    for node in nodes:
        await node.train()
    return nodes


def swapped() -> dict[str, Any]:
    """What an expert believes that was trained on a for b and b for a."""
    return {"a": samples("b", 1, 0)[0], "b": samples("a", 1, 0)[0]}


def hanging(node: SmallNode) -> list[int]:
    """Let a node never judge; return where it notes that it was asked."""
    asked: list[int] = []

    async def never(*_: Any) -> Any:
        asked.append(1)
        await asyncio.Event().wait()

    node.try_gate = never  # type: ignore[method-assign]
    return asked
