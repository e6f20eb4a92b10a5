"""Homes of real nodes, with real keys, for tests that need no running swarm."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from swarm.config import NodeHome
from swarm.domain.ids import SwarmId
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import sign_statement
from tests.support.forked_processes import ENVIRONMENT, ForkedProcess, start_service
from tests.support.learning import digits_like, make_specification
from tests.support.trust import Founded, found


def member_home(folder: Path, name: str = "rose") -> tuple[NodeHome, Founded]:
    """Return the home of a node that joined the swarm `garden`, whose coordinator is not running."""
    now = datetime.now(UTC)
    founded = found(folder / "swarm", "garden", now)
    home = NodeHome(folder / name)
    member = founded.member(name, now=now)
    home.root.mkdir()
    member.folder.rename(home.identity)
    told = home.identity / "identity.json"
    told.write_bytes(told.read_bytes().replace(b"h:70", b"127.0.0.1:1"))
    specification = make_specification(BlobFiles(home.cache), swarm=SwarmId("garden"))
    home.state.mkdir()
    envelope = sign_statement(specification, founded.coordinator_signer)
    (home.state / "specification.json").write_bytes(envelope)
    return home, founded


def write_digits(
    path: Path,
    count: int = 240,
    classes: int = 4,
    seed: int = 0,
    only: tuple[int, ...] = (),
    noise: float = 2.0,
) -> Path:
    """Write 8 x 8 images as an .npz source, of some classes only where they are named."""
    images, labels = digits_like(count, classes, seed, noise)
    kept = np.isin(labels, only or range(classes))
    np.savez(path, x=images[kept], y=labels[kept])
    return path


def start_agent(home: NodeHome) -> ForkedProcess:
    """Start a node's agent as its own process, its log in run/agent.log."""
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "agent.log").open("ab") as log:
        return start_service("node.app", [str(home.root)], log)


def start_agent_anew(home: NodeHome) -> "subprocess.Popen[bytes]":
    """Start a node's agent in a new interpreter, as a user does."""
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "agent.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "node.app", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
