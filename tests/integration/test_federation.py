"""Federated runs over real streams, coordinator, agents and child processes."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.linalg
from threadpoolctl import threadpool_limits

from node.federated_samples import load
from node.jobs import LearningJob
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import ConflictError, NotReadyError, UsageError
from swarm.domain.federation import MAX_PART_BYTES, FederationOrder, FederationStep
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.federation.own_samples import OwnSamples
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from swarm.modules.blobs import BlobFiles
from swarm.rpc.federation_client import FederationClient
from swarm.trust.identity import Identity
from tests.support.forked_processes import ENVIRONMENT, run_process
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, until, whole_swarm

COMM_BYTES = 15
"""As many bytes of a process's name Linux keeps."""
OWNED = {"rose": (0, 1), "tulip": (2, 3), "aster": (0, 3)}


class Meadow:
    """A swarm of three nodes that have been told where their data are."""

    def __init__(self, swarm: WholeSwarm) -> None:
        self.swarm = swarm
        self.homes = {name: swarm.joined(name) for name in OWNED}
        self.agents = {name: swarm.agent(home) for name, home in self.homes.items()}

    async def settle(self) -> None:
        """Wait for all streams, then let each node know a training order."""
        for name, home in self.homes.items():
            async with agent_of(home) as client:

                async def connected(client: object = client) -> bool:
                    return (await client.state()).connected  # type: ignore[attr-defined]

                await until(connected)
            await self.tell(name)

    async def tell(self, name: str) -> None:
        home = self.homes[name]
        data = write_digits(self.swarm.folder / f"{name}.npz", count=400, only=OWNED[name])
        identity = Identity.load(self.swarm.home.operator / "identity")
        async with self.swarm.coordinator() as client, self.swarm.registry() as registry:
            envelope = await client.specification()
            specification = identity.keyring().open(envelope, Specification).value
            cache = BlobFiles(home.cache)
            trunk = specification.trunk
            for entry in (*trunk.weights.tensors, *trunk.probe.tensors):
                await registry.fetch_into(entry.blob, cache)
        folder = home.state / "jobs" / "told"
        folder.mkdir(parents=True, exist_ok=True)
        LearningJob(
            node=NodeId(name),
            order=TrainOrder(data=str(data)),
            specification=specification,
            blob_folder=str(home.cache),
        ).write(folder)
        (folder / "queued.json").write_text("{}")

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[FederationClient]:
        async with self.swarm.coordinator() as client:
            yield FederationClient(client.connection)

    async def run(self, app: str, key: str = "", **options: object) -> list[FederationStep]:
        """Carry out an order and return its steps."""
        written = {name.replace("_", "-"): str(value) for name, value in options.items()}
        order = FederationOrder(app=app, options=written, idempotency_key=key)
        async with self.operator() as client:
            return [step async for step in client.run_federation(order)]

    def samples(self) -> dict[str, OwnSamples]:
        return {name: load({"home": str(home.root)}) for name, home in self.homes.items()}

    def children(self, module: str) -> list[psutil.Process]:
        """Return the processes of federated runs that these services and agents have started."""
        found = []
        for process in [*self.swarm.processes.values(), *self.swarm.agents]:
            if process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    found += psutil.Process(process.pid).children(recursive=True)
        return [each for each in found if module[:COMM_BYTES] in _named(each)]


