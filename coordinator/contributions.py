"""The owners' contributions, in the coordinator's own folder: never in the registry, never sent to a peer."""

import asyncio
import errno
import mmap
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from coordinator.contribution_checks import arrays_blob
from coordinator.envelope_files import sweep_unfinished
from swarm.digests import blake3
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ExhaustedError, NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest, NodeId
from swarm.registry.progress import with_progress
from swarm.trust.key_files import sync_folder, write_file
from swarm.trust.statements import Statement, read_statement

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = structlog.get_logger()


class Arrived:
    """A contribution's arrays as a file that does not count yet. `discard` it unless it is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def discard(self) -> None:
        """Remove the file, unless it was kept; again is harmless."""
        self.path.unlink(missing_ok=True)


class ContributionFiles:
    """One contribution is `<digest>.json` (the signed envelope) and `<digest>.bin` (its arrays).

    The arrays are written first, so an envelope on disk has them until they are dropped, which leaves what
    its owner signed; a crash between leaves arrays alone, which the next start removes. Nothing here holds
    arrays in memory. Which contributions count is said by the gate, not by this folder.
    """

    def __init__(self, folder: Path, *, sweep: bool = True) -> None:
        """`sweep` removes what a crash left: for the one process that writes here, at its start."""
        self._folder = folder
        self._pinned: dict[Digest, bool] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not sweep:
            return
        sweep_unfinished(folder)
        for arrays in folder.glob("*.bin"):
            if not arrays.with_suffix(".json").exists():
                arrays.unlink(missing_ok=True)

    async def receive(self, contribution: Contribution, chunks: AsyncIterator[bytes]) -> Arrived:
        """Write a stream of arrays into a file, hashed on the way and never held in memory.

        Raises VerificationError unless they are the bytes that the contribution signs, DeadlineError where
        nothing comes for 30 s, ExhaustedError on a full disk; nothing is left then.
        """
        subject = f"arrays of the contribution of {contribution.owner}"
        blob, size = arrays_blob(contribution)
        arrived = Arrived(self._folder / f".arrays.{secrets.token_hex(8)}")
        hasher, written = blake3(), 0
        descriptor = os.open(arrived.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for chunk in with_progress(chunks, subject):
                    written += len(chunk)
                    if written > size:
                        raise _other_bytes(subject, f"more than {size} bytes", blob, size)
                    hasher.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
                if written != size or hasher.hexdigest() != blob:
                    found = f"{written} bytes with digest {hasher.hexdigest()[:12]}"
                    raise _other_bytes(subject, found, blob, size)
                await asyncio.to_thread(_sync, file.fileno(), file.flush)
        except OSError as error:
            arrived.discard()
            if error.errno not in _NO_SPACE:
                raise
            raise self._full(f"{size} bytes for the contribution of {contribution.owner}") from error
        except BaseException:
            arrived.discard()
            raise
        return arrived

    def keep(self, digest: Digest, envelope: bytes, arrived: Arrived) -> None:
        """Store a contribution under its statement's digest; again is harmless.

        Raises ExhaustedError on a full disk; nothing of it is left then.
        """
        if self.has(digest):
            arrived.discard()
            return
        was_dropped = self.is_dropped(digest)
        try:
            arrived.path.replace(self.arrays_path(digest))
            write_file(self._folder / f"{digest}.json", envelope, 0o600)
        except OSError as error:
            if was_dropped:
                self.drop_arrays(digest)
            else:
                self.remove(digest)
            if error.errno not in _NO_SPACE:
                raise
            raise self._full("the statement of a contribution") from error

    def _full(self, expected: str) -> ExhaustedError:
        return ExhaustedError(
            f"disk of {self._folder}",
            found="no space left",
            expected=expected,
            remedy="free some space there, then contribute again",
        )

    def mark_aside(self, digest: Digest) -> None:
        """Remember durably that a stored contribution was judged, and is kept aside."""
        write_file(self._folder / f"{digest}.aside", b"", 0o600)

    def is_aside(self, digest: Digest) -> bool:
        """Return whether a stored contribution was marked."""
        return (self._folder / f"{digest}.aside").exists()

    def unmark_aside(self, digest: Digest) -> None:
        """Take the mark away; again is harmless."""
        (self._folder / f"{digest}.aside").unlink(missing_ok=True)

    def arrays_path(self, digest: Digest) -> Path:
        """Return where a contribution's arrays lie or would lie."""
        return self._folder / f"{digest}.bin"

    def has(self, digest: Digest) -> bool:
        """Return whether the contribution is here, whole."""
        return self._is_signed(digest) and self.arrays_path(digest).exists()

    def is_dropped(self, digest: Digest) -> bool:
        """Return whether what its owner signed is here, and the arrays are not any more."""
        return self._is_signed(digest) and not self.arrays_path(digest).exists()

    def whole(self) -> list[Digest]:
        """Return the digests of everything that has its arrays here, sorted."""
        return [digest for digest in self.digests() if self.arrays_path(digest).exists()]

    def drop_arrays(self, digest: Digest) -> None:
        """Forget a contribution's arrays and keep what its owner signed; again is harmless."""
        self.arrays_path(digest).unlink(missing_ok=True)

    def statement(self, digest: Digest) -> Statement[Contribution]:
        """Return what a contribution's owner signed.

        Raises NotFoundError when it is not here and VerificationError when the file was damaged.
        """
        try:
            envelope = (self._folder / f"{digest}.json").read_bytes()
        except FileNotFoundError:
            raise _not_here(digest) from None
        statement = read_statement(envelope, Contribution)
        if statement.digest != digest:
            raise VerificationError(
                f"contribution {digest[:12]}",
                found=f"a statement with digest {statement.digest[:12]}",
                remedy="the file was damaged; restore the coordinator's folder from a backup",
            )
        return statement

    def arrays(self, digest: Digest) -> memoryview:
        """Return a contribution's arrays, mapped and not copied; not verified yet. NotFoundError if gone."""
        try:
            return mapped(self.arrays_path(digest))
        except FileNotFoundError:
            raise _not_here(digest) from None

    def given_by(self, owner: NodeId, digest: Digest) -> tuple[bytes, memoryview]:
        """Return the envelope and the mapped arrays of a contribution of this owner; NotFoundError where it
        is not here, or is another's."""
        statement = self.statement(digest)
        if statement.value.owner != owner:
            raise _not_here(digest)
        return statement.envelope, self.arrays(digest)

    def remove(self, digest: Digest) -> None:
        """Forget a contribution; again is harmless."""
        (self._folder / f"{digest}.json").unlink(missing_ok=True)
        self.unmark_aside(digest)
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

    def pinned(self) -> set[Digest]:
        """Return the contributions of exact copies, which pin their versions. Each file is read once."""
        known = {digest: self._pinned.get(digest) for digest in self.digests()}
        self._pinned = {
            digest: self._is_pinned(digest) if is_pinned is None else is_pinned
            for digest, is_pinned in known.items()
        }
        return {digest for digest, is_pinned in self._pinned.items() if is_pinned}

    def _is_pinned(self, digest: Digest) -> bool:
        try:
            return any(leaf.manifest for leaf in self.statement(digest).value.leaves)
        except SwarmError as error:
            log.error("contribution.damaged", contribution=digest, reason=str(error))
            return False

    def _is_signed(self, digest: Digest) -> bool:
        return (self._folder / f"{digest}.json").exists()

    def digests(self) -> list[Digest]:
        """Return the digests of everything that is stored, sorted."""
        return sorted(Digest(path.stem) for path in self._folder.glob("*.json"))


def mapped(path: Path) -> memoryview:
    """Return a file's bytes, read-only and mapped, not copied."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def _not_here(digest: Digest) -> NotFoundError:
    return NotFoundError(
        f"contribution {digest[:12]}",
        found="no such file in the coordinator's store",
        remedy="restore the coordinator's folder from a backup, or let its owner contribute again",
    )


def _other_bytes(subject: str, found: str, blob: Digest, size: int) -> VerificationError:
    return VerificationError(
        subject,
        found=found,
        expected=f"{size} bytes with digest {blob[:12]}, as the contribution says",
        remedy="send the contribution again",
    )
