"""The CA and its certificates: names, purposes, dates, and TLS handshakes that demand exactly one member."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.members import MemberRecord, Role
from swarm.trust.ca import CertificateAuthority
from swarm.trust.certificates import (
    LIFETIMES,
    ca_swarm,
    certificate_not_after,
    certificate_pin,
    check_issued,
    check_newcomer,
    check_pin,
    needs_renewal,
    new_key_and_csr,
    peer_caller,
    spiffe_uri,
    target_name,
)
from swarm.trust.identity import Identity
from tests.support.trust import NOW, SWARM, Founded, found


@pytest.fixture
def swarm(tmp_path: Path) -> Founded:
    return found(tmp_path / "swarm")


@pytest.fixture
def live(tmp_path: Path) -> Founded:
    """A swarm whose certificates are valid right now, for handshakes."""
    return found(tmp_path / "live", now=datetime.now(UTC))


def issued(swarm: Founded, role: Role = "node", name: str = "ada") -> x509.Certificate:
    _, csr = new_key_and_csr(SWARM, role, NodeId(name))
    return x509.load_pem_x509_certificate(
        swarm.ca.issue(csr, role=role, member=NodeId(name), lifetime=LIFETIMES[role], now=NOW)
    )


NAMES: list[tuple[Role, str, str]] = [
    ("node", "ada", "ada.node.plants"),
    ("coordinator", "coordinator", "coordinator.plants"),
    ("registry", "registry", "registry.plants"),
    ("operator", "operator", "operator.operator.plants"),
    ("operator", "olga", "olga.operator.plants"),
    ("client", "app-1", "app-1.client.plants"),
]


@pytest.mark.parametrize(("role", "name", "dns"), NAMES)
def test_every_certificate_has_its_own_two_names(swarm: Founded, role: Role, name: str, dns: str) -> None:
    names = issued(swarm, role, name).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [dns] == [target_name(SWARM, role, NodeId(name))]
    uri = f"spiffe://plants/{role}/{name}"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert spiffe_uri(SWARM, role, NodeId(name)) == uri
    caller = peer_caller(uri, SWARM)
    assert (caller.role, caller.id) == (role, name)


def test_two_members_never_share_a_dns_name() -> None:
    names = [target_name(SWARM, role, NodeId(name)) for role, name, _ in NAMES]
    assert len(set(names)) == len(names)


def test_a_certificate_says_what_the_ca_decides_not_what_the_request_asks(swarm: Founded) -> None:
    _, csr = new_key_and_csr(SWARM, "registry", NodeId("registry"))
    pem = swarm.ca.issue(csr, role="node", member=NodeId("ada"), lifetime=timedelta(hours=1), now=NOW)
    assert peer_caller(pem, SWARM).id == "ada"
    certificate = x509.load_pem_x509_certificate(pem)
    assert b"registry" not in certificate.public_bytes(serialization.Encoding.DER)


def test_certificates_are_no_authorities_and_operators_cannot_serve(swarm: Founded) -> None:
    for role, name, _ in NAMES:
        extensions = issued(swarm, role, name).extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes
        serves = ExtendedKeyUsageOID.SERVER_AUTH in purposes
        assert serves == (role in ("node", "coordinator", "registry"))


def test_certificates_begin_five_minutes_ago_and_never_outlive_the_ca(swarm: Founded) -> None:
    certificate = issued(swarm)
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW + timedelta(hours=24)
    ca_end = certificate_not_after(swarm.ca.certificate_pem)
    _, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    late = swarm.ca.issue(
        csr,
        role="node",
        member=NodeId("ada"),
        lifetime=timedelta(hours=24),
        now=ca_end - timedelta(hours=1),
    )
    assert certificate_not_after(late) == ca_end


def test_renewal_is_due_after_two_thirds_of_the_lifetime(swarm: Founded) -> None:
    pem = issued(swarm).public_bytes(serialization.Encoding.PEM)
    assert not needs_renewal(pem, NOW)
    assert not needs_renewal(pem, NOW + timedelta(hours=15))
    assert needs_renewal(pem, NOW + timedelta(hours=16))
    assert needs_renewal(pem, NOW + timedelta(days=9))
    with pytest.raises(InvalidInputError, match="zone"):
        needs_renewal(pem, NOW.replace(tzinfo=None))


def csr_with(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ada")])
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_requests_for_other_keys_or_without_proof_are_refused(swarm: Founded) -> None:
    _, good = new_key_and_csr(SWARM, "node", NodeId("ada"))
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER))
    other_version = der.replace(b"\x02\x01\x00", b"\x02\x01\x07", 1)
    der[-1] ^= 1
    unproven = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    bad = {
        "P-256": csr_with(rsa.generate_private_key(65537, 2048)),
        "a P-256 key": csr_with(ed25519.Ed25519PrivateKey.generate()),
        "another kind of key": csr_with(ec.generate_private_key(ec.SECP384R1())),
        "verify": unproven,
        "no readable PEM": b"hello",
        "a PKCS#10 request": ssl.DER_cert_to_PEM_cert(bytes(other_version))
        .replace("CERTIFICATE", "CERTIFICATE REQUEST")
        .encode(),
        "signing request": good + b" " * (1 << 17),
    }
    for reason, csr in bad.items():
        with pytest.raises(InvalidInputError, match=reason):
            swarm.ca.issue(csr, role="node", member=NodeId("ada"), lifetime=timedelta(hours=1), now=NOW)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("node", "coordinator"),
        ("node", "registry"),
        ("node", "operator"),
        ("operator", "registry"),
        ("client", "coordinator"),
        ("registry", "ada"),
        ("coordinator", "registry"),
        ("king", "ada"),
        ("node", "Ada"),
        ("node", "a.b"),
        ("node", ""),
    ],
)
def test_reserved_and_malformed_names_are_refused(swarm: Founded, role: Role, name: str) -> None:
    _, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    with pytest.raises(InvalidInputError):
        swarm.ca.issue(csr, role=role, member=NodeId(name), lifetime=timedelta(hours=1), now=NOW)
    record = MemberRecord(swarm=SWARM, role=role, id=NodeId(name), signing_key="1" * 64, joined_at=1.0)
    with pytest.raises(InvalidInputError):
        swarm.ca.sign_record(record)


def test_nobody_takes_the_policys_name_and_who_has_it_of_old_goes_on() -> None:
    with pytest.raises(InvalidInputError, match="'policy', which is reserved"):
        check_newcomer("node", NodeId("policy"))
    check_newcomer("node", NodeId("ada"))
    assert peer_caller("spiffe://plants/node/policy").id == "policy"


def test_the_ca_records_no_foreign_swarm_and_no_malformed_key(swarm: Founded) -> None:
    for name, key in (("fungi", "1" * 64), ("plants", ""), ("plants", "1" * 63)):
        record = MemberRecord(
            swarm=SwarmId(name), role="node", id=NodeId("ada"), signing_key=key, joined_at=1.0
        )
        with pytest.raises(InvalidInputError):
            swarm.ca.sign_record(record)


def test_a_ca_loads_as_it_was_made_and_is_made_once(swarm: Founded) -> None:
    folder = swarm.folder / "ca"
    again = CertificateAuthority.load(folder)
    assert (again.pin, again.certificate_pem, again.swarm) == (swarm.ca.pin, swarm.ca.certificate_pem, SWARM)
    assert certificate_pin(again.certificate_pem) == again.pin and ca_swarm(again.certificate_pem) == SWARM
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConflictError):
        CertificateAuthority.create(folder, SWARM, now=NOW)
    assert CertificateAuthority.load(folder).pin == swarm.ca.pin


def test_a_ca_that_is_missing_open_or_mixed_up_is_refused_with_a_remedy(
    swarm: Founded, tmp_path: Path
) -> None:
    folder = swarm.folder / "ca"
    with pytest.raises(NotFoundError, match="swarm init"):
        CertificateAuthority.load(tmp_path / "nothing")
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(UsageError, match=r"chmod 600 .*key\.pem"):
        CertificateAuthority.load(folder)
    other = found(tmp_path / "other")
    (folder / "key.pem").write_bytes((other.folder / "ca" / "key.pem").read_bytes())
    (folder / "key.pem").chmod(0o600)
    with pytest.raises(VerificationError, match="not the certificate's"):
        CertificateAuthority.load(folder)
    (folder / "key.pem").unlink()
    with pytest.raises(NotFoundError):
        CertificateAuthority.load(folder)


def test_a_wrong_pin_is_refused_before_anything_is_sent(swarm: Founded, tmp_path: Path) -> None:
    check_pin(swarm.ca.certificate_pem, swarm.ca.pin)
    with pytest.raises(VerificationError, match="nothing was sent"):
        check_pin(found(tmp_path / "impostor").ca.certificate_pem, swarm.ca.pin)
    with pytest.raises(VerificationError, match="PEM"):
        check_pin(b"<html>", swarm.ca.pin)


def test_a_certificate_of_another_ca_is_refused(swarm: Founded, tmp_path: Path) -> None:
    pem = issued(swarm).public_bytes(serialization.Encoding.PEM)
    check_issued(swarm.ca.certificate_pem, pem)
    with pytest.raises(VerificationError, match="another CA"):
        check_issued(found(tmp_path / "impostor").ca.certificate_pem, pem)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://plants/node/ada/more",
        "spiffe://plants/king/ada",
        "spiffe://plants/node/",
        "spiffe://plants/node/-ada",
        "spiffe://plants/node/registry",
        "spiffe://fungi/node/ada",
        "spiffe://plants/node/ada\n",
        "ada.node.plants",
    ],
)
def test_a_peer_with_an_unfitting_name_is_nobody(uri: str) -> None:
    with pytest.raises(UnauthenticatedError):
        peer_caller(uri, SWARM)


def test_a_certificate_without_a_spiffe_name_is_nobody(swarm: Founded) -> None:
    with pytest.raises(UnauthenticatedError):
        peer_caller(swarm.ca.certificate_pem, SWARM)


def handshake(server: Identity, client: Identity | None, name: str, ca_pem: bytes) -> None:
    """Shake hands in memory, TLS 1.3 with strict X.509; the client demands name. Raises ssl.SSLError."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(server.folder / "certificate.pem", server.folder / "key.pem")
    accepting.load_verify_locations(cadata=server.ca_pem.decode())
    accepting.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cadata=ca_pem.decode())
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        calling.load_cert_chain(client.folder / "certificate.pem", client.folder / "key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        calling.wrap_bio(to_client, to_server, server_hostname=name),
        accepting.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(8):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not ends


def test_members_shake_hands_under_their_own_names(live: Founded) -> None:
    ada, bob = live.member("ada", now=datetime.now(UTC)), live.member("bob", now=datetime.now(UTC))
    handshake(ada, bob, "ada.node.plants", live.ca.certificate_pem)
    handshake(live.coordinator, ada, "coordinator.plants", live.ca.certificate_pem)


@pytest.mark.parametrize("name", ["registry.plants", "coordinator.plants", "bob.node.plants", "localhost"])
def test_a_valid_node_certificate_cannot_serve_as_anyone_else(live: Founded, name: str) -> None:
    ada, bob = live.member("ada", now=datetime.now(UTC)), live.member("bob", now=datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(ada, bob, name, live.ca.certificate_pem)


def test_an_operators_certificate_cannot_serve_at_all(live: Founded) -> None:
    now = datetime.now(UTC)
    olga, bob = live.member("olga", "operator", now), live.member("bob", now=now)
    with pytest.raises(ssl.SSLError, match="purpose"):
        handshake(olga, bob, "olga.operator.plants", live.ca.certificate_pem)


def test_nobody_shakes_hands_with_a_certificate_of_another_ca_or_none(live: Founded, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    impostor = found(tmp_path / "impostor", now=now)
    ada, bob = live.member("ada", now=now), impostor.member("bob", now=now)
    for client in (bob, None):
        with pytest.raises(ssl.SSLError):
            handshake(ada, client, "ada.node.plants", live.ca.certificate_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(bob, ada, "bob.node.plants", live.ca.certificate_pem)


def test_an_expired_certificate_is_refused(live: Founded) -> None:
    now = datetime.now(UTC)
    ada, bob = live.member("ada", now=now - timedelta(days=2)), live.member("bob", now=now)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(ada, bob, "ada.node.plants", live.ca.certificate_pem)
