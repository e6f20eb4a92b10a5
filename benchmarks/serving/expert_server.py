"""A node's real expert server as a process of its own, for a home that was made for it."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from node.expert_server_config import ExpertServerConfig
from swarm.config import NodeHome


class ExpertServerProcess:
    """`python -m node.expert_server`, listening with mutual TLS on the loopback."""

    def __init__(self, home: NodeHome, name: str, *, micro_batching: bool, threads: int = 1) -> None:
        home.run.mkdir(mode=0o700, exist_ok=True)
        self.address = f"127.0.0.1:{_free_port()}"
        configuration = home.run / f"{name}.json"
        ExpertServerConfig(
            home=str(home.root),
            socket=str(home.run / f"{name}.socket"),
            listen=self.address,
            import_paths=(),
            expert_bytes=1 << 30,
            threads=threads,
            log_level="error",
            micro_batching=micro_batching,
        ).write(configuration)
        with (home.run / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.expert_server", str(configuration)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        assert self._process.stdout is not None
        if not json.loads(self._process.stdout.readline() or b"{}").get("ready"):
            self.close()
            raise RuntimeError((home.run / f"{name}.log").read_text()[-2000:])
        # Nobody else reads what it says every second, and it would wait for a full pipe.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process, as its agent does."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
