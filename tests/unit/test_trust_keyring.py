"""The keyring: whose signature counts for what, offline, and what revocation changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError, error_classes
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import MemberRecord, RevocationList, Tombstone
from swarm.domain.replay import GivenAnswer
from swarm.domain.specification import Specification
from swarm.trust.keyring import Keyring, UnknownMemberError
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement
from tests.support.trust import (
    NOW,
    SWARM,
    Founded,
    contribution,
    found,
    gate,
    given_answer,
    manifest,
    revocations,
    specification,
    tombstone,
)


@pytest.fixture
def swarm(tmp_path: Path) -> Founded:
    return found(tmp_path / "swarm")


def test_a_ca_signed_record_lets_anyone_verify_a_manifest_offline(swarm: Founded) -> None:
    ada = swarm.member("ada")
    envelope = sign_statement(manifest("ada"), ada.required_signer())
    keyring = Keyring(swarm.ca.certificate_pem, SWARM)
    assert keyring.record(NodeId("ada")) is None
    assert keyring.add_record(ada.record).signing_key == ada.required_signer().public_hex
    assert keyring.open(envelope, Manifest).value == manifest("ada")
    assert keyring.open(ada.record, MemberRecord).value == keyring.record(NodeId("ada"))


def test_an_unknown_signer_is_named_so_that_its_record_can_be_fetched(swarm: Founded) -> None:
    ada = swarm.member("ada")
    envelope = sign_statement(manifest("ada"), ada.required_signer())
    with pytest.raises(UnknownMemberError) as caught:
        swarm.keyring().open(envelope, Manifest)
    assert caught.value.member == "ada"
    assert isinstance(caught.value, NotFoundError)
    assert error_classes()["unknown_member"] is UnknownMemberError
    assert error_classes()["not_found"] is NotFoundError


def test_another_members_manifest_is_refused(swarm: Founded) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    keyring = swarm.keyring(ada, bob)
    envelope = sign_statement(manifest("ada"), bob.required_signer())
    with pytest.raises(VerificationError, match=r"^manifest ada\.e1@1: .* a signature of ada by key"):
        keyring.open(envelope, Manifest)


def test_an_answer_counts_as_that_of_whoever_signed_it(swarm: Founded) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    keyring = swarm.keyring(ada, bob)
    for giver, signer in (("coordinator", swarm.coordinator_signer), ("ada", ada.required_signer())):
        given = given_answer(giver)
        assert keyring.open(sign_statement(given, signer), GivenAnswer).value == given
        with pytest.raises(VerificationError, match=f"answer of {giver}"):
            keyring.open(sign_statement(given, bob.required_signer()), GivenAnswer)
    client = swarm.member("app", role="client")
    keyring.add_record(client.record)
    with pytest.raises(VerificationError, match="who signs no statements"):
        keyring.open(sign_statement(given_answer("app"), bob.required_signer()), GivenAnswer)


def test_a_contribution_names_own_leaves_only(swarm: Founded) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    keyring = swarm.keyring(ada, bob)
    own = sign_statement(contribution("ada"), ada.required_signer())
    assert keyring.open(own, Contribution).value == contribution("ada")
    foreign = sign_statement(contribution("ada", leaf_owner="bob"), ada.required_signer())
    with pytest.raises(VerificationError, match=r"leaf bob\.l1"):
        keyring.open(foreign, Contribution)
    for thief in (bob.required_signer(), swarm.coordinator_signer):
        with pytest.raises(VerificationError, match="contribution of ada, epoch 1"):
            keyring.open(sign_statement(contribution("ada"), thief), Contribution)


@pytest.mark.parametrize("value", [gate(), specification(), revocations(1)], ids=lambda v: type(v).__name__)
def test_only_the_coordinator_signs_for_the_swarm(swarm: Founded, value: object) -> None:
    ada = swarm.member("ada")
    keyring = swarm.keyring(ada)
    assert keyring.open(sign_statement(value, swarm.coordinator_signer), type(value)).value == value
    with pytest.raises(VerificationError, match="a signature of coordinator"):
        keyring.open(sign_statement(value, ada.required_signer()), type(value))


def test_the_coordinator_is_unknown_until_its_record_is_there(swarm: Founded) -> None:
    keyring = Keyring(swarm.ca.certificate_pem, SWARM)
    with pytest.raises(UnknownMemberError) as caught:
        keyring.open(sign_statement(gate(), swarm.coordinator_signer), GateStatement)
    assert caught.value.member == "coordinator"


def test_a_tombstone_counts_from_its_owner_or_the_coordinator_only(swarm: Founded) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    keyring = swarm.keyring(ada, bob)
    for value in (tombstone("ada.e1"), tombstone("ada", "node")):
        for signer in (ada.required_signer(), swarm.coordinator_signer):
            assert keyring.open(sign_statement(value, signer), Tombstone).value == value
        with pytest.raises(VerificationError, match=r"tombstone of ada.* a signature of ada"):
            keyring.open(sign_statement(value, bob.required_signer()), Tombstone)
    for id, kind in (("../ada", "node"), ("ada.x1", "expert")):
        with pytest.raises(VerificationError, match="tombstone"):
            keyring.open(sign_statement(tombstone(id, kind), ada.required_signer()), Tombstone)


def test_a_tombstone_of_a_stranger_asks_for_the_strangers_record(swarm: Founded) -> None:
    ada = swarm.member("ada")
    envelope = sign_statement(tombstone("ada.e1"), ada.required_signer())
    with pytest.raises(UnknownMemberError, match="ada"):
        swarm.keyring().open(envelope, Tombstone)
    alone = Keyring(swarm.ca.certificate_pem, SWARM)
    alone.add_record(ada.record)
    assert alone.open(envelope, Tombstone).value.id == "ada.e1"
    with pytest.raises(UnknownMemberError, match="coordinator"):
        alone.open(sign_statement(tombstone("ada.e1"), swarm.coordinator_signer), Tombstone)


def test_a_record_of_another_ca_is_refused(swarm: Founded, tmp_path: Path) -> None:
    impostor = found(tmp_path / "impostor")
    ada = impostor.member("ada")
    keyring = swarm.keyring()
    with pytest.raises(VerificationError, match="member statement"):
        keyring.add_record(ada.record)
    with pytest.raises(VerificationError):
        keyring.open(sign_statement(gate(), impostor.coordinator_signer), GateStatement)
    assert keyring.record(NodeId("ada")) is None


def test_a_member_cannot_sign_records_itself(swarm: Founded) -> None:
    ada = swarm.member("ada")
    forged = MemberRecord(
        swarm=SWARM,
        role="coordinator",
        id=NodeId("coordinator"),
        signing_key=ada.required_signer().public_hex,
        joined_at=NOW.timestamp(),
    )
    with pytest.raises(VerificationError, match="member statement"):
        swarm.keyring().add_record(sign_statement(forged, ada.required_signer()))


def test_another_swarms_statements_and_ca_are_refused(swarm: Founded, tmp_path: Path) -> None:
    ada = swarm.member("ada")
    foreign = sign_statement(manifest("ada", swarm="fungi"), ada.required_signer())
    with pytest.raises(VerificationError, match="swarm fungi"):
        swarm.keyring(ada).open(foreign, Manifest)
    other = found(tmp_path / "other", "fungi")
    with pytest.raises(VerificationError, match="swarm fungi"):
        Keyring(other.ca.certificate_pem, SWARM)


def test_a_name_keeps_its_key_for_ever(swarm: Founded) -> None:
    ada = swarm.member("ada")
    keyring = swarm.keyring(ada)
    assert keyring.add_record(ada.record) == keyring.record(NodeId("ada"))
    known = keyring.record(NodeId("ada"))
    assert known is not None
    second = swarm.ca.sign_record(replace(known, signing_key=Signer.generate().public_hex))
    with pytest.raises(VerificationError, match="record of ada"):
        keyring.add_record(second)
    assert keyring.record(NodeId("ada")) == known


def test_a_member_without_signing_key_signs_nothing(swarm: Founded) -> None:
    oscar = swarm.member("oscar", "operator")
    keyring = swarm.keyring(oscar)
    with pytest.raises(VerificationError, match="signs no statements"):
        keyring.open(sign_statement(manifest("oscar"), Signer.generate()), Manifest)


def test_a_revoked_members_statements_are_refused_but_its_withdrawals_stay(swarm: Founded) -> None:
    ada, bob = swarm.member("ada"), swarm.member("bob")
    keyring = swarm.keyring(ada, bob)
    keyring.set_revocations(sign_statement(revocations(1, "ada"), swarm.coordinator_signer))
    assert keyring.is_revoked(NodeId("ada")) and not keyring.is_revoked(NodeId("bob"))
    with pytest.raises(VerificationError, match=r"manifest ada\.e1@1: .*revoked"):
        keyring.open(sign_statement(manifest("ada"), ada.required_signer()), Manifest)
    with pytest.raises(VerificationError, match="revoked"):
        keyring.open(sign_statement(contribution("ada"), ada.required_signer()), Contribution)
    assert keyring.open(sign_statement(manifest("bob"), bob.required_signer()), Manifest)
    assert keyring.open(sign_statement(tombstone("ada.e1"), ada.required_signer()), Tombstone)


def test_a_rolled_back_revocation_list_is_refused(swarm: Founded) -> None:
    keyring = swarm.keyring()
    lists = {
        number: sign_statement(revocations(number, *nodes), swarm.coordinator_signer)
        for number, nodes in ((1, ["ada"]), (2, ["ada", "bob"]))
    }
    assert keyring.revocations is None
    keyring.set_revocations(lists[2])
    keyring.set_revocations(lists[2])
    with pytest.raises(VerificationError, match="found number 1; expected number 2 or later"):
        keyring.set_revocations(lists[1])
    with pytest.raises(VerificationError, match="with other members"):
        keyring.set_revocations(sign_statement(revocations(2, "ada"), swarm.coordinator_signer))
    assert keyring.is_revoked(NodeId("bob"))
    assert keyring.revocations == revocations(2, "ada", "bob")


def test_only_a_coordinators_revocation_list_revokes(swarm: Founded) -> None:
    ada = swarm.member("ada")
    keyring = swarm.keyring(ada)
    with pytest.raises(VerificationError):
        keyring.set_revocations(sign_statement(revocations(9, "bob"), ada.required_signer()))
    assert keyring.revocations is None and not keyring.is_revoked(NodeId("bob"))


def test_a_flipped_byte_in_each_kind_of_statement_is_refused_by_name(swarm: Founded) -> None:
    ada = swarm.member("ada")
    keyring = swarm.keyring(ada)
    signed: list[tuple[bytes, type]] = [
        (sign_statement(manifest("ada"), ada.required_signer()), Manifest),
        (sign_statement(contribution("ada"), ada.required_signer()), Contribution),
        (sign_statement(gate(), swarm.coordinator_signer), GateStatement),
        (sign_statement(specification(), swarm.coordinator_signer), Specification),
        (sign_statement(revocations(1), swarm.coordinator_signer), RevocationList),
        (ada.record, MemberRecord),
    ]
    for envelope, cls in signed:
        assert keyring.open(envelope, cls)
        for position in range(0, len(envelope), 7):
            damaged = bytearray(envelope)
            damaged[position] ^= 1 << (position % 8)
            with pytest.raises((VerificationError, UnknownMemberError)):
                keyring.open(bytes(damaged), cls)


def test_only_statements_are_opened(swarm: Founded) -> None:
    with pytest.raises(InvalidInputError, match="str"):
        swarm.keyring().open(b"{}", str)
