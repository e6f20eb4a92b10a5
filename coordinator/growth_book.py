"""Proposals on disk, in the coordinator's folder: every state that one comes to is written, then told."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog
from pydantic import TypeAdapter

from coordinator.envelope_files import EnvelopeFiles
from coordinator.journal import Journal
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, SwarmError
from swarm.domain.growth import Proposal, ProposalState
from swarm.domain.ids import NodeId
from swarm.fault_points import reached
from swarm.gating.growth import RESTS_S, UNDONE_IN
from swarm.rpc.convert.growth import proposal_from_pb, proposal_to_pb

KEPT_ENDED = 1000
"""So many of the newest proposals are kept, and all that ended while something may still rest for it."""
KEPT_S = max(RESTS_S.values())
_RECORD = TypeAdapter(Proposal)
_LATEST = 253_370_764_800.0
"""The beginning of the year 9999, in seconds: later times have no date."""

log = structlog.get_logger()


class GrowthBook:
    """`<id>.json` per proposal; ids are p1, p2, ... and never used twice. Old ones that ended are dropped.

    The gate's versions say which changes they belong to, so a record that a crash left behind them can be
    brought up to them (`coordinator.growth_changes`).
    """

    def __init__(self, files: EnvelopeFiles, journal: Journal) -> None:
        """Read what is there; what is damaged is named in the log and left out. Reads files."""
        self._files, self._journal = files, journal
        self._writing = asyncio.Lock()
        self._known: dict[str, Proposal] = {}
        self._last = 0
        for name in files.names():
            if name[:1] != "p" or not name[1:].isdecimal():
                continue
            self._last = max(self._last, int(name[1:]))
            try:
                found = _RECORD.validate_json(files.get(name) or b"")
                _check(found, name)
            except (SwarmError, ValueError, OSError) as error:
                log.error("growth.damaged", proposal=name, reason=str(error)[:200])
                continue
            self._known[name] = found
        files.remove(*self._drop_old_ones())

    def all(self) -> list[Proposal]:
        """Return every proposal, newest first."""
        return sorted(self._known.values(), key=lambda each: int(each.id[1:]), reverse=True)

    def open(self) -> list[Proposal]:
        """Return those that have not ended, newest first."""
        return [each for each in self.all() if not each.has_ended]

    def open_of(self, owner: NodeId) -> Proposal | None:
        """Return the proposal that an owner carries out, None where it has none."""
        return next((each for each in self.open() if each.owner == owner), None)

    def find(self, id: str) -> Proposal | None:
        """Return the proposal of that id, None where there is none."""
        return self._known.get(id)

    def get(self, id: str) -> Proposal:
        """Return the proposal of that id; NotFoundError where there is none."""
        found = self._known.get(id)
        if found is None:
            raise NotFoundError(
                f"proposal {id[:40]!r}",
                found=f"p{self._last} as the newest" if self._last else "none yet",
                expected="one that was made",
                remedy="list them: swarm gate proposals",
            )
        return found

    def unended(self, id: str) -> Proposal:
        """Return the proposal of that id; ConflictError where it has ended."""
        found = self.get(id)
        if found.has_ended:
            raise ConflictError(found.subject, found=has_ended(found), expected="one that has not ended")
        return found

    def next_id(self) -> str:
        """Return an id that no proposal ever had; `add` takes it."""
        return f"p{self._last + 1}"

    async def add(self, proposal: Proposal) -> Proposal:
        """Record a new proposal."""
        async with self._writing:
            added = await self._put(proposal, "growth.proposed", by=proposal.by)
        reached("coordinator.growth.recorded")
        return added

    async def change(
        self,
        id: str,
        state: ProposalState,
        at: float,
        reason: str = "",
        *,
        evidence: Mapping[str, float] | None = None,
        cost: Mapping[str, float] | None = None,
        gate_version: int = 0,
    ) -> Proposal:
        """Bring a proposal to its next state; what is given besides is added to the record, but what a query
        cost before stays: a split has two stages. Raises ConflictError where it has ended: an end is final.
        """
        async with self._writing:
            known = self.unended(id)
            versions = known.gate_versions
            if gate_version and gate_version not in versions:
                versions = (*versions, gate_version)
            found = replace(
                known.now(state, at, reason),
                evidence={**known.evidence, **(evidence or {})},
                cost={
                    **(cost or {}),
                    **{name: kept for name, kept in known.cost.items() if _stays(name, cost or {})},
                },
                gate_versions=versions,
            )
            told = {"gate_version": gate_version} if gate_version else {}
            is_news = told or (known.state, known.reason) != (found.state, found.reason)
            return await self._put(found, f"growth.{state}" if is_news else "", **told)

    async def mark_undone(self, id: str, at: float, gate_version: int, *, undone: bool) -> Proposal:
        """Note on an accepted proposal that a gate version is without its change, or has it again."""
        async with self._writing:
            known = self.get(id)
            evidence = {name: value for name, value in known.evidence.items() if name != UNDONE_IN}
            if undone:
                evidence[UNDONE_IN] = float(gate_version)
            event = "growth.undone" if undone else "growth.redone"
            found = replace(known, changed_at=at, evidence=evidence)
            return await self._put(found, event, gate_version=gate_version)

    async def touch(self, id: str, at: float, *, before: str = "") -> Proposal:
        """Take note that a proposal's owner was heard of, and to which contribution it would go back."""
        async with self._writing:
            known = self.unended(id)
            return await self._put(replace(known, changed_at=at, before=before or known.before), "")

    async def _put(self, proposal: Proposal, event: str, **told: Any) -> Proposal:
        data = _RECORD.dump_json(proposal)
        await asyncio.to_thread(self._files.put, proposal.id, data)
        self._known[proposal.id] = proposal
        self._last = max(self._last, int(proposal.id[1:]))
        if proposal.has_ended and (dropped := self._drop_old_ones()):
            await asyncio.to_thread(self._files.remove, *dropped)
        if event:
            await self._journal.record(
                event,
                proposal=proposal.id,
                kind=proposal.kind,
                experts=" ".join(proposal.experts),
                owner=proposal.owner,
                **{name: words for name, words in _in_words(proposal).items() if words},
                **told,
            )
        return proposal

    def _drop_old_ones(self) -> list[str]:
        """Forget what nobody asks after any more, and return its ids.

        An owner's newest proposal stays, for the owner may be away and ask what became of it; and its newest
        accepted removal, by which one that was retired comes back.
        """
        if len(self._known) <= KEPT_ENDED:
            return []
        newest = self.all()
        rests_since = max(each.changed_at for each in newest) - KEPT_S
        asked_after = {each.owner: each.id for each in reversed(newest)}
        removals = [each for each in reversed(newest) if each.kind == "remove" and each.state == "accepted"]
        kept = {*asked_after.values(), *{each.owner: each.id for each in removals}.values()}
        old = [
            each.id
            for each in newest[KEPT_ENDED:]
            if each.has_ended and each.changed_at < rests_since and each.id not in kept
        ]
        for id in old:
            del self._known[id]
        return old


