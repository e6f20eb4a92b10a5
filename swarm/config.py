"""Where things lie on disk and how a service is set. Flag > environment (`SWARM_*`) > TOML > default."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import platformdirs

COORDINATOR_JOIN_PORT = 7070
COORDINATOR_PORT = 7071
COORDINATOR_HTTP_PORT = 7080
LOOPBACK = "127.0.0.1"
REGISTRY_PORT = 7072
GATE_VERSIONS_KEPT = 50
"""Of so many of the newest gate versions the coordinator keeps all arrays."""


def default_home() -> Path:
    """Return `$SWARM_HOME`, else the user's data folder for swarm."""
    return Path(os.environ.get("SWARM_HOME") or platformdirs.user_data_dir("swarm"))


def home_flag(root: Path) -> str:
    """Return the flag that names a home, quoted as a shell takes it."""
    return f"--home {shlex.quote(str(root))}"


@dataclass(frozen=True, slots=True)
class SwarmHome:
    """The founder's folder, made by `swarm init`: a sub-folder per service; each can be mounted alone."""

    root: Path

    @property
    def ca(self) -> Path:
        """CA certificate and key; needed by the coordinator only. Losing it loses the swarm."""
        return self.root / "ca"

    @property
    def coordinator(self) -> Path:
        """The coordinator's identity, specification, gates and contributions."""
        return self.root / "coordinator"

    @property
    def registry(self) -> Path:
        """The registry's identity and its blobs."""
        return self.root / "registry"

    @property
    def operator(self) -> Path:
        """The operator's identity, which the `swarm` command uses in this home."""
        return self.root / "operator"

    @property
    def redis(self) -> Path:
        """Redis's data where `swarm up` runs it."""
        return self.root / "redis"

    @property
    def run(self) -> Path:
        """Process ids and logs of what runs from here."""
        return self.root / "run"

    @property
    def settings(self) -> Path:
        return self.root / "swarm.toml"


@dataclass(frozen=True, slots=True)
class NodeHome:
    """A node's folder, made by `swarm join`. Nobody else reads it."""

    root: Path

    @property
    def identity(self) -> Path:
        """ca.pem, certificate.pem, key.pem, signing.key, record.json, identity.json."""
        return self.root / "identity"

    @property
    def state(self) -> Path:
        """The node's own leaves, manifests, validation split and checkpoints."""
        return self.root / "state"

    @property
    def cache(self) -> Path:
        """Verified blobs, own and pulled."""
        return self.root / "cache"

    @property
    def outbox(self) -> Path:
        """Publishing intents that are not delivered yet."""
        return self.root / "outbox"

    @property
    def outbound(self) -> Path:
        """What left this machine, one JSON line each."""
        return self.root / "outbound.jsonl"

    @property
    def run(self) -> Path:
        """agent.json (pid, control socket) and agent.log."""
        return self.root / "run"

    @property
    def settings(self) -> Path:
        return self.root / "node.toml"
