"""Signed statements: what is signed comes back, and nothing else does."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, SwarmError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import MemberRecord, RevocationList, Tombstone
from swarm.domain.membership import Head, Lease
from swarm.trust.codec import MAX_JSON_BYTES, MAX_JSON_MARKS
from swarm.trust.signing import Signer, verify_signature
from swarm.trust.statements import (
    PAYLOAD_TYPE,
    PREDICATE_TYPES,
    from_json,
    open_statement,
    read_statement,
    sign_statement,
    statement_digest,
    to_json,
)
from tests.support.trust import (
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

SIGNER = Signer.from_hex("11" * 32)
SAMPLES = [
    manifest(),
    contribution(),
    gate(),
    specification(),
    tombstone(),
    revocations(3, "ada"),
    given_answer(),
]


def envelope_of(payload: bytes, signer: Signer = SIGNER, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Sign any payload the way DSSE says, as a hostile signer could."""
    pae = b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)
    return compact(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"keyid": signer.public_hex, "sig": base64.b64encode(signer.sign(pae)).decode()}],
        }
    )


def compact(plain: object) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def payload_of(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def refused(envelope: bytes, cls: type = Manifest) -> str:
    with pytest.raises(VerificationError) as caught:
        open_statement(envelope, cls, SIGNER.public_hex)
    return str(caught.value)


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_a_signed_statement_opens_to_the_same_value(value: object) -> None:
    envelope = sign_statement(value, SIGNER)
    statement = open_statement(envelope, type(value), SIGNER.public_hex)
    assert statement.value == value
    assert statement.digest == statement_digest(envelope) == digest_of(payload_of(envelope))
    assert statement.key_id == SIGNER.public_hex
    assert statement.envelope == envelope
    assert read_statement(envelope, type(value)) == statement


def test_a_statement_is_an_in_toto_statement_about_its_modules() -> None:
    payload = json.loads(payload_of(sign_statement(manifest(), SIGNER)))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["predicateType"] == "swarm:manifest/v1"
    assert payload["subject"] == [
        {"name": module.name, "digest": {"blake3": module.digest}} for module in manifest().modules
    ]


def test_the_digest_is_the_same_whoever_signs() -> None:
    other = sign_statement(manifest(), Signer.generate())
    assert statement_digest(other) == statement_digest(sign_statement(manifest(), SIGNER))


def test_the_ca_signs_member_records(tmp_path: Path) -> None:
    swarm = found(tmp_path)
    claimed = read_statement(swarm.coordinator.record, MemberRecord)
    assert claimed.key_id == swarm.ca.pin


def test_a_flipped_byte_at_every_position_is_refused_by_name() -> None:
    envelope = sign_statement(tombstone(), SIGNER)
    for position in range(len(envelope)):
        for bit in range(8):
            damaged = bytearray(envelope)
            damaged[position] ^= 1 << bit
            with pytest.raises(VerificationError, match=r"^tombstone statement: found "):
                open_statement(bytes(damaged), Tombstone, SIGNER.public_hex)


@given(data=st.binary(max_size=200), cut=st.integers(min_value=0, max_value=400))
@settings(max_examples=60, deadline=None)
def test_arbitrary_and_truncated_bytes_are_refused_by_name(data: bytes, cut: int) -> None:
    refused(data)
    refused(sign_statement(manifest(), SIGNER)[:cut])
    with pytest.raises(VerificationError):
        statement_digest(data)


def test_a_signature_of_another_key_is_refused() -> None:
    reason = refused(sign_statement(manifest(), Signer.generate()))
    assert "does not verify" in reason and SIGNER.public_hex[:12] in reason


def test_a_forged_signature_under_the_right_key_id_is_refused() -> None:
    envelope = json.loads(sign_statement(manifest(), SIGNER))
    forger = json.loads(sign_statement(manifest(), Signer.generate()))
    envelope["signatures"][0]["sig"] = forger["signatures"][0]["sig"]
    assert "does not verify" in refused(compact(envelope))


def test_a_signature_does_not_move_to_another_payload() -> None:
    envelope = json.loads(sign_statement(manifest(), SIGNER))
    other = json.loads(sign_statement(manifest(version=2), SIGNER))
    envelope["payload"] = other["payload"]
    assert "does not verify" in refused(compact(envelope))


def test_an_unsigned_or_twice_signed_envelope_is_refused() -> None:
    envelope = json.loads(sign_statement(manifest(), SIGNER))
    signature = envelope["signatures"][0]
    for signatures in ([], [signature, signature], {}, [{"sig": signature["sig"]}], [{**signature, "x": ""}]):
        assert "one signature" in refused(compact({**envelope, "signatures": signatures}))
    assert "one signature" in refused(compact({**envelope, "extra": 1}))


def test_another_payload_type_is_refused_by_name() -> None:
    payload = payload_of(sign_statement(manifest(), SIGNER))
    assert "application/json" in refused(envelope_of(payload, payload_type="application/json"))


def test_a_statement_of_another_kind_is_refused_by_name() -> None:
    reason = refused(sign_statement(tombstone(), SIGNER))
    assert "swarm:tombstone/v1" in reason and "swarm:manifest/v1" in reason


def test_an_envelope_with_spaces_is_refused() -> None:
    envelope = json.loads(sign_statement(manifest(), SIGNER))
    assert "canonical" in refused(json.dumps(envelope, sort_keys=True).encode())


def tampered(**changes: object) -> bytes:
    payload = json.loads(payload_of(sign_statement(manifest(), SIGNER)))
    payload["predicate"] |= changes
    return envelope_of(compact(payload))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"colour": "green"}, "colour"),
        ({"version": "1"}, "version"),
        ({"version": 1.0}, "version"),
        ({"version": True}, "version"),
        ({"version": 2}, "parent version"),
        ({"trunk": "../../etc/passwd"}, "digest"),
        ({"swarm": "../plants"}, "swarm name"),
        ({"owner": "bob"}, "one owner"),
        ({"expert": "ada.l1"}, "one owner"),
        ({"share": "everyone"}, "share"),
        ({"modules": []}, "modules"),
        ({"metrics": {"accuracy": "high"}}, "metrics"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_well_signed_statement_with_unfitting_fields_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    assert reason in refused(tampered(**changes))


def test_a_missing_field_is_refused() -> None:
    payload = json.loads(payload_of(sign_statement(manifest(), SIGNER)))
    del payload["predicate"]["trunk"]
    assert "trunk" in refused(envelope_of(compact(payload)))


def test_a_field_twice_is_refused_by_name() -> None:
    payload = payload_of(sign_statement(manifest(), SIGNER))
    doubled = payload.replace(b'"share":"borrow"', b'"share":"public","share":"borrow"')
    assert "'share' twice" in refused(envelope_of(doubled))
    envelope = sign_statement(manifest(), SIGNER)
    assert "'payloadType' twice" in refused(
        envelope.replace(b'"payloadType":', b'"payloadType":"x","payloadType":')
    )


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_finite_are_refused(number: bytes) -> None:
    payload = payload_of(sign_statement(manifest(), SIGNER))
    assert "finite" in refused(envelope_of(payload.replace(b"0.875", number)))


def test_another_form_of_the_same_value_is_refused() -> None:
    payload = payload_of(sign_statement(manifest(), SIGNER))
    assert "canonical" in refused(envelope_of(payload.replace(b"0.875", b"0.8750")))
    assert "canonical" in refused(envelope_of(payload.replace("é".encode(), b"\\u00e9")))


def test_a_subject_that_the_predicate_does_not_have_is_refused() -> None:
    payload = json.loads(payload_of(sign_statement(manifest(), SIGNER)))
    payload["subject"][0]["digest"]["blake3"] = "0" * 64
    assert "canonical" in refused(envelope_of(compact(payload)))


def test_more_than_16_mib_is_refused_unread() -> None:
    assert str(MAX_JSON_BYTES) in refused(b"[" * (MAX_JSON_BYTES + 1))
    with pytest.raises(InvalidInputError, match="at most"):
        sign_statement(replace(tombstone(), reason="x" * MAX_JSON_BYTES), SIGNER)


def test_deep_nesting_is_refused_by_name() -> None:
    assert "malformed" in refused(b"[" * 60)
    assert "malformed" in refused(envelope_of(b"[" * 200_000))


def test_more_values_than_any_statement_has_are_refused_unread() -> None:
    assert "at most 64" in refused(b"[" + b"[]," * 100 + b"[]]")
    many = MAX_JSON_MARKS // 2 + 1
    assert f"at most {MAX_JSON_MARKS}" in refused(envelope_of(b"[" + b"[]," * many + b"[]]"))


def test_a_field_twice_is_found_among_very_many() -> None:
    fields = b",".join(b'"%x":0' % number for number in range(300_000))
    assert "the field '0' twice" in refused(envelope_of(b"{" + fields + b',"0":0}'))


def test_what_cannot_be_read_back_is_not_signed() -> None:
    for bad in (
        replace(gate(), created_at=float("nan")),
        replace(gate(), created_at="yesterday"),  # type: ignore[arg-type]
        replace(manifest(), trunk=Digest("short")),
        replace(gate(), kind="guess"),  # type: ignore[arg-type]
        replace(tombstone(), reason="\ud800"),
    ):
        with pytest.raises(InvalidInputError):
            sign_statement(bad, SIGNER)
    with pytest.raises(InvalidInputError, match="Lease"):
        sign_statement(Lease(node=NodeId("ada"), fence=1, expires_at=2.0), SIGNER)


def test_whole_numbers_and_numpy_numbers_become_plain_ones() -> None:
    value = replace(gate(), ridge=1, version=np.int64(2), evidence={"nll": np.float32(0.5)})
    found_value = open_statement(sign_statement(value, SIGNER), GateStatement, SIGNER.public_hex).value
    assert (found_value.ridge, found_value.version, found_value.evidence) == (1.0, 2, {"nll": 0.5})
    assert type(found_value.ridge) is float


@given(
    number=st.integers(min_value=0, max_value=2**70),
    names=st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True), max_size=4),
    issued_at=st.floats(allow_nan=False, allow_infinity=False),
)
@settings(max_examples=60, deadline=None)
def test_the_codec_is_lossless(number: int, names: list[str], issued_at: float) -> None:
    value = replace(revocations(number, *names), issued_at=issued_at)
    assert from_json(RevocationList, to_json(value)) == value
    envelope = sign_statement(value, SIGNER)
    assert open_statement(envelope, RevocationList, SIGNER.public_hex).value == value
    assert sign_statement(value, SIGNER) == envelope


