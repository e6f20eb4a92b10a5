"""What is known of a gate's leaves is kept between queries, and is what looking at all of them would say."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swarm.answering.combining import LEAST_SHARE, root_owners
from swarm.answering.gate_reading import Reading
from swarm.answering.head_changes import MOST, HeadChanges
from swarm.answering.known_head import KnownHead
from swarm.answering.known_swarm import KnownSwarm
from swarm.answering.leaf_index import LeafIndex
from swarm.answering.roster import Allowed, Roster, Rosters
from swarm.domain.errors import NotFoundError
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import ExpertId, NodeId, SwarmId, expert_of, leaf_of
from swarm.domain.members import RevocationList
from swarm.gating.tree import Tree
from swarm.trust.statements import sign_statement
from tests.support.answers import SmallHeads, SmallSwarm, best, gate, head
from tests.support.trust import SWARM, found

ADA, BOB, DAN, EVE = (expert_of(leaf_of(NodeId(owner), 0)) for owner in ("ada", "bob", "dan", "eve"))


def test_changes_are_told_since_a_mark_as_long_as_anybody_knows_them() -> None:
    changes = HeadChanges()
    changes.note("ada.e0", "bob.e0")
    mark = changes.mark
    assert changes.since(mark) == frozenset() and changes.since(0) == {"ada.e0", "bob.e0"}
    changes.note("ada.e0")
    assert changes.since(mark) == {"ada.e0"}
    for number in range(3 * MOST):
        changes.note(f"eve.e{number}")
    assert changes.since(mark) is None and changes.mark == mark + 1 + 3 * MOST
    assert changes.since(changes.mark - MOST) == {f"eve.e{number}" for number in range(2 * MOST, 3 * MOST)}


def same(one: Allowed, other: Allowed) -> None:
    """Both let the same be asked, and name the same speakers."""
    assert np.array_equal(one.leaves, other.leaves) and one.is_empty == other.is_empty
    for name in ("rows", "columns", "speakers"):
        assert np.array_equal(getattr(one.experts, name), getattr(other.experts, name))
    assert [one.speakers(leaf) for leaf in range(4)] == [other.speakers(leaf) for leaf in range(4)]


@pytest.mark.parametrize("seed", range(5))
def test_a_roster_that_follows_changes_is_the_one_made_anew(seed: int) -> None:
    rng = np.random.default_rng(seed)
    active, swarm = gate(), SmallSwarm()
    versions = [head(owner) for owner in ("ada", "bob", "dan", "eve")]
    rosters = Rosters(swarm.heads)
    for _ in range(60):
        expert = (ADA, BOB, DAN, EVE)[rng.integers(4)]
        if rng.random() < 0.3:
            swarm.heads.pop(expert, None)
        else:  # often what another leaf has: an exact copy
            swarm.heads[expert] = versions[rng.integers(4)]
        if rng.random() < 0.5:
            continue
        kept, anew = (
            rosters.of(active),
            Roster(active, [swarm.heads.answering(x) for x in active.value.leaves]),
        )
        assert kept.heads == anew.heads and kept.digests == anew.digests
        for owners in ((), (NodeId("bob"),), (NodeId("eve"), NodeId("ada"))):
            for speaking in ("all", "with columns", "none"):
                same(kept.allowed(owners, speaking), anew.allowed(owners, speaking))  # type: ignore[arg-type]
                assert kept.allowed(owners, speaking) is kept.allowed(owners, speaking)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="owner zoe: found no leaf in gate 7; expected some of ada, bob"):
        rosters.of(active).allowed((NodeId("zoe"),))


def test_copies_of_an_expert_speak_for_each_other_in_their_order() -> None:
    ada, eve = head("ada"), head("eve")
    heads = [ada, eve, ada, None, ada]
    allowed = Allowed.of(heads, np.array([True, True, True, False, False]))
    assert [row for row, _ in allowed.speakers(2)] == [2, 0] and [r for r, _ in allowed.speakers(1)] == [1]
    assert allowed.speakers(3) == [] == allowed.speakers(4)
    assert allowed.experts.speakers.tolist() == [0, 1] and allowed.experts.speaker_of(2) == 0


class CountedHeads(SmallHeads):
    """Counts whose versions are looked up."""

    def __init__(self, known: dict[ExpertId, KnownHead]) -> None:
        super().__init__(known)
        self.asked: Counter[str] = Counter()

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        self.asked[leaf.expert] += 1
        return super().answering(leaf)


@pytest.mark.parametrize("kind", ["gate", "prototypes", "corrected"])
async def test_only_leaves_whose_versions_changed_are_looked_at_again_and_that_counts_at_once(
    kind: str,
) -> None:
    swarm = SmallSwarm()
    heads = CountedHeads(swarm.heads)
    rosters = Rosters(heads)
    swarm.router._router._rosters = rosters
    way = {"combination": kind, "top_k": 1}
    first = await swarm.ask("c", **way)
    again = await swarm.ask("c", **way)
    assert {*heads.asked.values()} == {1} and first.probabilities.tobytes() == again.probabilities.tobytes()
    owner = first.sources[0][-1].owner
    expert = expert_of(leaf_of(owner, 0))
    gone = heads.pop(expert)
    without = await swarm.ask("c", **way)
    assert owner not in {each.owner for each in without.sources[0]}
    assert heads.asked == {ADA: 2, BOB: 2, DAN: 2, EVE: 2} and without.missing_experts == ()
    heads[expert] = KnownHead(
        manifest=replace(gone.manifest, version=2, parent_version=1), digest=gone.digest
    )
    swarm.owners[owner].heads[gone.digest] = heads[expert]
    back = await swarm.ask("c", **way)
    assert [(each.owner, each.version) for each in back.sources[0]][-1] == (owner, 2)
    assert best(back) == best(first)


def test_who_is_revoked_answers_for_nothing_from_the_next_query_on(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    swarm = found(tmp_path / "swarm", now=now)
    known = KnownSwarm(tmp_path / "known", swarm.member("app", role="client", now=now))
    active = gate()
    for leaf in active.value.leaves:
        version = head(leaf.owner)
        known._heads[leaf.expert], known._manifests[version.digest] = version.digest, version
    rosters = Rosters(known)
    assert rosters.of(active).allowed(()).leaves.all() and known.lacking() == ()
    listed = RevocationList(swarm=SwarmId(SWARM), number=1, nodes=(NodeId("bob"),), issued_at=now.timestamp())
    known.keyring.set_revocations(sign_statement(listed, swarm.coordinator_signer))
    assert [head is None for head in rosters.of(active).heads] == [False, True, False, False]
    assert rosters.of(active).allowed(()).leaves.tolist() == [True, False, True, True]
    assert rosters.of(active).allowed((NodeId("bob"),)).is_empty
    mark = known.changes.mark
    known.keyring.set_revocations(sign_statement(listed, swarm.coordinator_signer))
    assert known.changes.mark == mark


async def test_who_is_not_expected_to_hold_a_version_is_asked_last_however_fast_it_is() -> None:
    swarm = SmallSwarm()
    for name in ("ada", "dan"):
        swarm.owners[name] = swarm._connect(name, serves="bob")
    expected = {NodeId("bob"), NodeId("dan")}
    swarm.live.holds = lambda node, *_: node in expected  # type: ignore[method-assign]
    calls = swarm.router._router._calls
    for _ in range(8):
        calls.times.took(NodeId("bob"), 1, 2.0)
        calls.times.took(NodeId("ada"), 1, 0.001)
    way = {"combination": "gate", "top_k": 1, "owners": (NodeId("bob"),)}

    async def server() -> str:
        return (await swarm.ask("c", **way)).sources[0][0].served_by

    assert await server() == "dan"
    swarm.owners["dan"].fails = True
    swarm.owners["bob"].fails = True
    assert await server() == "ada"
    expected.add(NodeId("ada"))
    swarm.owners["bob"].fails = False
    calls.times.took(NodeId("bob"), 1, 2.0)
    assert await server() == "ada"


def test_what_the_root_rests_on_is_added_up_one_region_after_the_other() -> None:
    rng = np.random.default_rng(0)
    owners = [NodeId("abc"[number]) for number in rng.integers(3, size=40)]
    own = [
        replace(gate().value.leaves[0], leaf=leaf_of(owner, row), owner=owner)
        for row, owner in enumerate(owners)
    ]
    shares = (rng.random((5, 40)) ** 8).astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    analytic = SimpleNamespace(region_shares=lambda *_: shares, tree=Tree.flat(40))
    active: Any = SimpleNamespace(analytic=analytic, leaf_index=LeafIndex.of(own, Tree.flat(40)))
    none = np.zeros((5, 1), np.float32)
    found = root_owners(active, Reading(weights=none, scores=none, features=none), none)
    for row in range(5):
        sums: dict[str, np.float32] = {}
        for owner, share in zip(owners, shares[row], strict=True):
            sums[owner] = np.float32(sums.get(owner, np.float32(0)) + share)
        ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        assert [(each.owner, each.weight) for each in found[row]] == [
            (owner, float(share)) for owner, share in ranked if share >= LEAST_SHARE
        ]
