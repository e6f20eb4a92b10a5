"""Bytes at the sockets, and events as lines."""

import io
import json
import resource
import socket
import subprocess
import sys

import pytest
import structlog

from swarm.telemetry import SocketMeter, configure_logging

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")


def carry(size: int) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    sender.sendall(b"x" * size)
    left = size
    while left:
        left -= len(receiver.recv(65536))
    return sender, receiver


@linux
def test_bytes_of_tcp_sockets_are_counted_both_ways_and_survive_their_closing() -> None:
    with SocketMeter() as meter:
        before = meter.totals()
        sender, receiver = carry(100_000)
        counted = meter.totals()
        assert 100_000 <= counted.sent - before.sent <= 100_010
        assert 100_000 <= counted.received - before.received <= 100_010
        sender.close()
        receiver.close()
        assert meter.totals() == counted
    assert meter.totals() == counted


@linux
def test_unix_sockets_and_excluded_ports_do_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with SocketMeter(exclude_peer_ports=[port]) as meter:
            one, other = socket.socketpair()
            with one, other, socket.create_connection(("127.0.0.1", port)) as sender:
                before = meter.totals()
                one.sendall(b"y" * 5000)
                sender.sendall(b"x" * 5000)
                receiver, _ = listener.accept()
                with receiver:
                    assert receiver.recv(65536)
                    assert meter.totals().sent == before.sent


@linux
def test_a_process_that_may_open_no_more_files_goes_on_counting() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with SocketMeter() as meter:
        sender, receiver = carry(1000)
        counted = meter.totals()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert meter.totals() == counted
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sender.sendall(b"x" * 500)
        assert receiver.recv(500)
        assert meter.totals().sent >= counted.sent + 500
        sender.close()
        receiver.close()


def test_a_service_may_open_as_many_files_as_its_machine_allows() -> None:
    program = (
        "import resource; from swarm.open_files import MOST, raise_limit\n"
        "hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 5000)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "assert raise_limit() == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_events_are_json_lines_with_the_process_that_says_them() -> None:
    stream = io.StringIO()
    configure_logging("registry", stream=stream)
    try:
        structlog.get_logger("x").info("module.published", expert="ada.e1", version=2)
        structlog.get_logger("x").debug("never.shown")
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["event"] == "module.published" and told["process"] == "registry"
    assert (told["expert"], told["version"], told["level"]) == ("ada.e1", 2, "info")


def test_a_library_prints_nothing_where_its_program_set_up_no_logging() -> None:
    code = (
        "import structlog; from swarm.telemetry import log_as_library; log_as_library();"
        "structlog.get_logger('swarm.client').warning('state.not_used', because='it was damaged')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
