"""Identity folders: whole or not at all, closed to others, and renewed without a torn pair."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import NodeId
from swarm.trust import identity as identity_module
from swarm.trust.identity import (
    Identity,
    certificate_not_after,
    create_service_identity,
    new_key_and_csr,
    peer_caller,
    replace_certificate,
    save_identity,
)
from swarm.trust.key_files import write_file, write_key
from swarm.trust.proofs import check_join_proof, check_renewal, join_proof, renewal_request
from swarm.trust.signing import Signer
from tests.support.trust import NOW, SWARM, Founded, found

LATER = NOW + timedelta(hours=16)


@pytest.fixture
def swarm(tmp_path: Path) -> Founded:
    return found(tmp_path / "swarm")


def parts(identity: Identity) -> dict[str, object]:
    return {
        name: getattr(identity, name)
        for name in (
            "swarm",
            "role",
            "id",
            "coordinator",
            "registry",
            "join",
            "ca_pem",
            "certificate_pem",
            "key_pem",
            "record",
            "coordinator_record",
            "signer",
        )
    }


def test_an_identity_loads_as_it_was_saved(swarm: Founded) -> None:
    ada = swarm.member("ada")
    again = Identity.load(ada.folder)
    assert again.signer is not None and ada.signer is not None
    assert again.signer.public_hex == ada.signer.public_hex
    assert replace(again, signer=None) == replace(ada, signer=None)
    assert (again.coordinator, again.registry, again.join) == ("h:7071", "h:7072", "h:7070")
    assert (again.caller.role, again.caller.id) == ("node", "ada")


def test_keys_are_closed_to_others_and_never_printed(swarm: Founded) -> None:
    ada = swarm.member("ada")
    assert ada.folder.stat().st_mode & 0o777 == 0o700
    for name in ("key.pem", "signing.key"):
        assert (ada.folder / name).stat().st_mode & 0o777 == 0o600
    shown = repr(ada)
    assert "PRIVATE" not in shown and ada.required_signer().private_hex not in shown
    assert sorted(path.name for path in ada.folder.iterdir()) == [
        "ca.pem",
        "certificate.pem",
        "coordinator-record.json",
        "identity.json",
        "key.pem",
        "record.json",
        "signing.key",
    ]


@pytest.mark.parametrize("name", ["key.pem", "signing.key"])
def test_a_key_file_that_others_may_read_is_refused_with_the_command_to_close_it(
    swarm: Founded, name: str
) -> None:
    ada = swarm.member("ada")
    (ada.folder / name).chmod(0o644)
    with pytest.raises(UsageError, match=rf"chmod 600 .*{name}"):
        Identity.load(ada.folder)
    (ada.folder / name).chmod(0o600)
    assert Identity.load(ada.folder).id == "ada"


def test_a_umask_does_not_change_the_modes(swarm: Founded) -> None:
    before = os.umask(0o000)
    try:
        ada = swarm.member("ada")
    finally:
        os.umask(before)
    assert (ada.folder / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_missing_identity_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="swarm join"):
        Identity.load(tmp_path / "nobody")


@pytest.mark.parametrize(
    "name", ["ca.pem", "certificate.pem", "key.pem", "record.json", "coordinator-record.json"]
)
def test_an_incomplete_or_damaged_identity_is_refused_by_name(swarm: Founded, name: str) -> None:
    ada = swarm.member("ada")
    content = (ada.folder / name).read_bytes()
    (ada.folder / name).write_bytes(content[:100])
    with pytest.raises((VerificationError, InvalidInputError)):
        Identity.load(ada.folder)
    (ada.folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        Identity.load(ada.folder)


def test_parts_of_different_members_do_not_make_an_identity(swarm: Founded, tmp_path: Path) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    impostor = found(tmp_path / "impostor")
    mixtures: list[dict[str, object]] = [
        {"certificate_pem": bob.certificate_pem},
        {"key_pem": bob.key_pem},
        {"certificate_pem": bob.certificate_pem, "key_pem": bob.key_pem},
        {"record": bob.record},
        {"signer": bob.signer},
        {"signer": None},
        {"signer": Signer.generate()},
        {"coordinator_record": bob.record},
        {"coordinator_record": impostor.coordinator.record},
        {"ca_pem": impostor.ca.certificate_pem},
        {"id": NodeId("bob")},
        {"role": "operator"},
    ]
    for number, mixture in enumerate(mixtures):
        folder = tmp_path / f"mixed{number}"
        with pytest.raises((VerificationError, UnauthenticatedError)):
            save_identity(folder, **{**parts(ada), **mixture})  # type: ignore[arg-type]
        assert not folder.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_identity_is_never_overwritten(swarm: Founded) -> None:
    ada = swarm.member("ada")
    with pytest.raises(ConflictError, match="swarm leave"):
        save_identity(ada.folder, **parts(ada))  # type: ignore[arg-type]
    empty = swarm.folder / "empty"
    empty.mkdir()
    save_identity(empty, **parts(ada))  # type: ignore[arg-type]
    assert Identity.load(empty).id == "ada"


def test_a_crash_while_saving_leaves_nothing(swarm: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = swarm.member("ada")

    def out_of_space(path: Path, data: bytes, mode: int = 0) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity_module, "write_file", out_of_space)
    with pytest.raises(OSError, match="No space"):
        save_identity(swarm.folder / "again", **parts(ada))  # type: ignore[arg-type]
    assert [path.name for path in swarm.folder.iterdir() if "again" in path.name] == []


def test_services_get_their_identities_at_init(swarm: Founded) -> None:
    coordinator = Identity.load(swarm.folder / "coordinator")
    assert coordinator.record == coordinator.coordinator_record
    assert coordinator.required_signer()
    registry = create_service_identity(
        swarm.ca,
        swarm.folder / "registry",
        role="registry",
        coordinator="127.0.0.1:7071",
        coordinator_record=coordinator.record,
        now=NOW,
    )
    assert registry.id == "registry" and registry.signer is None
    assert certificate_not_after(registry.certificate_pem) == NOW + timedelta(days=7)
    with pytest.raises(InvalidInputError, match="no signing key"):
        registry.required_signer()
    with pytest.raises(VerificationError):
        create_service_identity(swarm.ca, swarm.folder / "operator", role="operator", now=NOW)


def test_an_identitys_keyring_knows_itself_and_the_coordinator(swarm: Founded) -> None:
    keyring = swarm.member("ada").keyring()
    assert keyring.record(NodeId("ada")) and keyring.record(NodeId("coordinator"))


def renewed(swarm: Founded, csr: bytes, member: str = "ada") -> bytes:
    return swarm.ca.issue(csr, role="node", member=NodeId(member), lifetime=timedelta(hours=24), now=LATER)


def test_a_renewed_certificate_replaces_the_old_one_and_keeps_the_key(swarm: Founded) -> None:
    ada = swarm.member("ada")
    pem = renewed(swarm, ada.renewal_csr())
    assert replace_certificate(ada.folder, pem).certificate_pem == pem
    again = Identity.load(ada.folder)
    assert (again.certificate_pem, again.key_pem) == (pem, ada.key_pem)
    assert certificate_not_after(pem) == LATER + timedelta(hours=24)


def test_a_key_can_be_renewed_with_the_certificate(swarm: Founded) -> None:
    ada = swarm.member("ada")
    key_pem, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    replace_certificate(ada.folder, renewed(swarm, csr), key_pem)
    assert Identity.load(ada.folder).key_pem == key_pem
    assert (ada.folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not (ada.folder / "next-key.pem").exists()


@pytest.mark.parametrize("written", ["next-key.pem", "certificate.pem"])
def test_a_crash_during_renewal_leaves_the_old_pair_or_the_new(swarm: Founded, written: str) -> None:
    ada = swarm.member("ada")
    key_pem, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    pem = renewed(swarm, csr)
    write_key(ada.folder / "next-key.pem", key_pem)
    if written == "certificate.pem":
        (ada.folder / "certificate.pem").write_bytes(pem)
    again = Identity.load(ada.folder)
    expected = (ada.certificate_pem, ada.key_pem) if written == "next-key.pem" else (pem, key_pem)
    assert (again.certificate_pem, again.key_pem) == expected


def test_a_reader_in_the_middle_of_a_change_of_key_takes_nothing_away(swarm: Founded) -> None:
    ada = swarm.member("ada")
    key_pem, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    write_key(ada.folder / "next-key.pem", key_pem)
    assert Identity.load(ada.folder).key_pem == ada.key_pem
    write_file(ada.folder / "certificate.pem", renewed(swarm, csr))
    assert Identity.load(ada.folder).key_pem == key_pem
    assert not (ada.folder / "next-key.pem").exists()


def test_a_damaged_identity_file_is_named(swarm: Founded) -> None:
    ada = swarm.member("ada")
    path = ada.folder / "identity.json"
    for content in (b"", b'{"swarm":"plants"}', path.read_bytes().replace(b"{", b'{"colour":1,', 1)):
        path.write_bytes(content)
        with pytest.raises(VerificationError, match=r"identity\.json"):
            Identity.load(ada.folder)


def test_a_certificate_for_another_member_or_key_does_not_replace_ones_own(
    swarm: Founded, tmp_path: Path
) -> None:
    ada = swarm.member("ada")
    _, foreign_csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    impostor = found(tmp_path / "impostor")
    for pem in (
        renewed(swarm, ada.renewal_csr(), "bob"),
        renewed(swarm, foreign_csr),
        renewed(impostor, ada.renewal_csr()),
        b"not a certificate",
    ):
        with pytest.raises(VerificationError):
            replace_certificate(ada.folder, pem)
    assert Identity.load(ada.folder).certificate_pem == ada.certificate_pem


def test_an_expired_identity_still_loads_so_that_it_can_renew(swarm: Founded) -> None:
    ada = swarm.member("ada", now=NOW - timedelta(days=30))
    assert peer_caller(Identity.load(ada.folder).certificate_pem, SWARM).id == "ada"


def test_a_joiner_proves_its_signing_key() -> None:
    signer = Signer.generate()
    _, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    proof = join_proof(signer, csr)
    check_join_proof(signer.public_hex, csr, proof)
    _, other_csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    for key, request, text in (
        (Signer.generate().public_hex, csr, proof),
        (signer.public_hex, other_csr, proof),
        (signer.public_hex, csr, "not hexadecimal"),
        (signer.public_hex, csr, ""),
    ):
        with pytest.raises(UnauthenticatedError, match="join proof"):
            check_join_proof(key, request, text)


def test_a_sleeper_renews_by_its_signing_key_within_five_minutes_of_clock() -> None:
    signer = Signer.generate()
    _, csr = new_key_and_csr(SWARM, "node", NodeId("ada"))
    body = renewal_request(signer, NodeId("ada"), csr, NOW)
    assert check_renewal(body, signer.public_hex, NOW + timedelta(seconds=299)) == csr
    for now in (NOW + timedelta(seconds=301), NOW - timedelta(seconds=301)):
        with pytest.raises(UnauthenticatedError, match="clock"):
            check_renewal(body, signer.public_hex, now)
    for name, value in (("node", "bob"), ("csr_pem", "x"), ("timestamp", NOW.timestamp() + 1)):
        with pytest.raises(UnauthenticatedError, match="does not verify"):
            check_renewal({**body, name: value}, signer.public_hex, NOW)
    with pytest.raises(UnauthenticatedError):
        check_renewal(body, Signer.generate().public_hex, NOW)
    for bad in ({}, {**body, "extra": 1}, {**body, "timestamp": "now"}, {**body, "timestamp": True}):
        with pytest.raises(InvalidInputError, match="renewal"):
            check_renewal(bad, signer.public_hex, NOW)
    with pytest.raises(InvalidInputError):
        check_renewal({**body, "timestamp": float("nan")}, signer.public_hex, NOW)
