"""Nothing secret and nothing raw where it does not belong: logs, events, modes of files, the backup."""

import base64
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.trust.key_files import read_key
from swarm.trust.tokens import parse_join_line
from tests.support.forked_processes import run_process
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, whole_swarm

_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything is made under a umask that hides nothing."""
    before = os.umask(0)
    try:
        yield tmp_path_factory.mktemp("swarm")
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def swarm(folder: Path) -> Iterator[WholeSwarm]:
    with whole_swarm(folder) as running:
        yield running


@pytest.fixture
async def rose(swarm: WholeSwarm, tmp_path: Path) -> NodeHome:
    """A node that trained, published and contributed."""
    home = swarm.joined("rose")
    swarm.agent(home)
    source = write_digits(tmp_path / "own.npz", only=(0, 1))
    order = TrainOrder(data=str(source), net="mlp:8x1", steps=60, seed=1)
    async with agent_of(home) as client:
        steps = [step async for step in client.train(order)]
    assert steps[-1].figures["activated"] == 1.0
    return home


def secrets_of(swarm: WholeSwarm, home: NodeHome) -> dict[str, bytes]:
    """What must be in no log, by what it is."""
    found = {"join token": parse_join_line(swarm.line)[0].secret.encode()}
    for path in (*swarm.folder.rglob("signing.key"), *swarm.folder.rglob("key.pem")):
        for number, line in enumerate(read_key(path).splitlines()):
            if b"PRIVATE" not in line:
                found[f"{path} line {number}"] = line
    assert len(found) > 10 and home.identity.exists()
    return found


async def test_neither_logs_nor_redis_nor_modes_give_anything_away(
    swarm: WholeSwarm, rose: NodeHome, tmp_path: Path
) -> None:
    secrets = secrets_of(swarm, rose)
    raw = np.load(tmp_path / "own.npz")["x"]
    logs = [path for path in swarm.folder.rglob("*.log") if path.is_file()]
    assert len(logs) >= 3
    for path in logs:
        text = path.read_bytes()
        for what, secret in secrets.items():
            assert secret not in text, f"{what} in {path}"
        assert not _PRIVATE.search(text)
        for row in raw[:50]:
            data = row.tobytes()
            for form in (data, base64.b64encode(data), str(row.reshape(-1).tolist()).encode()):
                assert form not in text, f"raw data in {path}"
    # What services keep and share: no raw sample, no secret; tokens as hashes.
    for part in ("coordinator", "registry", "redis"):
        for path in (swarm.home.root / part).rglob("*"):
            if not path.is_file() or path.name in ("key.pem", "signing.key"):
                continue
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets.values()), path
            assert not any(row.tobytes() in data for row in raw), path

    for path in swarm.folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name in ("signing.key", "key.pem", "joining.json") or _PRIVATE.search(path.read_bytes()):
            assert mode == 0o600, f"{path}: {mode:04o}"
    # Whatever its files' own modes are, nobody else comes to them.
    private = [*swarm.folder.rglob("identity"), *(rose.root / part for part in ("state", "outbox", "run"))]
    private += [swarm.home.ca, swarm.home.coordinator / "contributions", swarm.home.coordinator / "tokens"]
    for part in private:
        reachable = [p for p in (part, *part.parents) if p.is_relative_to(swarm.folder) and p != swarm.folder]
        closed = [p for p in reachable if not stat.S_IMODE(p.stat().st_mode) & 0o077]
        assert closed, [(str(p), oct(p.stat().st_mode)) for p in reachable]


async def test_a_backup_is_private_and_complete_and_so_is_what_is_made_of_it(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_process("swarm.cli", *arguments, timeout_s=60)

    file = tmp_path / "swarm.backup"
    done = command("backup", str(file), "--home", str(swarm.home.root), "--redis-url", swarm.redis.url)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not _PRIVATE.search((done.stdout + done.stderr).encode())
    with tarfile.open(file) as archive:
        keys = [each for each in archive.getmembers() if each.name.endswith(("key.pem", "signing.key"))]
        assert len(keys) >= 4 and all(each.mode == 0o600 for each in keys)

    damaged = tmp_path / "damaged.backup"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    home = tmp_path / "restored"
    done = command("restore", str(damaged), "--home", str(home))
    assert done.returncode in (2, 7) and "swarm backup" in done.stderr, done.stderr
    assert not (home / "ca" / "key.pem").exists(), "half of a damaged backup must not pass for a home"
    done = command("restore", str(file), "--home", str(home))
    assert done.returncode == 0, done.stderr
    for path in (*home.rglob("key.pem"), *home.rglob("signing.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for part in ("ca", "coordinator", "registry", "operator"):
        assert not stat.S_IMODE((home / part).stat().st_mode) & 0o077, part
