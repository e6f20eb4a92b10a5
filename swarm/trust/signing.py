"""Ed25519 keys: what a member signs its statements and proofs with.

A public key travels as its 32 raw bytes in hexadecimal and is its own key id.
"""

import re
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.skipped_imports import without

# It offers signers of clouds too, where their clients are installed: boto3 takes a third of a second.
with without("boto3", "azure", "google.cloud", "pkcs11"):
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

__all__ = [
    "CryptoSigner",
    "Envelope",
    "SSlibKey",
    "Signer",
    "StatementSigner",
    "check_public_key",
    "statement_key",
    "verify_signature",
]

_HEX_KEY = re.compile(r"[0-9a-f]{64}")


class StatementSigner(Protocol):
    """Whatever may sign a statement: a member's `Signer` or the `CertificateAuthority`."""

    @property
    def dsse_signer(self) -> CryptoSigner: ...


class Signer:
    """A member's signing key. Its text form and its repr never show the private half."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_hex = private_key.public_key().public_bytes_raw().hex()
        self.dsse_signer = CryptoSigner(private_key, statement_key(self.public_hex))

    def __repr__(self) -> str:
        return f"Signer({self.public_hex[:12]})"

    @classmethod
    def generate(cls) -> "Signer":
        """Return a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_hex(cls, private_hex: str) -> "Signer":
        """Return the key whose 32 private bytes are given in hexadecimal; InvalidInputError otherwise."""
        if not _HEX_KEY.fullmatch(private_hex):
            raise InvalidInputError("signing key", found="other text", expected="64 hexadecimal digits")
        return cls(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private_hex)))

    @property
    def private_hex(self) -> str:
        """The secret half, for the key file only."""
        return self._private_key.private_bytes_raw().hex()

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over data."""
        return self._private_key.sign(data)


def check_public_key(public_hex: str) -> str:
    """Return public_hex; InvalidInputError unless it is an Ed25519 public key in hexadecimal."""
    if not _HEX_KEY.fullmatch(public_hex):
        raise InvalidInputError(
            "signing key",
            found=repr(public_hex[:80]),
            expected="a raw Ed25519 public key, 64 lowercase hexadecimal digits",
        )
    return public_hex


def statement_key(public_hex: str) -> SSlibKey:
    """Return an Ed25519 public key in the form that verifies DSSE envelopes."""
    return SSlibKey(check_public_key(public_hex), "ed25519", "ed25519", {"public": public_hex})


def verify_signature(public_hex: str, data: bytes, signature: bytes) -> None:
    """Raise VerificationError unless signature is public_hex's signature over data."""
    public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(check_public_key(public_hex)))
    try:
        public_key.verify(signature, data)
    except InvalidSignature as error:
        raise VerificationError(
            "signature",
            found="a signature by another key or over other bytes",
            expected=f"one by key {public_hex[:12]}",
        ) from error
