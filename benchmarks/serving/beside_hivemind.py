"""`python -m benchmarks.serving.beside_hivemind --python PYTHON`: our expert server beside hivemind's.

PYTHON is an interpreter of an environment with `pip install hivemind` (1.1.12 was measured). The same FFN
expert of 1024 (hivemind's minimalistic preset: one expert, one handler), forward passes only, one thread
of computation in each server, asked in turns. Ours is behind mutual TLS with a connection for each client,
checks what it gives and names classes; hivemind's is asked over its p2p daemon by one client process.
`routed_over_hivemind` is the median of the two throughputs' ratio in a turn at that preset's mix, one client
with 2,048 rows in each request.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.registry.talking import Talker
from benchmarks.results_file import machine, write_result
from benchmarks.serving.expert_server import ExpertServerProcess
from tests.support.expert_home import expert_home

SIZE = 1024
LOADS = {"32x1": (32, 1), "1x1": (1, 1), "4x32": (4, 32), "1x2048": (1, 2048)}
"""Clients at once, and rows of each request."""
MAIN = "1x2048"
_SIDE = Path(__file__).with_name("hivemind_side.py")


class Side:
    """A process of hivemind's side: says JSON lines among others, and is told them."""

    def __init__(self, python: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [python, str(_SIDE), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = self._answer()

    def ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--python", required=True, help="an interpreter that has hivemind")
    found.add_argument("--turns", type=int, default=5)
    found.add_argument("--requests", type=int, default=640, help="rows of a turn, about")
    return found


def measured(folder: Path, python: str, turns: int, rows_of_a_turn: int) -> dict[str, float]:
    """Return requests per second of both sides, and the ratios' medians, by load."""
    garden = expert_home(folder, shape=(SIZE,), input_dtype="float32", scale=1.0)
    digest = garden.add(net="benchmarks.serving.ffn_net:feed_forward", classes=SIZE)
    now = datetime.now(UTC)
    members = [garden.founded.member(f"asker{n}", "client", now=now) for n in range(32)]
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(ExpertServerProcess(garden.home, "ours", micro_batching=True))
        clients = stack.enter_context(
            Talker("benchmarks.serving.asking", *(str(member.folder) for member in members))
        )
        server = Side(python, "serve")
        stack.callback(server.close)
        theirs = Side(python, "ask", ",".join(server.ready["addresses"]), server.ready["peer"])
        stack.callback(theirs.close)
        fixed = {
            "address": ours.address, "node": "rose", "shape": [SIZE], "dtype": "float32",
            "trunk": garden.specification.trunk.digest, "experts": {digest: garden.experts[digest].expert},
        }  # fmt: skip
        for name, (count, rows) in LOADS.items():
            requests = max(2, rows_of_a_turn // (count * rows))
            load = {"clients": count, "requests": requests, "rows": rows}
            speeds: dict[str, list[float]] = {"ours": [], "hivemind": []}
            for turn in range(turns + 1):
                for who in ("ours", "hivemind") if turn % 2 else ("hivemind", "ours"):
                    found = clients.ask(**fixed, **load) if who == "ours" else theirs.ask(**load)
                    speeds[who].append(count * requests / found["wall_s"])
            ratios = [
                one / other for one, other in zip(speeds["ours"][1:], speeds["hivemind"][1:], strict=True)
            ]
            low, _, high = statistics.quantiles(ratios, n=4)
            figures[f"{name}.over_hivemind"] = statistics.median(ratios)
            figures[f"{name}.over_hivemind.spread"] = (high - low) / 2
            for who, values in speeds.items():
                figures[f"{name}.{who}_per_s"] = statistics.median(values[1:])
            print(
                name, {key: round(value, 3) for key, value in figures.items() if key.startswith(f"{name}.")}
            )
    figures["routed_over_hivemind"] = figures[f"{MAIN}.over_hivemind"]
    return figures


def main(arguments: Sequence[str]) -> None:
    chosen = parser().parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="swarm-hivemind-") as folder:
        figures = measured(Path(folder), chosen.python, chosen.turns, chosen.requests)
    print(f"routed_over_hivemind {figures['routed_over_hivemind']:.3f}")
    print(write_result("serving-beside-hivemind", figures))


if __name__ == "__main__":
    main(sys.argv[1:])
