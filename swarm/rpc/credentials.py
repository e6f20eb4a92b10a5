"""A process's identity as it is on disk now: renewed certificates are taken up without a restart."""

import threading
import time
from pathlib import Path
from typing import Final

import grpc
import structlog

from swarm.domain.errors import SwarmError
from swarm.trust.certificates import certificate_not_after
from swarm.trust.identity import Identity

_log = structlog.get_logger(__name__)
_FILE: Final = "certificate.pem"
_HANDOVER_S: Final = 0.25


class IdentitySource:
    """Reads an identity folder again whenever its certificate changed. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Raises what `Identity.load` raises."""
        self._lock = threading.Lock()
        self._stamp = _stamp(folder)
        self._identity = Identity.load(folder)

    def current(self) -> Identity:
        """Return the newest identity whose parts belong together; a half-made change is not taken up."""
        with self._lock:
            folder = self._identity.folder
            try:
                stamp = _stamp(folder)
                if stamp != self._stamp:
                    self._identity, self._stamp = Identity.load(folder), stamp
                    _log.info("certificate.renewed", member=self._identity.id, role=self._identity.role)
            except (SwarmError, OSError) as error:
                _log.warning("certificate.unreadable", folder=str(folder), reason=str(error))
            return self._identity

    def is_expired(self, now: float) -> bool:
        """Say whether the certificate at hand has run out; now in seconds since the epoch."""
        return certificate_not_after(self.current().certificate_pem).timestamp() <= now


def server_credentials(source: IdentitySource) -> grpc.ServerCredentials:
    """Return mutual TLS credentials for one port; they ask source anew at every handshake.

    gRPC makes a new TLS context of every configuration it is handed and frees the one before, which a
    handshake in another thread may be about to use (grpc/grpc#36693): that crash was anybody's who could
    connect. So it is handed one only where the certificate changed, and after a pause, in which no handshake
    begins (gRPC holds its lock meanwhile) and those that began get past that point.
    """
    served = source.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        current = source.current()
        if current is served:
            return None
        time.sleep(_HANDOVER_S)
        served = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        fetch,  # type: ignore[arg-type]  # the stubs leave out None, for no change
        require_client_authentication=True,
    )


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Return mutual TLS credentials of an identity: they trust its swarm's CA only."""
    return grpc.ssl_channel_credentials(
        root_certificates=identity.ca_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.certificate_pem,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    pairs = [(identity.key_pem, identity.certificate_pem)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=identity.ca_pem)


def _stamp(folder: Path) -> tuple[int, int, int]:
    try:
        stat = (folder / _FILE).stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