@given(text=st.text(max_size=40), metric=st.floats())
@settings(max_examples=60, deadline=None)
def test_any_text_is_signed_losslessly_or_refused_by_name(text: str, metric: float) -> None:
    value = replace(gate(), reason=text, evidence={text: metric})
    try:
        envelope = sign_statement(value, SIGNER)
    except SwarmError:
        assert not np.isfinite(metric) or any("\ud800" <= c <= "\udfff" for c in text)
    else:
        assert open_statement(envelope, GateStatement, SIGNER.public_hex).value == value


def test_plain_domain_values_travel_as_json_and_refuse_unknown_fields() -> None:
    head = Head(expert=ExpertId("ada.e1"), version=3, manifest=digest_of(b"x"))
    assert from_json(Head, to_json(head)) == head
    with pytest.raises(InvalidInputError, match="colour"):
        from_json(Head, to_json(head).replace(b'"version"', b'"colour":1,"version"'))
    with pytest.raises(InvalidInputError, match="expert id"):
        from_json(Head, to_json(head).replace(b"ada.e1", b"ada.l1"))
    with pytest.raises(InvalidInputError, match="Head"):
        from_json(Head, b"[]")


def test_every_kind_of_statement_has_its_own_predicate_type() -> None:
    assert len(set(PREDICATE_TYPES.values())) == len(PREDICATE_TYPES) == len(SAMPLES) + 1


def test_a_signer_shows_no_secret_and_survives_its_text_form() -> None:
    signer = Signer.generate()
    again = Signer.from_hex(signer.private_hex)
    assert again.public_hex == signer.public_hex
    assert signer.private_hex not in repr(signer)
    verify_signature(signer.public_hex, b"data", again.sign(b"data"))
    with pytest.raises(VerificationError, match=signer.public_hex[:12]):
        verify_signature(signer.public_hex, b"other data", again.sign(b"data"))
    with pytest.raises(VerificationError):
        verify_signature(signer.public_hex, b"data", b"short")
    for text in ("", "zz" * 32, "11" * 31, "AA" * 32):
        with pytest.raises(InvalidInputError):
            Signer.from_hex(text)


def test_a_founded_swarm_signs_with_real_keys(tmp_path: Path) -> None:
    swarm: Founded = found(tmp_path)
    envelope = sign_statement(gate(), swarm.coordinator_signer)
    assert swarm.keyring().open(envelope, GateStatement).value == gate()
