"""A swarm that was kept: every command on it, a node without any listener, answers without the coordinator,
failing over, coming back."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from swarm.config import NodeHome
from swarm.data.sources import load_test
from swarm.domain.replay import GivenAnswer
from swarm.trust.codec import canonical_json
from swarm.trust.identity import Identity
from swarm.trust.statements import open_statement
from tests.support.commands import Shell, shell

ROOT = Path(__file__).parents[2]


class Kept:
    """The kept swarm: nodes ada and ben, and cleo who came later."""

    def __init__(self, sh: Shell, root: Path) -> None:
        self.sh, self.root = sh, root
        self.founder = {"SWARM_HOME": str(root / "founder")}
        self.inputs = root / "x.npy"
        test = load_test("digits")
        np.save(self.inputs, test.inputs[:40])
        self.before: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.started: list[subprocess.Popen[str]] = []

    def node(self, name: str) -> dict[str, str]:
        return {"SWARM_HOME": str(self.root / name / "home")}

    def process(self, name: str) -> psutil.Process:
        record = json.loads((self.root / "run" / f"{name}.process.json").read_text())
        return psutil.Process(record["pid"])

    def kill_the_coordinator(self) -> None:
        """Kill it, once; `before` is what the status was, `environment` what it ran with."""
        if self.environment:
            return
        self.before = self.sh.json("status", **self.founder)["swarm"]
        service = self.process("coordinator")
        self.environment = service.environ()
        service.send_signal(signal.SIGKILL)
        psutil.wait_procs([service], timeout=10)

    def sources(self) -> tuple[list[str], list[str], list[bool]]:
        """Return who owns the first source of each answer, who gave it, and which answers are degraded."""
        words = ("predict", str(self.inputs), "--explain", "--combination", "gate")
        answer = self.sh.json(*words, **self.founder)["answer"]
        first = [sources[0] for sources in answer["sources"]]
        return [one["owner"] for one in first], [one["served_by"] for one in first], answer["degraded"]


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with shell() as sh:
        root = sh.scratch.with_name("kept")
        done = sh.swarm(
            *("up", "--keep", "--home", str(root), "--nodes", "2", "--partition", "classes:5"),
            *("--steps", "300", "--no-baselines", "--no-refine"),
        )
        assert done.returncode == 0, done.stderr
        assert f"swarm down --home {root}" in done.stderr
        yield Kept(sh, root)


def test_every_command_speaks_json_under_its_schema(kept: Kept) -> None:
    gate = kept.sh.json("gate", "show", **kept.founder)["gate"]
    expert = gate["leaves"][0]["expert"]
    for schema, *arguments in (
        ("status", "status"),
        ("doctor", "doctor"),
        ("events", "events", "--limit", "5"),
        ("experts", "experts"),
        ("expert", "expert", "show", expert),
        ("expert-pull", "expert", "pull", expert),
        ("export", "export", expert, "--to", str(kept.root / "exported")),
        ("import", "import", str(kept.root / "exported")),
        ("lineage", "lineage", expert),
        ("gate", "gate", "show", "--version", "1"),
        ("gate-history", "gate", "history"),
        ("gate-fit", "gate", "fit"),
        ("tokens", "token", "list"),
        ("token", "token", "create"),
        ("bearer", "token", "create", "--bearer", "app"),
        ("prediction", "predict", str(kept.inputs)),
        ("evaluation", "eval", "digits"),
        ("backup", "backup", str(kept.root / "backup.tgz")),
    ):
        assert kept.sh.json(*arguments, **kept.founder)["schema"] == f"swarm.{schema}/1"
    for schema, *arguments in (("outbound", "outbound"), ("status", "status"), ("doctor", "doctor")):
        assert kept.sh.json(*arguments, **kept.node("ada"))["schema"] == f"swarm.{schema}/1"


def test_what_left_a_node_is_listed_and_is_never_raw_data(kept: Kept) -> None:
    listings = kept.sh.json("outbound", **kept.node("ada"))["listings"]
    assert {"blob", "manifest", "contribution"} <= {item["what"] for item in listings}
    assert {item["recipient"] for item in listings} <= {"registry", "coordinator", "ben", "cleo"}
    private = (kept.root / "ada" / "private.npz").stat().st_size
    with np.load(kept.root / "ada" / "private.npz") as data:
        rows = [row.tobytes() for row in data["x_train"][:50]]
    elsewhere = [path for path in (kept.root / "founder").rglob("*") if path.is_file()]
    assert private > 0 and elsewhere
    assert not any(row in path.read_bytes() for path in elsewhere for row in rows if any(row))


def test_the_registry_leaves_the_processor_to_answers(kept: Kept) -> None:
    own = psutil.Process().nice()
    assert kept.process("coordinator").nice() == own
    assert kept.process("registry").nice() == max(10, own)


def test_a_node_without_any_listener_answers(kept: Kept) -> None:
    agent = kept.process("node-cleo")
    agent.terminate()
    psutil.wait_procs([agent], timeout=30)
    alone = kept.sh.start("node", stderr=subprocess.DEVNULL, SWARM_ADVERTISE="", **kept.node("cleo"))
    try:
        wait_for(kept, lambda seen: is_live_at(seen, "cleo", ""))
        agent = psutil.Process(alone.pid)
        family = [agent, *agent.children(recursive=True)]
        assert len(family) > 1
        listening = [c for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening == []
        asked = ("predict", str(kept.inputs), "--owner", "cleo", "--explain")
        deadline = time.monotonic() + 60  # who stands in for it answers until its own expert server is up
        while served_by(kept.sh.json(*asked, **kept.founder)["answer"]) != {"cleo"}:
            assert time.monotonic() < deadline, "others answer for it"
    finally:
        alone.terminate()
        alone.communicate(timeout=30)
    again = kept.sh.start("node", stderr=subprocess.DEVNULL, **kept.node("cleo"))
    kept.started.append(again)
    wait_for(kept, lambda seen: is_live_at(seen, "cleo", "127.0.0.1:"))


def test_bad_queries_are_refused_by_name_and_change_nothing(kept: Kept) -> None:
    for name, array, said in (
        ("nan", np.full((1, 8, 8), np.nan), "NaN"),
        ("shape", np.zeros((1, 9, 8), dtype=np.uint8), "[1, 9, 8]"),
        ("fraction", np.full((1, 8, 8), 0.5), "uint8"),
    ):
        path = kept.root / f"{name}.npy"
        np.save(path, array)
        done = kept.sh.swarm("predict", str(path), **kept.founder)
        assert done.returncode == 2 and said in done.stderr
    assert kept.sh.swarm("predict", str(kept.inputs), **kept.founder).returncode == 0


def test_the_documented_grpc_call_works_word_by_word(kept: Kept) -> None:
    guide = (ROOT / "docs" / "guides" / "predict-over-grpc.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert code is not None
    printed = kept.sh.swarm("token", "create", "--role", "client", **kept.founder).stdout.split()
    assert printed[:2] == ["swarm", "join"] and printed[3:] == ["--role", "client"], "it works as it is"
    line, home = printed[2], kept.root / "app"
    wrong = kept.sh.swarm("join", line, "--name", "app", "--home", str(kept.root / "no"))
    assert wrong.returncode == 4 and "--role client" in wrong.stderr
    joined = kept.sh.json(*printed[1:], "--name", "app", "--home", str(home))
    assert joined["role"] == "client"
    command = [sys.executable, "-c", code[1], str(home / "identity"), str(kept.inputs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 40
    again = kept.sh.swarm(
        "join", line, "--role", "client", "--name", "other", "--home", str(kept.root / "no")
    )
    assert again.returncode == 4, "the token was for one use"


def test_services_at_ports_of_their_own_are_found_by_who_probes_them_and_who_asks(kept: Kept) -> None:
    for service in ("registry", "coordinator", "inference"):
        assert kept.sh.json("health", service, **kept.founder)["service"] == service
        elsewhere = kept.sh.swarm("health", service, **kept.node("ada"))
        assert elsewhere.returncode == 2 and "found:    a node's home" in elsewhere.stderr
    said = kept.sh.swarm("status", **kept.founder).stdout
    http = re.search(r"^asked on ports: gRPC [0-9]+, HTTP ([0-9]+)$", said, re.MULTILINE)
    assert http is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{http[1]}/v2/health/ready", timeout=10) as reply:
        assert json.load(reply) == {"ready": True}
    assert "asked on ports" not in kept.sh.swarm("status", **kept.node("ada")).stdout


def test_when_the_coordinator_was_killed_every_home_still_gets_answers(kept: Kept) -> None:
    line = kept.sh.swarm("token", "create", "--role", "client", **kept.founder).stdout.split()
    client = {"SWARM_HOME": str(kept.root / "asker")}
    kept.sh.json(*line[1:], "--name", "asker", **client)
    inputs, file = str(kept.inputs), kept.root / "answer.json"
    meant = kept.sh.json("predict", inputs, "--explain", **kept.founder)["answer"]
    kept.kill_the_coordinator()
    for home in (kept.founder, client, kept.node("ada")):
        done = kept.sh.swarm("predict", inputs, "--explain", "--save", str(file), "--json", **home)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)["answer"]
        for name in ("class_names", "gate_version", "combination", "degraded"):
            assert answer[name] == meant[name], name
        assert np.allclose(answer["probabilities"], meant["probabilities"], atol=1e-4)
        assert served_by(answer) == served_by(meant)
        said = re.search(
            r"^coordinator at \S+ does not answer: (this node|node (\w+)) route", done.stderr, re.M
        )
        assert said is not None, done.stderr
        giver = said[2] or "ada"
        signer = Identity.load(NodeHome(kept.root / giver / "home").identity).required_signer()
        signed = canonical_json(json.loads(file.read_text())["signed"])
        assert open_statement(signed, GivenAnswer, signer.public_hex).value.given_by == giver
    unknown = kept.sh.swarm("predict", inputs, "--owner", "zed", **kept.founder)
    assert unknown.returncode == 2 and "no leaf in gate" in unknown.stderr
    assert "does not answer: nodes that route were asked" in unknown.stderr
    probed = kept.sh.swarm("health", "inference", **kept.founder)
    assert probed.returncode == 3
    assert probed.stderr.split()[3] == unknown.stderr.split()[2], "it names the port that it listened on"
    shutil.rmtree(kept.root / "asker" / "client")
    nobody = kept.sh.swarm("predict", inputs, **client)
    assert nobody.returncode == 3 and "no node that listens is known here" in nobody.stderr


def test_a_coordinator_that_was_killed_comes_back_into_the_same_state(kept: Kept) -> None:
    kept.kill_the_coordinator()
    before, environment = kept.before, kept.environment
    assert kept.sh.swarm("status", **kept.founder).returncode == 3
    ports = {name: value for name, value in environment.items() if name.endswith("_PORT")}
    restarted = kept.sh.start(
        "coordinator", stderr=subprocess.DEVNULL, **ports, TMPDIR=environment["TMPDIR"], **kept.founder
    )
    try:
        after = wait_for(kept, lambda seen: sum(node["alive"] for node in seen["nodes"]) == 3)
        for name in ("gate_version", "specification_version", "class_names", "swarm"):
            assert after[name] == before[name]
        assert not any(kept.sources()[2])
    finally:
        kept.restarted = restarted  # type: ignore[attr-defined]  # it goes on for the tests below


def test_a_killed_owner_is_answered_for_by_those_who_hold_its_expert(kept: Kept) -> None:
    owners, _, degraded = kept.sources()  # a holder may have been quicker than the owner
    assert {"ada", "ben"} <= set(owners) and not any(degraded)
    agent = kept.process("node-ada")
    agent.kill()
    psutil.wait_procs([agent], timeout=10)
    deadline = time.monotonic() + 90  # nodes look for what to hold every minute
    while True:
        _, givers, degraded = kept.sources()
        assert "ada" not in givers
        if not any(degraded):
            break
        assert all(owner == "ada" for flag, owner in zip(degraded, owners, strict=True) if flag)
        assert time.monotonic() < deadline, "nobody stood in for ada"
        time.sleep(1)
    seen = wait_for(kept, lambda seen: not next(n for n in seen["nodes"] if n["id"] == "ada")["alive"])
    assert "ada.l1" in seen["leaves_without_owner"]
    sick = kept.sh.json("doctor", code=5, **kept.founder)
    assert "nodes" in {check["name"] for check in sick["checks"] if not check["ok"]}
    leaves = next(check for check in sick["checks"] if check["name"] == "leaves")
    assert leaves["ok"] and "answers for ada.l1, whose owner is away" in leaves["found"]


def test_who_leaves_is_out_of_the_gate_and_locked_out(kept: Kept) -> None:
    left = kept.sh.json("leave", "--reason", "a test", **kept.node("cleo"))
    assert left["withdrawn"] == ["cleo.e1"]
    run_file = kept.root / "cleo" / "home" / "run" / "agent.json"
    assert not run_file.exists(), "its agent has ended"
    for process in kept.started:
        process.communicate(timeout=30)
    leaves = kept.sh.json("gate", "show", **kept.founder)["gate"]["leaves"]
    assert "cleo" not in {leaf["owner"] for leaf in leaves}
    refused = kept.sh.swarm("predict", str(kept.inputs), **kept.node("cleo"))
    assert refused.returncode == 4 and "revoked" in refused.stderr
    train = ("train", str(kept.root / "cleo" / "private.npz"))
    told = kept.sh.swarm(*train, **kept.node("cleo"))
    assert told.returncode == 4 and "left swarm" in told.stderr
    (kept.root / "cleo" / "home" / "left.json").unlink()  # as where an operator revoked it
    told = kept.sh.swarm(*train, **kept.node("cleo"))
    assert told.returncode == 4 and "revoked" in told.stderr
    assert not run_file.exists(), "an agent was started"
    assert kept.sh.json("outbound", **kept.node("cleo"))["listings"]


def test_an_expert_that_its_owner_withdraws_is_out_of_the_gate(kept: Kept) -> None:
    foreign = kept.sh.swarm("expert", "remove", "ada.e1", **kept.node("ben"))
    assert foreign.returncode == 4 and "its owner ada" in foreign.stderr
    removed = kept.sh.json("expert", "remove", "ben.e1", "--reason", "a test", **kept.node("ben"))
    assert removed["expert"] == "ben.e1"
    deadline = time.monotonic() + 15
    while any(leaf["expert"] == "ben.e1" for leaf in gate_leaves(kept)):
        assert time.monotonic() < deadline
    lineage = kept.sh.json("lineage", "ben.e1", **kept.founder)["lineage"]["nodes"]
    assert {node["standing"] for node in lineage if node["expert"] == "ben.e1"} == {"withdrawn"}
    # Of those that gave sums only ada is left; the root is hers alone, though her agent is gone.
    answer = kept.sh.json("predict", str(kept.inputs), "--explain", **kept.founder)["answer"]
    assert {share["owner"] for (root,) in answer["sources"] for share in root["owners"]} == {"ada"}


def test_down_stops_everything_and_a_backup_brings_the_swarm_back(kept: Kept) -> None:
    status = kept.sh.json("status", **kept.founder)["swarm"]
    backup = kept.root / "later.tgz"
    kept.sh.json("backup", str(backup), **kept.founder)
    assert backup.stat().st_mode & 0o077 == 0
    kept.restarted.terminate()  # type: ignore[attr-defined]
    kept.restarted.communicate(timeout=30)  # type: ignore[attr-defined]
    kept.sh.json("down", "--home", str(kept.root))
    assert kept.sh.wait_for_nothing() == []
    assert [path.name for path in kept.sh.scratch.iterdir()] == []
    home = {"SWARM_HOME": str(kept.root / "restored")}
    restored = kept.sh.json("restore", str(backup), **home)
    assert restored["swarm"] == status["swarm"] and restored["redis_keys"] > 0
    again = kept.sh.swarm("restore", str(backup), **home)
    assert again.returncode == 6
    with backup.open("r+b") as file:
        file.truncate(backup.stat().st_size // 2)
    torn = kept.sh.swarm("restore", str(backup), SWARM_HOME=str(kept.root / "torn"))
    assert torn.returncode == 7 and not (kept.root / "torn" / "ca").exists()


def served_by(answer: dict[str, Any]) -> set[str]:
    """Return who gave the sources of an explained answer."""
    return {source["served_by"] for row in answer["sources"] for source in row}


def is_live_at(status: dict[str, Any], name: str, address: str) -> bool:
    """Say whether a node lives and listens at an address that begins so; empty: whether nowhere."""
    seen = next(node for node in status["nodes"] if node["id"] == name)
    at: str = seen["advertise"]
    return bool(seen["alive"]) and (at.startswith(address) if address else not at)


def gate_leaves(kept: Kept) -> list[dict[str, Any]]:
    """Return the active gate's leaves."""
    return list(kept.sh.json("gate", "show", **kept.founder)["gate"]["leaves"])


def wait_for(kept: Kept, good: Any, timeout_s: float = 30) -> dict[str, Any]:
    """Return the swarm's status once it is good."""
    deadline = time.monotonic() + timeout_s
    while True:
        done = kept.sh.swarm("status", "--json", **kept.founder)
        if done.returncode == 0 and good(seen := json.loads(done.stdout)["swarm"]):
            return dict(seen)
        assert time.monotonic() < deadline, done.stdout + done.stderr
