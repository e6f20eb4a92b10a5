"""Two nodes of a whole swarm that know two digits each."""

from pathlib import Path

from swarm.domain.agent import TrainOrder
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out


async def train_pair(swarm: WholeSwarm, folder: Path) -> None:
    """Let rose join and learn 0 and 1, and tulip 2 and 3, from data that are written into folder."""
    for name, only in (("rose", (0, 1)), ("tulip", (2, 3))):
        home = swarm.joined(name)
        swarm.agent(home)
        data = write_digits(folder / f"{name}.npz", count=300, seed=1, only=only)
        async with agent_of(home) as client:
            done = await carried_out(client, TrainOrder(data=str(data), net="mlp:16x1", steps=100, seed=0))
            assert done.figures["activated"] == 1.0
