"""Signed statements: in-toto statements in DSSE envelopes (JSON bytes), one signature each.

A statement's digest is the blake3 of the envelope's payload. Payload and envelope are accepted in their
canonical form only: whatever one changes in the bytes, the result is refused with its reason. Nothing
here says whether the signer may say this: that is `swarm.trust.keyring`.
Sources: in-toto attestation framework, Statement v1; DSSE v1.0.
"""

import binascii
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

from securesystemslib.exceptions import VerificationError as SslibVerificationError

from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError, SwarmError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.domain.members import MemberRecord, RevocationList, Tombstone
from swarm.domain.replay import GivenAnswer
from swarm.domain.specification import Specification
from swarm.trust.codec import MAX_JSON_BYTES, canonical_json, from_json, parse_json, to_json
from swarm.trust.signing import Envelope, SSlibKey, StatementSigner, statement_key

__all__ = [
    "PAYLOAD_TYPE",
    "PREDICATE_TYPES",
    "Statement",
    "from_json",
    "open_statement",
    "open_with_key",
    "read_statement",
    "sign_statement",
    "statement_digest",
    "to_json",
    "verify_statement",
]

T = TypeVar("T")
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_ENVELOPE_MARKS = 64
"""More brackets, braces and commas than an envelope has: two texts and a signature."""
PREDICATE_TYPES: dict[type, str] = {
    Manifest: "swarm:manifest/v1",
    Contribution: "swarm:contribution/v1",
    GateStatement: "swarm:gate/v1",
    Specification: "swarm:specification/v1",
    MemberRecord: "swarm:member/v1",
    Tombstone: "swarm:tombstone/v1",
    RevocationList: "swarm:revocations/v1",
    GivenAnswer: "swarm:answer/v1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Generic[T]):
    """A statement's value and digest, its envelope, and the id of the key that is said to have signed it.

    `key_id` is an Ed25519 public key in hexadecimal, or the CA's pin for a MemberRecord.
    """

    value: T
    digest: Digest
    envelope: bytes
    key_id: str


def sign_statement(value: object, signer: StatementSigner) -> bytes:
    """Return the signed envelope of a statement. signer: a member's `Signer`, or the CA for MemberRecords.

    Raises InvalidInputError where value is no statement, holds what cannot be read back, or is too large.
    """
    envelope = Envelope(_payload(value), PAYLOAD_TYPE, {})
    envelope.sign(signer.dsse_signer)
    data = canonical_json(envelope.to_dict())
    if len(data) > MAX_JSON_BYTES:
        raise InvalidInputError(
            _name(type(value)), found=f"{len(data)} bytes", expected=f"at most {MAX_JSON_BYTES}"
        )
    return data


def read_statement(envelope: bytes, cls: type[T]) -> Statement[T]:
    """Return what an envelope claims, WITHOUT verifying its signature; for looking up who should have signed.

    Raises VerificationError where the bytes are not a statement of class cls in canonical form.
    """
    return _decode(_parse_envelope(envelope, _name(cls)), envelope, cls)


def open_statement(envelope: bytes, cls: type[T], public_key_hex: str) -> Statement[T]:
    """Return a statement that the Ed25519 key public_key_hex signed; VerificationError otherwise."""
    return open_with_key(envelope, cls, statement_key(public_key_hex))


def open_with_key(envelope: bytes, cls: type[T], key: SSlibKey) -> Statement[T]:
    """Return a statement that key (of a member or of the CA) signed; VerificationError otherwise."""
    parsed = _parse_envelope(envelope, _name(cls))
    _verify(parsed, key, _name(cls))
    return _decode(parsed, envelope, cls)


def verify_statement(statement: Statement[T], public_key_hex: str) -> None:
    """Raise VerificationError unless an Ed25519 key signed a statement that was read without trusting it."""
    name = _name(type(statement.value))
    _verify(_parse_envelope(statement.envelope, name), statement_key(public_key_hex), name)


def statement_digest(envelope: bytes) -> Digest:
    """Return the digest of an envelope's statement; VerificationError where it is no envelope."""
    return digest_of(_parse_envelope(envelope, "signed").payload)


def _verify(parsed: Envelope, key: SSlibKey, name: str) -> None:
    try:
        parsed.verify([key], threshold=1)
    except (SslibVerificationError, ValueError) as error:
        raise VerificationError(
            f"{name} statement",
            found=f"a signature of key {_key_id(parsed)[:12]} that does not verify",
            expected=f"one by key {key.keyid[:12]}",
            remedy="the statement is forged, damaged or someone else's and is not used",
        ) from error


def _name(cls: type) -> str:
    predicate_type = PREDICATE_TYPES.get(cls)
    if predicate_type is None:
        known = ", ".join(kind.__name__ for kind in PREDICATE_TYPES)
        raise InvalidInputError("statement", found=cls.__name__, expected=f"one of {known}")
    return predicate_type.removeprefix("swarm:").removesuffix("/v1")


def _payload(value: object) -> bytes:
    name = _name(type(value))
    predicate = to_json(value)
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "predicate": parse_json(predicate, name),
            "predicateType": PREDICATE_TYPES[type(value)],
            "subject": [
                {"name": subject, "digest": {"blake3": digest}}
                for subject, digest in _subjects(value, name, predicate)
            ],
        }
    )


