"""Contributions on their way in: received into files, checked in a child, judged with those that wait too."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from weakref import WeakValueDictionary

from coordinator.aside import AsideContributions
from coordinator.contribution_checks import check_epoch, check_experts, check_statement
from coordinator.contributions import Arrived, ContributionFiles
from coordinator.gate_making import GateMaker
from coordinator.gate_queue import ContributionQueue, Pending
from coordinator.gate_records import GateRecords
from coordinator.growth_changes import GrowthChanges
from coordinator.heads import Heads
from coordinator.members import Members
from coordinator.solver_process import Solver
from coordinator.specifications import Specifications
from swarm.domain.contributions import Contribution
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import LEASE_SECONDS, Caller, ContributionOutcome
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement


class ContributionIntake:
    """Everything up to the outcome of one contribution. `changing` is held while the gate may change."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        members: Members,
        heads: Heads,
        specifications: Specifications,
        contributions: ContributionFiles,
        aside: AsideContributions,
        solver: Solver,
        records: GateRecords,
        maker: GateMaker,
        growth: GrowthChanges,
        changing: asyncio.Lock,
    ) -> None:
        self._store, self._members, self._heads = store, members, heads
        self._specifications, self._contributions = specifications, contributions
        self._aside = aside
        self._solver, self._records, self._maker = solver, records, maker
        self._growth = growth
        self._queue = ContributionQueue(changing, self._judge)
        self._arriving: WeakValueDictionary[NodeId, asyncio.Lock] = WeakValueDictionary()

    async def take(
        self, caller: Caller, envelope: bytes, arrays: AsyncIterator[bytes], fence: int, name: str
    ) -> ContributionOutcome:
        """Return what became of a contribution, remembered under name; raises its refusal by name.

        It is received and checked while others are judged; then it waits for its turn.
        """
        known = await self._records.recalled(name)
        if known is not None:
            return known
        statement = await self._members.open(envelope, Contribution)
        check_statement(statement.value, self._specifications.current.value, caller)
        outcome = await self._duplicate(statement)
        if outcome is not None:
            return outcome
        await self._check_may_enter(statement.value, fence)
        # One at a time of each owner: nobody's calls keep everybody else's from the solver.
        lock = self._arriving.setdefault(statement.value.owner, asyncio.Lock())
        async with lock:
            under_way = self._queue.result_of(statement.digest)
            if under_way is None:
                arrived = await self._checked(statement, arrays)
        if under_way is not None:
            return await asyncio.shield(under_way)
        pending = Pending(statement=statement, arrived=arrived, fence=fence, name=name)
        return await self._queue.outcome_of(pending)

    async def stop(self) -> None:
        """End what is under way, as a crash would."""
        await self._queue.stop()

    async def _checked(self, statement: Statement[Contribution], arrays: AsyncIterator[bytes]) -> Arrived:
        arrived = await self._contributions.receive(statement.value, arrays)
        try:
            trunk = self._specifications.current.value.trunk
            await self._solver.check(statement.digest, statement.value, arrived.path, trunk)
        except BaseException:
            arrived.discard()
            raise
        return arrived

    async def _judge(self, batch: Sequence[Pending]) -> None:
        """Give each its outcome: newcomers' in one candidate, and each alone where that one harms somebody.

        Newer contributions of owners in the gate are judged one at a time: each is measured against a gate
        that has all others, so none of them may be missing there because it is new as well. So are those
        that carry a proposal out, by rules of their own.
        """
        ready = []
        for pending in batch:
            try:
                outcome = await self._records.recalled(pending.name)
                outcome = outcome or await self._duplicate(pending.statement)
                if outcome is not None:
                    pending.finish(outcome)
                    continue
                await self._check_may_enter(pending.statement.value, pending.fence)
                await self._keep(pending)
                ready.append(pending)
            except SwarmError as error:
                pending.fail(error)
        known = {each.value.owner for each in await self._records.present()}
        growth = [pending for pending in ready if pending.statement.value.proposal]
        usual = [pending for pending in ready if pending not in growth]
        new = [pending for pending in usual if pending.owner not in known]
        again = await self._judge_together(new, is_last=len(new) < 2) if new else ()
        for pending in [*again, *(pending for pending in usual if pending.owner in known)]:
            await self._judge_together([pending], is_last=True)
        for pending in growth:
            await self._judge_growth(pending)

    async def _judge_growth(self, pending: Pending) -> None:
        try:
            found: ContributionOutcome | SwarmError = await self._growth.judge(pending.statement)
        except SwarmError as error:
            found = error
        if isinstance(found, ContributionOutcome) and found.state == "refused":
            await self._records.record_refusal(found, _reason([pending]))
        await self._end(pending, found)

    async def _judge_together(self, batch: Sequence[Pending], *, is_last: bool) -> Sequence[Pending]:
        """Judge one candidate with all of batch; return what is to be judged alone."""
        try:
            found: ContributionOutcome | SwarmError = await self._outcome_together(batch)
        except SwarmError as error:
            found = error
            if not is_last and not isinstance(error, NotReadyError | UnreachableError):
                return batch  # one of them is at fault, and each alone says which
        if isinstance(found, ContributionOutcome) and found.state == "refused":
            if not is_last:
                return batch
            await self._records.record_refusal(found, _reason(batch))
        for pending in batch:
            await self._end(pending, found)
        return ()

    async def _end(self, pending: Pending, found: ContributionOutcome | SwarmError) -> None:
        """Forget what did not come into a gate, unless it is kept aside, then tell its owner."""
        digest = pending.statement.digest
        try:
            is_refused = isinstance(found, ContributionOutcome) and found.state == "refused"
            harms = is_refused and not pending.statement.value.proposal
            if digest in self._records.digests:
                await self._aside.drop(pending.owner, keep=digest)
            elif not (harms and await self._aside.put(pending.statement)):
                await self._forget_unless_used(digest)
            if isinstance(found, ContributionOutcome):
                await self._records.remember(pending.name, found)
                pending.finish(found)
            else:
                pending.fail(found)
        except SwarmError as error:
            pending.fail(error)

    async def _outcome_together(self, batch: Sequence[Pending]) -> ContributionOutcome:
        owners = {pending.owner for pending in batch}
        present = await self._records.present()
        others = [each for each in present if each.value.owner not in owners]
        together = [*others, *(pending.statement for pending in batch)]
        return await self._maker.judge_and_activate(
            together,
            self._specifications.serving(each.value for each in together),
            _reason(batch),
            untouched=others if len(others) < len(present) else None,
        )

    async def _keep(self, pending: Pending) -> None:
        statement = pending.statement
        await asyncio.to_thread(
            self._contributions.keep, statement.digest, statement.envelope, pending.arrived
        )
        reached("coordinator.contribution.kept")

    async def _forget_unless_used(self, digest: Digest) -> None:
        if not self._aside.has(digest) and not await self._records.first_with(digest):
            await asyncio.to_thread(self._contributions.remove, digest)

    async def _duplicate(self, statement: Statement[Contribution]) -> ContributionOutcome | None:
        if statement.digest not in self._records.digests:
            return None
        first = await self._records.first_with(statement.digest)
        return ContributionOutcome(state="duplicate", gate_version=first, reason="in the gate already")

    async def _check_may_enter(self, contribution: Contribution, fence: int) -> None:
        await self._store.renew_lease(contribution.owner, fence, LEASE_SECONDS)
        found = [await self._heads.committed(leaf.expert) for leaf in contribution.leaves]
        found = [await self._heads.committed(leaf.expert) for leaf in contribution.leaves]
        pins = {Digest(leaf.manifest) for leaf in contribution.leaves if leaf.manifest}
        pinned = {pin: await self._heads.pin(pin) for pin in sorted(pins)}
        check_experts(
            contribution,
            {head.manifest.expert: head.manifest for head in found if head is not None},
            {pin: head.manifest for pin, head in pinned.items() if head is not None},
        )
        present = await self._records.present()
        last = [each.value.epoch for each in present if each.value.owner == contribution.owner]
        check_epoch(contribution, max(last, default=0))
        self._growth.check(contribution, present)
        self._specifications.next_with(contribution.class_names())


def _reason(batch: Sequence[Pending]) -> str:
    each = [f"{pending.owner}, epoch {pending.statement.value.epoch}" for pending in batch]
    return f"contribution{'s' if len(each) > 1 else ''} of {'; '.join(each)}"
