"""The Redis that `swarm` starts by itself: private, durable, and honest about damage."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarm.domain.errors import (
    ConflictError,
    NotReadyError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import NodeId, SwarmId
from swarm.registry.redis_server import RedisServer, redis_url
from swarm.registry.redis_store import RedisStore, connect_redis

SWARM = SwarmId("plants")
ADA = NodeId("ada")


async def filled(server: RedisServer) -> RedisStore:
    store = connect_redis(server.url, SWARM)
    for number in range(1, 6):
        await store.put_gate(number, f"gate {number}".encode())
    return store


async def test_data_and_address_survive_a_restart_and_clients_go_on(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    url, pid = server.url, server.pid
    store = await filled(server)
    assert await store.durability() == "appendfsync everysec"
    await server.stop()
    with pytest.raises(UnreachableError, match=r"Redis at unix://.*swarm doctor"):
        await store.gate()
    await server.start()
    assert server.url == url
    assert server.pid != pid
    assert await store.gate() == b"gate 5"
    assert server.exit_code() is None
    await store.close()
    await server.stop()
    await server.stop()


async def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    await server.start()
    socket = Path(server.url.removeprefix("unix://"))
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert len(str(socket).encode()) < 107
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
    listening = Path(f"/proc/{server.pid}/net/tcp").read_text()
    own = {os.readlink(entry) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
    inodes = {line.split()[9] for line in listening.splitlines()[1:] if line.split()[3] == "0A"}
    assert not {f"socket:[{inode}]" for inode in inodes} & own, "no TCP port"
    await server.stop()
    assert not socket.parent.exists()


async def test_a_folder_serves_one_server_at_a_time(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    with pytest.raises(ConflictError, match=f"{tmp_path.name}.*another server"):
        await RedisServer(tmp_path).start()
    await server.stop()
    again = RedisServer(tmp_path)
    await again.start()
    await again.stop()


@pytest.mark.parametrize("how", ["cut", "flipped"])
async def test_a_damaged_append_only_file_stops_the_start_and_the_named_command_repairs_it(
    tmp_path: Path, how: str
) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    await (await filled(server)).close()
    await server.stop()
    (file,) = (path for path in tmp_path.rglob("*.aof") if path.stat().st_size)
    data = bytearray(file.read_bytes())
    if how == "cut":
        del data[-7:]
    else:
        data[data.rindex(b"*3\r\n$3\r\nSET")] ^= 0x04
    file.write_bytes(bytes(data))
    with pytest.raises(VerificationError, match="append-only file") as caught:
        await server.start()
    command = server.repair_command
    assert command in str(caught.value)
    subprocess.run(["bash", "-c", command], input=b"y\n", check=True, capture_output=True)
    await server.start()
    store = connect_redis(server.url, SWARM)
    assert await store.gate(1) == b"gate 1"
    await store.close()
    await server.stop()


async def test_the_server_ends_with_the_process_that_started_it_and_the_next_one_takes_its_place(
    tmp_path: Path,
) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from swarm.registry.redis_server import RedisServer\n"
        "server = RedisServer(Path(sys.argv[1]))\n"
        "asyncio.run(server.start())\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    left_over = redis_url(tmp_path)
    server = RedisServer(tmp_path)
    await server.start()
    assert server.url == left_over
    await server.stop()
    assert not Path(left_over.removeprefix("unix://")).parent.exists()


async def test_a_wrong_url_or_a_server_that_was_not_started_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Redis URL"):
        connect_redis("http://somewhere", SWARM)
    with pytest.raises(NotReadyError):
        _ = RedisServer(tmp_path).url
    store = connect_redis("redis://user:hunter2@127.0.0.1:1/0", SWARM)
    with pytest.raises(UnreachableError) as caught:
        await store.ping()
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    await store.close()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
