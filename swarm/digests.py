"""Content addresses: the name of some bytes is their blake3 digest."""

import hmac

from blake3 import blake3

from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest

__all__ = ["blake3", "digest_of", "verify_digest"]


def digest_of(data: bytes | memoryview) -> Digest:
    """Return the blake3 digest of data, 64 hexadecimal digits."""
    return Digest(blake3(data).hexdigest())


def verify_digest(data: bytes | memoryview, expected: Digest, subject: str) -> None:
    """Raise VerificationError, naming subject, unless data hashes to expected."""
    found = digest_of(data)
    if not hmac.compare_digest(found, expected):
        raise VerificationError(
            f"{subject} {expected[:12]}",
            found=f"bytes with digest {found[:12]}",
            expected=f"digest {expected[:12]}",
            remedy="the bytes were damaged or tampered with and are not used; fetch them from another holder",
        )
