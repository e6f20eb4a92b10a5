"""Growth by hand: what the commands propose, how they follow it, what they print and how they end."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.cli import adding, places
from swarm.cli import growth as growth_commands
from swarm.cli.app import build
from swarm.cli.gate import describe_gate
from swarm.cli.gate_tree import gate_tree
from swarm.cli.growth import followed
from swarm.cli.output import run_guarded
from swarm.config import SwarmHome
from swarm.digests import digest_of
from swarm.domain.collection import OwnerBytes
from swarm.domain.errors import ConflictError, NotFoundError, NotReadyError, SwarmError, UnreachableError
from swarm.domain.federation import FederationStep
from swarm.domain.gates import GateBranch, GateChange, GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.inference import SocketBytes
from swarm.domain.lineage import Lineage, LineageNode
from swarm.domain.members import Tombstone
from swarm.domain.membership import Caller, Head, NodeView, RegistryHealth, SwarmStatus
from swarm.gating.common_regions import packed_regions
from swarm.trust.identity import create_service_identity
from swarm.trust.statements import read_statement, sign_statement
from tests.support.node_homes import member_home
from tests.support.rpc import Growth, Membership
from tests.support.trust import gate

ROSE, OWN = NodeId("rose"), ExpertId("rose.e0")
ACCEPTED = Proposal(
    id="p1",
    kind="split",
    experts=(OWN,),
    owner=ROSE,
    gate_version=3,
    by="operator",
    created_at=1.0,
    changed_at=2.0,
    state="accepted",
    reason="gate top-1 on 200 validation samples: +12 -3",
    evidence={"tried_z": 2.32, "tried_samples": 200.0},
    cost={
        "train_flops": 2e9,
        "gate_flops_before": 100.0,
        "gate_flops_after": 120.0,
        "expert_flops_before": 900.0,
        "expert_flops_after": 900.0,
    },
    gate_versions=(4, 5),
)


class Coordinator(Growth):
    """The coordinator as commands see it: proposals in memory, a gate, who is connected."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self.caller = caller
        self.gate_envelope = b""
        self.alive: tuple[str, ...] = ("rose", "ben")
        self.away = 0

    async def propose(  # type: ignore[override]  # as its client
        self,
        kind: Any,
        experts: Sequence[ExpertId],
        options: Mapping[str, str] | None = None,
        gate_version: int = 0,
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        return await super().propose(
            self.caller, kind, experts, options or {}, gate_version, "k", owner=owner, regions=regions
        )

    async def proposals(self, proposal: str = "") -> list[Proposal]:
        if self.away:
            self.away -= 1
            raise UnreachableError("coordinator at h:1", found="nobody listens there")
        return await super().proposals(proposal)

    async def cancel(self, proposal: str) -> Proposal:  # type: ignore[override]
        return await super().cancel(self.caller, proposal, "k")

    async def growth_policy(self, policy: str = "") -> str:
        return await self.policy(policy, "k")

    async def gate(self, version: int = 0) -> bytes:
        if not self.gate_envelope:
            raise NotReadyError("gate", found="none yet")
        return self.gate_envelope

    async def status(self) -> SwarmStatus:
        views = tuple(
            NodeView(
                id=NodeId(name),
                alive=name in self.alive,
                revoked=False,
                fence=1,
                advertise="",
                activity="",
                last_seen=1.0,
                experts=(),
                socket_bytes=SocketBytes(),
                software="",
            )
            for name in ("rose", "ben", "eve")
        )
        return replace(await Membership().status(), nodes=views)


class Registry:
    """Heads, lineage and tombstones in memory: ben.e0 and ben.e1 and eve.e0 came from rose.e0."""

    def __init__(self) -> None:
        self.tombstones: list[bytes] = []
        self.versions = {
            digest_of(f"{expert}@{version}".encode()): (ExpertId(expert), version)
            for expert, version in (
                ("rose.e0", 1),
                ("ben.e0", 1),
                ("ben.e0", 2),
                ("ben.e1", 1),
                ("eve.e0", 1),
            )
        }

    async def manifest(self, expert: str) -> bytes:
        return b""

    async def health(self) -> RegistryHealth:
        filled = tuple(OwnerBytes(owner=NodeId(name), size_bytes=1000) for name in ("ben", "eve"))
        return RegistryHealth(
            redis="ok", durability="", blobs=0, blob_bytes=0, disk_free_bytes=0, socket_bytes=SocketBytes(),
            certificate_days=1.0, owners=filled, node_quota_bytes=5000,
        )  # fmt: skip

    async def heads(self, owner: str = "") -> list[Head]:
        newest = {
            expert: (version, digest)
            for digest, (expert, version) in sorted(self.versions.items(), key=lambda item: item[1])
        }
        withdrawn = {read_statement(each, Tombstone).value.id for each in self.tombstones}
        return [
            Head(expert=expert, version=version, manifest=digest)
            for expert, (version, digest) in newest.items()
            if expert not in withdrawn and expert.startswith(owner)
        ]

    async def withdraw(self, tombstone: bytes, fence: int) -> list[Digest]:
        assert fence == 7
        self.tombstones.append(tombstone)
        return [digest for digest, (expert, _) in self.versions.items() if expert != OWN]

    async def lineage(self, manifest: str = "", expert: str = "") -> Lineage:
        nodes = tuple(
            LineageNode(
                manifest=digest,
                expert=expert,
                version=version,
                owner=NodeId(expert.partition(".")[0]),
                standing="withdrawn" if expert == OWN else "descends-from-withdrawn",
                created_at=float(version),
            )
            for digest, (expert, version) in self.versions.items()
        )
        return Lineage(nodes=nodes, edges=())


class Agent:
    def __init__(self) -> None:
        self.left = False

    async def state(self) -> Any:
        return type("State", (), {"fence": 7})

    async def leave(self, reason: str) -> tuple[int, tuple[ExpertId, ...]]:
        self.left = True
        return 5, (OWN,)


class Stage:
    """A founder's and a node's home, and what their commands talk to."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.founded = member_home(folder)
        self.founder = SwarmHome(folder / "founder")
        create_service_identity(
            self.founded.ca,
            self.founder.operator / "identity",
            role="operator",
            coordinator_record=self.founded.coordinator.record,
            now=datetime.now(UTC),
        )
        self.coordinator = Coordinator(Caller(role="operator", id=NodeId("operator")))
        self.registry, self.agent = Registry(), Agent()
        self._capsys = capsys
        self.reachable: SwarmError | None = None

        @asynccontextmanager
        async def coordinator(place: places.Place) -> AsyncIterator[Coordinator]:
            if self.reachable is not None:
                raise self.reachable
            yield self.coordinator

        @asynccontextmanager
        async def registry(place: places.Place) -> AsyncIterator[Registry]:
            yield self.registry

        @asynccontextmanager
        async def agent(place: places.Place, *, start: bool = True) -> AsyncIterator[Agent]:
            yield self.agent

        patch.setattr(places, "coordinator", coordinator)
        patch.setattr(places, "registry", registry)
        patch.setattr(places, "agent", agent)
        patch.setattr(growth_commands, "POLL_S", 0.001)

    def run(self, *arguments: str, node: bool = False) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a command in the founder's home, or the node's."""
        root = self.home.root if node else self.founder.root
        code = run_guarded(build(), [*arguments, "--home", str(root)])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def json(self, *arguments: str, node: bool = False) -> Any:
        code, out, err = self.run(*arguments, "--json", node=node)
        assert code == 0, err
        return json.loads(out)

    def has_gate(self, *leaves: str) -> None:
        """Make a gate of the node's leaves the present one."""
        first = gate().leaves[0]
        value = replace(
            gate(3),
            swarm=SwarmId("garden"),
            leaves=tuple(
                replace(first, leaf=LeafId(leaf), owner=ROSE, expert=ExpertId(leaf.replace(".l", ".e")))
                for leaf in leaves
            ),
        )
        self.coordinator.gate_envelope = sign_statement(value, self.founded.coordinator_signer)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(tmp_path, monkeypatch, capsys)


def test_a_split_is_followed_until_it_is_accepted(stage: Stage) -> None:
    stage.coordinator.ends = ACCEPTED
    stage.coordinator.away = 2
    code, out, err = stage.run("expert", "split", "rose.e0", "--gate", "learned", "--steps", "50")
    assert code == 0
    assert stage.coordinator.acts[0][2:6] == ("split", (OWN,), {"gate": "learned", "steps": "50"}, 0)
    assert "split of rose.e0 (p1) is working" in err and "is accepted: gate top-1" in err
    assert err.count("waiting for the coordinator") == 1
    assert "gate versions it led to: 4, 5" in out and "tried_z 2.32" in out and "train_flops 2e+09" in out


@pytest.mark.parametrize("state", ["refused", "rolled-back", "failed"])
def test_what_was_not_accepted_ends_as_a_conflict_with_its_reason(stage: Stage, state: Any) -> None:
    stage.coordinator.ends = replace(ACCEPTED, state=state, reason="+3 -5 on 200 samples")
    code, out, err = stage.run("expert", "split", "rose.e0")
    assert (code, out) == (6, "")
    assert f"found:    {state}: +3 -5 on 200 samples" in err and "swarm gate proposals p1" in err
    code, out, _ = stage.run("expert", "retrain", "rose.e0", "--json")
    told = json.loads(out)
    assert (code, told["schema"], told["code"], told["exit_code"]) == (6, "swarm.error/1", "conflict", 6)


def test_without_waiting_the_proposal_goes_on_by_itself(stage: Stage) -> None:
    told = stage.json("expert", "merge", "rose.e0", "rose.e1", "--method", "ties", "--no-wait")
    assert (told["schema"], told["proposal"]["id"], told["proposal"]["state"]) == (
        "swarm.proposal/1",
        "p1",
        "working",
    )
    assert stage.coordinator.acts[0][3:5] == ((OWN, "rose.e1"), {"method": "ties"})
    assert "swarm gate proposals p2" in stage.run("expert", "split", "rose.e0", "--no-wait")[1]


def test_a_proposal_can_name_the_gate_that_it_was_made_against(stage: Stage) -> None:
    stage.run("expert", "split", "rose.e0", "--against", "3", "--no-wait")
    assert stage.coordinator.acts[0][5] == 3
    stage.coordinator.refusal = ConflictError("proposal against gate 3", found="gate 4")
    assert stage.run("expert", "split", "rose.e0", "--against", "3")[0] == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("split", "rose"), "error: EXPERT"),
        (("split", "rose.l0"), "swarm experts"),
        (("split", "e0"), "an expert's id, as ada.e1"),
        (("split", "rose.e0", "--gate", "best"), "means or learned"),
        (("split", "rose.e0", "--steps", "0"), "--steps"),
        (("merge", "rose.e0", "rose.e1", "--method", "sum"), "magmax or ties or mean"),
        (("remove", "rose.e0", "--retrain"), "its owner alone withdraws it"),
        (("remove", "rose.e0", "--reason", "old"), "--reason"),
    ],
)
def test_bad_arguments_are_refused_by_name_before_anything_is_asked(
    stage: Stage, arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = stage.run("expert", *arguments)
    assert code == 2 and said in err and not stage.coordinator.acts


def test_on_its_owners_node_a_short_name_is_its_own_expert(stage: Stage) -> None:
    stage.run("expert", "split", "e0", "--no-wait", node=True)
    assert stage.coordinator.acts[0][3] == (OWN,)


async def test_whoever_is_interrupted_is_told_how_to_end_the_proposal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Coordinator(Caller(role="operator", id=NodeId("operator")))
    following = asyncio.create_task(followed(client, await client.propose("split", [OWN])))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert "end it: swarm gate cancel p1" in capsys.readouterr().err


def test_proposals_are_listed_with_evidence_and_cost_and_those_that_ended_on_demand(stage: Stage) -> None:
    assert "no proposal is on its way" in stage.run("gate", "proposals")[1]
    stage.run("expert", "split", "rose.e0", "--no-wait")
    stage.coordinator.made["p2"] = replace(ACCEPTED, id="p2")
    told = stage.json("gate", "proposals")
    assert [each["id"] for each in told["proposals"]] == ["p1"] and told["ended_not_shown"] == 1
    _, out, _ = stage.run("gate", "proposals", "--all")
    header, newest, older = out.splitlines()
    assert header.split()[:5] == ["id", "kind", "experts", "state", "by"]
    assert (
        newest.startswith("p2") and "+2.32" in newest and "2e+09" in newest and "1e+03 > 1.02e+03" in newest
    )
    assert older.startswith("p1") and "working" in older
    assert "1 that ended: swarm gate proposals --all" in stage.run("gate", "proposals")[1]
    assert "evidence: tried_samples 200, tried_z 2.32" in stage.run("gate", "proposals", "p2")[1]
    assert stage.run("gate", "proposals", "p9")[0] == 2


def test_the_list_of_all_proposals_says_how_many_are_not_kept_any_more(stage: Stage) -> None:
    stage.coordinator.made["p1"] = replace(ACCEPTED, id="p1")
    assert "not kept" not in stage.run("gate", "proposals", "--all")[1]
    stage.coordinator.made["p40"] = replace(ACCEPTED, id="p40")
    _, out, _ = stage.run("gate", "proposals", "--all")
    assert "38 older ones that ended are not kept any more: the coordinator keeps the newest 1000" in out
    assert stage.json("gate", "proposals", "--all")["dropped"] == 38


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("split", "rose.e0", "--steps", "7", "--gate", "learned"), {"gate": "learned", "steps": "7"}),
        (("merge", "rose.e0", "rose.e1"), {"method": "mean"}),
        (("merge", "rose.e0", "rose.e1", "--steps", "7"), {"method": "mean", "steps": "7"}),
        (("retrain", "rose.e0", "--steps", "7"), {"steps": "7"}),
    ],
)
def test_the_options_of_growth_are_those_of_the_command(
    stage: Stage, words: tuple[str, ...], options: dict[str, str]
) -> None:
    assert stage.run("expert", *words, "--no-wait")[0] == 0
    assert stage.coordinator.made["p1"].options == options


