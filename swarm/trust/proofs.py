"""Proofs of possession at the join port, where the caller's certificate is missing or expired."""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

from swarm.domain.errors import InvalidInputError, UnauthenticatedError, VerificationError
from swarm.domain.ids import NodeId
from swarm.trust.certificates import utc
from swarm.trust.codec import canonical_json
from swarm.trust.signing import Signer, verify_signature

CLOCK_TOLERANCE = timedelta(seconds=300)


def join_proof(signer: Signer, csr_pem: bytes) -> str:
    """Return the joiner's signature over its signing request's SHA-256, in hexadecimal."""
    return signer.sign(hashlib.sha256(csr_pem).digest()).hex()


def check_join_proof(signing_key: str, csr_pem: bytes, proof: str) -> None:
    """Raise UnauthenticatedError unless the owner of signing_key made this signing request's proof."""
    _check(signing_key, hashlib.sha256(csr_pem).digest(), proof, "join proof")


def renewal_request(signer: Signer, node: NodeId, csr_pem: bytes, now: datetime) -> dict[str, object]:
    """Return the body of a renewal: node, csr_pem, timestamp (seconds since the epoch) and signature."""
    body: dict[str, object] = {
        "node": node,
        "csr_pem": csr_pem.decode("ascii"),
        "timestamp": utc(now).timestamp(),
    }
    return {**body, "signature": signer.sign(canonical_json(body)).hex()}


def check_renewal(body: Mapping[str, object], signing_key: str, now: datetime) -> bytes:
    """Return the signing request in a renewal's body.

    signing_key: the one registered for body["node"]. Raises InvalidInputError for missing or other fields,
    UnauthenticatedError for a wrong signature or a clock that is off by more than 300 s.
    """
    node, csr_pem, timestamp, signature = (
        body.get(name) for name in ("node", "csr_pem", "timestamp", "signature")
    )
    texts = isinstance(node, str) and isinstance(csr_pem, str) and isinstance(signature, str)
    number = isinstance(timestamp, int | float) and not isinstance(timestamp, bool)
    if len(body) != 4 or not texts or not number:
        raise InvalidInputError(
            "renewal",
            found=f"fields {', '.join(sorted(body))[:120]}",
            expected="node, csr_pem, timestamp, signature",
        )
    unsigned = {name: value for name, value in body.items() if name != "signature"}
    _check(signing_key, canonical_json(unsigned), str(signature), f"renewal of {node}")
    skew_s = float(timestamp) - utc(now).timestamp()  # type: ignore[arg-type]
    if abs(skew_s) > CLOCK_TOLERANCE.total_seconds():
        raise UnauthenticatedError(
            f"renewal of {node}",
            found=f"a clock {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}",
            expected=f"at most {CLOCK_TOLERANCE.total_seconds():.0f} s off",
            remedy="set this machine's clock and try again",
        )
    return str(csr_pem).encode()


def _check(signing_key: str, data: bytes, signature: str, subject: str) -> None:
    try:
        verify_signature(signing_key, data, bytes.fromhex(signature))
    except (ValueError, VerificationError) as error:
        raise UnauthenticatedError(
            subject,
            found="a signature that does not verify",
            expected=f"one by the registered key {signing_key[:12]}",
        ) from error
