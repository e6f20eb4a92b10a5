"""What a registry does besides answering: follow the revocation list, renew its certificate, sweep blobs."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from swarm.domain.errors import SwarmError
from swarm.registry.store import MetadataStore
from swarm.trust.identity import Identity, certificate_not_after, needs_renewal, replace_certificate
from swarm.trust.keyring import Keyring

LOOK_AGAIN_S: Final = 15.0
"""The list is read this often even if no event says that it changed."""

RENEWAL_CHECK_S: Final = 60.0
SWEEP_EVERY_S: Final = 900.0
_AFTER_OUTAGE_S: Final = 1.0
_log = structlog.get_logger(__name__)


async def take_revocations(store: MetadataStore, keyring: Keyring) -> None:
    """Give the keyring the store's newest list; a forged or replayed one is logged and not used."""
    envelope = await store.revocations()
    if envelope is not None:
        _take(envelope, keyring)


def _take(envelope: bytes, keyring: Keyring) -> None:
    known = keyring.revocations
    try:
        keyring.set_revocations(envelope)
    except SwarmError as error:
        _log.error("revocations.refused", reason=str(error))
        return
    if keyring.revocations != known and keyring.revocations is not None:
        _log.info(
            "revocations.taken",
            number=keyring.revocations.number,
            nodes=len(keyring.revocations.nodes),
        )


async def follow_revocations(store: MetadataStore, keyring: Keyring) -> None:
    """Keep the keyring's list up to date until cancelled, within milliseconds while the store answers."""
    after, is_down = "", False
    while True:
        try:
            after = after or await store.last_event_id()
            await take_revocations(store, keyring)
            events = await store.wait_events(after, LOOK_AGAIN_S)
            after = events[-1].id if events else after
            if is_down:
                _log.info("redis.back")
            is_down = False
        except SwarmError as error:
            if not is_down:
                _log.warning("redis.unreachable", reason=str(error))
            is_down = True
            await asyncio.sleep(_AFTER_OUTAGE_S)


async def ask_for_revocations(
    ask: Callable[[], Awaitable[bytes]], keyring: Keyring, every_s: float = LOOK_AGAIN_S
) -> None:
    """Keep the keyring's list up to date by the coordinator's own word until cancelled.

    Who can write the store can keep a list back there, so a member that was revoked would stay one here.
    `ask` returns the coordinator's newest list; while it does not answer, the store's is all there is.
    """
    is_away = False
    while True:
        try:
            _take(await ask(), keyring)
            is_away = False
        except SwarmError as error:
            if not is_away:
                _log.warning("revocations.not_asked", reason=str(error))
            is_away = True
        await asyncio.sleep(every_s)


async def keep_certificate(
    folder: Path, renew: Callable[[bytes, str], Awaitable[bytes]], now: Callable[[], datetime]
) -> None:
    """Renew the certificate in an identity folder at two thirds of its life, until cancelled.

    `renew` takes a signing request and an idempotency key and returns the certificate, PEM. What fails is
    logged and tried again after a minute.
    """
    while True:
        try:
            identity = Identity.load(folder)
            if needs_renewal(identity.certificate_pem, now()):
                pem = await renew(identity.renewal_csr(), uuid.uuid4().hex)
                renewed = replace_certificate(folder, pem)
                until = certificate_not_after(renewed.certificate_pem)
                _log.info("certificate.renewed", until=until.isoformat())
        except SwarmError as error:
            _log.warning("certificate.not_renewed", reason=str(error))
        await asyncio.sleep(RENEWAL_CHECK_S)


async def keep_swept(sweep: Callable[[], Awaitable[int]], every_s: float = SWEEP_EVERY_S) -> None:
    """Remove the blobs of what was withdrawn now and then, until cancelled; what fails is tried again.

    Not at once after the start: what was asked for before it is not known.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            await sweep()
        except (SwarmError, OSError) as error:
            _log.warning("blobs.not_swept", reason=str(error))


async def keep_looking(missing_blobs: Callable[[], Awaitable[int]], every_s: float = SWEEP_EVERY_S) -> None:
    """Warn at the start, and now and then until cancelled, of blobs that must be here and are not."""
    while True:
        try:
            if count := await missing_blobs():
                _log.warning("blobs.missing", blobs=count, remedy="swarm registry rebuild")
        except (SwarmError, OSError) as error:
            _log.warning("blobs.not_looked_for", reason=str(error))
        await asyncio.sleep(every_s)


def certificate_days(folder: Path, now: datetime) -> float:
    """Return how many days the certificate in an identity folder is still valid, negative if it expired."""
    return (certificate_not_after(Identity.load(folder).certificate_pem) - now).total_seconds() / 86_400