def proposed(stage: Stage) -> list[tuple[Any, ...]]:
    """Return options, gate version, owner and regions of each add that was proposed."""
    return [(*each[4:6], *each[7:]) for each in stage.coordinator.acts if each[2] == "add"]


def test_an_add_is_of_the_nodes_own_novel_samples_or_of_the_node_that_an_operator_names(stage: Stage) -> None:
    stage.coordinator.ends = ACCEPTED
    assert stage.run("expert", "add", node=True)[0] == 0
    code, _out, err = stage.run(
        "expert", "add", "--node", "ben", "--k", "3", "--steps", "7", "--net", "mlp:4x1"
    )
    assert code == 0 and "add of ben (p2) is working" in err.replace("open", "working"), err
    assert stage.run("expert", "add", "--node", "ben", "--against", "4", "--no-wait")[0] == 0
    assert proposed(stage) == [
        ({}, 0, ROSE, b""),
        ({"k": "3", "steps": "7", "net": "mlp:4x1"}, 0, "ben", b""),
        ({}, 4, "ben", b""),
    ]


def test_an_add_that_did_not_pay_is_a_conflict_and_nobodys_is_a_wrong_use(stage: Stage) -> None:
    stage.coordinator.ends = replace(ACCEPTED, state="refused", reason="0 standard errors")
    code, _, err = stage.run("expert", "add", "--node", "ben")
    assert code == 6 and "refused: 0 standard errors" in err
    code, _, err = stage.run("expert", "add")
    assert code == 2 and "swarm expert add --node ada" in err
    code, _, err = stage.run("expert", "add", "--node", "rose", "--node", "ben", node=True)
    assert code == 2 and "an operator asks several" in err
    assert stage.run("expert", "add", "--node", "ben", "--k", "0")[0] == 2


