"""Records of proposals on disk, what may be proposed, whether it pays, and when it is given up."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from coordinator.envelope_files import EnvelopeFiles
from coordinator.growth_benefit import Wanted, pays, speaking, tried
from coordinator.growth_book import GrowthBook
from coordinator.growth_checks import check_caller, check_free, check_retrained, leaves_for, owner_for
from coordinator.growth_lineage import came_from_withdrawn, descends_from_withdrawn, withdrawn_ancestors
from coordinator.growth_settings import GrowthSettings
from coordinator.growth_watch import AbandonedProposals
from coordinator.journal import Journal
from swarm.domain.combination import Combination
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    UnreachableError,
)
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.growth import Proposal, Tried
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId
from swarm.domain.inference import GateTrial
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode, Standing
from swarm.domain.membership import Caller
from swarm.registry.memory_store import MemoryStore
from tests.support.answers import gate

ADA, OPERATOR = Caller(role="node", id=NodeId("ada")), Caller(role="operator", id=NodeId("operator"))
E0, E1 = ExpertId("ada.e0"), ExpertId("ada.e1")


def proposal(id: str = "p1", **changes: Any) -> Proposal:
    values: dict[str, Any] = {
        "kind": "split", "experts": (E0,), "owner": NodeId("ada"), "gate_version": 3, "by": "operator",
        "created_at": 1.0, "changed_at": 1.0,
    }  # fmt: skip
    return Proposal(id=id, **values | changes)


async def book(folder: Path) -> GrowthBook:
    return GrowthBook(EnvelopeFiles(folder / "proposals"), Journal(MemoryStore(), lambda: 5.0))


# Records


async def test_a_proposal_is_read_back_as_it_was_left(tmp_path: Path) -> None:
    first = await book(tmp_path)
    assert first.next_id() == "p1"
    await first.add(proposal(options={"gate": "learned"}))
    await first.change("p1", "working", 6.0, "on its way", evidence={"tried_z": 2.0}, gate_version=4)
    again = await book(tmp_path)
    assert again.all() == first.all() and again.next_id() == "p2"
    found = again.get("p1")
    assert (found.state, found.gate_versions, found.evidence) == ("working", (4,), {"tried_z": 2.0})
    assert again.open_of(NodeId("ada")) == found and again.open_of(NodeId("bob")) is None


async def test_a_damaged_record_is_left_out_and_its_id_not_used_again(tmp_path: Path) -> None:
    first = await book(tmp_path)
    await first.add(proposal())
    (tmp_path / "proposals" / "p7.json").write_bytes(b'{"id": "p7"')
    again = await book(tmp_path)
    assert [each.id for each in again.all()] == ["p1"] and again.next_id() == "p8"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"evidence": {"a": float("nan")}}, "evidence a: found nan"),
        ({"evidence": {"a": float("inf")}}, "evidence a: found inf"),
        ({"cost": {"train_flops": -1.0}}, "cost train_flops: found -1"),
        ({"id": "p1"}, "the record of 'p1'"),
        ({"gate_version": -5}, "out of range"),
        ({"gate_version": 2**70}, "out of range"),
        ({"gate_versions": [3, -1]}, "out of range"),
        ({"created_at": float("nan")}, "created_at: found nan"),
        ({"changed_at": float("nan")}, "changed_at: found nan"),
        ({"changed_at": -1.0}, "changed_at: found -1"),
        ({"changed_at": 1e300}, "the time 1e+300"),
        ({"owner": "Nobody At All"}, "node name"),
        ({"experts": ["ada.e0", "ada.e0"]}, "experts"),
        ({"options": {"gate": "none"}}, "split, gate"),
    ],
)
async def test_a_record_that_is_json_but_cannot_be_true_is_left_out_by_name_and_kept(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    first = await book(tmp_path)
    await first.add(proposal())
    path = tmp_path / "proposals" / "p7.json"
    whole = json.loads((tmp_path / "proposals" / "p1.json").read_bytes()) | {"id": "p7"}
    path.write_text(json.dumps(whole))
    assert [each.id for each in (await book(tmp_path)).all()] == ["p7", "p1"]
    path.write_text(odd := json.dumps(whole | changes))
    with capture_logs() as logs:
        again = await book(tmp_path)
    (entry,) = logs
    assert (entry["event"], entry["proposal"]) == ("growth.damaged", "p7") and found in entry["reason"]
    assert again.all() == first.all() and again.next_id() == "p8"
    await again.add(proposal("p8"))
    assert path.read_text() == odd


async def test_a_record_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "proposals" / "p3.json").mkdir(parents=True)
    again = await book(tmp_path)
    assert not again.all() and again.next_id() == "p4"


async def test_old_proposals_that_ended_are_dropped_and_their_ids_never_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.growth_book.KEPT_ENDED", 5)
    records = await book(tmp_path)
    away = proposal("p1", owner=NodeId("bob"))
    retired = proposal("p2", kind="remove", owner=NodeId("cleo"), by="policy")
    for each, state in ((away, "accepted"), (retired, "accepted")):
        await records.add(each)
        await records.change(each.id, state, 2.0)  # type: ignore[arg-type]
    await records.add(proposal("p3", owner=NodeId("dan")))  # nobody has carried it out yet
    await records.add(proposal("p4", owner=NodeId("cleo")))
    await records.change("p4", "refused", 3.0)
    for number in range(5, 25):
        await records.add(proposal(f"p{number}"))
        await records.change(f"p{number}", "refused", 10.0 + number)
    assert len(records.all()) == 24  # all of the last day
    late = 2 * 86_400.0
    await records.add(proposal("p25"))
    await records.change("p25", "refused", late)
    kept = ["p25", "p24", "p23", "p22", "p21", "p4", "p3", "p2", "p1"]
    assert [each.id for each in records.all()] == kept
    assert records.next_id() == "p26" and records.find("p9") is None
    again = await book(tmp_path)
    assert [each.id for each in again.all()] == kept and again.next_id() == "p26"


async def test_what_was_kept_before_there_was_a_limit_is_dropped_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = await book(tmp_path)
    for number in range(1, 21):
        await records.add(proposal(f"p{number}"))
        await records.change(f"p{number}", "refused", 90_000.0 * number)
    monkeypatch.setattr("coordinator.growth_book.KEPT_ENDED", 5)
    again = await book(tmp_path)
    assert [each.id for each in again.all()] == [f"p{number}" for number in range(20, 15, -1)]
    assert len(list((tmp_path / "proposals").iterdir())) == 5


async def test_an_end_is_final(tmp_path: Path) -> None:
    records = await book(tmp_path)
    await records.add(proposal())
    await records.change("p1", "rolled-back", 6.0, "it did not pay")
    with pytest.raises(ConflictError, match="it was rolled back: it did not pay"):
        await records.change("p1", "accepted", 7.0)
    with pytest.raises(NotFoundError, match="p1 as the newest"):
        records.get("p2")


async def test_every_state_is_an_event(tmp_path: Path) -> None:
    store = MemoryStore()
    records = GrowthBook(EnvelopeFiles(tmp_path), Journal(store, lambda: 5.0))
    await records.add(proposal())
    await records.touch("p1", 5.5)
    await records.change("p1", "accepted", 6.0, "it pays", evidence={"tried_gained": 12.0}, gate_version=4)
    found = [(event.kind, dict(event.fields)) for event in await store.events("", 10)]
    assert [kind for kind, _ in found] == ["growth.proposed", "growth.accepted"]
    last = found[1][1]
    assert (last["proposal"], last["kind"], last["experts"]) == ("p1", "split", "ada.e0")
    assert (last["reason"], last["evidence"], last["gate_version"]) == ("it pays", "tried_gained 12", "4")


def test_a_policy_set_at_run_time_stays_until_a_start_is_configured_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "growth-policy.json"
    GrowthSettings(path, "manual").set("eager")
    assert GrowthSettings(path, "manual").policy == "eager"
    assert GrowthSettings(path, "conservative").policy == "conservative"
    path.write_bytes(b"{")
    assert GrowthSettings(path, "manual").policy == "manual"


# What may be proposed


def test_experts_of_several_owners_are_not_merged() -> None:
    with pytest.raises(InvalidInputError, match="experts of ada and bob"):
        owner_for("merge", [E0, ExpertId("bob.e0")], OPERATOR)
    assert owner_for("merge", [E0, E1], OPERATOR) == "ada"


@pytest.mark.parametrize(
    ("kind", "experts"),
    [("split", [E0, E1]), ("split", []), ("merge", [E0]), ("merge", [E0, E0]), ("remove", []), ("add", [])],
)
def test_each_kind_takes_so_many_experts(kind: Any, experts: list[ExpertId]) -> None:
    with pytest.raises(InvalidInputError):
        owner_for(kind, experts, OPERATOR)


def test_a_node_proposes_for_itself_and_an_operator_for_all() -> None:
    assert owner_for("add", [], ADA) == "ada"
    check_caller(ADA, NodeId("ada"), "split")
    check_caller(OPERATOR, NodeId("ada"), "split")
    with pytest.raises(NotAuthorisedError, match="bob or an operator"):
        check_caller(ADA, NodeId("bob"), "split")


def test_an_expert_without_a_leaf_is_not_found() -> None:
    present = gate().value
    leaf = present.leaves[0]
    assert leaves_for(present, [leaf.expert]) == [leaf]
    with pytest.raises(NotFoundError, match=r"expert ada\.e9"):
        leaves_for(present, [ExpertId("ada.e9")])


def test_one_proposal_at_a_time_of_an_owner_and_of_an_expert() -> None:
    with pytest.raises(ConflictError, match=r"split of ada\.e0 \(p1\), which is open"):
        check_free([proposal()], [E0], NodeId("bob"))
    with pytest.raises(ConflictError, match="owner ada"):
        check_free([proposal()], [E1], NodeId("ada"))
    check_free([proposal()], [ExpertId("bob.e0")], NodeId("bob"))


# Whether it pays


def trial(samples: int = 100, before: int = 50, **columns: int) -> GateTrial:
    names = ("correct", "gained", "lost", "gained_among_own", "lost_among_own", "taken", "gained_on_root")
    values: dict[str, Any] = {name: (columns.get(name, 0),) for name in (*names, "lost_on_root")}
    return GateTrial(samples=samples, nll_sum=(1.0,), incumbent_correct=before, **values)


def test_gains_and_losses_are_paired_over_all_judges() -> None:
    found = tried(
        {
            NodeId("ada"): trial(correct=57, gained=9, lost=2),
            NodeId("bob"): trial(correct=49, gained=0, lost=1),
        },
        "gate top-1",
    )
    assert (found.samples, found.gained, found.lost) == (200, 9, 3)
    assert found.standard_errors == pytest.approx(6 / 12**0.5)


def test_nobodys_samples_drown_everybody_elses() -> None:
    loud = trial(samples=4000, before=0, correct=4000, gained=4000)
    few = trial(samples=100, before=50, correct=30, lost=20)
    found = tried({NodeId("loud"): loud, NodeId("few"): few}, "gate top-1")
    assert found.samples == 500 and found.gained == 400


def test_what_is_right_of_a_new_class_counts_as_gained() -> None:
    """Ten samples of a class that the present gate lacks; three of known ones go to it."""
    found = tried({NodeId("ada"): trial(correct=57, taken=3)}, "gate top-1")
    assert (found.gained, found.lost) == (10, 3)


@pytest.mark.parametrize(
    ("gained", "lost", "wanted", "accepted"),
    [
        (0, 0, "gain", False),
        (1, 0, "gain", False),
        (2, 0, "gain", True),
        (9, 6, "gain", False),
        (10, 4, "gain", True),
        (0, 0, "no-loss", True),
        (0, 1, "no-loss", True),
        (0, 2, "no-loss", False),
        (0, 9, "nothing", True),
    ],
)
def test_better_by_more_than_one_standard_error(
    gained: int, lost: int, wanted: Wanted, accepted: bool
) -> None:
    found = Tried(samples=100, gained=gained, lost=lost, compared="gate top-1")
    assert pays(found, wanted) is accepted


ROOT, GATE, POE = Combination(name="root"), Combination(name="gate"), Combination(name="poe", top_k=2)


@pytest.mark.parametrize(
    ("served", "evidence", "has_sums", "wanted"),
    [
        (1, {}, True, GATE),
        (0, {"accuracy_gate_top1": 0.8, "accuracy_poe_top2": 0.9}, True, POE),
        (0, {"accuracy_gate_top1": 0.9, "accuracy_poe_top2": 0.8}, True, GATE),
        (1, {}, False, Combination(name="prototypes", top_k=4)),
    ],
)
def test_a_proposal_is_tried_where_experts_speak(
    served: int, evidence: dict[str, float], has_sums: bool, wanted: Combination
) -> None:
    combinations = [ROOT, GATE, POE, Combination(name="prototypes", top_k=4)]
    found = speaking(combinations, served, evidence, has_sums=has_sums, has_corrections=False)
    assert found == wanted


# Given up, and trained anew


async def nothing_behind() -> None:
    """No record is behind the gate."""


async def test_an_owner_that_is_away_or_silent_for_too_long_ends_its_proposal(tmp_path: Path) -> None:
    records = await book(tmp_path)
    await records.add(proposal(state="working", changed_at=0.0))
    await records.add(proposal("p2", state="working", owner=NodeId("bob"), experts=(), changed_at=0.0))
    now, live, ended = [0.0], {"ada", "bob"}, list[tuple[str, str]]()

    async def end(id: str, reason: str) -> Proposal:
        ended.append((id, reason))
        return await records.change(id, "failed", now[0], reason)

    class Live:
        def get(self, node: str) -> object | None:
            return node if node in live else None

    watch = AbandonedProposals(
        records,
        cast(Any, Live()),
        lambda: now[0],
        end=end,
        left_alone=set(),
        catch_up=nothing_behind,
        patience_s=10.0,
        silence_s=100.0,
    )
    for at, gone in ((1.0, True), (9.0, True), (10.0, False), (12.0, True), (20.0, True), (23.0, True)):
        now[0] = at
        live.discard("ada") if gone else live.add("ada")
        await watch.look()
        assert not ended or at == 23.0
    assert ended == [("p1", "ada was away for 11 s")]
    now[0] = 101.0
    await watch.look()
    assert ended[1:] == [("p2", "nothing was heard of it for 0.0 h")]
    assert not records.open()


async def test_a_proposal_that_nobody_took_up_is_void(tmp_path: Path) -> None:
    records = await book(tmp_path)
    await records.add(proposal(changed_at=0.0))
    await records.add(proposal("p2", owner=NodeId("bob"), experts=(), changed_at=0.0))
    now, ended = [9.0], list[tuple[str, str]]()

    async def end(id: str, reason: str) -> Proposal:
        ended.append((id, reason))
        return await records.change(id, "failed", now[0], reason)

    class Live:
        def get(self, node: str) -> object:
            return node

    behind = [UnreachableError("store")]

    async def catch_up() -> None:
        if behind:
            raise behind.pop()

    watch = AbandonedProposals(
        records,
        cast(Any, Live()),
        lambda: now[0],
        end=end,
        left_alone={"p2"},
        catch_up=catch_up,
        patience_s=10.0,
    )
    await watch.look()
    assert not ended and not behind
    now[0] = 11.0
    await watch.look()
    assert ended == [("p1", "ada did not take it up for 11 s")]


async def test_whatever_fails_while_proposals_are_watched_they_are_watched_on() -> None:
    looks = list[int]()

    class Broken:
        def open(self) -> list[Proposal]:
            looks.append(len(looks))
            raise KeyError("ada")

    watch = AbandonedProposals(
        cast(Any, Broken()),
        cast(Any, None),
        lambda: 0.0,
        end=cast(Any, None),
        left_alone=(),
        catch_up=nothing_behind,
        patience_s=0.004,
    )
    with capture_logs() as logs:
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(10):
            while len(looks) < 2:
                await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert logs[0]["event"] == "growth.not_looked_after" and logs[0]["exc_info"]


class Registry:
    """The lineage of ada.e0: version 2 came from bob's, which was withdrawn."""

    def __init__(self, newest: Standing) -> None:
        self._newest = newest

    async def lineage(self, manifest: str = "", expert: str = "") -> Lineage:
        def node(digest: str, of: str, version: int, standing: Standing) -> LineageNode:
            owner = NodeId(of.split(".", maxsplit=1)[0])
            return LineageNode(
                manifest=Digest(digest), expert=ExpertId(of), version=version, owner=owner,
                standing=standing, created_at=1.0,
            )  # fmt: skip

        return Lineage(
            nodes=(
                node("a1", "ada.e0", 1, "superseded"),
                node("a2", "ada.e0", 2, self._newest),
                node("b1", "bob.e0", 1, "withdrawn"),
                node("c1", "cyd.e0", 1, "live"),
            ),
            edges=(
                LineageEdge(child=Digest("a2"), parent=Digest("b1"), kind="borrowed-from"),
                LineageEdge(child=Digest("b1"), parent=Digest("c1"), kind="borrowed-from"),
            ),
        )


