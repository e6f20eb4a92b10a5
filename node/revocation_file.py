"""The signed revocation list as the agent keeps it on disk, for the processes that admit callers."""

from node.durable import write_durably
from swarm.config import NodeHome
from swarm.domain.errors import SwarmError
from swarm.domain.ids import NodeId
from swarm.trust.keyring import Keyring


class RevocationFile:
    """Keeps a keyring's revocations in step with the file; a list that does not verify is not taken up."""

    def __init__(self, home: NodeHome, keyring: Keyring) -> None:
        self._path, self._keyring = home.state / "revocations.json", keyring
        self._stamp: tuple[int, int] | None = None

    def keep(self, envelope: bytes) -> None:
        """Take up a newer list and bring it to disk; VerificationError if it does not verify."""
        self._keyring.set_revocations(envelope)
        write_durably(self._path, envelope)

    def is_revoked(self, member: NodeId) -> bool:
        """Say whether the newest list names a member."""
        self.refresh()
        return self._keyring.is_revoked(member)

    def refresh(self) -> None:
        """Take up the list on disk if it changed."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return
        stamp = (state.st_ino, state.st_mtime_ns)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keyring.set_revocations(self._path.read_bytes())
        except SwarmError:
            # An older list than the one in memory, or a damaged file: what is known stays in force.
            return
