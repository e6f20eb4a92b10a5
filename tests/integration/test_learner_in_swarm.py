"""Learning in a running swarm: sums make its root, and what the experts add to it is trained afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.outbound import OutboundLog
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import NotReadyError
from swarm.domain.ids import ExpertId
from swarm.domain.manifests import Manifest
from swarm.trust.statements import read_statement
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, whole_swarm


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("learning")) as running:
        yield running


async def test_an_expert_is_refined_once_the_gate_has_sums(swarm: WholeSwarm, tmp_path: Path) -> None:
    home = swarm.joined("rose")
    swarm.agent(home)
    data = str(write_digits(tmp_path / "own.npz", count=400, seed=0, only=(0, 1)))
    fields = {"data": data, "net": "mlp:16x1", "steps": 150}
    async with agent_of(home) as client:
        with pytest.raises(NotReadyError, match="no leaves"):
            await carried_out(client, TrainOrder(**fields, refine=True))  # type: ignore[arg-type]
        await carried_out(client, TrainOrder(**fields, sums="none"))  # type: ignore[arg-type]
        with pytest.raises(NotReadyError, match="without sums"):
            await carried_out(client, TrainOrder(**fields, refine=True))  # type: ignore[arg-type]
        done = await carried_out(client, TrainOrder(**fields, sums="exact"))  # type: ignore[arg-type]
        assert done.figures["activated"] == 1.0 and done.figures["sums_flops"] > 0
        refined = await carried_out(client, TrainOrder(**fields, refine=True))  # type: ignore[arg-type]
        assert "1 corrections published" in refined.message
        assert refined.figures["validation_nll"] < refined.figures["root_validation_nll"]
        assert refined.figures["train_flops"] > 0
    left = {item.what for item in OutboundLog(home.outbound).read()}
    assert {"columns", "prototypes", "sums F'F, exact", "contribution", "blob", "manifest"} <= left
    async with swarm.registry() as registry:
        head = read_statement(await registry.manifest(expert=ExpertId("rose.e1")), Manifest).value
        first = read_statement(await registry.manifest(expert=ExpertId("rose.e1"), version=2), Manifest).value
    assert (head.version, head.modules) == (3, first.modules)
    assert head.correction is not None and first.correction is None


async def test_a_newcomer_starts_from_the_peer_whose_expert_fits_and_its_lineage_says_so(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    async def learn(name: str, count: int, seed: int, **options: Any) -> tuple[TrainStep, list[str]]:
        home = swarm.joined(name)
        swarm.agent(home)
        data = str(write_digits(tmp_path / f"{name}.npz", count=count, seed=seed, only=(2, 3), noise=12))
        order = TrainOrder(data=data, net="mlp:16x1", steps=100, sums="exact", **options)
        async with agent_of(home) as client:
            said = [step async for step in client.train(order)]
        return said[-1], [step.message for step in said]

    first, _ = await learn("lily", 800, 1)
    assert "borrow" not in first.message
    await learn("oak", 400, 2, share="serve-only")
    done, said = await learn("moss", 60, 3)
    assert "moss.l1 borrows from lily.e1@1" in done.message
    assert any("oak.e1 is not lent: its owner says serve-only" in line for line in said)
    assert done.figures["borrow_nll_at_100"] < done.figures["random_nll_at_100"]
    assert done.figures["train_flops"] > done.figures["borrow_flops"] > 0
    async with swarm.registry() as registry:
        lender = read_statement(await registry.manifest(expert=ExpertId("lily.e1")), Manifest)
        head = read_statement(await registry.manifest(expert=ExpertId("moss.e1")), Manifest).value
    (parent,) = head.parents
    assert (parent.kind, parent.manifest) == ("borrowed-from", lender.digest)
    assert head.metrics["borrow_knn"] > head.metrics["borrow_knn_random"]
    kept_away, _ = await learn("fern", 60, 4, borrow=False)
    assert "borrow" not in kept_away.message
