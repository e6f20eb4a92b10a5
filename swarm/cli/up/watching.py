"""Waiting for the gate: until it holds every owner, until it was fitted with corrections."""

import asyncio
from collections.abc import Callable, Sequence

from swarm.cli.up.stage import Stage
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.rpc.clients import CoordinatorClient

NO_NEWS_SECONDS = 240.0


async def gate_of_owners(stage: Stage, client: CoordinatorClient, names: Sequence[str]) -> GateStatement:
    """Return the first gate with leaves of every named owner that has contributed.

    Where none comes, it is told which owners the newest gate lacks. Raises NotReadyError where no gate comes.
    """
    wanted = {
        name
        for name in names
        if stage.figures[name].get("activated", 1.0) or stage.figures[name].get("outbox", 0.0)
    }
    for name in sorted(set(names) - wanted):
        stage.tell(f"{name} is not in the gate; its training above says why")
    found = await newest_gate(
        stage, client, lambda gate: wanted <= {leaf.owner for leaf in gate.leaves}, NO_NEWS_SECONDS
    )
    missing = sorted(wanted - {leaf.owner for leaf in found.leaves})
    if missing:
        stage.tell(f"gate {found.version} lacks {', '.join(missing)}; going on without")
    return found


async def gate_with_corrections(stage: Stage, client: CoordinatorClient) -> GateStatement:
    """Return a gate that was tried with all corrections published so far, else the newest there is.

    A coordinator fits by itself a while after the last of them; asked to, it need not wait for more.
    """
    try:
        outcome = await client.fit(timeout_s=2 * NO_NEWS_SECONDS)
        stage.tell(f"gate fitted anew after the refinement: {outcome.state} {outcome.reason}")
    except SwarmError as error:
        stage.tell(f"gate not fitted anew after the refinement: {error.found}")
    found = await stage.gate(client)
    if not has_combination(found, "corrected"):
        stage.tell(f"gate {found.version} has no corrections; its answers go without them")
    return found


async def newest_gate(
    stage: Stage, client: CoordinatorClient, enough: Callable[[GateStatement], bool], no_news_s: float
) -> GateStatement:
    """Return the first gate that is enough, or the newest one after so many seconds without a newer one."""
    loop = asyncio.get_running_loop()
    seen, since = 0, loop.time()
    while True:
        try:
            gate = await stage.gate(client)
        except NotReadyError:
            if loop.time() - since > no_news_s:
                raise
        else:
            if enough(gate):
                return gate
            if gate.version > seen:
                seen, since = gate.version, loop.time()
            if loop.time() - since > no_news_s:
                return gate
        await asyncio.sleep(0.5)


def has_combination(gate: GateStatement, name: str) -> bool:
    """Say whether a gate can answer with the combination of that name."""
    return any(each.name == name for each in gate.combinations)
