"""Who a process is: the folder with its certificate, keys and records.

Folder (0700): ca.pem, certificate.pem, key.pem (0600), signing.key (0600; only where the member signs),
record.json, coordinator-record.json, identity.json.
"""

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, VerificationError
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.members import MemberRecord, Role
from swarm.domain.membership import Caller
from swarm.domain.tensors import FORBID_UNKNOWN
from swarm.trust.ca import CertificateAuthority
from swarm.trust.certificates import (
    LIFETIMES,
    certificate_not_after,
    check_issued,
    check_member,
    check_newcomer,
    csr_for_key,
    load_certificate,
    load_key,
    needs_renewal,
    new_key_and_csr,
    peer_caller,
    spki_der,
    target_name,
    utc,
)
from swarm.trust.codec import from_json, to_json
from swarm.trust.key_files import read_file, read_key, sync_folder, write_file, write_key
from swarm.trust.keyring import Keyring
from swarm.trust.signing import Signer

__all__ = [
    "LIFETIMES",
    "Identity",
    "certificate_not_after",
    "create_service_identity",
    "needs_renewal",
    "new_key_and_csr",
    "peer_caller",
    "replace_certificate",
    "save_identity",
    "target_name",
]

_NEXT_KEY = "next-key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class _IdentityFile:
    """identity.json: no secrets."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    role: Role
    id: NodeId
    coordinator: str
    registry: str
    join: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process's identity, checked. Addresses are `host:port`, empty where unknown.

    `record` and `coordinator_record` are CA-signed envelopes. `signer` is None where the member signs nothing
    (registry, operator, client). Keys never show in a repr.
    """

    swarm: SwarmId
    role: Role
    id: NodeId
    coordinator: str
    registry: str
    join: str
    folder: Path
    ca_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    record: bytes = field(repr=False)
    coordinator_record: bytes = field(repr=False)
    signer: Signer | None = None

    @classmethod
    def load(cls, folder: Path) -> "Identity":
        """Return the identity in folder.

        Raises NotFoundError where there is none, UsageError where others may read its keys, and
        VerificationError where its parts do not belong together. An expired certificate is no error here:
        a member that slept renews with it.
        """
        try:
            told = from_json(_IdentityFile, read_file(folder / "identity.json"))
        except NotFoundError as error:
            raise NotFoundError(
                f"identity in {folder}",
                found="none",
                remedy="run: swarm join TOKEN@HOST:PORT (or swarm init, to found a swarm)",
            ) from error
        except InvalidInputError as error:
            raise VerificationError(
                f"identity in {folder}", found=f"identity.json with {error.found}", expected=error.expected
            ) from error
        _finish_rotation(folder)
        signing = folder / "signing.key"
        identity = cls(
            swarm=told.swarm,
            role=told.role,
            id=told.id,
            coordinator=told.coordinator,
            registry=told.registry,
            join=told.join,
            folder=folder,
            ca_pem=read_file(folder / "ca.pem"),
            certificate_pem=read_file(folder / "certificate.pem"),
            key_pem=read_key(folder / "key.pem"),
            record=read_file(folder / "record.json"),
            coordinator_record=read_file(folder / "coordinator-record.json"),
            signer=Signer.from_hex(read_key(signing).decode("ascii", "replace").strip())
            if signing.exists()
            else None,
        )
        _check(identity)
        return identity

    @property
    def caller(self) -> Caller:
        """The identity as its peers see it."""
        return Caller(role=self.role, id=self.id)

    def required_signer(self) -> Signer:
        """Return the signing key; InvalidInputError for a member that signs nothing."""
        if self.signer is None:
            raise InvalidInputError(
                f"{self.role} {self.id}", found="no signing key", expected="a node's identity"
            )
        return self.signer

    def keyring(self) -> Keyring:
        """Return a new keyring that knows this member and the coordinator."""
        keyring = Keyring(self.ca_pem, self.swarm)
        keyring.add_records([self.record, self.coordinator_record])
        return keyring

    def renewal_csr(self) -> bytes:
        """Return a signing request, PEM, for the present key: renewal keeps the key, so one file changes."""
        return csr_for_key(load_key(self.key_pem), self.swarm, self.role, self.id)


def save_identity(
    folder: Path,
    *,
    swarm: SwarmId,
    role: Role,
    id: NodeId,
    coordinator: str,
    registry: str,
    join: str,
    ca_pem: bytes,
    certificate_pem: bytes,
    key_pem: bytes,
    record: bytes,
    coordinator_record: bytes,
    signer: Signer | None = None,
) -> Identity:
    """Check an identity and write it as a whole or not at all; return it.

    Raises VerificationError where its parts do not belong together, ConflictError where folder has one.
    """
    identity = Identity(
        swarm=swarm,
        role=role,
        id=id,
        coordinator=coordinator,
        registry=registry,
        join=join,
        folder=folder,
        ca_pem=ca_pem,
        certificate_pem=certificate_pem,
        key_pem=key_pem,
        record=record,
        coordinator_record=coordinator_record,
        signer=signer,
    )
    _check(identity)
    told = _IdentityFile(swarm=swarm, role=role, id=id, coordinator=coordinator, registry=registry, join=join)
    if folder.exists() and any(folder.iterdir()):
        raise ConflictError(
            f"identity in {folder}",
            found="one already",
            expected="none",
            remedy="swarm leave, or another --home",
        )
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir(mode=0o700)
    try:
        write_key(temporary / "key.pem", key_pem)
        if signer is not None:
            write_key(temporary / "signing.key", signer.private_hex.encode())
        for name, data in (
            ("ca.pem", ca_pem),
            ("certificate.pem", certificate_pem),
            ("record.json", record),
            ("coordinator-record.json", coordinator_record),
            ("identity.json", to_json(told)),
        ):
            write_file(temporary / name, data)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return identity