async def test_the_owner_of_a_withdrawn_ancestor_is_found() -> None:
    tainted = cast(Any, Registry("descends-from-withdrawn"))
    assert await withdrawn_ancestors(tainted, E0) == {"bob"}
    assert await descends_from_withdrawn(tainted, E0) == "ada.e0@2"
    assert await descends_from_withdrawn(cast(Any, Registry("live")), E0) == ""


async def test_all_that_is_asked_for_together_must_have_come_from_what_was_withdrawn() -> None:
    tainted = cast(Any, Registry("descends-from-withdrawn"))
    assert await came_from_withdrawn(tainted, [E0], NodeId("bob"))
    assert not await came_from_withdrawn(tainted, [E0, ExpertId("cyd.e0")], NodeId("bob"))
    assert not await came_from_withdrawn(tainted, [E0], NodeId("cyd"))


def test_any_number_of_one_owners_experts_is_trained_anew_together() -> None:
    assert owner_for("retrain", [E0, E1], ADA) == "ada"
    for experts, words in (([], "distinct experts"), ([E0, E0], "distinct experts")):
        with pytest.raises(InvalidInputError, match=words):
            owner_for("retrain", experts, OPERATOR)
    with pytest.raises(InvalidInputError, match="propose it for each owner by itself"):
        owner_for("retrain", [E0, ExpertId("bob.e0")], OPERATOR)


