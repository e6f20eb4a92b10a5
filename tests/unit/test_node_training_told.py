"""What the last message of a training order says of its contribution."""

import time
from pathlib import Path
from typing import Any, cast

import pytest

from node.delivery import Delivery
from node.job_delivery import JobDelivery
from node.order_run import OrderRun, is_kept_aside
from node.outbox import Intent
from swarm.domain.agent import TrainOrder
from swarm.domain.contributions import Contribution
from swarm.domain.errors import HarmfulContributionError
from swarm.domain.specification import Specification
from swarm.trust.statements import read_statement, sign_statement
from tests.support.growing import NODE, Plot, two_kinds


class Courier:
    trouble = ""

    def __init__(self, error: HarmfulContributionError | None = None) -> None:
        self.error = error

    def kick(self) -> None:
        pass

    async def outcome(self, intent: Intent, patience_s: float) -> Delivery:
        if intent.kind == "contribute":
            return Delivery(state="refused" if self.error else "activated", error=self.error)
        return Delivery(state="delivered")


class Knowledge:
    gate_version = 1

    def __init__(self, specification: Specification) -> None:
        self._specification = specification

    def specification(self) -> Specification:
        return self._specification


class Identity:
    id = NODE

    def __init__(self, plot: Plot) -> None:
        self._plot = plot

    def required_signer(self) -> object:
        return self._plot.signer


@pytest.fixture
def plot(tmp_path: Path) -> Plot:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"))
    return plot


async def told(plot: Plot, folder: Path, courier: Courier | None = None) -> str:
    delivery = JobDelivery(
        home=plot.home,
        identity=cast(Any, Identity(plot)),
        book=plot.book,
        outbox=plot.outbox,
        courier=cast(Any, courier or Courier()),
        cache=plot.cache,
        knowledge=Knowledge(plot.specification),
        jobs=plot.home.state / "jobs",
        clock=time.time,
    )
    run = OrderRun("key", TrainOrder(data="late"))
    await delivery.deliver(run, folder)
    return run.steps[-1].message


async def test_a_contribution_that_is_left_out_is_told_with_its_reason(plot: Plot, tmp_path: Path) -> None:
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2))
    plot.grow(plot.order("split", "rose.e1"), "split", "rose.l1", new=2)
    message = await told(plot, late)
    assert "nothing contributed: p1 changes this node's leaves and is on trial" in message


async def test_a_contribution_that_would_harm_is_kept_aside_and_told_so(plot: Plot, tmp_path: Path) -> None:
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2))
    error = HarmfulContributionError("contribution of rose", found="worse for ada")
    assert "kept aside, no gate has it: worse for ada" in await told(plot, late, Courier(error))


def test_nothing_is_kept_aside_of_what_carries_a_proposal_out_or_has_no_sums(plot: Plot) -> None:
    given = plot.given().value
    for changes, kept in (({}, True), ({"proposal": "p1"}, False), ({"sums": None}, False)):
        fields = {name: getattr(given, name) for name in Contribution.__slots__} | changes
        envelope = sign_statement(Contribution(**fields), plot.signer)
        assert read_statement(envelope, Contribution).value.owner == NODE
        intent = Intent(number=1, kind="contribute", key="k", subject="s", envelope=envelope)
        assert is_kept_aside(intent) is kept
