"""The coordinator's HTTP ports, one application each: over TLS by its certificate, or plain on loopback."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from coordinator.http_connections import PatientProtocol
from swarm.domain.errors import UsageError

MOST_CONNECTIONS = 1024
"""At most; a new one takes the place of one that asks nothing (`coordinator.http_connections`)."""


class HttpServer:
    """Serves an application; with an identity's folder over TLS, and `reload` takes up a renewed certificate.

    `name` and `flag` say in errors what listens, and how another port is chosen.
    """

    def __init__(
        self, app: Starlette, identity_folder: Path | None, *, name: str, flag: str, grace_s: int = 2
    ) -> None:
        self._folder, self._name, self._flag = identity_folder, name, flag
        self._config = uvicorn.Config(
            app,
            ssl_certfile=str(identity_folder / "certificate.pem") if identity_folder else None,
            ssl_keyfile=str(identity_folder / "key.pem") if identity_folder else None,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=grace_s,
        )
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port (port 0 takes a free one). UsageError where the port is taken."""
        listener = self._listener(host, port)
        self._config.load()
        if self._config.ssl is not None:
            self._config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        found: int = listener.getsockname()[1]
        return found

    def reload(self) -> None:
        """Use the certificate that is in the identity's folder now, for connections from here on."""
        if self._config.ssl is not None and self._folder is not None:
            self._config.ssl.load_cert_chain(self._folder / "certificate.pem", self._folder / "key.pem")

    async def stop(self) -> None:
        """Take no new calls and end the running ones within the grace."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)

    def _listener(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise UsageError(
                f"{self._name} {host}:{port}",
                found=error.strerror or str(error),
                expected="a free port on an address of this machine",
                remedy=f"stop what listens there, or choose another: {self._flag}",
            ) from error


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process has several servers; its signals belong to `coordinator.app`.
        yield
