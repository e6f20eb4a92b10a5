"""What the agent tells its expert server, as a file; loads no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from node.durable import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertServerConfig:
    """What the agent tells its expert server.

    `listen`: HOST:PORT for mutual TLS, empty for none. `expert_bytes`: weights that are kept in memory.
    `micro_batching`: rows of several requests may go through an expert together.
    """

    home: str
    socket: str
    listen: str
    import_paths: tuple[str, ...]
    expert_bytes: int
    threads: int
    log_level: str
    micro_batching: bool = True

    def write(self, path: Path) -> None:
        """Keep the configuration where the child reads it."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the configuration that the agent wrote."""
        fields = json.loads(path.read_bytes())
        return cls(**{**fields, "import_paths": tuple(fields["import_paths"])})
