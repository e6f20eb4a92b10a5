"""What a coordinator does besides answering: renew its own certificate, publish what had to wait."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from swarm.domain.errors import SwarmError
from swarm.trust.ca import CertificateAuthority
from swarm.trust.certificates import LIFETIMES
from swarm.trust.identity import Identity, certificate_not_after, needs_renewal, replace_certificate

CHECK_S = 60.0

log = structlog.get_logger()


class Upkeep:
    """Runs every minute. The CA is at hand, so an expired certificate is renewed too, at start."""

    def __init__(self, ca: CertificateAuthority, identity_folder: Path, clock: Callable[[], float]) -> None:
        self.ca, self._folder, self._clock = ca, identity_folder, clock
        self.on_renewed: Callable[[], None] = lambda: None

    async def run(self, publish_late: Callable[[], Awaitable[None]]) -> None:
        """Look after things until cancelled; what fails is tried again."""
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                if await asyncio.to_thread(self.renew_certificate):
                    self.on_renewed()
                await publish_late()
            except (SwarmError, OSError) as error:
                log.warning("upkeep.failed", reason=str(error))

    def renew_certificate(self) -> bool:
        """Renew the coordinator's own certificate where two thirds of its life are over; say if it was."""
        identity = Identity.load(self._folder)
        now = datetime.fromtimestamp(self._clock(), UTC)
        if not needs_renewal(identity.certificate_pem, now):
            return False
        pem = self.ca.issue(
            identity.renewal_csr(),
            role=identity.role,
            member=identity.id,
            lifetime=LIFETIMES[identity.role],
            now=now,
        )
        renewed = replace_certificate(self._folder, pem)
        log.info("certificate.renewed", until=certificate_not_after(renewed.certificate_pem).isoformat())
        return True

    def certificate_days(self) -> float:
        """Return how many days the coordinator's certificate is still valid."""
        left = (
            certificate_not_after((self._folder / "certificate.pem").read_bytes()).timestamp() - self._clock()
        )
        return left / 86_400
