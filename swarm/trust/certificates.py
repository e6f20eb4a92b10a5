"""X.509 certificates: keys, names, pins and dates. P-256, because gRPC's TLS takes no Ed25519.

Every certificate has its own names: the SPIFFE URI `spiffe://<swarm>/<role>/<id>` and one DNS name, so
that a client can demand exactly whom it means to reach and nobody can answer as someone else.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import cast, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarm.domain.errors import InvalidInputError, SwarmError, UnauthenticatedError, VerificationError
from swarm.domain.growth import POLICY
from swarm.domain.ids import NodeId, SwarmId, node_id, swarm_id
from swarm.domain.members import Role
from swarm.domain.membership import Caller

BACKDATE = timedelta(minutes=5)
"""How far behind a member's clock may be when it gets a new certificate."""

LIFETIMES: dict[Role, timedelta] = {
    "node": timedelta(hours=24),
    "coordinator": timedelta(days=7),
    "registry": timedelta(days=7),
    "operator": timedelta(days=90),
    "client": timedelta(days=7),
}

ROLES: tuple[Role, ...] = get_args(Role)
SERVICE_IDS: dict[str, Role] = {"coordinator": "coordinator", "registry": "registry", "operator": "operator"}
"""Names that only these roles may have."""
RESERVED_IDS = frozenset({POLICY})
"""Names that nobody may take; who bears one from before it was reserved may go on."""

_SPIFFE = re.compile(r"spiffe://([a-z0-9-]{1,40})/([a-z]{1,20})/([a-z0-9-]{1,40})")
_MAX_PEM_BYTES = 1 << 16


def check_member(role: Role, member: NodeId) -> None:
    """Raise InvalidInputError where this role may not bear this name."""
    node_id(member)
    if role not in ROLES:
        raise InvalidInputError(
            f"member {member}", found=f"role {str(role)[:40]!r}", expected=", ".join(ROLES)
        )
    reserved = SERVICE_IDS.get(member)
    fixed = role in ("coordinator", "registry")
    if (reserved is not None and reserved != role) or (fixed and reserved != role):
        raise InvalidInputError(
            f"{role} name",
            found=f"{member!r}, which is reserved" if reserved else repr(member),
            expected=f"{role!r}" if fixed else f"another name than {', '.join(SERVICE_IDS)}",
            remedy="choose another name",
        )


def check_newcomer(role: Role, member: NodeId) -> None:
    """Raise InvalidInputError where nobody may take this name in this role, though it may be borne of old."""
    check_member(role, member)
    if member in RESERVED_IDS:
        raise InvalidInputError(
            f"{role} name",
            found=f"{member!r}, which is reserved",
            expected=f"another name than {', '.join([*SERVICE_IDS, *RESERVED_IDS])}",
            remedy="choose another name",
        )


def spiffe_uri(swarm: SwarmId, role: Role, member: NodeId) -> str:
    """Return the URI that a member's certificate carries."""
    return f"spiffe://{swarm}/{role}/{member}"


def target_name(swarm: SwarmId, role: Role, member: NodeId) -> str:
    """Return the DNS name that a client demands of this member: its certificate's, and nobody else's."""
    if role in ("coordinator", "registry"):
        return f"{role}.{swarm}"
    return f"{member}.{role}.{swarm}"


def peer_caller(peer: bytes | str, swarm: SwarmId | None = None) -> Caller:
    """Return whom a certificate (PEM) or its SPIFFE URI names; with swarm, only if it is of that swarm.

    The connection must have verified the certificate against the CA. Raises UnauthenticatedError.
    """
    uri = peer if isinstance(peer, str) and peer.startswith("spiffe:") else _certificate_uri(peer)
    match = _SPIFFE.fullmatch(uri)
    if match is None or match[2] not in ROLES:
        raise UnauthenticatedError(
            "certificate", found=f"name {uri[:120]!r}", expected="spiffe://<swarm>/<role>/<id>"
        )
    if swarm is not None and match[1] != swarm:
        raise UnauthenticatedError("certificate", found=f"swarm {match[1]}", expected=f"swarm {swarm}")
    try:
        caller = Caller(role=cast(Role, match[2]), id=node_id(match[3]))
        check_member(caller.role, caller.id)
    except InvalidInputError as error:
        raise UnauthenticatedError("certificate", found=error.found, expected=error.expected) from error
    return caller


