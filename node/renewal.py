"""Keep the node's certificate alive: over mutual TLS at two thirds of its life, at the join port once it
expired (a laptop that slept) by proving the registered signing key.
"""

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from node.join_port import JoinPort
from swarm.domain.errors import SwarmError, VerificationError
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity, certificate_not_after, needs_renewal, replace_certificate
from swarm.trust.proofs import renewal_request

CHECK_S = 60.0
_log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class Renewals:
    """Renews the certificate in an identity's folder; servers and channels take it up from there."""

    def __init__(
        self,
        identity: Identity,
        coordinator: CoordinatorClient,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._folder, self._coordinator = identity.folder, coordinator
        self._now = now

    async def run(self) -> None:
        """Check now and every minute until cancelled; what fails is tried again."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_S)

    async def check(self) -> bool:
        """Renew if it is time; True if a new certificate came. What fails now is tried at the next check."""
        identity = Identity.load(self._folder)
        if not needs_renewal(identity.certificate_pem, self._now()):
            return False
        try:
            if certificate_not_after(identity.certificate_pem) > self._now():
                pem = await self._coordinator.renew_certificate(identity.renewal_csr(), uuid.uuid4().hex)
            else:
                pem = await asyncio.to_thread(renew_expired, identity, self._now())
        except SwarmError as error:
            _log.warning("certificate.not_renewed", because=str(error))
            return False
        renewed = replace_certificate(self._folder, pem)
        _log.info("certificate.renewed", until=certificate_not_after(renewed.certificate_pem).isoformat())
        return True


def renew_expired(identity: Identity, now: datetime) -> bytes:
    """Return a new certificate from the join port. Blocks.

    Raises UnauthenticatedError if the member was revoked or the clocks differ by more than 5 minutes.
    """
    host, _, port = identity.join.rpartition(":")
    if not port.isdigit():
        raise VerificationError(
            "identity", found=f"join address {identity.join!r}", expected="HOST:PORT", remedy="join again"
        )
    door = JoinPort(host.strip("[]"), int(port), ca_pem=identity.ca_pem)
    answer = door.renew(renewal_request(identity.required_signer(), identity.id, identity.renewal_csr(), now))
    pem = answer.get("certificate_pem")
    if not isinstance(pem, str):
        raise VerificationError("renewal", found="no certificate in the answer", expected="certificate_pem")
    return pem.encode()
