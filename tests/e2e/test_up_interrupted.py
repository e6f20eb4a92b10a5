"""`swarm up` that is interrupted, killed, or not allowed to begin: nothing stays, nothing is taken over."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import shell

TWO_NODES = ("up", "--nodes", "2", "--partition", "classes:5")
QUICKLY = ("--steps", "300", "--no-refine", "--fedavg-rounds", "0")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def short_tmp() -> Iterator[Path]:
    """A temporary folder of a short name: unix sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "moment",
    ["founding a swarm", "private samples", "features here", "clusters", "publish", "routing held-out"],
)
def test_ctrl_c_leaves_no_process_and_no_file(moment: str, short_tmp: Path) -> None:
    with shell(short_tmp / f"interrupt-{abs(hash(moment)) % 1000}") as sh:
        with sh.until(moment, *TWO_NODES, *QUICKLY) as running:
            running.process.send_signal(signal.SIGINT)
            code, said = running.end()
        assert code == 130, said
        assert said.strip().endswith("interrupted") and "Traceback" not in said
        assert sh.wait_for_nothing() == []
        assert [path.name for path in sh.scratch.iterdir()] == []


def test_killing_the_supervisor_takes_everything_with_it(short_tmp: Path) -> None:
    with shell(short_tmp / "killed") as sh:
        with sh.until("connected", *TWO_NODES) as running:
            running.process.kill()
            running.end()
        assert sh.wait_for_nothing(30) == []


def test_a_folder_that_holds_a_swarm_is_not_taken_over(short_tmp: Path) -> None:
    folder = short_tmp / "taken"
    folder.mkdir()
    (folder / "something").write_text("mine")
    with shell(short_tmp / "conflict") as sh:
        done = sh.swarm("up", "--keep", "--home", str(folder))
        assert done.returncode == 6 and "expected: an empty folder" in done.stderr
        assert (folder / "something").read_text() == "mine"
