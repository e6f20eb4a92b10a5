"""An order's way on a node: taken or refused at once, carried out beside the rest, followed to its end."""

import asyncio
import errno
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from node.delivery import Delivery
from node.durable import write_json
from node.growth.carrying import Grower
from node.growth.job_making import JobMaker
from node.growth.jobs import GrowthJob, GrowthTask
from node.growth.order_files import order_fields
from node.growth.reporting import Reporting
from node.growth.stages import GrowerParts
from node.jobs import CONTRIBUTION_FILE
from node.outbox import Intent
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, NotFoundError, UnreachableError
from swarm.domain.growth import GrowthReport, Proposal, ProposalState
from swarm.domain.ids import LeafId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.domain.specification import Specification
from swarm.trust.statements import Statement, read_statement, sign_statement, statement_digest
from tests.support.growing import NODE, Plot, two_kinds

pytestmark = pytest.mark.growth


class Coordinator:
    """What a coordinator says of proposals; a contribution without pins is decided as `verdict` says."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.contributions: list[Contribution] = []
        self.state: ProposalState = "working"
        self.verdict: ProposalState = "accepted"
        self.away = 0
        self.states: dict[str, Any] = {}
        self.anew = False
        """Whether `trained` ends a proposal, as of retraining."""
        self.forgets = False
        """Whether it dies once a gate has come, before it says so: asked again, it has the contribution."""

    async def report_growth(self, report: GrowthReport, key: str = "") -> Proposal:
        self._reached()
        self.told.append((report.stage, report.reason))
        if report.stage == "failed" or (report.stage == "trained" and self.verdict == "failed"):
            self.state = "failed"
        elif report.stage == "trained" and self.anew:
            self.state = self.verdict
        return self.proposal(report.proposal)

    async def proposals(self, proposal: str = "") -> list[Proposal]:
        self._reached()
        if proposal == "unknown":
            raise NotFoundError(proposal, found="none")
        return [self.proposal(proposal)]

    def proposal(self, id: str) -> Proposal:
        return Proposal(
            id=id, kind="split", experts=(), owner=NODE, gate_version=1, by="op", created_at=0.0,
            changed_at=0.0, state=self.states.get(id, self.state),
        )  # fmt: skip

    def given(self, contribution: Contribution) -> Delivery:
        self.contributions.append(contribution)
        if not any(leaf.manifest for leaf in contribution.leaves):
            self.state = self.verdict
            if self.verdict != "accepted":
                return Delivery(state="refused", reason="it does not pay")
        return Delivery(state="duplicate" if self.forgets else "activated", gate_version=2)

    def _reached(self) -> None:
        if self.away:
            self.away -= 1
            raise UnreachableError("coordinator", found="nobody")


class Courier:
    """Everything arrives at once."""

    def __init__(self, plot: Plot, coordinator: Coordinator) -> None:
        self._plot, self._coordinator = plot, coordinator

    def kick(self) -> None:
        pass

    async def outcome(self, intent: Intent, patience_s: float) -> Delivery | None:
        self._plot.outbox.done(intent)
        if intent.kind == "contribute":
            return self._coordinator.given(read_statement(intent.envelope, Contribution).value)
        statement = read_statement(intent.envelope, Manifest)
        head = Head(expert=statement.value.expert, version=statement.value.version, manifest=statement.digest)
        self._plot.book.note_accepted(statement, head)
        return Delivery(state="delivered")


class Knowledge:
    gate = None
    gate_version = 1

    def __init__(self, specification: Specification) -> None:
        self._specification = specification

    def specification(self) -> Specification:
        return self._specification

    async def provide_trunk(self, specification: Specification) -> None:
        pass

    async def provide_root(self) -> Statement[object]:
        raise NotFoundError("gate", found="none")


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


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
async def grower(plot: Plot, coordinator: Coordinator) -> AsyncIterator[Grower]:
    grower = made(plot, coordinator)
    yield grower
    await grower.stop()


def made(plot: Plot, coordinator: Coordinator, own: Any = None) -> Grower:
    parts = GrowerParts(
        home=plot.home,
        identity=Identity(plot),  # type: ignore[arg-type]
        book=plot.book,
        outbox=plot.outbox,
        courier=Courier(plot, coordinator),  # type: ignore[arg-type]
        cache=plot.cache,
        knowledge=Knowledge(plot.specification),  # type: ignore[arg-type]
        registry=None,  # type: ignore[arg-type]
        net="mlp:16x1",
        threads=1,
        own=own,
    )
    return Grower(parts, Reporting(coordinator, look_again_s=0.05))


async def idle(grower: Grower) -> None:
    async with asyncio.timeout(120):
        while grower.activity:
            await asyncio.sleep(0.02)


async def test_a_split_is_told_step_by_step_and_given_twice(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    await grower.carry_out(plot.order("split", "rose.e1", steps="20"))
    assert grower.activity == "split rose.e1 0%"
    await idle(grower)
    assert [stage for stage, _ in coordinator.told] == ["started", "split", "trained"]
    first, second = coordinator.contributions
    assert all(leaf.manifest for leaf in first.leaves) and first.proposal == second.proposal == "p1"
    assert not any(leaf.manifest for leaf in second.leaves) and second.epoch == first.epoch + 1
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l2", "rose.l3"]
    assert {plot.head(leaf).version for leaf in ("rose.l2", "rose.l3")} == {2}
    change = plot.book.tree.change("p1")
    assert change is not None and change.state == "done"
    assert not list((plot.home.state / "growth").iterdir())


async def test_a_split_that_does_not_pay_is_put_back_and_its_work_stays(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    coordinator.verdict = "rolled-back"
    await grower.carry_out(plot.order("split", "rose.e1", steps="20"))
    await idle(grower)
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]
    assert plot.book.manifest_file(plot.book.everything()[1].manifest).exists()


async def test_what_cannot_be_done_is_reported_as_failed_with_its_reason(
    plot: Plot, grower: Grower, coordinator: Coordinator, tmp_path: Path
) -> None:
    order = plot.order("split", "rose.e1")
    (tmp_path / "data.npz").unlink()
    coordinator.away = 2
    await grower.carry_out(order)
    await idle(grower)
    stage, reason = coordinator.told[-1]
    assert stage == "failed" and "the data of rose.l1 at" in reason and not coordinator.contributions
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]


async def test_a_second_order_is_refused_while_one_is_carried_out_and_the_same_one_is_not(
    plot: Plot, grower: Grower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.growth.carrying._CLOSING_S", 0.1)
    order = plot.order("retrain", "rose.e1", steps="1000000")
    await grower.carry_out(order)
    await grower.carry_out(order)
    with pytest.raises(ConflictError, match="p1, a retrain that is not done yet"):
        await grower.carry_out(replace(order, proposal="p2"))


async def test_a_proposal_that_ended_while_the_node_was_away_is_put_back_and_nothing_is_sent(
    plot: Plot, coordinator: Coordinator
) -> None:
    order = plot.order("split", "rose.e1")
    plot.grow(order, "split", "rose.l1", new=2)
    write_json(plot.home.state / "growth" / "p1" / "order.json", order_fields(order))
    coordinator.state, coordinator.away = "rolled-back", 1
    grower = made(plot, coordinator)
    grower.resume()
    await idle(grower)
    assert not coordinator.told and not coordinator.contributions
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]


async def test_a_split_that_a_crash_interrupted_goes_on_where_it_was(
    plot: Plot, coordinator: Coordinator
) -> None:
    order = plot.order("split", "rose.e1", steps="20")
    grower = made(plot, coordinator)
    await grower.carry_out(order)
    while not coordinator.contributions:
        await asyncio.sleep(0.02)
    await grower.stop()
    assert (plot.home.state / "growth" / "p1" / "order.json").exists()
    another = made(plot, coordinator)
    another.resume()
    await idle(another)
    contributions = {each.epoch: each for each in coordinator.contributions}
    assert len(contributions) == 2 and coordinator.state == "accepted"
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l2", "rose.l3"]
    assert plot.book.leaf(LeafId("rose.l4")) is None


async def test_of_two_orders_that_are_there_at_a_start_the_ended_one_is_closed_and_the_other_goes_on(
    plot: Plot, coordinator: Coordinator
) -> None:
    order = plot.order("split", "rose.e1", proposal="p9")
    plot.grow(order, "split", "rose.l1", new=2)
    for proposal in ("p9", "p10"):
        write_json(
            plot.home.state / "growth" / proposal / "order.json",
            order_fields(replace(order, proposal=proposal)),
        )
    coordinator.states["p9"] = "rolled-back"
    grower = made(plot, coordinator)
    grower.resume()
    async with asyncio.timeout(60):
        while (plot.home.state / "growth" / "p9").exists() or not coordinator.told:
            await asyncio.sleep(0.02)
    assert grower.activity.startswith("split rose.e1") and coordinator.told[0][0] == "started"
    change = plot.book.tree.change("p9")
    assert change is not None and change.state == "undone"
    await grower.stop()


async def test_an_order_that_meets_a_full_disk_is_told_and_closed_once_there_is_room(
    plot: Plot, grower: Grower, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True, True]

    def put_back(proposal: str, gate_version: int = 0) -> None:
        if full:
            full.pop()
            raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(path: Path, fields: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    order = plot.order("split", "rose.e1")
    (tmp_path / "data.npz").unlink()
    await grower.carry_out(order)
    monkeypatch.setattr("node.growth.carrying._CLOSE_AGAIN_S", 0.05)
    monkeypatch.setattr("node.growth.carrying.write_json", refuse)
    monkeypatch.setattr(plot.book.tree, "put_back", put_back)
    await idle(grower)
    assert coordinator.told[-1][0] == "failed" and not full
    assert not (plot.home.state / "growth" / "p1").exists()


WHOLE_ORDER = {"proposal": "p1", "kind": "retrain", "experts": ["rose.e1"], "gate_version": 1}


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        (json.dumps(WHOLE_ORDER)[:40].encode(), "EOF while parsing"),
        (b"", "EOF while parsing"),
        (b"\xff\x00", "Invalid JSON"),
        (b"[1]", "a damaged file"),
        (json.dumps(WHOLE_ORDER | {"kind": "multiply"}).encode(), "a damaged file"),
        (json.dumps(WHOLE_ORDER | {"options": {"steps": "-5"}}).encode(), "retrain, steps"),
        (json.dumps(WHOLE_ORDER | {"proposal": "p3"}).encode(), "that of 'p3'"),
    ],
)
async def test_an_order_that_was_damaged_fails_by_name_and_keeps_no_other_from_going_on(
    plot: Plot, grower: Grower, coordinator: Coordinator, kept: bytes, found: str
) -> None:
    growth = plot.home.state / "growth"
    plot.grow(plot.order("split", "rose.e1"), "split", "rose.l1", new=2)
    for name, data in (("p1", kept), ("no proposal", kept)):
        (growth / name).mkdir(parents=True, exist_ok=True)
        (growth / name / "order.json").write_bytes(data)
    coordinator.away = 2
    with capture_logs() as logs:
        grower.resume()
    named = [entry["proposal"] for entry in logs if entry["event"] == "growth.damaged"]
    assert sorted(named) == ["no proposal", "p1"] and not grower.activity
    async with asyncio.timeout(60):
        while (growth / "p1").exists():
            await asyncio.sleep(0.02)
    ((stage, reason),) = coordinator.told
    assert stage == "failed" and "order of p1" in reason and found in reason
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]
    assert (growth / "no proposal" / "order.damaged").read_bytes() == kept
    coordinator.told.clear()
    coordinator.state = "working"
    await grower.carry_out(plot.order("retrain", "rose.e1", proposal="p2", steps="5"))
    assert grower.activity.startswith("retrain rose.e1")


async def test_a_damaged_order_is_settled_where_its_proposal_was_accepted(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    order = plot.order("split", "rose.e1")
    plot.grow(order, "split", "rose.l1", new=2)
    folder = plot.home.state / "growth" / "p1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "order.json").write_bytes(b"{")
    coordinator.state = "accepted"
    grower.resume()
    async with asyncio.timeout(60):
        while folder.exists():
            await asyncio.sleep(0.02)
    assert not coordinator.told
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l2", "rose.l3"]


async def test_another_order_goes_on_beside_a_damaged_one_which_is_not_taken_anew(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    growth = plot.home.state / "growth"
    order = plot.order("retrain", "rose.e1", proposal="p2", steps="5")
    write_json(growth / "p2" / "order.json", order_fields(order))
    (growth / "p1").mkdir()
    (growth / "p1" / "order.json").write_bytes(b"{")
    coordinator.away = 10**9
    grower.resume()
    assert grower.activity.startswith("retrain rose.e1")
    await grower.stop()
    assert (growth / "p1" / "order.damaged").read_bytes() == b"{" and (growth / "p2" / "order.json").exists()
    plot.book.contributions.put(plot.given().envelope, plot.last / CONTRIBUTION_FILE)
    shutil.rmtree(growth / "p2")
    another = made(plot, coordinator)
    another.resume()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.growth.carrying._CLOSING_S", 0.1)
        with pytest.raises(ConflictError, match="its order was damaged"):
            await another.carry_out(replace(order, proposal="p1"))
    coordinator.away = 0
    another.kick()
    async with asyncio.timeout(60):
        while (growth / "p1").exists():
            await asyncio.sleep(0.02)
    assert coordinator.told[-1][0] == "failed" and "EOF while parsing" in coordinator.told[-1][1]
    await another.stop()


@pytest.mark.parametrize(
    "kept", [b'{"reason": "no ro', b"", b"[]", b'{"reason": 5}', b'{"reason": "no room"}']
)
async def test_a_failure_is_told_after_a_restart_also_where_the_record_of_why_was_damaged(
    plot: Plot, grower: Grower, coordinator: Coordinator, kept: bytes
) -> None:
    folder = plot.home.state / "growth" / "p1"
    write_json(folder / "order.json", order_fields(plot.order("retrain", "rose.e1")))
    (folder / "failed.json").write_bytes(kept)
    grower.resume()
    await idle(grower)
    ((stage, reason),) = coordinator.told
    expected = "no room" if kept.endswith(b'm"}') else "a failure; the record of why is damaged"
    assert stage == "failed" and reason == f"p1: found {expected}" and not folder.exists()


async def test_children_are_trained_side_by_side_where_there_is_room(
    plot: Plot, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.growth.carrying.have_room", lambda children, threads: True)
    grower, together, seen = made(plot, coordinator), 0, set[int]()
    await grower.carry_out(plot.order("split", "rose.e1", steps="1500"))
    async with asyncio.timeout(120):
        while grower.activity:
            running = {child.pid for child in psutil.Process().children(recursive=True) if is_learner(child)}
            together, seen = max(together, len(running)), seen | running
            await asyncio.sleep(0.01)
    assert together == 2 and len(seen) == 3  # the copies, then one process for each child
    assert [stage for stage, _ in coordinator.told] == ["started", "split", "trained"]
    assert {plot.head(leaf).version for leaf in ("rose.l2", "rose.l3")} == {2}
    assert coordinator.state == "accepted" and len(coordinator.contributions) == 2


def is_learner(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == "learner" or "node.learner" in process.cmdline()
    return False


async def test_where_one_child_fails_the_other_is_ended_too(
    plot: Plot, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.growth.carrying.have_room", lambda children, threads: True)
    job = JobMaker.job

    def spoiled(maker: JobMaker, task: GrowthTask, leaves: Sequence[LeafId], **more: Any) -> GrowthJob:
        made = job(maker, task, leaves, **more)
        if task != "child":
            return made
        is_first = leaves == [LeafId("rose.l2")]
        gone = tuple(replace(leaf, shard="/nowhere") for leaf in made.leaves)
        return replace(made, leaves=gone) if is_first else replace(made, steps=10**6)

    monkeypatch.setattr(JobMaker, "job", spoiled)
    grower = made(plot, coordinator)
    await grower.carry_out(plot.order("split", "rose.e1"))
    await idle(grower)
    stage, reason = coordinator.told[-1]
    assert stage == "failed" and "no record of where the leaf's samples are" in reason
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]
    assert not [child for child in psutil.Process().children(recursive=True) if is_learner(child)]


async def test_a_cancelled_proposal_ends_the_work(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    await grower.carry_out(plot.order("retrain", "rose.e1", steps="1000000"))
    await asyncio.sleep(0.3)
    coordinator.state = "failed"
    grower.kick()
    await idle(grower)
    assert plot.head("rose.l1").version == 1


async def test_the_next_order_may_come_before_the_last_one_is_closed(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    await grower.carry_out(plot.order("retrain", "rose.e1", steps="1000000"))
    await asyncio.sleep(0.3)
    coordinator.state = "failed"  # cancelled; the node has not looked yet
    await grower.carry_out(plot.order("retrain", "rose.e1", proposal="p2", steps="5"))
    coordinator.state = "working"
    assert grower.activity.startswith("retrain rose.e1")


async def test_a_contribution_that_the_gate_has_already_counts_as_taken_up(
    plot: Plot, grower: Grower, coordinator: Coordinator
) -> None:
    coordinator.forgets = True
    await grower.carry_out(plot.order("split", "rose.e1", steps="20"))
    await idle(grower)
    assert [stage for stage, _ in coordinator.told] == ["started", "split", "trained"]
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l2", "rose.l3"]


class Kept:
    """Brings back what was given, and nothing else."""

    def __init__(self, plot: Plot) -> None:
        self._plot, self.asked = plot, list[str]()
        self._there = plot.given().envelope, (plot.last / CONTRIBUTION_FILE).read_bytes()

    async def provide(self, digest: str) -> None:
        self.asked.append(digest)
        envelope, arrays = self._there
        if statement_digest(envelope) != digest:
            raise NotFoundError(f"contribution {digest[:12]}", found="none")
        file = self._plot.folder / "arrays"
        file.write_bytes(arrays)
        self._plot.book.contributions.put(envelope, file)


async def test_an_order_about_a_contribution_that_is_kept_no_more_brings_it_back(
    plot: Plot, coordinator: Coordinator
) -> None:
    order, own = plot.order("split", "rose.e1", steps="20"), Kept(plot)
    shutil.rmtree(plot.home.state / "contributions")
    with pytest.raises(ConflictError, match="none that is kept here"):
        await made(plot, coordinator).carry_out(order)
    grower = made(plot, coordinator, own)
    with pytest.raises(ConflictError, match="none that is kept here"):
        await grower.carry_out(replace(order, before="0" * 64))
    await grower.carry_out(order)
    await idle(grower)
    assert own.asked == ["0" * 64, order.before] and coordinator.state == "accepted"


@pytest.fixture
async def children(plot: Plot, grower: Grower, coordinator: Coordinator) -> tuple[str, str]:
    """The experts of a leaf that was split."""
    await grower.carry_out(plot.order("split", "rose.e1", steps="5"))
    await idle(grower)
    coordinator.told.clear()
    coordinator.state, coordinator.anew = "working", True
    return "rose.e2", "rose.e3"


async def test_several_experts_are_trained_anew_in_one_proposal(
    plot: Plot, grower: Grower, coordinator: Coordinator, children: tuple[str, str]
) -> None:
    before = {name: plot.head(name.replace(".e", ".l")).version for name in children}
    await grower.carry_out(plot.order("retrain", *children, proposal="p2", steps="20"))
    assert grower.activity == "retrain rose.e2 rose.e3 0%"
    await idle(grower)
    assert [stage for stage, _ in coordinator.told] == ["started", "trained"]
    for name in children:
        head = plot.head(name.replace(".e", ".l"))
        assert (head.version, head.parents) == (before[name] + 1, ())


async def test_what_was_trained_anew_before_a_crash_is_not_trained_again(
    plot: Plot, coordinator: Coordinator, grower: Grower, children: tuple[str, str]
) -> None:
    order = plot.order("retrain", *children, proposal="p2", steps="400")
    await grower.carry_out(order)
    folder = plot.home.state / "growth" / "p2"
    async with asyncio.timeout(60):
        while not (folder / "retrain-rose.l2" / "delivered.json").exists():
            await asyncio.sleep(0.01)
    first = plot.head("rose.l2")
    await grower.stop()
    another = made(plot, coordinator)
    another.resume()
    await idle(another)
    assert plot.head("rose.l2") == first and plot.head("rose.l3").parents == ()
    assert coordinator.told[-1][0] == "trained"


async def test_one_that_cannot_be_trained_anew_keeps_no_other_from_it(
    plot: Plot, grower: Grower, coordinator: Coordinator, children: tuple[str, str]
) -> None:
    plot.book.shard(LeafId("rose.l2")).write_bytes(b"damaged")
    await grower.carry_out(plot.order("retrain", *children, proposal="p2", steps="20"))
    await idle(grower)
    stage, reason = coordinator.told[-1]
    assert stage == "failed" and reason
    assert plot.head("rose.l2").parents != () and plot.head("rose.l3").parents == ()


async def test_each_expert_that_is_trained_anew_stays_shared_as_it_was(
    plot: Plot, grower: Grower, children: tuple[str, str]
) -> None:
    known = plot.head("rose.l3")
    narrow = sign_statement(
        replace(known, version=known.version + 1, parent_version=known.version, share="serve-only"),
        plot.signer,
    )
    plot.book.note_refined(read_statement(narrow, Manifest))
    await grower.carry_out(plot.order("retrain", *children, proposal="p2", steps="5"))
    await idle(grower)
    assert [plot.head(leaf).share for leaf in ("rose.l2", "rose.l3")] == ["public", "serve-only"]
