"""One thread a process: workers and what they start share the cores, and threads that spin would fight. The
children of services that tests run in their own process are forked."""

import os
from collections.abc import Iterator

import pytest

from swarm.federation.child import FLOWER_ENVIRONMENT
from swarm.forking.forks import forking

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile everything anew


@pytest.fixture(scope="session", autouse=True)
def _forked_children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with forking(tmp_path_factory.mktemp("forking") / "log", FLOWER_ENVIRONMENT):
        yield
