"""Commands typed as a newcomer would: one running swarm, good and bad input, either kind of home, a guide."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from swarm.cli.up.supervisor import free_ports
from tests.support.commands import Shell, shell

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN_NET = """
import torch


def factory(input_shape, classes):
    sizes = 1
    for side in input_shape:
        sizes *= side
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(sizes, classes))
"""


class Lab:
    """A founder's services and two nodes' homes; everything is typed, nothing is called."""

    def __init__(self, sh: Shell, root: Path) -> None:
        self.sh, self.root = sh, root
        self.services: list[tuple[subprocess.Popen[str], Path]] = []
        self.ports = dict(
            zip(
                ("SWARM_JOIN_PORT", "SWARM_COORDINATOR_PORT", "SWARM_REGISTRY_PORT", "SWARM_HTTP_PORT"),
                map(str, free_ports(4)),
                strict=True,
            )
        )
        bunch = load_digits()
        self.images, self.labels = bunch.images.astype(np.uint8), bunch.target

    def data(self, name: str, **arrays: object) -> str:
        path = self.root / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return str(path)

    def of(self, *classes: int) -> dict[str, np.ndarray]:
        rows = np.isin(self.labels, classes)
        return {"x": self.images[rows], "y": self.labels[rows]}

    def home(self, name: str) -> dict[str, str]:
        return {**self.ports, "SWARM_HOME": str(self.root / name)}

    def said(self, *words: str, home: str = "founder", code: int = 0) -> str:
        """Return what a command says; it has to end with the code and without a traceback."""
        done = self.sh.swarm(*words, **self.home(home))
        assert done.returncode == code, f"swarm {' '.join(words)}: {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "a fault in swarm itself" not in done.stderr
        return done.stdout + done.stderr

    def join_line(self, *flags: str) -> str:
        return str(self.sh.json("token", "create", *flags, **self.home("founder"))["join_line"])

    def serve(self, *names: str) -> None:
        """Start services, then wait until they are ready."""
        for name in names:
            path = self.root / f"{name}.log"
            with path.open("w") as log:
                self.services.append((self.sh.start(name, stderr=log, **self.home("founder")), path))
        deadline = time.monotonic() + 30
        for process, path in self.services:
            while f"{path.stem}.ready" not in path.read_text():
                assert process.poll() is None and time.monotonic() < deadline, path.read_text()
                time.sleep(0.05)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with shell() as sh:
        made = Lab(sh, sh.scratch.parent)
        made.said("init", "lab", "--data", "digits", "--trunk", "randconv-sqrt:8")
        made.serve("redis")
        made.serve("registry", "coordinator")
        (made.root / "garden.py").write_text(OWN_NET)
        line, paths = made.join_line("--uses", "2"), ["--import-path", str(made.root)]
        for name, classes in (("ada", (0, 1, 2)), ("ben", (3, 4, 5))):
            made.said("join", line, "--name", name, "--data", made.data(name, **made.of(*classes)), home=name)
        train = ["train", str(made.root / "ada.npz"), "--steps", "150", "--net", "garden:factory", *paths]
        made.said(*train, home="ada")
        made.said("train", str(made.root / "ben.npz"), "--steps", "150", "--net", "cnn:8x16", home="ben")
        yield made
        for name in ("ada", "ben"):
            made.said("down", home=name)
        stopped = made.sh.json("down", **made.home("founder"))["stopped"]
        assert stopped == ["coordinator", "registry", "redis"]


def test_a_users_own_net_and_a_convolution_answer_as_one(lab: Lab) -> None:
    rows = [int(np.flatnonzero(lab.labels == wanted)[0]) for wanted in (0, 3)]
    np.save(lab.root / "x.npy", lab.images[rows])
    asked = ("predict", str(lab.root / "x.npy"), "--explain")
    by_experts = lab.sh.json(*asked, "--combination", "gate", **lab.home("ben"))["answer"]
    assert [sources[0]["owner"] for sources in by_experts["sources"]] == ["ada", "ben"]
    answer = lab.sh.json(*asked, **lab.home("ben"))["answer"]
    assert [sources[0]["owners"][0]["owner"] for sources in answer["sources"]] == ["ada", "ben"]
    experts = lab.sh.json("experts", **lab.home("ada"))["experts"]
    own = [e["manifest"]["net"]["factory"] for e in experts if e["manifest"]["owner"] != "coordinator"]
    assert set(own) == {"garden:factory", "cnn:8x16"}


def test_queries_that_make_no_sense_are_refused_with_what_was_expected(lab: Lab) -> None:
    arrays: dict[str, tuple[np.ndarray, str]] = {
        "flat": (np.zeros((2, 64), dtype=np.uint8), "[B, 8, 8]"),
        "none": (np.zeros((0, 8, 8), dtype=np.uint8), "at least one row"),
        "words": (np.array(["a"]), "numbers"),
        "nan": (np.full((1, 8, 8), np.nan, dtype=np.float32), "finite numbers"),
    }
    for name, (array, expected) in arrays.items():
        np.save(lab.root / f"{name}.npy", array)
        assert expected in lab.said("predict", str(lab.root / f"{name}.npy"), code=2)
    (lab.root / "note.npy").write_text("hello")
    told = lab.said("predict", str(lab.root / "note.npy"), code=2)
    assert "a file of another kind" in told and "pickle" not in told
    assert "a folder" in lab.said("predict", str(lab.root), code=2)
    assert "no such file" in lab.said("predict", str(lab.root / "nothing.npy"), code=2)


def test_data_that_cannot_be_learned_from_are_refused_before_the_token_is_sent(lab: Lab) -> None:
    x, y, line = lab.images[:100], lab.labels[:100], lab.join_line()
    for name, arrays, expected in (
        ("one", {"x": x[y == 1], "y": y[y == 1]}, "at least 2 classes"),
        ("none", {"x": x[:0], "y": y[:0]}, "at least one"),
        ("lengths", {"x": x, "y": y[:90]}, "90 labels"),
        ("negative", {"x": x, "y": y - 5}, "0 to 9999"),
        ("halves", {"x": x, "y": y + 0.5}, "not measurements"),
        ("as many classes as samples", {"x": x, "y": np.arange(100)}, "at least two"),
        ("floats", {"x": x.astype(np.float32), "y": y}, "uint8, as swarm lab specifies"),
        ("crop", {"x": x[:, :7], "y": y}, "[8, 8], as swarm lab specifies"),
    ):
        assert expected in lab.said(
            *("join", line, "--name", "eve", "--data", lab.data(name, **arrays)), home="eve", code=2
        )
    (lab.root / "junk.npz").write_text("junk")
    told = lab.said("join", line, "--name", "eve", "--data", str(lab.root / "junk.npz"), home="eve", code=2)
    assert "another kind" in told and "pickle" not in told
    tokens = lab.sh.json("token", "list", **lab.home("founder"))["tokens"]
    assert next(t for t in tokens if t["id"] == line.split(".")[1])["uses_left"] == 1


def test_a_founders_home_and_a_members_home_are_never_mixed(lab: Lab) -> None:
    line = lab.join_line("--uses", "2")
    assert "a founder's home" in lab.said("join", line, "--name", "eve", home="founder", code=6)
    assert "a member's home" in lab.said("init", "other", "--data", "digits", home="ada", code=6)
    assert "choose another folder" in lab.said("join", line, "--name", "eve", home="ada", code=6)
    assert "name the folder that swarm init made" in lab.said("backup", "x.tgz", home="ada", code=2)
    assert "founder's folder" in lab.said("token", "create", home="ada", code=4)
    lab.said("token", "list")


def test_a_second_service_of_one_home_is_refused_and_the_first_can_still_be_stopped(lab: Lab) -> None:
    for name in ("registry", "coordinator", "redis"):
        assert "already" in lab.said(name, code=6)
    assert len(list((lab.root / "founder" / "run").glob("*.process.json"))) == 3


def test_a_client_sees_the_swarm_though_it_has_no_agent(lab: Lab) -> None:
    line = lab.join_line("--role", "client")
    lab.said("join", line, "--role", "client", "--name", "app", home="app")
    seen = lab.sh.json("status", **lab.home("app"))
    assert seen["agent"] is None and seen["swarm"]["swarm"] == "lab"
    assert "a client's home" in lab.said("train", "digits", home="app", code=2)
    lab.said("doctor", home="app")


def test_a_typo_in_a_factory_is_answered_with_the_right_name(lab: Lab) -> None:
    paths = ("--import-path", str(lab.root), "--dry-run")
    data = str(lab.root / "ada.npz")
    told = lab.said("train", data, "--net", "garden:factry", *paths, home="ada", code=2)
    assert "did you mean garden:factory?" in told
    assert "mlp" in lab.said("train", data, "--net", "vgg", *paths, home="ada", code=2)
    assert "--seed" in lab.said("train", data, "--seed", "-1", *paths, home="ada", code=2)


def test_what_is_not_there_is_said_with_what_there_is(lab: Lab) -> None:
    for words in (("lineage", "eve.e1"), ("expert", "show", "eve.e1"), ("token", "revoke", "none")):
        told = lab.said(*words, code=2)
        assert all(part in told for part in ("found:", "expected:", "try:"))
    assert "swarm gate history" in lab.said("gate", "rollback", "99", code=2)
    assert "no published version" in lab.said("expert", "remove", "ada.e9", home="ada", code=2)
    lab.said("lineage", "ada.e1")


def test_a_dry_run_lists_what_then_leaves(lab: Lab) -> None:
    listed = lab.sh.json("train", str(lab.root / "ben.npz"), "--dry-run", **lab.home("ben"))["listings"]
    sent = lab.sh.json("outbound", **lab.home("ben"))["listings"]
    assert all(item["size_bytes"] > 0 for item in [*listed, *sent])
    assert {"trial sums"} < {item["what"] for item in listed}
    promised = sum(i["size_bytes"] for i in listed if "weights" in i["what"] or "manifest" in i["what"])
    assert promised > 0
    assert {item["recipient"] for item in listed} == {item["recipient"] for item in sent}


@pytest.mark.slow
def test_the_guide_to_an_own_net_and_data_works_word_by_word() -> None:
    text = (ROOT / "docs" / "guides" / "own-net-and-data.md").read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) >= 5
    with shell() as sh:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=ROOT,
            env=sh.environment(),
            capture_output=True,
            text=True,
            timeout=220,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = done.stdout
        for promised in ("swarm join swm1.", "raw data never leave", "contribution activated"):
            assert promised in said or promised in done.stderr
        accuracy = re.search(r"test accuracy ([0-9.]+)", said)
        assert accuracy is not None and float(accuracy[1]) > 0.9
        for fault, owner in (("imbalance", "north"), ("loose", "south"), ("worn", "south")):
            source = r" +[0-9.]+  coordinator\.e0@\d+ of coordinator: (\w+) "
            answer = re.search(rf"^\d: {fault} .*\n{source}", said, re.MULTILINE)
            assert answer is not None and answer[1] == owner, said
        assert sh.wait_for_nothing() == []
