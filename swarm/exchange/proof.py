"""`manifest.json` of an export: the signed manifest, and all that it takes to verify it offline.

The CA's certificate gives the coordinator's and the owner's records, the records give their keys, the keys
the manifest and the specification (whose scale and offset say what the expert's inputs are). Who trusts none
of that CA's members is left with its pin: SHA-256 of its public key, to be compared with the swarm's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from swarm.domain.errors import InvalidInputError, SwarmError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN
from swarm.trust.certificates import ca_swarm, certificate_pin
from swarm.trust.codec import canonical_json, parse_json
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

SCHEMA: Final = "swarm.export/1"
_ENVELOPES: Final = ("manifest", "specification", "owner_record", "coordinator_record")
_FIELDS: Final = {"schema", "ca", "files", "license", *_ENVELOPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Envelopes as their signers made them, and the CA's certificate (PEM).

    `files` are the other files of the folder with their SHA-256; `license` is what the owner says, empty
    where it says nothing. These two are not signed by the owner.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    manifest: bytes
    specification: bytes
    owner_record: bytes
    coordinator_record: bytes
    ca_pem: bytes
    files: Mapping[str, str]
    license: str = ""

    def to_json(self) -> bytes:
        """Return the file's text: JSON, the envelopes as JSON in it."""
        envelopes = {name: parse_json(getattr(self, name), name) for name in _ENVELOPES}
        return canonical_json(
            {
                "schema": SCHEMA,
                "ca": self.ca_pem.decode("ascii"),
                "files": dict(self.files),
                "license": self.license,
                **envelopes,
            }
        )

    @classmethod
    def from_json(cls, data: bytes, subject: str) -> Self:
        """Return what a file says, nothing of it verified; VerificationError where it is none of ours."""
        try:
            plain = parse_json(data, subject)
            told = _checked(plain, subject)
            if canonical_json(plain) != data:
                raise InvalidInputError(subject, found="JSON in another form", expected="as it was exported")
            return cls(
                **{name: canonical_json(told[name]) for name in _ENVELOPES},
                ca_pem=told["ca"].encode("ascii"),
                files=told["files"],
                license=told["license"],
            )
        except (InvalidInputError, UnicodeEncodeError) as error:
            found = error.found if isinstance(error, SwarmError) else "a certificate that is no text"
            expected = error.expected if isinstance(error, SwarmError) else "PEM"
            raise VerificationError(subject, found=found, expected=expected, remedy=_AGAIN) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a proof's own CA vouches for. `pin` names that CA."""

    manifest: Statement[Manifest]
    specification: Specification
    pin: str

    @property
    def owner(self) -> NodeId:
        return self.manifest.value.owner

    @property
    def name(self) -> str:
        return f"{self.manifest.value.expert}@{self.manifest.value.version}"


def open_proof(proof: Proof, subject: str) -> Proven:
    """Return what the statements say, each verified from the CA's certificate on, or VerificationError."""
    try:
        keyring = Keyring(proof.ca_pem, ca_swarm(proof.ca_pem))
        keyring.add_records([proof.coordinator_record, proof.owner_record])
        manifest = keyring.open(proof.manifest, Manifest)
        specification = keyring.open(proof.specification, Specification).value
    except SwarmError as error:
        raise VerificationError(
            f"{subject}, {error.subject}", found=error.found, expected=error.expected, remedy=_AGAIN
        ) from error
    return Proven(manifest=manifest, specification=specification, pin=certificate_pin(proof.ca_pem))


_AGAIN: Final = "the file was damaged or changed and is not used; get the folder again from who exported it"


def _checked(plain: object, subject: str) -> Mapping[str, Any]:
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise InvalidInputError(subject, found="another document", expected=f"schema {SCHEMA}")
    if plain.keys() != _FIELDS:
        odd = min(plain.keys() ^ _FIELDS)
        raise InvalidInputError(
            subject, found=f"{odd[:80]!r} missing or unknown", expected="the known fields"
        )
    files = plain["files"]
    texts = [plain["ca"], plain["license"], *(files.values() if isinstance(files, dict) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(subject, found="a field of another type", expected="text")
    return plain
