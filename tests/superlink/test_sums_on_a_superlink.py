"""The sums app, unchanged, on a stock Flower SuperLink with three SuperNodes: the same weights to the bit."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import TypeAdapter

from node.federated_samples import SOURCE, load
from node.jobs import LearningJob
from swarm.cli.up.supervisor import free_ports
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.federation import sums
from swarm.modules.blobs import BlobFiles
from tests.support.federation import local_run
from tests.support.learning import make_specification
from tests.support.node_homes import write_digits

BIN = Path(sys.executable).parent
BUNDLE = Path(__file__).parent / "app"
ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 400.0

pytestmark = [
    pytest.mark.superlink,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all((BIN / name).exists() for name in ("flower-superlink", "flower-supernode", "flwr")),
        reason="Flower's commands are not installed here: run make setup",
    ),
]


class Deployment:
    """A SuperLink and SuperNodes on loopback; `end` ends whole process trees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link_port, *self.node_ports = free_ports(4)
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        configuration = folder / "flwr" / "config.toml"
        configuration.parent.mkdir(parents=True)
        configuration.write_text(
            '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
            f'address = "127.0.0.1:{self.link_port}"\ninsecure = true\n'
        )

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    [str(BIN / command[0]), *command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            )

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))

    def end(self) -> None:
        trees = []
        for process in self._started:
            with contextlib.suppress(psutil.Error):
                trees += psutil.Process(process.pid).children(recursive=True)
        for process in self._started:
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([psutil.Process(p.pid) for p in self._started if p.poll() is None], 10)
        for each in [*alive, *trees]:
            with contextlib.suppress(psutil.Error):
                each.kill()
        for process in self._started:
            process.wait(10)
        psutil.wait_procs(trees, 10)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    running = Deployment(tmp_path)
    try:
        yield running
    finally:
        running.end()


def test_the_sums_app_gives_the_same_weights_on_a_stock_superlink(
    deployment: Deployment, tmp_path: Path
) -> None:
    homes = [
        _home(tmp_path, name, only) for name, only in (("aster", (0, 1)), ("rose", (2, 3)), ("tulip", (0, 3)))
    ]
    specification = LearningJob.read(homes[0].state / "jobs" / "told").specification
    out = tmp_path / "result.npz"
    deployment.start(
        "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1",
        "--port", str(deployment.link_port), "--disable-runtime-dependency-installation",
    )  # fmt: skip
    for home, port in zip(homes, deployment.node_ports, strict=True):
        deployment.start(
            home.root.name, "flower-supernode", "--insecure",
            "--superlink", f"127.0.0.1:{deployment.link_port}", "--host", "127.0.0.1", "--port", str(port),
            "--node-config", f'samples="{SOURCE}" home="{home.root}"',
        )  # fmt: skip
    _submit(deployment, specification, out)
    deadline = time.monotonic() + WITHIN_S
    while not out.exists():
        assert time.monotonic() < deadline, deployment.logs()
        time.sleep(1.0)
    with np.load(out) as archive:
        there = {name: archive[name] for name in archive.files}
    nodes = {home.root.name: load({"home": str(home.root)}) for home in homes}
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        here, _, _ = local_run(sums, nodes, "sums", min_nodes=3)
    assert set(there) == set(here)
    assert all(np.array_equal(there[name], here[name]) for name in here)


def _submit(deployment: Deployment, specification: Specification, out: Path) -> None:
    """Hand the bundle to the SuperLink, as soon as it takes it."""
    bundle = deployment.folder / "bundle"
    shutil.copytree(BUNDLE, bundle)
    text = TypeAdapter(Specification).dump_json(specification).decode()
    settings = deployment.folder / "run.toml"
    settings.write_text(f"specification = '''{text}'''\nout = {json.dumps(str(out))}\n")
    deadline = time.monotonic() + 90
    while True:
        run = subprocess.run(
            [
                str(BIN / "flwr"),
                "run",
                str(bundle),
                "here",
                "--format",
                "json",
                "--run-config",
                str(settings),
            ],
            env=deployment.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if run.returncode == 0 and '"success": true' in run.stdout:
            return
        assert time.monotonic() < deadline, run.stdout + run.stderr + deployment.logs()
        time.sleep(2.0)


def _home(folder: Path, name: str, only: tuple[int, ...]) -> NodeHome:
    """Return the home of a node that knows one training order."""
    home = NodeHome(folder / name)
    job = home.state / "jobs" / "told"
    job.mkdir(parents=True)
    LearningJob(
        node=NodeId(name),
        order=TrainOrder(data=str(write_digits(folder / f"{name}.npz", count=400, only=only))),
        specification=make_specification(BlobFiles(home.cache), class_names=tuple("0123"), min_leaf_count=10),
        blob_folder=str(home.cache),
    ).write(job)
    return home
