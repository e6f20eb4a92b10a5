"""Bulk work runs where answers leave the processor to it."""

import subprocess
import sys

import pytest

_SAYS = (
    "import os; from swarm.niceness import step_back; step_back(); print(os.getpriority(os.PRIO_PROCESS, 0))"
)


@pytest.mark.parametrize(("before", "after"), [(0, 10), (4, 10), (15, 15)])
def test_a_process_steps_back_once_and_never_forward(before: int, after: int) -> None:
    beginning = f"import os; os.nice({before} - os.getpriority(os.PRIO_PROCESS, 0)); "
    said = subprocess.run(
        [sys.executable, "-c", beginning + _SAYS], capture_output=True, text=True, timeout=60
    )
    if "Permission" in said.stderr:
        pytest.skip("these tests run nicer than that already")
    assert said.stdout.strip() == str(after), said.stderr
