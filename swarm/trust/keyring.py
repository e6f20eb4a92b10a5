"""Who may say what: CA-signed records, the revocation list, and the rule that says whose signature counts."""

from collections.abc import Iterable
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError, UnknownMemberError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ExpertId, NodeId, SwarmId, expert_of, node_id, owner_of
from swarm.domain.manifests import Manifest
from swarm.domain.members import MemberRecord, RevocationList, Role, Tombstone
from swarm.domain.replay import GivenAnswer
from swarm.domain.specification import Specification
from swarm.trust.certificates import ca_swarm, certificate_pin, load_certificate
from swarm.trust.signing import SSlibKey
from swarm.trust.statements import Statement, open_with_key, read_statement, verify_statement

__all__ = ["COORDINATOR", "Keyring", "UnknownMemberError", "ca_statement_key"]

T = TypeVar("T")
COORDINATOR = NodeId("coordinator")


def ca_statement_key(ca_pem: bytes) -> SSlibKey:
    """Return the key that verifies the CA's statements; its id is the CA's pin."""
    public_key = load_certificate(ca_pem).public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise VerificationError("CA certificate", found="another kind of key", expected="a P-256 key")
    return SSlibKey.from_crypto(public_key, keyid=certificate_pin(ca_pem))


class Keyring:
    """What one process knows about members. Works offline: the CA's certificate is all it starts from.

    Statements are opened with the key of whoever may make them: manifests and contributions by their
    owner, tombstones by the owner or the coordinator, all else by the coordinator.
    """

    def __init__(self, ca_pem: bytes, swarm: SwarmId) -> None:
        """Raises VerificationError where the CA is another swarm's."""
        if ca_swarm(ca_pem) != swarm:
            raise VerificationError(
                "CA certificate", found=f"swarm {ca_swarm(ca_pem)}", expected=f"swarm {swarm}"
            )
        self.swarm = swarm
        self._ca_key = ca_statement_key(ca_pem)
        self._records: dict[NodeId, MemberRecord] = {}
        self._revocations: Statement[RevocationList] | None = None
        self._revoked: frozenset[NodeId] = frozenset()

    def add_record(self, envelope: bytes) -> MemberRecord:
        """Return and remember a member's record that the CA signed.

        Raises VerificationError for a record of another CA or swarm, and where a known member would change
        its role or signing key: names are permanent.
        """
        record = self._open_record(envelope).value
        known = self._records.setdefault(record.id, record)
        if (known.role, known.signing_key) != (record.role, record.signing_key):
            raise VerificationError(
                f"record of {record.id}",
                found=f"{record.role} with key {record.signing_key[:12]}",
                expected=f"{known.role} with key {known.signing_key[:12]}",
                remedy="a name belongs to one member for ever; the other must join under another name",
            )
        return known

    def add_records(self, envelopes: Iterable[bytes]) -> None:
        """Remember several members' records."""
        for envelope in envelopes:
            self.add_record(envelope)

    def record(self, member: NodeId) -> MemberRecord | None:
        """Return the verified record of a member, None while it is unknown here."""
        return self._records.get(member)

    @property
    def revocations(self) -> RevocationList | None:
        """The newest list, None before the first."""
        return self._revocations.value if self._revocations else None

    def set_revocations(self, envelope: bytes) -> None:
        """Take over a list that the coordinator signed; the same again is no error.

        Raises VerificationError where its number is lower than the known one's, or equal with other content.
        """
        found = self.open(envelope, RevocationList)
        known = self._revocations
        older = known is not None and found.value.number < known.value.number
        changed = (
            known is not None and found.value.number == known.value.number and found.digest != known.digest
        )
        if known is not None and (older or changed):
            raise VerificationError(
                "revocation list",
                found=f"number {found.value.number}{' with other members' if changed else ''}",
                expected=f"number {known.value.number}{' as known' if changed else ' or later'}",
                remedy="an old list was replayed and is not used; ask the coordinator again",
            )
        self._revocations = found
        self._revoked = frozenset(found.value.nodes)

    @property
    def revoked(self) -> frozenset[NodeId]:
        """The members that the newest known list names; the same object until there is a newer list."""
        return self._revoked

    def is_revoked(self, member: NodeId) -> bool:
        """Return whether the newest known list names a member."""
        return member in self._revoked

    def open(self, envelope: bytes, cls: type[T]) -> Statement[T]:
        """Return a statement of this swarm that whoever may make it has signed.

        Raises UnknownMemberError (with `.member`) while that member's record is not known here, and
        VerificationError for a wrong signature, another swarm, or a revoked member. Tombstones of revoked
        members stay valid: they only take away, and must not come undone.
        """
        if cls is MemberRecord:
            return self._open_record(envelope)  # type: ignore[return-value]
        claimed = read_statement(envelope, cls)
        signer = self._rightful_signer(claimed)
        if self.is_revoked(signer) and cls is not Tombstone:
            raise VerificationError(
                _subject(claimed.value),
                found=f"a statement of {signer}, which is revoked",
                expected="a member",
            )
        record = self._known(signer, "coordinator" if signer == COORDINATOR else "node")
        try:
            verify_statement(claimed, record.signing_key)
        except VerificationError as error:
            raise VerificationError(
                _subject(claimed.value),
                found=error.found,
                expected=f"a signature of {signer} by key {record.signing_key[:12]}",
                remedy=error.remedy,
            ) from error
        self._check_swarm(claimed.value)
        return claimed

    def _open_record(self, envelope: bytes) -> Statement[MemberRecord]:
        statement = open_with_key(envelope, MemberRecord, self._ca_key)
        self._check_swarm(statement.value)
        return statement

    def _rightful_signer(self, claimed: Statement[T]) -> NodeId:
        value = claimed.value
        if isinstance(value, Manifest):
            return value.owner
        if isinstance(value, Contribution):
            for leaf in value.leaves:
                if owner_of(leaf.leaf) != value.owner or expert_of(leaf.leaf) != leaf.expert:
                    raise VerificationError(
                        _subject(value),
                        found=f"leaf {leaf.leaf} with expert {leaf.expert}",
                        expected=f"leaves of {value.owner}, each with its own expert",
                    )
            return value.owner
        if isinstance(value, Tombstone):
            return self._withdrawing_signer(value, claimed.key_id)
        if isinstance(value, GivenAnswer):
            return value.given_by
        if isinstance(value, GateStatement | Specification | RevocationList):
            return COORDINATOR
        raise InvalidInputError("statement", found=type(value).__name__, expected="a signed statement")

    def _withdrawing_signer(self, tombstone: Tombstone, key_id: str) -> NodeId:
        """Return the owner or the coordinator, whichever the unproven key id points to."""
        owner = _withdrawn_owner(tombstone)
        coordinator, owner_record = self._records.get(COORDINATOR), self._records.get(owner)
        if coordinator is not None:
            return COORDINATOR if key_id == coordinator.signing_key else owner
        return owner if owner_record is not None and key_id == owner_record.signing_key else COORDINATOR

    def _known(self, member: NodeId, role: Role) -> MemberRecord:
        record = self._records.get(member)
        if record is None:
            raise UnknownMemberError(
                f"member {member}",
                found="no record",
                expected="its CA-signed record",
                remedy="fetch it and retry",
            )
        if record.role != role or not record.signing_key:
            raise VerificationError(
                f"member {member}", found=f"a {record.role}, who signs no statements", expected=f"a {role}"
            )
        return record

    def _check_swarm(self, value: object) -> None:
        found = getattr(value, "swarm", None)
        if found != self.swarm:
            raise VerificationError(_subject(value), found=f"swarm {found}", expected=f"swarm {self.swarm}")


def _withdrawn_owner(tombstone: Tombstone) -> NodeId:
    try:
        return owner_of(ExpertId(tombstone.id)) if tombstone.kind == "expert" else node_id(tombstone.id)
    except InvalidInputError as error:
        raise VerificationError("tombstone", found=error.found, expected=error.expected) from error


def _subject(value: object) -> str:
    match value:
        case Manifest():
            return f"manifest {value.expert}@{value.version}"
        case Contribution():
            return f"contribution of {value.owner}, epoch {value.epoch}"
        case GateStatement():
            return f"gate {value.version}"
        case Specification():
            return f"specification {value.version}"
        case MemberRecord():
            return f"record of {value.id}"
        case Tombstone():
            return f"tombstone of {value.id}"
        case GivenAnswer():
            return f"answer of {value.given_by}"
        case RevocationList():
            return f"revocation list {value.number}"
    return "statement"