def _named(process: psutil.Process) -> str:
    """Return its command line, and its name: a forked child's command line is its server's."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def meadow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meadow]:
    with whole_swarm(tmp_path_factory.mktemp("meadow")) as swarm:
        running = Meadow(swarm)
        asyncio.run(running.settle())
        yield running


async def test_sums_over_the_streams_are_the_pooled_sums_to_the_last_bit(meadow: Meadow) -> None:
    steps = await meadow.run("sums", min_nodes=3)
    done = steps[-1]
    assert done.stage == "done" and done.figures["nodes"] == 3
    assert any("3 of 3 nodes" in step.message for step in steps)
    owners, fixed_point = [], 0.0
    for name, own in sorted(meadow.samples().items()):
        trunk = own.specification.trunk
        fixed_point = trunk.fixed_point
        q = quantised(own.features(own.training.inputs), trunk.fixed_point, trunk.has_constant)
        columns = target_columns(q, own.training.labels, len(own.training.class_names))
        gram = pack_triangle(exact_gram(q))
        owners.append(OwnerSums(owner=name, samples=len(q), columns=columns, exact=gram))
    # LAPACK's last bits depend on its threads; forked children of tests have as many as `ENVIRONMENT` gives.
    scipy.linalg.cholesky(np.eye(2))  # limits are those of libraries that are loaded
    with threadpool_limits(int(ENVIRONMENT["OPENBLAS_NUM_THREADS"])):
        expected = solve(owners, RIDGES, fixed_point)
    assert np.array_equal(done.arrays["weights"], expected)
    assert done.figures["validation_accuracy"] > 0.8


async def test_what_a_round_took_from_a_node_is_in_its_outbound_log(meadow: Meadow) -> None:
    before = len(OutboundLog(meadow.homes["rose"].outbound).read())
    await meadow.run("kmeans", k=4, rounds=3, min_nodes=3)
    listed = OutboundLog(meadow.homes["rose"].outbound).read()[before:]
    assert len(listed) >= 2 and {each.recipient for each in listed} == {"coordinator"}
    assert "centroids float32" in listed[0].detail and listed[0].size_bytes > 0


async def test_averaging_of_three_nodes_for_two_rounds_brings_the_nets_weights(meadow: Meadow) -> None:
    steps = await meadow.run("average", rounds=2, steps=20, net="mlp:512x2", min_nodes=3)
    done = steps[-1]
    assert done.figures["nodes"] == 3 and done.figures["rounds"] == 2
    assert done.figures["bytes_sent"] > 6 * MAX_PART_BYTES, "messages go in several parts"
    assert done.figures["train_flops"] > 0
    assert 0 <= done.figures["validation_accuracy"] <= 1
    assert any(array.ndim == 2 and array.shape[0] == 4 for array in done.arrays.values())
    assert {step.stage for step in steps} >= {"round 2 of 2", "done"}


async def test_no_process_of_a_run_stays_behind(meadow: Meadow) -> None:
    await meadow.run("kmeans", k=2, rounds=1, min_nodes=3)
    await until(lambda: not meadow.children("federated"), 10)


@pytest.mark.chaos
async def test_a_node_killed_in_the_middle_of_a_round_is_left_out_and_named(meadow: Meadow) -> None:
    async with meadow.operator() as client:
        options = {"rounds": "3", "steps": "400", "net": "mlp:32x1", "min-nodes": "2", "timeout-s": "60"}
        steps = client.run_federation(FederationOrder(app="average", options=options, idempotency_key="dies"))
        killed, done = False, None
        async for step in steps:
            done = step
            if not killed and step.stage == "round 1 of 3":
                meadow.agents["tulip"].kill()
                meadow.agents["tulip"].wait()
                killed = True
    assert killed and done is not None and done.stage == "done"
    assert done.figures["nodes"] == 2 and "tulip" in done.message
    meadow.agents["tulip"] = meadow.swarm.agent(meadow.homes["tulip"])
    async with agent_of(meadow.homes["tulip"]) as agent:

        async def connected() -> bool:
            return (await agent.state()).connected

        await until(connected)


@pytest.mark.chaos
async def test_a_child_that_is_killed_at_a_node_costs_that_round_only(meadow: Meadow) -> None:
    async with meadow.operator() as client:
        options = {"rounds": "3", "steps": "300", "net": "mlp:32x1", "min-nodes": "2"}
        killed, done = False, None
        async for step in client.run_federation(FederationOrder(app="average", options=options)):
            done = step
            children = meadow.children("federated_client")
            if not killed and children:
                os.kill(children[0].pid, signal.SIGKILL)
                killed = True
    assert killed and done is not None and done.stage == "done" and done.figures["nodes"] == 3


async def test_a_second_run_is_refused_while_one_is_under_way_and_ctrl_c_ends_the_first(
    meadow: Meadow,
) -> None:
    async with meadow.operator() as client:
        options = {"rounds": "500", "steps": "50", "net": "mlp:8x1"}
        first = client.run_federation(FederationOrder(app="average", options=options))
        await anext(first)
        with pytest.raises(ConflictError, match="one run at a time"):
            await meadow.run("kmeans")
        await first.aclose()
    await until(lambda: not meadow.children("federated"), 15)
    assert (await meadow.run("kmeans", k=2, rounds=1))[-1].stage == "done"


async def test_too_few_nodes_are_not_waited_for_without_bound(meadow: Meadow) -> None:
    with pytest.raises(NotReadyError, match="at least 9"):
        await meadow.run("sums", min_nodes=9, patience_s=1)


async def test_an_unknown_app_or_option_is_refused_by_name(meadow: Meadow) -> None:
    with pytest.raises(UsageError, match="guess"):
        await meadow.run("guess")
    with pytest.raises(UsageError, match="option colour"):
        await meadow.run("sums", colour="red")


async def test_a_node_without_data_is_left_out_with_its_reason(meadow: Meadow) -> None:
    folder = meadow.homes["aster"].state / "jobs"
    folder.rename(folder.with_name("jobs-away"))
    try:
        done = (await meadow.run("sums", min_nodes=2))[-1]
    finally:
        folder.with_name("jobs-away").rename(folder)
    assert done.figures["nodes"] == 2
    assert "aster" in done.message and "swarm train DATA" in done.message


def test_the_command_writes_the_result_and_says_what_it_covers(meadow: Meadow, tmp_path: Path) -> None:
    out = tmp_path / "root.npz"
    home = ["--home", str(meadow.swarm.home.root), "--json"]
    said = _swarm("federate", "sums", "--min-nodes", "2", "--out", str(out), *home)
    assert said["schema"] == "swarm.federation/1" and said["out"] == str(out)
    judged = _swarm("federate", "evaluate", str(out), "--min-nodes", "2", *home)
    assert judged["figures"]["samples"] == said["figures"]["validation_samples"]
    assert judged["figures"]["validation_accuracy"] == said["figures"]["validation_accuracy"]


def test_a_net_that_the_coordinator_or_the_nodes_lack_is_told_to_be_built_there(
    meadow: Meadow, tmp_path: Path
) -> None:
    """The module lies in the command's own folder, where it helps nobody."""
    (tmp_path / "my_nets.py").write_text("def tiny(input_shape, classes): ...\n")
    np.savez(tmp_path / "net.npz", head=np.zeros(3, np.float32))
    home = ("--net", "my_nets:tiny", "--min-nodes", "3", "--home", str(meadow.swarm.home.root))
    for arguments, there in (
        (("average", "--rounds", "1"), "start swarm coordinator in the folder that holds it"),
        (("evaluate", "net.npz"), "each node builds the net"),
    ):
        run = subprocess.run(
            [sys.executable, "-m", "swarm.cli", "federate", *arguments, *home],
            env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert run.returncode != 0 and "no module my_nets" in run.stderr, run.stderr
        assert there in run.stderr and "run the command in" not in run.stderr


async def test_an_owner_may_keep_its_node_out(meadow: Meadow, tmp_path: Path) -> None:
    name = "rose"
    meadow.agents[name].terminate()
    meadow.agents[name].wait(20)
    settings: Path = NodeHome(meadow.homes[name].root).settings
    settings.write_text('federation = "kmeans"\n')
    meadow.agents[name] = meadow.swarm.agent(meadow.homes[name])
    async with agent_of(meadow.homes[name]) as agent:

        async def connected() -> bool:
            return (await agent.state()).connected

        await until(connected)
    done = (await meadow.run("sums", min_nodes=2))[-1]
    assert done.figures["nodes"] == 2 and "rose" in done.message and "does not allow" in done.message
    assert (await meadow.run("kmeans", k=2, rounds=1))[-1].figures["nodes"] == 3


def _swarm(*arguments: str) -> dict[str, Any]:
    run = run_process("swarm.cli", *arguments)
    assert run.returncode == 0, run.stderr
    assert "nodes" in run.stderr, "progress is told"
    found: dict[str, Any] = json.loads(run.stdout)
    return found
