"""Each named fault point is passed somewhere, and kills only the process that is told to die there."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarm import fault_points
from swarm.fault_points import FAULT_POINTS, VARIABLE, reached

ROOT = Path(fault_points.__file__).parents[1]


def run(words: str, aim: str) -> int:
    program = f"from swarm.fault_points import reached\n{words}"
    done = subprocess.run([sys.executable, "-c", program], env={VARIABLE: aim, "PYTHONPATH": str(ROOT)})
    return done.returncode


def test_every_point_is_in_the_code_once_and_every_one_in_the_code_is_named() -> None:
    found = [
        name
        for package in ("swarm", "node", "coordinator")
        for file in (ROOT / package).rglob("*.py")
        for name in re.findall(r'reached\("([^"]+)"\)', file.read_text())
    ]
    assert sorted(found) == sorted(FAULT_POINTS)


def test_a_process_dies_at_the_very_time_that_was_asked_for() -> None:
    words = "\n".join(['reached("node.outbox.done")'] * 2)
    assert run(words, "node.outbox.done:3") == 0
    assert run(words, "node.outbox.done:2") == -signal.SIGKILL
    assert run(words, "node.outbox.linked") == 0


def test_a_process_freezes_where_it_was_told_to_and_goes_on_when_it_is_told() -> None:
    program = 'from swarm.fault_points import reached\nreached("node.outbox.done")\nraise SystemExit(7)'
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={VARIABLE: "node.outbox.done:1:stop", "PYTHONPATH": str(ROOT)}
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 7


def test_without_the_variable_nothing_happens_and_an_unknown_name_is_refused_with_it() -> None:
    reached("node.outbox.done")
    assert run("reached('nowhere')", "node.outbox.done") == 1


@pytest.mark.parametrize("side", ["registry", "node", "coordinator"])
def test_every_side_has_points(side: str) -> None:
    assert [name for name, where in FAULT_POINTS.items() if where == side and name.startswith(f"{side}.")]