def test_an_expert_that_was_split_is_not_trained_anew_and_one_that_no_gate_has_may_be() -> None:
    children = (
        GateLeaf(leaf=LeafId("ada.l6"), owner=NodeId("ada"), expert=ExpertId("ada.e6"), class_names=("a",)),
        GateLeaf(leaf=LeafId("ada.l8"), owner=NodeId("ada"), expert=ExpertId("ada.e8"), class_names=("a",)),
    )
    split = replace(
        gate().value,
        leaves=tuple(replace(leaf, parent="ada.l5" if n else "ada.l7") for n, leaf in enumerate(children)),
        branches=(
            GateBranch(leaf=LeafId("ada.l5"), owner=NodeId("ada")),
            GateBranch(leaf=LeafId("ada.l7"), owner=NodeId("ada"), parent="ada.l5"),
        ),
    )
    known = [ExpertId(f"ada.e{number}") for number in (5, 6, 7, 8, 9)]
    check_retrained(split, [ExpertId("ada.e6"), ExpertId("ada.e9")], known)
    with pytest.raises(NotFoundError, match=r"it was split into ada\.l7 and ada\.l8"):
        check_retrained(split, [ExpertId("ada.e6"), ExpertId("ada.e5")], known)
    with pytest.raises(NotFoundError, match="no leaf of it in gate"):
        check_retrained(split, [ExpertId("ada.e4")], known)


def test_the_loop_is_not_held_up_by_files(tmp_path: Path) -> None:
    """Records are written by threads: two changes at a time leave both."""

    async def both() -> None:
        records = await book(tmp_path)
        await asyncio.gather(*(records.add(proposal(f"p{number}")) for number in (1, 2)))
        assert {each.id for each in (await book(tmp_path)).all()} == {"p1", "p2"}

    asyncio.run(both())
