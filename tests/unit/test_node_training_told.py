"""What the last message of a training order says of its contribution."""

import time
from pathlib import Path
from typing import Any, cast

import pytest

from node.delivery import Delivery
from node.job_delivery import JobDelivery
from node.order_run import OrderRun, is_kept_aside
from node.outbox import Intent
from node.publishing import Sending
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


class SlowCourier(Courier):
    """Delivers a publication once it was told how far that is."""

    def __init__(self, run: OrderRun) -> None:
        super().__init__()
        self.run = run
        self.sending: Sending | None = None

    async def outcome(self, intent: Intent, patience_s: float) -> Delivery:
        if intent.kind == "publish":
            for sent in (20_000_000, 90_000_000):
                self.sending = Sending(key=intent.key, sent_bytes=sent, total_bytes=100_000_000)
                await self.run._more_than(len(self.run.steps))
            self.sending = None
        return await super().outcome(intent, patience_s)


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
    run = OrderRun("key", TrainOrder(data="late"))
    await delivered(plot, folder, courier or Courier(), run)
    return run.steps[-1].message


async def delivered(plot: Plot, folder: Path, courier: Courier, run: OrderRun) -> None:
    delivery = JobDelivery(
        home=plot.home,
        identity=cast(Any, Identity(plot)),
        book=plot.book,
        outbox=plot.outbox,
        courier=cast(Any, courier),
        cache=plot.cache,
        knowledge=Knowledge(plot.specification),
        jobs=plot.home.state / "jobs",
        clock=time.time,
        look_s=0.01,
    )
    await delivery.deliver(run, folder)


async def test_it_is_told_how_far_weights_are_while_they_go(plot: Plot, tmp_path: Path) -> None:
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2))
    run = OrderRun("key", TrainOrder(data="late"))
    await delivered(plot, late, SlowCourier(run), run)
    going = [step for step in run.steps if step.stage == "publish"]
    assert [step.message.partition(", ")[2] for step in going][:3] == [
        *("", "20.0 of 100.0 MB", "90.0 of 100.0 MB")
    ]
    fractions = [step.fraction for step in going]
    assert fractions == sorted(fractions) and len(set(fractions)) == len(fractions)


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
