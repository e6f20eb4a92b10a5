"""How a node runs: flag > environment (`SWARM_*`) > node.toml > default."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from node.jobs import DEFAULT_NET
from swarm.config import NodeHome
from swarm.domain.errors import UsageError

DEFAULT_CACHE_BYTES = 1 << 30
_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
DEFAULT_STAND_INS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node's settings. `advertise`: HOST:PORT of a direct listener, empty for no open port.

    `net`: the experts' factory where an order names none. `threads` 0: half of this machine's.
    `federation`: which federated apps the owner allows (all, none, or names with commas).
    `expert_bytes`: how many bytes of weights the expert server keeps in memory; what else is asked for is
    loaded anew. `micro_batching`: rows of several requests go through an expert together.
    `stand_ins`: how many others hold an expert beside its owner, as far as it is this node's turn (0: none);
    `stand_in_bytes`: what those that it holds may fill.
    `delta`: weights travel as deltas to those that they came from, for slow links.
    """

    home: NodeHome
    advertise: str = ""
    net: str = DEFAULT_NET
    import_paths: tuple[str, ...] = ()
    threads: int = 0
    federation: str = "all"
    expert_bytes: int = DEFAULT_CACHE_BYTES
    micro_batching: bool = True
    delta: bool = False
    stand_ins: int = DEFAULT_STAND_INS
    stand_in_bytes: int = DEFAULT_CACHE_BYTES
    log_level: str = "info"
    log_json: bool = True

    @classmethod
    def load(cls, root: Path) -> "NodeConfig":
        """Return the settings of a node's home; UsageError names what is wrong in its node.toml."""
        home = NodeHome(root)
        found = _toml(home.settings)
        advertise = os.environ.get("SWARM_ADVERTISE", str(found.get("advertise", "")))
        net = os.environ.get("SWARM_NET") or str(found.get("net", "")) or DEFAULT_NET
        threads = os.environ.get("SWARM_THREADS") or str(found.get("threads", 0))
        if not threads.isdecimal():
            raise UsageError(
                "threads", found=repr(threads), expected="a number, 0 for half of this machine's"
            )
        stand_ins = os.environ.get("SWARM_STAND_INS") or str(found.get("stand_ins", DEFAULT_STAND_INS))
        if not stand_ins.isdecimal():
            raise UsageError(
                "stand_ins", found=repr(stand_ins), expected="a number, 0 to hold no expert of others"
            )
        paths = found.get("import_paths", [])
        if not isinstance(paths, list):
            raise UsageError(
                f"import_paths in {home.settings}", found=repr(paths), expected="a list of folders"
            )
        return cls(
            home=home,
            advertise=advertise,
            net=net,
            import_paths=tuple(str(path) for path in paths),
            threads=int(threads),
            stand_ins=int(stand_ins),
            expert_bytes=size_bytes(
                "expert_memory",
                os.environ.get("SWARM_EXPERT_MEMORY") or found.get("expert_memory", DEFAULT_CACHE_BYTES),
            ),
            micro_batching=_is_on(
                "micro_batching", os.environ.get("SWARM_MICRO_BATCHING", found.get("micro_batching", True))
            ),
            federation=os.environ.get("SWARM_FEDERATION") or str(found.get("federation", "all")),
            delta=_is_on("delta", os.environ.get("SWARM_DELTA", found.get("delta", False))),
            log_level=os.environ.get("SWARM_LOG_LEVEL") or str(found.get("log_level", "info")),
        )

    @property
    def worker_threads(self) -> int:
        """How many threads a child process computes with."""
        return self.threads or max(1, (os.cpu_count() or 2) // 2)


def size_bytes(name: str, value: object) -> int:
    """Return a size that is given as `512MB`, `2GiB` or a number of bytes; UsageError unless above 0."""
    try:
        size = TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        size = ByteSize(0)
    if size <= 0:
        raise UsageError(name, found=repr(value), expected="a size above 0, as 512MB or 2GiB")
    return size


def _is_on(name: str, value: object) -> bool:
    """Return a switch that a variable or a TOML file sets; UsageError for what is neither on nor off."""
    said = str(value).strip().lower()
    if said not in _ON and said not in _OFF:
        raise UsageError(name, found=repr(value), expected="true or false")
    return said in _ON


def _toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(str(path), found=str(error), expected="TOML") from error
