"""Carrying out proposals, one at a time, beside training (docs/adr/0012).

A task that a crash interrupted is taken up again, once the coordinator has said that its proposal still
stands. What a proposal changed in the tree of leaves is put back where it comes to nothing; what was trained
stays here and in the registry. One whose order cannot be read any more is given up by the name of its folder.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from node.durable import link_durably, write_json
from node.growth.adding import forget_taken, take_along
from node.growth.checks import check_order, contribution_before, own_leaves
from node.growth.job_making import JobMaker
from node.growth.jobs import GrownLeaf, GrowthJob, GrowthResult
from node.growth.order_files import (
    FAILED_FILE,
    ORDER_FILE,
    is_proposal,
    kept_order,
    kept_reason,
    order_fields,
    order_file,
    set_aside,
)
from node.growth.reporting import Reporting
from node.growth.retraining import retrain_each
from node.growth.side_by_side import each_of, have_room
from node.growth.stages import GrowerParts, Stages
from node.growth.unused import NEW_EXPERTS
from node.jobs import CONTRIBUTION_FILE
from node.plan import Plan
from node.stream.novelty import NOVEL_FILE
from swarm.domain.errors import ConflictError, SwarmError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import GrowthOrder, Proposal
from swarm.domain.ids import ExpertId, LeafId
from swarm.trust.statements import Statement, statement_digest

_CLOSING_S = 5.0
_CLOSE_AGAIN_S = 5.0
"""A proposal whose end cannot be written, as on a full disk, is closed again after so long."""
_log = structlog.get_logger(__name__)


class Grower:
    """GrowerPort: takes orders, carries them out, and follows what becomes of their proposals."""

    def __init__(
        self,
        parts: GrowerParts,
        reporting: Reporting,
        learns_mega_batches: Callable[[], bool] = lambda: False,
    ) -> None:
        """`learns_mega_batches`: whether the node's contribution is about to change."""
        self._parts, self._reporting, self._book = parts, reporting, parts.book
        self._learns_mega_batches = learns_mega_batches
        self._folder = parts.home.state / "growth"
        self._novel = parts.home.state / NOVEL_FILE
        self._stages: Stages | None = None
        self._task: asyncio.Task[None] | None = None
        self._given_up: dict[str, asyncio.Task[None]] = {}
        """By proposal: those whose order cannot be read, until the coordinator was told."""
        self._taking = asyncio.Lock()

    @property
    def activity(self) -> str:
        """What to say in a heartbeat: `split ada.e1 40%`; empty while nothing is carried out."""
        if self._stages is None:
            return ""
        order, done = self._stages.order, self._stages.done
        # Of a split: copies, two children, and what settles it.
        expected = {"split": 4, "retrain": len(order.experts)}.get(order.kind, 1)
        return " ".join((order.kind, *order.experts, f"{sum(done.values()) / expected:.0%}"))

    async def carry_out(self, order: GrowthOrder) -> None:
        """Take an order, or refuse it by name (`check_order`); what becomes of it is reported.

        Sent twice, it is carried out once. ConflictError while another one is being carried out.
        """
        async with self._taking:
            if self._stages is not None and self._stages.order.proposal == order.proposal:
                return
            await self._closing()
            self._check_free(order)
            await self._bring_back(order.before)
            self._check_free(order)
            self._take(order)

    async def _closing(self) -> None:
        """Give an order whose proposal has ended a moment to be closed: the next may come at once."""
        if tasks := self._tasks():
            self.kick()
            await asyncio.wait(tasks, timeout=_CLOSING_S)

    def _check_free(self, order: GrowthOrder) -> None:
        if self._stages is not None:
            present = self._stages.order
            raise ConflictError(
                f"{order.kind} of {' and '.join(order.experts) or self._parts.identity.id}",
                found=f"{present.proposal}, a {present.kind} that is not done yet",
                expected="one proposal at a time",
                remedy=f"wait for it, or end it: swarm gate cancel {present.proposal}",
            )
        if order.proposal in self._given_up:
            raise ConflictError(
                order.proposal,
                found="one that is given up here: its order was damaged",
                expected="another one",
            )
        if self._learns_mega_batches() and order.kind != "retrain":
            raise ConflictError(
                f"{order.kind} of {' and '.join(order.experts) or self._parts.identity.id}",
                found="a mega-batch that is being learned, after which this node contributes anew",
                expected="a contribution that stands",
                remedy="propose it again in a minute",
            )

    async def _bring_back(self, contribution: str) -> None:
        """Have the contribution that an order is about here, also after `swarm gate rollback`. Where it
        cannot be had, `check_order` refuses the order for it."""
        if self._parts.own is None:
            return
        try:
            await self._parts.own.provide(contribution)
        except SwarmError as error:
            _log.warning("contribution.not_here", contribution=contribution, because=str(error))

    def _take(self, order: GrowthOrder) -> None:
        specification = self._parts.knowledge.specification()
        check_order(order, self._parts.identity.id, self._book, specification, self._novel)
        folder = self._folder / order.proposal
        if order.kind == "add":
            before = contribution_before(order, self._parts.identity.id, self._book).value
            take_along(order, self._parts.home.state, self._book, before, specification, folder)
        write_json(folder / ORDER_FILE, order_fields(order))
        self._start([(order, folder)], is_new=True)

    def resume(self) -> None:
        """Take up what a crash interrupted, the oldest first: what has ended meanwhile is closed, the rest
        goes on. What cannot be read is given up."""
        found: list[tuple[GrowthOrder, Path]] = []
        for folder in sorted(self._folder.glob("*"), key=lambda each: (len(each.name), each.name)):
            if not order_file(folder).exists():  # a crash was faster than its order
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                found.append((kept_order(folder), folder))
            except SwarmError as error:
                _log.error("growth.damaged", proposal=folder.name, reason=str(error))
                set_aside(folder)
                if is_proposal(folder.name):
                    self._give_up(folder, error)
                continue
            _log.info("growth.resumed", proposal=folder.name)
        if found:
            self._start(found, is_new=False)

    def kick(self) -> None:
        """Look again what became of the proposal."""
        self._reporting.kick()

    def follow(self) -> None:
        """After a gate that went back to an older one: let the tree of leaves be as that has it."""
        gate = self._parts.knowledge.gate
        if gate is not None and (followed := self._book.tree.follow(gate.contributions, gate.version)):
            _log.info("growth.followed", gate_version=gate.version, proposals=followed)

    def retire_withdrawn(self, experts: Collection[ExpertId]) -> None:
        """Retire the leaves of these experts of this node, which have a tombstone: the next training is of
        others, or of a new one."""
        gone = [leaf.leaf for leaf in self._book.leaves() if leaf.expert in experts]
        for leaf in gone:
            self._book.tree.withdraw(leaf)
        if gone:
            _log.info("leaf.withdrawn", leaves=" ".join(gone))

    async def stop(self) -> None:
        """End what runs; it is taken up by the next start."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._given_up.values(), *([self._task] if self._task is not None else [])]

    def _give_up(self, folder: Path, error: SwarmError) -> None:
        """Report a proposal whose order cannot be read as failed, unless it has ended, and close it."""
        proposal = folder.name

        async def fail() -> None:
            raise error

        task = asyncio.create_task(self._run(proposal, folder, fail, is_new=False), name="growth-failed")
        self._given_up[proposal] = task
        task.add_done_callback(lambda _: self._given_up.pop(proposal, None))

    def _start(self, orders: Sequence[tuple[GrowthOrder, Path]], *, is_new: bool) -> None:
        """Carry orders out, one after the other."""
        self._stages = Stages(parts=self._parts, order=orders[0][0])

        async def carried_out() -> None:
            try:
                for order, folder in orders:
                    self._stages = stages = Stages(parts=self._parts, order=order)
                    await self._run(
                        order.proposal, folder, partial(self._work, stages, folder), is_new=is_new
                    )
            except Exception:
                _log.exception("growth.broke")
            finally:
                self._stages = None

        self._task = asyncio.create_task(carried_out(), name="growth")

    async def _run(
        self, proposal: str, folder: Path, work: Callable[[], Awaitable[None]], *, is_new: bool
    ) -> None:
        try:
            known = None if is_new else await self._reporting.asked(proposal)
            if is_new or (known is not None and not known.has_ended):
                await work()
                known = await self._reporting.ended(proposal)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            reason = str(error)
            if not isinstance(error, SwarmError):
                _log.exception("growth.broke", proposal=proposal)
                reason = f"{type(error).__name__}: {error}"
            try:
                write_json(folder / FAILED_FILE, {"reason": reason})
            except OSError as full:  # without it, a crash before the report costs the work again, no more
                _log.warning("growth.reason_not_kept", proposal=proposal, because=str(full))
            self._parts.outbox.drop(f"{proposal}-")
            known = await self._reporting.tell(proposal, "failed", reason)
        await self._closed(proposal, folder, known)

    async def _closed(self, proposal: str, folder: Path, known: Proposal | None) -> None:
        """Close a proposal that has ended, as soon as the disk lets it."""
        while True:
            try:
                self._close(proposal, folder, known)
            except OSError as error:
                _log.error("growth.not_closed", proposal=proposal, because=str(error))
                await asyncio.sleep(_CLOSE_AGAIN_S)
            else:
                break
        self.follow()

    def _close(self, proposal: str, folder: Path, known: Proposal | None) -> None:
        """Keep, or put back, what a proposal changed, now that it has ended."""
        versions = known.gate_versions if known is not None else ()
        ended_at = max((*versions, self._parts.knowledge.gate_version))
        if known is not None and known.state == "accepted":
            self._book.tree.settle(proposal, ended_at)
            forget_taken(self._parts.home.state, folder)
        else:
            self._book.tree.put_back(proposal, ended_at)
            self._parts.outbox.drop(f"{proposal}-")
        state, reason = (known.state, known.reason) if known is not None else ("unknown", "")
        _log.info("growth.ended", proposal=proposal, state=state, reason=reason)
        shutil.rmtree(folder, ignore_errors=True)

    async def _work(self, stages: Stages, folder: Path) -> None:
        """Carry an order out; return early when the proposal has ended meanwhile."""
        if (folder / FAILED_FILE).exists():
            raise ConflictError(stages.order.proposal, found=kept_reason(folder))
        work = asyncio.create_task(self._carry(stages, folder), name="growth-work")
        ended = asyncio.create_task(self._reporting.ended(stages.order.proposal), name="growth-ended")
        try:
            await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, ended):
                task.cancel()
            await asyncio.gather(work, ended, return_exceptions=True)

    async def _carry(self, stages: Stages, folder: Path) -> None:
        parts, order = self._parts, stages.order
        specification = parts.knowledge.specification()
        await parts.knowledge.provide_trunk(specification)
        maker = JobMaker(
            home=parts.home,
            node=parts.identity.id,
            book=self._book,
            registry=parts.registry,
            specification=specification,
            order=order,
            net=parts.net,
            novel=folder / NOVEL_FILE,
        )
        is_laid_down = (folder / order.kind).exists()
        await self._reporting.tell(order.proposal, "started", "" if is_laid_down else await self._room())
        if order.kind == "split":
            await self._split(stages, folder, maker)
            return
        if order.kind == "retrain":
            leaves = own_leaves(order.experts, parts.identity.id, self._book)
            await retrain_each(stages, folder, maker, [leaf.leaf for leaf in leaves])
            await self._reporting.tell(order.proposal, "trained")
            return

        async def job() -> GrowthJob:
            leaves = [leaf.leaf for leaf in own_leaves(order.experts, parts.identity.id, self._book)]
            return maker.job(
                order.kind,
                leaves if order.kind != "add" else (),
                new=parts.new_leaves(1) if order.kind in ("merge", "add") else (),
                ancestor=await maker.ancestor() if order.kind == "merge" else None,
                threads=parts.threads,
            )

        await stages.go(folder / order.kind, job)

    async def _room(self) -> str:
        """Make room in the registry for what the order lays down, and say what was withdrawn for it; what it
        refuses for the lack of room ends the proposal. A registry that is away is asked by the courier later.
        """
        stages, unused = self._stages, self._parts.unused
        wanted = NEW_EXPERTS.get(stages.order.kind, 0) if stages is not None else 0
        if not wanted or unused is None:
            return ""
        try:
            gone = await unused.make_room(wanted)
        except UnreachableError as error:
            _log.info("growth.room_unknown", because=str(error))
            return ""
        return f"withdrew {' '.join(gone)}, which no gate has, to make room" if gone else ""

    async def _split(self, stages: Stages, folder: Path, maker: JobMaker) -> None:
        """Exact copies first, under pins; then the children apart; then the same without pins."""
        parts, order = self._parts, stages.order

        async def copies() -> GrowthJob:
            (leaf,) = own_leaves(order.experts, parts.identity.id, self._book)
            return maker.job("split", [leaf.leaf], new=parts.new_leaves(2), threads=parts.threads)

        split = await stages.go(folder / "split", copies)
        await self._reporting.tell(order.proposal, "split")
        children = [leaf.leaf for leaf in split.leaves]
        given = _contribution_of(folder / "split")
        root = await self._root(split.leaves)
        together = have_room(len(children), parts.threads)

        async def train(leaf: LeafId) -> None:
            async def job() -> GrowthJob:
                threads = max(1, parts.threads // (len(children) if together else 1))
                return maker.job("child", [leaf], gate=root, contribution=given, threads=threads)

            offered = self._book.tree.offered(leaf)
            await stages.go(folder / f"train-{leaf}", job)
            self._book.tree.note_taken_up(leaf, offered)

        await each_of(children, train, together=together)
        await self._reporting.tell(order.proposal, "trained")

        async def settled() -> GrowthJob:
            return maker.job("regate", children, contribution=given, threads=parts.threads)

        if not split.split_gate:
            _as_before(split, folder / "split", folder / "settle")
        await stages.go(folder / "settle", settled)

    async def _root(self, copies: Sequence[GrownLeaf]) -> Statement[GateStatement] | None:
        """Return the gate whose root the children's corrections are trained against, if they have some."""
        if not any(leaf.correction is not None for leaf in copies):
            return None
        with suppress(SwarmError):
            return await self._parts.knowledge.provide_root()
        return None


def _as_before(split: GrowthResult, made: Path, folder: Path) -> None:
    """Lay down what settles a split without a learned gate: the same arrays."""
    if (folder / GrowthResult.FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    link_durably(made / CONTRIBUTION_FILE, folder / CONTRIBUTION_FILE)
    replace(split, task="regate", leaves=(), notes=()).write(folder)


def _contribution_of(folder: Path) -> str:
    """Return the digest of the contribution that a stage has sent."""
    plan = Plan.read(folder)
    assert plan is not None and plan.contribution, "the stage is done"
    return statement_digest(plan.contribution.encode())
