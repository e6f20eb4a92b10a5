"""Where a client keeps what it knows of its swarm: beside its identity, or for its own time only."""

import tempfile
from pathlib import Path

from swarm.trust.identity import Identity


class CacheFolder:
    """A folder that may be lost. Where the place beside the identity cannot be written, a temporary one."""

    def __init__(self, identity: Identity, folder: str | Path | None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        name = identity.folder.name
        beside = identity.folder.with_name("client" if name == "identity" else f"{name}-client")
        self.folder = beside if folder is None else Path(folder).expanduser().resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError:
            if folder is not None:
                raise
            self._temporary = tempfile.TemporaryDirectory(prefix="swarm-client-")
            self.folder = Path(self._temporary.name)

    def close(self) -> None:
        """Remove a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()
