"""Contributions kept aside: they would harm others, so no gate has them, but askers may agree with them.

Whose labels follow another convention harms everybody who follows the usual one, and is still right for
those who share it. An asker's profile is solved over the owners whose sums agree with its examples, those
kept aside among them. One per owner, the newest; it goes when its owner leaves or comes into a gate.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from coordinator.candidate import plan_group
from coordinator.contributions import ContributionFiles
from coordinator.heads import Heads
from coordinator.solver_jobs import Group
from swarm.domain.contributions import Contribution
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.trust.statements import Statement

log = structlog.get_logger()


class AsideContributions:
    """Which of the coordinator's contributions are kept aside; their files lie with the others."""

    def __init__(
        self, files: ContributionFiles, heads: Heads, in_some_gate: Callable[[Digest], bool]
    ) -> None:
        """`in_some_gate` may read files."""
        self._files, self._heads, self._in_some_gate = files, heads, in_some_gate
        self._kept: dict[NodeId, Statement[Contribution]] = {}

    def load(self) -> None:
        """Read what is marked: a contribution that a crash left stored and not judged is not, and its owner
        sends it again. Reads files: call it outside the event loop."""
        for digest in self._files.digests():
            if not self._files.is_aside(digest):
                continue
            try:
                statement = self._files.statement(digest)
            except SwarmError as error:
                log.error("contribution.damaged", contribution=digest, reason=str(error))
                continue
            known = self._kept.setdefault(statement.value.owner, statement)
            if known.value.epoch < statement.value.epoch:
                self._kept[statement.value.owner] = statement

    @property
    def digests(self) -> frozenset[Digest]:
        """The contributions that are kept aside."""
        return frozenset(each.digest for each in self._kept.values())

    def has(self, digest: Digest) -> bool:
        """Return whether a contribution is kept aside."""
        return any(each.digest == digest for each in self._kept.values())

    async def put(self, statement: Statement[Contribution]) -> bool:
        """Keep a stored contribution aside, in place of its owner's last one; False for one without sums,
        which no asker could agree with."""
        if statement.value.sums is None:
            return False
        await asyncio.to_thread(self._files.mark_aside, statement.digest)
        before = self._kept.get(statement.value.owner)
        self._kept[statement.value.owner] = statement
        if before is not None and before.digest != statement.digest:
            await self._forget(before.digest)
        return True

    async def drop(self, owner: NodeId, *, keep: Digest | None = None) -> None:
        """Forget what is kept aside of an owner; `keep` is its contribution that counts now."""
        before = self._kept.pop(owner, None)
        if before is None:
            return
        if before.digest == keep:
            await asyncio.to_thread(self._files.unmark_aside, before.digest)
        else:
            await self._forget(before.digest)

    async def _forget(self, digest: Digest) -> None:
        """Remove a contribution that is kept aside no more; one that a gate of old lists stays, unmarked."""

        def forget() -> None:
            if self._in_some_gate(digest):
                self._files.unmark_aside(digest)
            else:
                self._files.remove(digest)

        await asyncio.to_thread(forget)

    def beside(self, gate: GateStatement) -> Mapping[NodeId, Group]:
        """Return each owner that the gate lacks, with its contribution, leaves and branches.

        Left out are those with an expert that is not there any more, or a class that the gate cannot name.
        """
        present, names = {leaf.owner for leaf in gate.leaves}, set(gate.class_names)
        manifests = self._heads.manifests()
        found = {}
        for owner, statement in sorted(self._kept.items()):
            group = plan_group([statement], manifests)
            whole = group.leaves and all(leaf.has_columns for leaf in group.leaves)
            if owner not in present and whole and names.issuperset(statement.value.class_names()):
                found[owner] = group
        return found
