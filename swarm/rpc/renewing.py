"""Renewal of an operator's or a client's certificate by whoever speaks as it; an agent renews its node's."""

import contextlib
import uuid
from datetime import UTC, datetime

from swarm.domain.errors import SwarmError
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity, needs_renewal, replace_certificate


async def renew_if_due(identity: Identity, coordinator: CoordinatorClient) -> None:
    """Renew the certificate at two thirds of its life. What fails now is tried again the next time; `swarm
    doctor` shows the days that are left."""
    if identity.role == "node" or not needs_renewal(identity.certificate_pem, datetime.now(UTC)):
        return
    with contextlib.suppress(SwarmError, OSError):
        pem = await coordinator.renew_certificate(identity.renewal_csr(), uuid.uuid4().hex)
        replace_certificate(identity.folder, pem)