def found_in(patch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """Let a federated run find two regions, one of them of nobody's samples; return the options asked for."""
    asked: list[Mapping[str, str]] = []

    async def run_told(client: Any, app: str, options: Mapping[str, str]) -> FederationStep:
        asked.append({"app": app, **options})
        arrays = {"centres": np.ones((2, 3), np.float32), "counts": np.array([40, 0])}
        return FederationStep(stage="done", arrays=arrays)

    patch.setattr(adding, "run_told", run_told)
    return asked


def test_several_nodes_are_asked_one_after_the_other_by_regions_in_common(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = found_in(monkeypatch)
    stage.coordinator.ends = ACCEPTED
    nodes = ("--node", "ben", "--node", "eve", "--node", "ben")
    code, _, err = stage.run("expert", "add", *nodes, "--k", "5", "--steps", "7")
    assert code == 0 and "1 regions in common: ben, eve" in err, err
    assert [(each["app"], each["select"], each["nodes"], each["k"]) for each in asked] == [
        ("kmeans", "novel", "ben,eve", "5")
    ]
    regions = packed_regions(np.ones((1, 3), np.float32))
    assert proposed(stage) == [({"steps": "7"}, 0, "ben", regions), ({"steps": "7"}, 0, "eve", regions)]
    assert len(stage.json("expert", "add", *nodes)["proposals"]) == 2
    stage.coordinator.ends = replace(ACCEPTED, state="refused", reason="0 standard errors")
    code, _, err = stage.run("expert", "add", *nodes)
    assert code == 6 and err.count("refused: 0 standard errors") >= 2


def test_nothing_is_asked_of_several_nodes_where_the_gate_is_another_by_now(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = found_in(monkeypatch)
    stage.has_gate("rose.l0")
    code, _, err = stage.run("expert", "add", "--node", "ben", "--node", "eve", "--against", "99")
    assert code == 6 and "proposal against gate 99" in err and not asked


def test_a_proposal_is_cancelled_and_the_policy_shown_and_set(stage: Stage) -> None:
    stage.run("expert", "split", "rose.e0", "--no-wait")
    assert "is rolled-back: cancelled by operator" in stage.run("gate", "cancel", "p1")[1]
    assert stage.json("gate", "growth")["policy"] == "manual"
    assert stage.run("gate", "growth", "eager")[1].startswith("growth: eager")
    assert stage.json("gate", "growth")["policy"] == "eager"
    code, _, err = stage.run("gate", "growth", "wild")
    assert code == 2 and "manual, conservative, eager" in err
    code, _, err = stage.run("gate", "growth", node=True)
    assert code == 2 and "found:    a node's home" in err


def test_an_operator_retires_an_expert_without_a_tombstone(stage: Stage) -> None:
    stage.coordinator.ends = replace(ACCEPTED, kind="remove")
    assert stage.run("expert", "remove", "rose.e0")[0] == 0
    assert stage.coordinator.acts[0][2] == "remove" and not stage.registry.tombstones


def test_an_owner_contributes_without_the_leaf_before_the_tombstone(stage: Stage) -> None:
    stage.has_gate("rose.l0", "rose.l1")
    stage.coordinator.ends = replace(ACCEPTED, kind="remove")
    told = stage.json("expert", "remove", "e0", "--reason", "a test", node=True)
    assert [act[2] for act in stage.coordinator.acts] == ["remove"]
    (tombstone,) = stage.registry.tombstones
    assert read_statement(tombstone, Tombstone).value.reason == "a test"
    assert told["proposal"] == "p1" and told["descendants"] == [each["manifest"] for each in told["marked"]]
    assert len(told["marked"]) == 4 and {each["owner"] for each in told["marked"]} == {"ben", "eve"}
    assert all(each["standing"] == "descends-from-withdrawn" for each in told["marked"])


@pytest.mark.parametrize("case", ["not in the gate", "no gate", "away", "refused", "lost", "at once"])
def test_nothing_stops_an_owner_from_withdrawing_its_expert(stage: Stage, case: str) -> None:
    if case != "no gate":
        stage.has_gate(*(["rose.l1"] if case == "not in the gate" else ["rose.l0"]))
    stage.reachable = UnreachableError("coordinator at h:1") if case == "away" else None
    stage.coordinator.refusal = ConflictError("rose.e0", found="p9") if case == "refused" else None
    stage.coordinator.ends = replace(ACCEPTED, state="rolled-back") if case == "lost" else ACCEPTED
    more = ["--no-wait"] if case == "at once" else []
    code, out, err = stage.run("expert", "remove", "rose.e0", *more, node=True)
    assert code == 0, err
    assert len(stage.registry.tombstones) == 1 and out.startswith("rose.e0 is withdrawn; 4 descendants of 2")
    assert ("its owner's contribution stays as it is" in err) == (
        case in ("no gate", "away", "refused", "lost")
    )
    assert [act[2] for act in stage.coordinator.acts] == (["remove"] if case in ("refused", "lost") else [])


def test_another_owners_expert_is_not_withdrawn(stage: Stage) -> None:
    code, _, err = stage.run("expert", "remove", "ben.e0", node=True)
    assert code == 4 and "its owner ben" in err and not stage.registry.tombstones


def test_who_opts_out_names_every_descendant_and_asks_that_each_is_trained_anew(stage: Stage) -> None:
    stage.coordinator.ends = replace(ACCEPTED, kind="retrain", reason="ben.e0 was trained anew")
    told = stage.json("expert", "remove", "rose.e0", "--retrain", node=True)
    asked = [act[3] for act in stage.coordinator.acts if act[2] == "retrain"]
    assert asked == [("ben.e0",), ("ben.e1",)], "each in turn: no gate has them"
    by_name = {f"{each['expert']}@{each['version']}": each for each in told["marked"]}
    assert by_name["ben.e0@2"]["proposal"] and by_name["ben.e0@2"]["outcome"].startswith("accepted")
    assert (by_name["ben.e0@1"]["is_head"], by_name["ben.e0@1"]["outcome"]) == (False, "")
    assert by_name["eve.e0@1"]["proposal"] == ""
    assert by_name["eve.e0@1"]["outcome"] == (
        "eve is not connected; later, on eve's machine: swarm expert retrain eve.e0"
    )
    text = stage.run("expert", "remove", "rose.e0", "--retrain", node=True)[1]
    assert "ben.e0@2" in text and digest_of(b"ben.e0@2")[:12] in text and "eve's machine" in text


def test_one_proposal_asks_an_owner_for_all_that_the_gate_has(stage: Stage) -> None:
    stage.has_gate("ben.l0", "ben.l1", "rose.l0")
    stage.coordinator.ends = replace(ACCEPTED, kind="retrain", reason="each of 2 experts was trained anew")
    told = stage.json("expert", "remove", "rose.e0", "--retrain", node=True)
    asked = [act[3] for act in stage.coordinator.acts if act[2] == "retrain"]
    assert asked == [("ben.e0", "ben.e1")]
    heads = {each["expert"]: each for each in told["marked"] if each["is_head"]}
    assert heads["ben.e0"]["proposal"] == heads["ben.e1"]["proposal"] != ""
    assert heads["ben.e1"]["outcome"] == "accepted: each of 2 experts was trained anew"
    stage.coordinator.ends = replace(ACCEPTED, kind="retrain", state="failed", reason="no data")
    text = stage.run("expert", "remove", "rose.e0", "--retrain", node=True)[1]
    for expert in ("ben.e0", "ben.e1"):
        assert f"failed: no data; on ben's machine: swarm expert retrain {expert}" in text


def test_what_was_split_is_not_asked_for_again_by_hand(stage: Stage) -> None:
    stage.coordinator.refusal = NotFoundError("expert ben.e0", found="it was split into ben.l6 and ben.l7")
    told = stage.json("leave", "--retrain", node=True)
    outcomes = {each["expert"]: each["outcome"] for each in told["marked"] if each["is_head"]}
    assert outcomes["ben.e0"] == "not asked (expert ben.e0: found it was split into ben.l6 and ben.l7)"


def test_what_its_owner_has_no_leaf_of_any_more_is_not_asked_for_by_hand(stage: Stage) -> None:
    stage.coordinator.ends = replace(
        ACCEPTED,
        kind="retrain",
        state="failed",
        reason="ben could not carry it out: expert ben.e1: found no leaf of it on this node; expected ben.e0",
    )
    told = stage.json("expert", "remove", "rose.e0", "--retrain", node=True)
    outcomes = {each["expert"]: each["outcome"] for each in told["marked"] if each["is_head"]}
    assert outcomes["ben.e1"] == "no leaf any more: nothing to train"
    assert outcomes["ben.e0"].endswith("on ben's machine: swarm expert retrain ben.e0")


def test_several_experts_of_one_owner_are_trained_anew_by_one_command(stage: Stage) -> None:
    stage.coordinator.ends = replace(ACCEPTED, kind="retrain")
    assert stage.run("expert", "retrain", "e0", "e1", "--steps", "7", node=True)[0] == 0
    (act,) = stage.coordinator.acts
    assert (act[2], act[3], act[4]) == ("retrain", ("rose.e0", "rose.e1"), {"steps": "7"})


def test_who_leaves_may_opt_out_first(stage: Stage) -> None:
    told = stage.json("leave", "--retrain", node=True)
    assert stage.agent.left
    assert len(stage.registry.tombstones) == 1 and len(told["descendants"]) == 4
    outcomes = {each["expert"]: each["outcome"] for each in told["marked"] if each["is_head"]}
    assert outcomes["ben.e0"] == "working"
    assert outcomes["ben.e1"] == "after ben.e0, on ben's machine: swarm expert retrain ben.e1"


def test_who_just_leaves_asks_nobody(stage: Stage) -> None:
    told = stage.json("leave", node=True)
    assert set(told) == {"schema", "gate_version", "withdrawn"} and not stage.registry.tombstones


def test_an_owner_that_nobody_knows_is_not_an_empty_list(stage: Stage) -> None:
    stage.registry.versions.clear()
    code, _, err = stage.run("experts", "--owner", "nobody")
    assert code == 2 and "error: owner nobody" in err and "ben, eve, rose" in err
    told = stage.json("experts", "--owner", "eve")
    assert told["experts"] == []
    assert told["owners"] == [{"owner": "eve", "size_bytes": 1000, "refused_bytes": 0}]
    assert told["node_quota_bytes"] == 5000


def grown() -> GateStatement:
    """Two regions; one was split, and one of its children again."""
    first = gate().leaves[0]

    def leaf(number: int, parent: str = "", manifest: str = "", owner: str = "ada") -> Any:
        name = LeafId(f"{owner}.l{number}")
        expert = ExpertId(f"{owner}.e{number}")
        return replace(first, leaf=name, expert=expert, owner=NodeId(owner), parent=parent, manifest=manifest)

    return replace(
        gate(5),
        leaves=(
            leaf(5, "ada.l3", "ab" * 32),
            leaf(10, "ada.l3"),
            leaf(4, "ada.l1"),
            leaf(0, owner="bob"),
        ),
        branches=(
            GateBranch(leaf=LeafId("ada.l3"), owner=NodeId("ada"), parent="ada.l1", is_learned=True),
            GateBranch(leaf=LeafId("ada.l1"), owner=NodeId("ada")),
        ),
        change=GateChange(kind="settle", proposal="p3", cost={"train_flops": 2e9}),
        evidence={"tried_z": 1.5, "judges": 2.0},
    )


def test_a_gate_is_drawn_as_a_tree_with_what_changed_and_what_is_pinned() -> None:
    lines = describe_gate(grown()).splitlines()
    assert lines[2].startswith("change: settle of proposal p3; +1.50 standard errors beyond what it replaces")
    assert lines[2].endswith("; cost: train_flops 2e+09")
    tree = [line[: len(line) - len(line.lstrip())] + line.split()[0] for line in lines[-6:]]
    assert tree == ["ada.l1", "  ada.l3", "    ada.l5", "    ada.l10", "  ada.l4", "bob.l0"]
    assert "shared by a learned gate" in lines[-5] and "ada.e5 pinned to abababababab" in lines[-4]
    (ada, bob) = gate_tree(grown())
    assert (ada["leaf"], ada["is_learned"], bob["expert"]) == ("ada.l1", False, "bob.e0")
    assert [child["leaf"] for child in ada["children"][0]["children"]] == ["ada.l5", "ada.l10"]


def test_a_tree_that_is_none_still_shows_every_leaf() -> None:
    value = grown()
    circle = replace(value, branches=(value.branches[0], replace(value.branches[1], parent="ada.l3")))
    shown = describe_gate(circle)
    assert all(leaf.leaf in shown for leaf in value.leaves)
    orphan = replace(value, branches=())
    assert [each["leaf"] for each in gate_tree(orphan)] == ["ada.l4", "ada.l5", "ada.l10", "bob.l0"]
