"""The swarm's certificate authority: ECDSA P-256, one per swarm. Losing its key loses the swarm."""

import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, VerificationError
from swarm.domain.ids import NodeId, SwarmId, swarm_id
from swarm.domain.members import MemberRecord, Role
from swarm.trust.certificates import (
    BACKDATE,
    ca_swarm,
    certificate_pin,
    check_member,
    key_to_pem,
    load_certificate,
    load_csr,
    load_key,
    spiffe_uri,
    spki_der,
    target_name,
    utc,
)
from swarm.trust.key_files import read_file, read_key, write_file, write_key
from swarm.trust.keyring import ca_statement_key
from swarm.trust.signing import CryptoSigner, check_public_key
from swarm.trust.statements import sign_statement

CA_LIFETIME = timedelta(days=365 * 20)
_SERVING_ROLES: tuple[Role, ...] = ("node", "coordinator", "registry")


class CertificateAuthority:
    """Issues certificates and signs members' records. Folder: `ca.pem` and `key.pem` (0600)."""

    def __init__(self, certificate_pem: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        """Raises VerificationError where the key is not the certificate's."""
        self.certificate_pem = certificate_pem
        self.swarm = ca_swarm(certificate_pem)
        self.pin = certificate_pin(certificate_pem)
        """SHA-256 of the CA's SubjectPublicKeyInfo, in hexadecimal: what join tokens carry."""
        self._certificate = load_certificate(certificate_pem)
        self._key = key
        if spki_der(key.public_key()) != spki_der(self._certificate.public_key()):
            raise VerificationError(
                f"CA of {self.swarm}",
                found="a key that is not the certificate's",
                expected="both from one swarm init",
                remedy="restore the CA: swarm restore",
            )
        self.dsse_signer = CryptoSigner(key, ca_statement_key(certificate_pem))

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.swarm}, {self.pin[:12]})"

    @classmethod
    def create(cls, folder: Path, swarm: SwarmId, *, now: datetime) -> "CertificateAuthority":
        """Make a new CA in folder (0700); ConflictError where there is one already."""
        swarm_id(swarm)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(folder, 0o700)
        if any((folder / name).exists() for name in ("ca.pem", "key.pem")):
            raise ConflictError(
                f"CA in {folder}", found="one already", expected="none", remedy="choose another --home"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate_pem = _self_signed(key, swarm, utc(now))
        write_key(folder / "key.pem", key_to_pem(key))
        write_file(folder / "ca.pem", certificate_pem)
        return cls(certificate_pem, key)

    @classmethod
    def load(cls, folder: Path) -> "CertificateAuthority":
        """Return the CA in folder; NotFoundError, UsageError (open key file) or VerificationError."""
        try:
            certificate_pem, key_pem = read_file(folder / "ca.pem"), read_key(folder / "key.pem")
        except NotFoundError as error:
            raise NotFoundError(
                f"CA in {folder}",
                found=f"no {Path(error.subject).name}",
                remedy="run: swarm init (or swarm restore BACKUP)",
            ) from error
        return cls(certificate_pem, load_key(key_pem))

    def issue(
        self, csr_pem: bytes, *, role: Role, member: NodeId, lifetime: timedelta, now: datetime
    ) -> bytes:
        """Return a certificate (PEM) for the request's key, in the given names whatever the request says.

        Valid from 5 minutes before now. Raises InvalidInputError for a request that is not for a P-256 key
        or not signed by it, and for a reserved name.
        """
        check_member(role, member)
        if lifetime <= timedelta(0):
            raise InvalidInputError("certificate", found=f"lifetime {lifetime}", expected="more than zero")
        public_key = load_csr(csr_pem).public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise InvalidInputError("signing request", found="another kind of key", expected="a P-256 key")
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role in _SERVING_ROLES:
            purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        names = [
            x509.UniformResourceIdentifier(spiffe_uri(self.swarm, role, member)),
            x509.DNSName(target_name(self.swarm, role, member)),
        ]
        issued_at = utc(now)
        certificate = (
            _builder(public_key, member, self._certificate.subject)
            .not_valid_before(issued_at - BACKDATE)
            .not_valid_after(min(issued_at + lifetime, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def sign_record(self, record: MemberRecord) -> bytes:
        """Return the signed envelope that tells everyone whose signing key this is.

        Raises InvalidInputError for another swarm's record, a reserved name, or a key that is none.
        """
        check_member(record.role, record.id)
        if record.swarm != self.swarm:
            raise InvalidInputError(
                f"record of {record.id}", found=f"swarm {record.swarm}", expected=f"swarm {self.swarm}"
            )
        if record.signing_key or record.role in ("node", "coordinator"):
            check_public_key(record.signing_key)
        return sign_statement(record, self)


def _builder(
    public_key: ec.EllipticCurvePublicKey, common_name: str, issuer: x509.Name
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, swarm: SwarmId, now: datetime) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, swarm)])
    certificate = (
        _builder(key.public_key(), swarm, subject)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
