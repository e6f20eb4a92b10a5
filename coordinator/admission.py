"""Joining with a token, and renewing certificates: what the join port and the RPC do alike."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

import structlog

from coordinator.addresses import Endpoints
from coordinator.journal import Journal
from coordinator.members import Members
from coordinator.revocations import Revocations
from coordinator.specifications import Specifications
from coordinator.token_claims import TokenClaims
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    UnauthenticatedError,
)
from swarm.domain.ids import NodeId, node_id
from swarm.domain.members import MemberRecord, Role
from swarm.domain.membership import Caller
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.ca import CertificateAuthority
from swarm.trust.certificates import LIFETIMES, check_newcomer
from swarm.trust.proofs import check_join_proof, check_renewal
from swarm.trust.tokens import parse_join_token, secret_hash

_JOIN_FIELDS = ("token", "node", "role", "csr_pem", "signing_key", "proof")
JOINING_ROLES: tuple[Role, ...] = ("node", "operator", "client")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Lets members in and keeps their certificates alive. `endpoints` are told to joiners."""

    ca: CertificateAuthority
    store: MetadataStore
    members: Members
    revocations: Revocations
    specifications: Specifications
    journal: Journal
    claims: TokenClaims
    coordinator_record: bytes
    endpoints: Endpoints
    clock: Callable[[], float]

    def specification(self) -> dict[str, str]:
        """Return what a joiner checks before it joins; needs no secret."""
        return {
            "specification": self.specifications.current.envelope.decode(),
            "coordinator_record": self.coordinator_record.decode(),
        }

    def trunk_blobs(self) -> frozenset[str]:
        """Return the blobs that anyone may read: the trunk's, which hold no statistic of anyone's data."""
        trunk = self.specifications.current.value.trunk
        return frozenset(t.blob for module in (trunk.weights, trunk.probe) for t in module.tensors)

    async def join(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Let a member in. Everything is checked before the token is used up.

        The same request again, for a joiner that lost the answer, gives the same answer and uses the token
        no second time, wherever the first attempt was cut short. Raises InvalidInputError,
        UnauthenticatedError (token, proof), NotAuthorisedError (role), ConflictError (name).
        """
        token_text, name, role, csr, signing_key, proof = _texts(body)
        member = node_id(name)
        if role not in JOINING_ROLES or role not in get_args(Role):
            raise InvalidInputError("role", found=role[:40], expected=", ".join(JOINING_ROLES))
        check_newcomer(role, member)
        token = parse_join_token(token_text)
        if token.pin != self.ca.pin:
            raise UnauthenticatedError(
                f"join token {token.id}", found="a token of another swarm", expected=f"swarm {self.ca.swarm}"
            )
        csr_pem = csr.encode()
        check_join_proof(signing_key, csr_pem, proof)
        certificate = self.ca.issue(
            csr_pem, role=role, member=member, lifetime=LIFETIMES[role], now=self._now()
        )
        secret = secret_hash(token.secret)
        key = _digest("join", token.id, secret, member, role, csr, signing_key)
        known = await self.store.recall(key)
        if known is not None:
            return dict(json.loads(known))
        record = await self._unfinished(member, role, signing_key)
        granted = await self.claims.claim(token.id, secret, role, key)
        reached("coordinator.token.used")
        if granted != role:
            raise NotAuthorisedError(
                f"join token {token.id}", found=f"a token for {granted}", expected=f"one for {role}",
                remedy=f"join with --role {granted}, or ask the operator: swarm token create --role {role}",
            )  # fmt: skip
        if record is None:
            record = self.ca.sign_record(
                MemberRecord(
                    swarm=self.ca.swarm, role=role, id=member, signing_key=signing_key, joined_at=self.clock()
                )
            )
            if not await self.members.register(member, record):
                # The same request may have been here at the same time; anyone else is refused by this.
                record = await self._unfinished(member, role, signing_key)
                if record is None:
                    raise _name_taken(member)
        reached("coordinator.join.registered")
        answer = {
            "certificate_pem": certificate.decode(),
            "record": record.decode(),
            "coordinator_record": self.coordinator_record.decode(),
            "revocations": self.revocations.envelope.decode(),
            "coordinator": self.endpoints.coordinator_told,
            "registry": self.endpoints.registry_told,
        }
        first = dict(json.loads(await self.store.remember(key, json.dumps(answer))))
        if first == answer:
            kind = "node.joined" if role == "node" else "member.joined"
            await self.journal.record(kind, node=member, role=role)
        return first

    async def renew_by_proof(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Renew the certificate of a member that slept past its expiry, by its registered signing key."""
        member = node_id(str(body.get("node")))
        record = self._standing(member)
        if not record.signing_key:
            raise UnauthenticatedError(
                f"{record.role} {member}", found="no registered signing key", expected="one to prove",
                remedy="ask the operator for a new join line",
            )  # fmt: skip
        csr_pem = check_renewal(body, record.signing_key, self._now())
        return {"certificate_pem": self._issued(csr_pem, record.role, member).decode()}

    async def renew(self, caller: Caller, csr_pem: bytes, key: str) -> bytes:
        """Renew the certificate of a member that proved itself with the present one."""
        record = self._standing(caller.id)
        if record.role != caller.role:
            raise UnauthenticatedError(
                f"{caller.role} {caller.id}", found=f"the record of a {record.role}", expected="its own"
            )
        name = _digest("renew", caller.role, caller.id, key)
        known = await self.store.recall(name) if key else None
        if known is not None:
            return known.encode()
        pem = self._issued(csr_pem, caller.role, caller.id)
        return (await self.store.remember(name, pem.decode())).encode() if key else pem

    def _issued(self, csr_pem: bytes, role: Role, member: NodeId) -> bytes:
        pem = self.ca.issue(csr_pem, role=role, member=member, lifetime=LIFETIMES[role], now=self._now())
        log.info("certificate.issued", role=role, member=member)
        return pem

    def _standing(self, member: NodeId) -> MemberRecord:
        record = self.members.record(member)
        if record is None:
            raise UnauthenticatedError(
                f"member {member}", found="nobody of that name", expected="a member",
                remedy="join first: swarm join TOKEN@HOST:PORT",
            )  # fmt: skip
        if self.revocations.is_revoked(member):
            raise UnauthenticatedError(
                f"member {member}", found="a member that was revoked", expected="a member in good standing",
                remedy="ask the operator for a new token and join under another name",
            )  # fmt: skip
        return record

    async def _unfinished(self, member: NodeId, role: Role, signing_key: str) -> bytes | None:
        """Return the record of an attempt to join that was cut short, None for a new name.

        ConflictError where the name is another's: who joins has proven its signing key, so the same key is
        the same member.
        """
        try:
            envelope = await self.members.envelope(member)
        except NotFoundError:
            return None
        known = self.members.record(member)
        if known is None or (known.role, known.signing_key) != (role, signing_key):
            raise _name_taken(member)
        self._standing(member)
        return envelope

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _name_taken(member: NodeId) -> ConflictError:
    return ConflictError(
        f"name {member}",
        found="a member of that name",
        expected="a new name: names are never given twice",
        remedy="choose another: swarm join ... --name NAME",
    )


def _texts(body: Mapping[str, Any]) -> list[str]:
    unknown, absent = sorted(body.keys() - set(_JOIN_FIELDS)), sorted(set(_JOIN_FIELDS) - body.keys())
    if not (unknown or absent):
        absent = [n for n in _JOIN_FIELDS if not (isinstance(body[n], str) and body[n].isascii())]
    if unknown or absent:
        raise InvalidInputError(
            "join request",
            found=f"unknown {', '.join(map(str, unknown))[:80]}"
            if unknown
            else f"no plain text for {', '.join(absent)}",
            expected=", ".join(_JOIN_FIELDS),
        )
    return [body[name] for name in _JOIN_FIELDS]


def _digest(*parts: str) -> str:
    return parts[0] + ":" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
