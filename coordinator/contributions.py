"""The owners' contributions, in the coordinator's own folder: never in the registry, never sent to a peer."""

from pathlib import Path

import structlog

from coordinator.envelope_files import sweep_unfinished
from swarm.digests import verify_digest
from swarm.domain.errors import NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Contribution
from swarm.trust.key_files import sync_folder, write_file
from swarm.trust.statements import Statement, read_statement

log = structlog.get_logger()


class ContributionFiles:
    """One contribution is `<digest>.json` (the signed envelope) and `<digest>.bin` (its arrays).

    The arrays are written first, so an envelope on disk always has them; a crash between leaves arrays
    alone, which the next start removes. Which contributions count is said by the gate, not by this folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        for arrays in folder.glob("*.bin"):
            if not arrays.with_suffix(".json").exists():
                arrays.unlink(missing_ok=True)

    def put(self, digest: Digest, envelope: bytes, arrays: bytes) -> None:
        """Store a contribution under its statement's digest; again is harmless."""
        if not self.has(digest):
            write_file(self._folder / f"{digest}.bin", arrays, 0o600)
            write_file(self._folder / f"{digest}.json", envelope, 0o600)

    def has(self, digest: Digest) -> bool:
        """Return whether the contribution is here, whole."""
        return (self._folder / f"{digest}.json").exists()

    def read(self, digest: Digest) -> tuple[Statement[Contribution], bytes]:
        """Return the contribution's statement and the bytes of its arrays, both checked by digest.

        Raises NotFoundError when it is not here and VerificationError when the bytes on disk were damaged.
        """
        subject = f"contribution {digest[:12]}"
        try:
            envelope = (self._folder / f"{digest}.json").read_bytes()
            arrays = (self._folder / f"{digest}.bin").read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                subject,
                found="no such file in the coordinator's store",
                remedy="restore the coordinator's folder from a backup, or let its owner contribute again",
            ) from None
        statement = read_statement(envelope, Contribution)
        if statement.digest != digest:
            raise VerificationError(
                subject,
                found=f"a statement with digest {statement.digest[:12]}",
                remedy="the file was damaged; restore the coordinator's folder from a backup",
            )
        for blob in {leaf.prototypes.blob for leaf in statement.value.leaves}:
            verify_digest(arrays, blob, f"arrays of {subject}")
        return statement, arrays

    def remove(self, digest: Digest) -> None:
        """Forget a contribution; again is harmless."""
        (self._folder / f"{digest}.json").unlink(missing_ok=True)
        (self._folder / f"{digest}.bin").unlink(missing_ok=True)
        sync_folder(self._folder)

    def remove_owner(self, owner: NodeId) -> None:
        """Forget every contribution of an owner, its older ones too; one that was damaged stays."""
        for digest in self.digests():
            try:
                statement = read_statement((self._folder / f"{digest}.json").read_bytes(), Contribution)
            except SwarmError as error:
                log.error("contribution.damaged", contribution=digest, reason=str(error))
                continue
            if statement.value.owner == owner:
                self.remove(digest)

    def digests(self) -> list[Digest]:
        """Return the digests of everything that is stored, sorted."""
        return sorted(Digest(path.stem) for path in self._folder.glob("*.json"))
