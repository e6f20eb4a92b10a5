"""What became of a proposal is what the gate says, whether or not its record could be written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from coordinator.envelope_files import EnvelopeFiles
from coordinator.growth_book import GrowthBook
from coordinator.growth_changes import ChangeParts, GrowthChanges
from coordinator.growth_trial import Judged
from coordinator.journal import Journal
from swarm.digests import digest_of
from swarm.domain.errors import ConflictError
from swarm.domain.gates import GateBranch, GateChange, GateLeaf, GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.membership import ContributionOutcome
from swarm.gating.growth import UNDONE_IN
from swarm.registry.memory_store import MemoryStore
from tests.support.answers import gate

ADA = NodeId("ada")
COPIES, TRAINED, BEFORE = (digest_of(name) for name in (b"copies", b"trained", b"before"))


class FullDisk(EnvelopeFiles):
    """A folder that takes no record of these states until `states` is empty."""

    states: frozenset[str] = frozenset()

    def put(self, name: str | int, envelope: bytes) -> None:
        if any(f'"state":"{state}"'.encode() in envelope for state in self.states):
            raise OSError(28, "No space left on device")
        super().put(name, envelope)


class Publication:
    def __init__(self, gates: Mapping[int, GateStatement]) -> None:
        self._gates = gates
        self.files = SimpleNamespace(envelope=gates.get, open=lambda value: SimpleNamespace(value=value))

    @property
    def version(self) -> int:
        return max(self._gates)

    @property
    def active(self) -> Any:
        return self.required()

    def required(self) -> Any:
        return SimpleNamespace(value=self._gates[self.version])


class Desk:
    """Ada's split p1, the copies of which came with gate 4, and whatever the gate comes to next."""

    def __init__(self, folder: Path) -> None:
        self.files = FullDisk(folder)
        self.book = GrowthBook(self.files, Journal(MemoryStore(), lambda: 9.0))
        self.gates = {
            version: replace(gate().value, version=version, change=change, reason=f"gate {version}")
            for version, change in ((3, GateChange(kind="contribute")), (4, _change("split")))
        }
        self.present = [_given(COPIES)]
        self.kept = {BEFORE, COPIES, TRAINED}
        self.error: Exception | None = None
        contributions = SimpleNamespace(
            has=self.kept.__contains__, pinned=set, remove=self.kept.remove, statement=None
        )
        parts = {
            "book": self.book,
            "records": SimpleNamespace(present=self._present, statements=self._statements, digests=()),
            "publication": Publication(self.gates),
            "specifications": None,
            "contributions": contributions,
            "maker": SimpleNamespace(activate_as_is=self._go_back),
            "trial": SimpleNamespace(judge_and_activate=self._judge),
            "splits": None,
            "clock": lambda: 9.0,
        }
        self.changes = GrowthChanges(ChangeParts(**cast(Any, parts)))

    async def split(self) -> Proposal:
        return await self.book.add(
            Proposal(
                id="p1",
                kind="split",
                experts=(ExpertId("ada.e0"),),
                owner=ADA,
                gate_version=3,
                by="operator",
                created_at=1.0,
                changed_at=1.0,
                state="working",
                before=BEFORE,
                gate_versions=(4,),
            )
        )

    async def settle(self) -> ContributionOutcome:
        return await self.changes.judge(_given(TRAINED))

    async def _judge(self, contributions: Any, reason: str, **how: Any) -> Judged:
        if self.error is not None:
            raise self.error
        return Judged(outcome=self._activate(contributions, _change("settle")))

    async def _go_back(self, contributions: Any, like: Any, reason: str, change: Any) -> ContributionOutcome:
        return self._activate(contributions, change)

    def _activate(self, contributions: Sequence[Any], change: GateChange) -> ContributionOutcome:
        version = max(self.gates) + 1
        self.gates[version] = replace(gate().value, version=version, change=change, reason="it pays")
        self.present = list(contributions)
        return ContributionOutcome(state="activated", gate_version=version, reason="")

    async def _present(self) -> list[Any]:
        return self.present

    async def _statements(self, digests: Sequence[Digest]) -> list[Any]:
        return [_given(digest, proposal="") for digest in digests]


def _change(kind: Any) -> GateChange:
    return GateChange(kind=kind, proposal="p1")


def _given(digest: Digest, proposal: str = "p1") -> Any:
    value = SimpleNamespace(owner=ADA, proposal=proposal, leaves=(), epoch=2)
    return SimpleNamespace(value=value, digest=digest)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    await found.split()
    return found


