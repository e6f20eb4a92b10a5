"""Whether the node of a home is still a member: asked before its agent is started for anything."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.cli import places
from swarm.domain.errors import SwarmError, UnauthenticatedError

if TYPE_CHECKING:
    from swarm.cli.places import Place

ANSWER_S = 5.0
"""A coordinator that takes longer to answer is not waited for: nodes learn while it is away."""


def note_departure(place: "Place") -> None:
    """Note in the home that its node left for good."""
    _departure(place).write_text(json.dumps({"left_at": time.time()}))


def check_present(place: "Place") -> None:
    """Raise UnauthenticatedError where the node of this home left the swarm."""
    if not _departure(place).exists():
        return
    identity = place.identity()
    raise UnauthenticatedError(
        f"node {identity.id}",
        found=f"that it left swarm {identity.swarm}",
        expected="a member in good standing",
        remedy="join under another name in another folder: swarm join TOKEN@HOST:PORT --home DIR",
    )


async def check_standing(place: "Place") -> None:
    """Raise UnauthenticatedError where the node of this home left the swarm or was revoked.

    A coordinator that cannot be reached says nothing against it; nor does one that refuses a certificate
    which has expired, since the agent renews that.
    """
    from swarm.trust.identity import certificate_not_after

    check_present(place)
    if certificate_not_after(place.identity().certificate_pem) <= datetime.now(UTC):
        return
    try:
        async with places.coordinator(place) as client:
            await client.revocations(timeout_s=ANSWER_S)
    except UnauthenticatedError:
        raise
    except SwarmError:
        return


def _departure(place: "Place") -> Path:
    return place.root / "left.json"