def new_key_and_csr(swarm: SwarmId, role: Role, member: NodeId) -> tuple[bytes, bytes]:
    """Return a new P-256 key and a signing request for it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key_to_pem(key), csr_for_key(key, swarm, role, member)


def csr_for_key(key: ec.EllipticCurvePrivateKey, swarm: SwarmId, role: Role, member: NodeId) -> bytes:
    """Return a signing request, PEM, for a key that exists."""
    names = [
        x509.UniformResourceIdentifier(spiffe_uri(swarm, role, member)),
        x509.DNSName(target_name(swarm, role, member)),
    ]
    builder = x509.CertificateSigningRequestBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member)])
    ).add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PKCS#8 PEM, unencrypted: it belongs in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a P-256 private key; InvalidInputError for anything else."""
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            "private key", found="no readable key", expected="a P-256 key in PEM"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInputError("private key", found="another kind of key", expected="a P-256 key")
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """Return a certificate; VerificationError where pem is none."""
    try:
        if len(pem) > _MAX_PEM_BYTES:
            raise ValueError(f"{len(pem)} bytes")
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise VerificationError("certificate", found="no readable PEM", expected="one certificate") from error


def load_csr(csr_pem: bytes) -> x509.CertificateSigningRequest:
    """Return a signing request for a P-256 key whose owner made it; InvalidInputError otherwise."""
    try:
        if len(csr_pem) > _MAX_PEM_BYTES:
            raise ValueError(f"{len(csr_pem)} bytes")
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        proven = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, SwarmError) as error:
        raise InvalidInputError(
            "signing request", found="no readable PEM", expected="a PKCS#10 request"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInputError("signing request", found="another kind of key", expected="a P-256 key")
    if not proven:
        raise InvalidInputError("signing request", found="a signature that does not verify")
    return csr


def spki_der(key: object) -> bytes:
    """Return a public key's SubjectPublicKeyInfo, DER."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise VerificationError("certificate", found="another kind of key", expected="a P-256 key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate_pin(pem: bytes) -> str:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(spki_der(load_certificate(pem).public_key())).hexdigest()


def check_pin(ca_pem: bytes, pin: str) -> None:
    """Raise VerificationError unless this is the CA that a join token pins."""
    found = certificate_pin(ca_pem)
    if found != pin:
        raise VerificationError(
            "CA certificate",
            found=f"pin {found[:12]}",
            expected=f"pin {pin[:12]} of the join token",
            remedy="someone else answers at this address, or the token is of another swarm; nothing was sent",
        )


def ca_swarm(ca_pem: bytes) -> SwarmId:
    """Return the name of the swarm whose CA this is: the certificate's common name."""
    names = load_certificate(ca_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise VerificationError("CA certificate", found="no common name", expected="the swarm's name")
    try:
        return swarm_id(str(names[0].value))
    except InvalidInputError as error:
        raise VerificationError("CA certificate", found=error.found, expected="the swarm's name") from error


def check_issued(ca_pem: bytes, pem: bytes) -> None:
    """Raise VerificationError unless the CA issued this certificate (dates are not looked at)."""
    try:
        load_certificate(pem).verify_directly_issued_by(load_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise VerificationError(
            "certificate", found="one from another CA", expected=f"one from CA {certificate_pin(ca_pem)[:12]}"
        ) from error


def certificate_not_after(pem: bytes) -> datetime:
    """Return when a certificate expires (UTC)."""
    return load_certificate(pem).not_valid_after_utc


def needs_renewal(pem: bytes, now: datetime) -> bool:
    """Return whether two thirds of a certificate's life are over."""
    certificate = load_certificate(pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return utc(now) >= begin + (end - begin) * 2 / 3


def utc(now: datetime) -> datetime:
    """Return now in UTC; InvalidInputError for a time without a zone."""
    if now.tzinfo is None:
        raise InvalidInputError("time", found=f"{now.isoformat()} without a zone", expected="a time in UTC")
    return now.astimezone(UTC)


def _certificate_uri(peer: bytes | str) -> str:
    try:
        certificate = load_certificate(peer.encode() if isinstance(peer, str) else peer)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (VerificationError, x509.ExtensionNotFound, ValueError) as error:
        raise UnauthenticatedError("certificate", found="no readable name") from error
    if len(uris) != 1:
        raise UnauthenticatedError("certificate", found=f"{len(uris)} URI names", expected="one")
    return str(uris[0])