def _subjects(value: object, name: str, predicate: bytes) -> list[tuple[str, Digest]]:
    """Return what the statement is about: modules or blobs by digest, else the predicate itself."""
    found: list[tuple[str, Digest]] = []
    if isinstance(value, Manifest):
        found = [(module.name, module.digest) for module in value.modules]
    elif isinstance(value, Specification):
        found = [("trunk", value.trunk.digest)]
    elif isinstance(value, GateStatement):
        found = [(tensor.name, tensor.blob) for tensor in value.arrays]
    elif isinstance(value, Contribution):
        found = [(leaf.leaf, leaf.prototypes.blob) for leaf in value.leaves]
    return found or [(name, digest_of(predicate))]


def _parse_envelope(envelope: bytes, name: str) -> Envelope:
    subject = f"{name} statement"
    try:
        plain = parse_json(envelope, subject, _ENVELOPE_MARKS)
    except InvalidInputError as error:
        raise VerificationError(
            subject, found=error.found, expected=error.expected or "an envelope"
        ) from error
    if not _is_envelope(plain):
        raise VerificationError(
            subject,
            found="other fields",
            expected="payload, payloadType and one signature with keyid and sig",
        )
    try:
        parsed = Envelope.from_dict(plain)
        canonical = canonical_json(parsed.to_dict())
    except (binascii.Error, ValueError, KeyError, TypeError, SwarmError) as error:
        raise VerificationError(subject, found="an envelope that is not base64") from error
    if canonical != envelope:
        if parsed.payload_type != PAYLOAD_TYPE:
            raise VerificationError(
                subject, found=f"payload type {parsed.payload_type[:80]!r}", expected=PAYLOAD_TYPE
            )
        raise VerificationError(subject, found="an envelope in another form", expected="canonical JSON")
    if parsed.payload_type != PAYLOAD_TYPE:
        raise VerificationError(
            subject, found=f"payload type {parsed.payload_type[:80]!r}", expected=PAYLOAD_TYPE
        )
    return parsed


def _is_envelope(plain: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(plain, dict) or plain.keys() != {"payload", "payloadType", "signatures"}:
        return False
    signatures = plain["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        return False
    texts = [plain["payload"], plain["payloadType"], *signatures[0].values()]
    return signatures[0].keys() == {"keyid", "sig"} and all(isinstance(text, str) for text in texts)


def _key_id(parsed: Envelope) -> str:
    return next(iter(parsed.signatures))


def _decode(parsed: Envelope, envelope: bytes, cls: type[T]) -> Statement[T]:
    subject = f"{_name(cls)} statement"
    try:
        plain = parse_json(parsed.payload, subject)
        if not isinstance(plain, dict) or plain.get("_type") != STATEMENT_TYPE:
            raise InvalidInputError(subject, found="another document", expected=STATEMENT_TYPE)
        found_type = plain.get("predicateType")
        if found_type != PREDICATE_TYPES[cls]:
            raise InvalidInputError(
                subject, found=f"predicate type {str(found_type)[:80]!r}", expected=PREDICATE_TYPES[cls]
            )
        value = from_json(cls, canonical_json(plain.get("predicate")))
        canonical = _payload(value)
    except InvalidInputError as error:
        if error.subject != subject:
            raise VerificationError(subject, found=str(error)) from error
        raise VerificationError(subject, found=error.found, expected=error.expected) from error
    if canonical != parsed.payload:
        raise VerificationError(
            subject, found="fields or a form that its value does not have", expected="canonical JSON"
        )
    return Statement(
        value=value, digest=digest_of(parsed.payload), envelope=bytes(envelope), key_id=_key_id(parsed)
    )