def replace_certificate(folder: Path, pem: bytes, key_pem: bytes | None = None) -> Identity:
    """Put a renewed certificate, and its key where that is new, in place of the old; return the new identity.

    A crash at any point leaves the old pair or the new one. Raises VerificationError where the certificate
    is not of this member, this CA and this key.
    """
    present = Identity.load(folder)
    renewed = replace(present, certificate_pem=pem, key_pem=key_pem or present.key_pem)
    _check(renewed)
    if key_pem is not None and key_pem != present.key_pem:
        write_key(folder / _NEXT_KEY, key_pem)
    write_file(folder / "certificate.pem", pem)
    _finish_rotation(folder)
    return renewed


def create_service_identity(
    ca: CertificateAuthority,
    folder: Path,
    *,
    role: Role,
    member: NodeId | None = None,
    coordinator: str = "",
    registry: str = "",
    join: str = "",
    coordinator_record: bytes = b"",
    signer: Signer | None = None,
    lifetime: timedelta | None = None,
    now: datetime,
) -> Identity:
    """Make and save the identity of a service or operator with the CA at hand, as `swarm init` does.

    member: the role's name unless given. The coordinator gets a signing key unless one is given, and its
    own record as `coordinator_record`; all others need that record. Lifetime: the role's.
    """
    name = member or NodeId(role)
    check_newcomer(role, name)
    if role == "coordinator" and signer is None:
        signer = Signer.generate()
    key_pem, csr_pem = new_key_and_csr(ca.swarm, role, name)
    certificate = ca.issue(csr_pem, role=role, member=name, lifetime=lifetime or LIFETIMES[role], now=now)
    record = ca.sign_record(
        MemberRecord(
            swarm=ca.swarm,
            role=role,
            id=name,
            signing_key=signer.public_hex if signer else "",
            joined_at=utc(now).timestamp(),
        )
    )
    return save_identity(
        folder,
        swarm=ca.swarm,
        role=role,
        id=name,
        coordinator=coordinator,
        registry=registry,
        join=join,
        ca_pem=ca.certificate_pem,
        certificate_pem=certificate,
        key_pem=key_pem,
        record=record,
        coordinator_record=coordinator_record or (record if role == "coordinator" else b""),
        signer=signer,
    )


def _check(identity: Identity) -> None:
    """Raise VerificationError unless certificate, keys and records are this member's, from one CA."""
    subject = f"identity of {identity.role} {identity.id}"
    check_member(identity.role, identity.id)
    check_issued(identity.ca_pem, identity.certificate_pem)
    named = peer_caller(identity.certificate_pem, identity.swarm)
    if named != identity.caller:
        raise VerificationError(
            subject, found=f"a certificate of {named.role} {named.id}", expected="its own"
        )
    if _public_der(identity.key_pem) != spki_der(load_certificate(identity.certificate_pem).public_key()):
        raise VerificationError(subject, found="a key that is not the certificate's", expected="its own")
    keyring = Keyring(identity.ca_pem, identity.swarm)
    record = keyring.add_record(identity.record)
    signing_key = identity.signer.public_hex if identity.signer else ""
    if (record.role, record.id, record.signing_key) != (identity.role, identity.id, signing_key):
        raise VerificationError(
            subject,
            found=f"a record of {record.role} {record.id} with key {record.signing_key[:12] or 'none'}",
            expected=f"its own with key {signing_key[:12] or 'none'}",
        )
    coordinator = keyring.add_record(identity.coordinator_record)
    if coordinator.role != "coordinator":
        raise VerificationError(
            subject, found=f"a coordinator's record of {coordinator.role} {coordinator.id}"
        )


def _public_der(key_pem: bytes) -> bytes:
    return spki_der(load_key(key_pem).public_key())


def _finish_rotation(folder: Path) -> None:
    """Bring key.pem up to certificate.pem after a change of key, also one that a crash interrupted.

    Another process may be in the middle of it: a next key that is not the certificate's yet stays.
    """
    upcoming = folder / _NEXT_KEY
    if not upcoming.exists():
        return
    with suppress(NotFoundError, FileNotFoundError):  # somebody else finished it
        certificate = load_certificate(read_file(folder / "certificate.pem"))
        if _public_der(read_key(upcoming)) == spki_der(certificate.public_key()):
            os.replace(upcoming, folder / "key.pem")
            sync_folder(folder)