async def test_a_gate_counts_though_its_record_cannot_be_written(desk: Desk) -> None:
    desk.files.states = frozenset({"accepted"})
    with capture_logs() as logs:
        assert (await desk.settle()).state == "activated"
    assert "growth.not_written" in [entry["event"] for entry in logs]
    assert desk.changes.is_behind and desk.book.get("p1").state == "trying"
    with pytest.raises(OSError, match="No space"):
        await desk.changes.end("p1", "cancelled by operator")
    assert max(desk.gates) == 5  # nothing was rolled back
    desk.files.states = frozenset()
    await desk.changes.reconcile()
    found = desk.book.get("p1")
    assert (found.state, found.gate_versions, found.reason) == ("accepted", (4, 5), "it pays")
    assert not desk.changes.is_behind


async def test_what_the_gate_has_accepted_is_not_cancelled_though_its_record_is_behind(desk: Desk) -> None:
    desk.files.states = frozenset({"accepted"})
    await desk.settle()
    desk.files.states = frozenset()
    with pytest.raises(ConflictError, match="it was accepted"):
        await desk.changes.end("p1", "cancelled by operator")
    assert max(desk.gates) == 5 and desk.present[0].digest == TRAINED


async def test_a_trial_that_breaks_leaves_the_proposal_to_be_tried_again(desk: Desk) -> None:
    desk.error = RuntimeError("a child was killed")
    with pytest.raises(RuntimeError):
        await desk.settle()
    assert desk.book.get("p1").state == "working"
    desk.error = None
    assert (await desk.settle()).state == "activated"
    assert desk.book.get("p1").state == "accepted"


async def test_a_trial_that_was_cut_short_before_it_could_be_noted_is_seen_from_the_gate(desk: Desk) -> None:
    desk.error, desk.files.states = RuntimeError("no space"), frozenset({"working"})
    with pytest.raises(RuntimeError):
        await desk.settle()
    assert desk.changes.is_behind and desk.book.get("p1").state == "trying"
    desk.files.states = frozenset()
    await desk.changes.reconcile()
    found = desk.book.get("p1")
    assert (found.state, found.reason) == ("working", "its trial was cut short")


@pytest.mark.parametrize("has_before", [True, False])
async def test_the_way_back_says_who_is_left_out(desk: Desk, has_before: bool) -> None:
    if not has_before:
        desk.kept.remove(BEFORE)
    found = await desk.changes.end("p1", "cancelled by operator")
    assert found.state == "rolled-back" and found.reason.startswith("cancelled by operator")
    assert ("ada" in found.reason) == (not has_before)
    assert [each.digest for each in desk.present] == ([BEFORE] if has_before else [])


async def test_what_was_accepted_is_marked_while_a_rollback_is_without_it(desk: Desk) -> None:
    whole, one, other = (_leaf(number) for number in range(3))
    branch = GateBranch(leaf=whole.leaf, owner=ADA)
    desk.gates[3] = replace(desk.gates[3], leaves=(whole,))
    await desk.settle()
    for version in (4, 5):
        desk.gates[version] = replace(desk.gates[version], leaves=(one, other), branches=(branch,))
    await desk.changes.reconcile()
    assert UNDONE_IN not in desk.book.get("p1").evidence

    back = GateChange(kind="rollback")
    desk.gates[6] = replace(desk.gates[3], version=6, change=back)
    for _ in range(2):
        await desk.changes.reconcile()
        found = desk.book.get("p1")
        assert (found.state, found.evidence[UNDONE_IN]) == ("accepted", 6.0)
    assert GrowthBook(desk.files, Journal(MemoryStore(), lambda: 9.0)).get("p1") == found

    desk.gates[7] = replace(desk.gates[5], version=7, change=back)
    await desk.changes.reconcile()
    assert UNDONE_IN not in desk.book.get("p1").evidence


async def test_what_was_taken_away_is_marked_where_a_rollback_brings_it_back(desk: Desk) -> None:
    leaves = tuple(_leaf(number) for number in range(2))
    await desk.settle()
    await desk.book.add(
        replace(desk.book.get("p1"), id="p2", kind="remove", gate_version=5, gate_versions=(6,))
    )
    for version in (5, 6, 7):
        kind = "rollback" if version == 7 else "remove"
        proposal = "p2" if version == 6 else ""
        desk.gates[version] = replace(
            gate().value,
            version=version,
            leaves=leaves[:1] if version == 6 else leaves,
            change=GateChange(kind=kind, proposal=proposal),
        )
    await desk.changes.reconcile()
    assert [UNDONE_IN in desk.book.get(id).evidence for id in ("p1", "p2")] == [False, True]


def _leaf(number: int) -> GateLeaf:
    place = leaf_of(ADA, number)
    return GateLeaf(leaf=place, owner=ADA, expert=expert_of(place), class_names=("a",))
