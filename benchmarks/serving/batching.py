"""`python -m benchmarks.serving.batching`: what micro-batching saves a node, and costs a lone request.

Two expert servers over one home, real processes with mutual TLS, one with `micro_batching` and one without,
are asked in turns by 32 clients at once, each for one row and for the next when it has its answer. Figures
with `cpu` are the server's CPU seconds per request, those of all its threads, TLS and gRPC among them;
`lone_p50` is what a single client waits. Each is the median over turns, for ratios that of the two servers'
ratio in a turn; `.spread` is half the distance between the quartiles. `batched_cpu_over_unbatched` is that
of MAIN.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.registry.talking import Talker, cpu_s
from benchmarks.results_file import machine, write_result
from benchmarks.serving.expert_server import ExpertServerProcess
from swarm.domain.ids import Digest
from tests.support.expert_home import ExpertHome, expert_home

SHAPE = (28, 28)
MAIN = "mlp-512x2"
NETS = {MAIN: "mlp:512x2", "mlp-128x2": "mlp:128x2", "mlp-4096x2": "mlp:4096x2"}
"""What is asked: a middling net, the default net, and one with a large feed-forward layer."""
SEVERAL = 8
"""So many experts of the default net are asked in one request, as figures `several`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a turn asks of each server."""

    clients: int
    requests: int
    lone: int


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--clients", type=int, default=32)
    found.add_argument("--requests", type=int, default=30, help="of each client in a turn")
    found.add_argument("--lone", type=int, default=100, help="requests of the single client in a turn")
    found.add_argument("--turns", type=int, default=7)
    found.add_argument("--nets", default=",".join([*NETS, "several"]))
    return found


class Bench:
    """The home, its two servers, and the clients."""

    def __init__(self, folder: Path, clients: int) -> None:
        self._garden = expert_home(folder, shape=SHAPE)
        self.asked: dict[str, tuple[Digest, ...]] = {
            name: (self._garden.add(net=net, seed=seed),) for seed, (name, net) in enumerate(NETS.items())
        }
        self.asked["several"] = tuple(self._garden.add(net="mlp:128x2", seed=10 + n) for n in range(SEVERAL))
        home = self._garden.home
        self._servers = {
            kind: ExpertServerProcess(home, kind, micro_batching=kind == "batched")
            for kind in ("batched", "unbatched")
        }
        now = datetime.now(UTC)
        members = [self._garden.founded.member(f"asker{n}", "client", now=now) for n in range(clients)]
        self._clients = Talker("benchmarks.serving.asking", *(str(member.folder) for member in members))

    def turn(self, name: str, kind: str, clients: int, requests: int) -> dict[str, float]:
        """Ask one server; return its CPU seconds per request, requests per second and the p50."""
        server = self._servers[kind]
        before = cpu_s(server.pid)
        found = self._clients.ask(
            address=server.address, node="rose", clients=clients, requests=requests, shape=list(SHAPE),
            **_named(self._garden, self.asked[name]),
        )  # fmt: skip
        used = cpu_s(server.pid) - before
        count = clients * requests
        return {
            "cpu_ms": 1e3 * used / count,
            "per_s": count / found["wall_s"],
            "p50_ms": 1e3 * statistics.median(found["taken_s"]),
        }

    def close(self) -> None:
        self._clients.close()
        for server in self._servers.values():
            server.close()


def _named(garden: ExpertHome, digests: Sequence[Digest]) -> dict[str, Any]:
    return {
        "trunk": garden.specification.trunk.digest,
        "experts": {digest: garden.experts[digest].expert for digest in digests},
    }


def measured(bench: Bench, name: str, load: Load, turns: int) -> dict[str, float]:
    """Return one net's figures over the turns; the first turn of all warms up and does not count."""
    kinds = ("batched", "unbatched")
    rounds: list[dict[str, Mapping[str, float]]] = []
    for turn in range(turns + 1):
        order = kinds if turn % 2 else kinds[::-1]
        many = {kind: bench.turn(name, kind, load.clients, load.requests) for kind in order}
        lone = {f"lone {kind}": bench.turn(name, kind, 1, load.lone) for kind in order}
        rounds.append({**many, **lone})
    rounds = rounds[1:]
    found = dict[str, float]()

    def note(figure: str, values: list[float]) -> None:
        found[figure] = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (0.0, 0.0, 0.0)
        found[f"{figure}.spread"] = (high - low) / 2

    note("cpu_over_unbatched", [r["batched"]["cpu_ms"] / r["unbatched"]["cpu_ms"] for r in rounds])
    note("per_s_over_unbatched", [r["batched"]["per_s"] / r["unbatched"]["per_s"] for r in rounds])
    note(
        "lone_p50_over_unbatched",
        [r["lone batched"]["p50_ms"] / r["lone unbatched"]["p50_ms"] for r in rounds],
    )
    for kind in kinds:
        note(f"{kind}_cpu_ms", [r[kind]["cpu_ms"] for r in rounds])
        note(f"{kind}_per_s", [r[kind]["per_s"] for r in rounds])
        note(f"{kind}_lone_p50_ms", [r[f"lone {kind}"]["p50_ms"] for r in rounds])
    return found


def main(arguments: Sequence[str]) -> None:
    chosen = parser().parse_args(arguments)
    load = Load(clients=chosen.clients, requests=chosen.requests, lone=chosen.lone)
    figures: dict[str, float] = {}
    print(machine())
    with tempfile.TemporaryDirectory(prefix="swarm-batching-") as folder:
        bench = Bench(Path(folder), load.clients)
        try:
            for name in chosen.nets.split(","):
                found = measured(bench, name, load, chosen.turns)
                for figure, value in found.items():
                    figures[f"{name}.{figure}"] = value
                    if not figure.endswith(".spread"):
                        print(f"{name:<12} {figure:<26} {value:8.3f}  ± {found[f'{figure}.spread']:.3f}")
                sys.stdout.flush()
        finally:
            bench.close()
    if f"{MAIN}.cpu_over_unbatched" in figures:
        figures["batched_cpu_over_unbatched"] = figures[f"{MAIN}.cpu_over_unbatched"]
        print(f"batched_cpu_over_unbatched {figures['batched_cpu_over_unbatched']:.3f}")
    if set(chosen.nets.split(",")) == {*NETS, "several"}:
        print(write_result("serving-batching", figures))


if __name__ == "__main__":
    main(sys.argv[1:])
