"""Children forked from a process that has imported what they need: as if started anew, and gone with it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from node import children
from node.children import Child
from swarm.domain.agent import TrainOrder
from swarm.forking import forks as forks_module
from swarm.forking.forks import Forks, forking
from tests.support.learning import ROOT, make_job

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="children are forked on Linux only")

PATIENCE_S = 60.0
TELLING = """
import json, os, random, sys
import numpy
said = {"arguments": sys.argv[1:], "name": __name__, "parent": os.getppid(), "torch": "torch" in sys.modules}
said |= {"module": sys.modules["__main__"].__spec__.name, "open": sorted(os.listdir("/proc/self/fd"))}
print(json.dumps(said | {"random": [random.random(), numpy.random.random()]}), flush=True)
print("no JSON", flush=True)
print("some words", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAITING = """
import signal, sys, time
from node.children import die_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else signal.SIG_DFL)
die_with_parent()
print("{}", flush=True)
time.sleep(600)
"""
ENDING = """
import atexit, concurrent.futures, ctypes, sys, tempfile, threading, time
written, temporary = open(sys.argv[2], "w"), tempfile.NamedTemporaryFile(dir=sys.argv[1])
written.write("to the end")
ctypes.CDLL(None).printf(b"from C\\n")
idle = concurrent.futures.ThreadPoolExecutor(1)
idle.submit(int).result()
atexit.register(lambda: print('{"at": "exit"}'))
threading.Thread(target=lambda: (time.sleep(0.3), print('{"a": "thread"}'))).start()
if sys.argv[3:]:
    sys.exit(*sys.argv[3:])
"""
AGENT = """
import asyncio, os, sys
from pathlib import Path
from node import children
from node.children import Child
from swarm.forking.forks import forking

async def run(folder):
    with forking(folder / "server.log"):
        child = await Child.start("waiting", [], log=folder / "log")
        async for _ in child.lines():
            print(os.getpid(), child.pid, file=sys.stderr)

asyncio.run(run(Path(sys.argv[1])))
"""
NAMED = {"telling": TELLING, "waiting": WAITING, "ending": ENDING, "agent": AGENT}


@contextmanager
def forked_from(log: Path) -> Iterator[None]:
    """Fork from a server of its own, not from that of the other tests."""
    others, Forks.of_this_process = Forks.of_this_process, None
    try:
        with forking(log):
            yield
    finally:
        assert Forks.of_this_process is None
        Forks.of_this_process = others


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of modules for children to run, on the path of what starts here."""
    folder = tmp_path_factory.mktemp("modules")
    for name, text in NAMED.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
        yield folder


@pytest.fixture(scope="module")
def forks(modules: Path) -> Iterator[Path]:
    """Children are forked; the path of the server's log."""
    log = modules / "server.log"
    with forked_from(log):
        yield log
    assert not log.read_text()


async def said_by(child: Child) -> list[dict[str, Any]]:
    return [said async for said in child.lines()]


def server_of(child: Child) -> psutil.Process:
    server = psutil.Process(child.pid).parent()
    assert server is not None and server.ppid() == os.getpid()
    return server


def is_there(pid: int) -> bool:
    """Return whether a process runs: one that nobody has asked about since its end does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(is_there(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_a_forked_child_is_as_one_that_was_started(
    forks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(children.NEEDS, "telling", ("torch",))
    told = []
    for _ in range(2):
        child = await Child.start("telling", ["7", "é b"], log=tmp_path / "log")
        (said,) = await said_by(child)
        assert await child.wait() == 7 and child.last_words() == "some words"
        told.append(said)
    first, second = told
    assert first["arguments"] == ["7", "é b"] and first["name"] == "__main__" and first["module"] == "telling"
    assert first["torch"] and first["parent"] == second["parent"] != os.getpid()
    assert not {*first["random"]} & {*second["random"]}
    assert first["open"] == ["0", "1", "2", "3"], "its streams, and the listing itself"
    await child.stop()


async def test_a_child_that_fails_or_is_unknown_ends_with_its_last_words(forks: Path, tmp_path: Path) -> None:
    child = await Child.start("no.such.module", [], log=tmp_path / "log")
    assert not await said_by(child)
    assert await child.wait() == 1 and "No module named 'no'" in child.last_words()


async def test_a_childs_threads_and_exit_handlers_come_before_its_end(forks: Path, tmp_path: Path) -> None:
    written, scratch = tmp_path / "written", tmp_path / "scratch"
    scratch.mkdir()
    for more, status, words in (([], 0, ""), (["no more"], 1, "no more")):
        arguments = [str(scratch), str(written), *more]
        child = await Child.start("ending", arguments, log=tmp_path / "log")
        assert await said_by(child) == [{"a": "thread"}, {"at": "exit"}]
        assert await child.wait() == status and child.last_words() == words
        assert written.read_text() == "to the end" and not list(scratch.iterdir())
        written.unlink()


async def test_a_child_is_ended_by_its_input_and_killed_where_it_does_not_end(
    forks: Path, tmp_path: Path
) -> None:
    for arguments, grace_s, status in (([], 30.0, -signal.SIGTERM), (["stubborn"], 0.1, -signal.SIGKILL)):
        child = await Child.start("waiting", arguments, log=tmp_path / "log")
        assert await anext(child.lines()) == {}
        await child.stop(grace_s)
        assert await child.wait() == status
        await child.stop()


async def test_jobs_are_learned_side_by_side_and_the_server_starts_no_thread(
    forks: Path, tmp_path: Path
) -> None:
    children = []
    for name in ("one", "two"):
        make_job(tmp_path / name, TrainOrder(data="digits", steps=30, seed=1))
        children.append(await Child.start("node.learner", [str(tmp_path / name)], log=tmp_path / "log"))
    server = server_of(children[0])
    for child, said in zip(children, await asyncio.gather(*map(said_by, children)), strict=True):
        assert said[-1]["stage"] == "done" and await child.wait() == 0
    assert server.num_threads() == 1 and not server.children()


async def test_a_server_that_went_takes_its_children_along_and_is_replaced(
    modules: Path, tmp_path: Path
) -> None:
    with forked_from(tmp_path / "server.log"):
        child = await Child.start("waiting", ["stubborn"], log=tmp_path / "log")
        assert await anext(child.lines()) == {}
        server = server_of(child)
        server.terminate()  # as what ends a whole group does, which is the parent's business
        await (await Child.start("waiting", [], log=tmp_path / "log")).stop()
        server.kill()
        assert await child.wait() == -signal.SIGKILL
        await gone(child.pid)
        again = await Child.start("waiting", [], log=tmp_path / "log")
        assert server_of(again) != server
        server = server_of(again)
    assert await again.wait() == -signal.SIGKILL, "whoever leaves ends all"
    await gone(again.pid, server.pid)


async def test_an_import_that_fails_spoils_nothing_for_those_that_run_and_come(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "failing.py").write_text("raise OSError(24)\n")
    with forked_from(tmp_path / "server.log"):
        before = await Child.start("waiting", [], log=tmp_path / "log")
        assert await anext(before.lines()) == {}
        first = server_of(before)
        monkeypatch.setitem(children.NEEDS, "telling", ("failing",))
        child = await Child.start("telling", ["0"], log=tmp_path / "log")
        (said,) = await said_by(child)
        assert await child.wait() == 0 and said["parent"] == os.getpid(), "no server could provide for it"
        monkeypatch.delitem(children.NEEDS, "telling")
        child = await Child.start("telling", ["0"], log=tmp_path / "log")
        (said,) = await said_by(child)
        assert await child.wait() == 0 and said["parent"] not in (first.pid, os.getpid())
        assert psutil.pid_exists(before.pid)
        await before.stop()
        await gone(first.pid)


async def test_a_child_is_killed_and_its_end_is_heard_of_while_the_server_hangs(
    modules: Path, tmp_path: Path
) -> None:
    with forked_from(tmp_path / "server.log"):
        child = await Child.start("waiting", ["stubborn"], log=tmp_path / "log")
        assert await anext(child.lines()) == {}
        server_of(child).suspend()
        async with asyncio.timeout(PATIENCE_S / 2):
            await child.stop(0.1)
        assert await child.wait() == -signal.SIGKILL


async def test_what_is_too_much_for_an_order_is_started_anew(forks: Path, tmp_path: Path) -> None:
    child = await Child.start("telling", ["0", "x" * 70_000], log=tmp_path / "log")
    (said,) = await said_by(child)
    assert await child.wait() == 0 and said["parent"] == os.getpid()


async def test_without_a_server_a_child_is_started_anew(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks_module, "SERVER_MODULE", "no.such.server")
    with forked_from(tmp_path / "server.log"):
        child = await Child.start("telling", ["0"], log=tmp_path / "log")
        (said,) = await said_by(child)
        assert await child.wait() == 0 and said["parent"] == os.getpid() and not said["torch"]
    assert "no.such.server" in (tmp_path / "server.log").read_text()


async def test_a_start_that_is_given_up_leaves_no_child(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "slow.py").write_text("import time\ntime.sleep(2)\n")
    monkeypatch.setitem(children.NEEDS, "waiting", ("slow",))
    with forked_from(tmp_path / "server.log"):
        starting = asyncio.create_task(Child.start("waiting", [], log=tmp_path / "log"))
        await asyncio.sleep(1)  # the server still imports
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        child = await Child.start("waiting", [], log=tmp_path / "log")
        async with asyncio.timeout(PATIENCE_S):
            while [each.pid for each in server_of(child).children()] != [child.pid]:
                await asyncio.sleep(0.02)
        await child.stop()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
async def test_nothing_outlives_its_agent(modules: Path, tmp_path: Path, ending: signal.Signals) -> None:
    """Killed, or by Ctrl-C in a terminal, which tells the whole group of processes."""
    agent = subprocess.Popen(
        [sys.executable, "-m", "agent", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert agent.stderr is not None
    with agent, agent.stderr:
        pid, child = map(int, (await asyncio.to_thread(agent.stderr.readline)).split())
        server = psutil.Process(child).ppid()
        assert psutil.Process(server).ppid() == pid
        (os.killpg if ending == signal.SIGINT else os.kill)(pid, ending)
        await asyncio.to_thread(agent.wait, PATIENCE_S)
    await gone(child, server)