def _check(proposal: Proposal, id: str) -> None:
    """Raise InvalidInputError or ValueError for a record that is not of this id, has times without a date or
    would be refused by whoever reads a list with it."""
    if proposal.id != id:
        raise InvalidInputError(
            f"proposal {id}", found=f"the record of {proposal.id[:40]!a}", expected="its own"
        )
    proposal_from_pb(proposal_to_pb(proposal))
    latest = max(proposal.created_at, proposal.changed_at)
    if latest > _LATEST:
        raise InvalidInputError(
            f"proposal {id}", found=f"the time {latest:g}", expected=f"at most {_LATEST:.0f}"
        )


def _stays(name: str, newer: Mapping[str, float]) -> bool:
    return name.endswith("_before") or name not in newer


def _in_words(proposal: Proposal) -> dict[str, str]:
    return {"why": proposal.why, "reason": proposal.reason, "evidence": in_words(proposal.evidence)}


def in_words(evidence: Mapping[str, float]) -> str:
    """Return figures in few words: `tried_gained 12, tried_lost 3`."""
    return ", ".join(f"{name} {value:g}" for name, value in evidence.items())


def has_ended(proposal: Proposal) -> str:
    """Say how a proposal ended: `it was rolled back: ...`."""
    how = {"rolled-back": "was rolled back", "failed": "failed"}.get(proposal.state, f"was {proposal.state}")
    return f"it {how}: {proposal.reason}" if proposal.reason else f"it {how}"
