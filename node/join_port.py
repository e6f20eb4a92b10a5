"""The coordinator's join port (HTTPS) as a joiner sees it: before it has a certificate, or after it expired.

Only the CA's certificate is fetched over a connection that proves nothing; every later call demands the
coordinator's own name under that CA.
"""

import http.client
import json
import socket
import ssl
from typing import Any

from swarm.domain.errors import DeadlineError, SwarmError, UnreachableError, VerificationError
from swarm.domain.ids import Digest, NodeId
from swarm.rpc.status import error_from_json
from swarm.trust.certificates import ca_swarm, check_pin, target_name

_MAX_JSON = 16 << 20
_MAX_BLOB = 1 << 30


class JoinPort:
    """One host and port. `ca_pem` set: every call is verified against it."""

    def __init__(self, host: str, port: int, *, ca_pem: bytes = b"", timeout_s: float = 15.0) -> None:
        self.host, self._port, self._timeout_s = host, port, timeout_s
        self._ca_pem = ca_pem

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self._port}" if ":" in self.host else f"{self.host}:{self._port}"

    def fetch_ca(self, pin: str) -> bytes:
        """Return the swarm's CA certificate and trust it from now on; VerificationError unless it has this
        pin. Nothing secret is sent."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        body = self._exchange("GET", "/v1/ca", None, context=context, server_name=self.host, limit=_MAX_JSON)
        check_pin(body, pin)
        self._ca_pem = body
        return body

    def specification(self) -> dict[str, Any]:
        """Return the signed specification and the coordinator's record; needs no secret."""
        return self._json("GET", "/v1/specification", None)

    def blob(self, digest: Digest) -> bytes:
        """Return one blob of the trunk, unverified."""
        return self._verified("GET", f"/v1/blobs/{digest}", None, _MAX_BLOB)

    def join(self, request: dict[str, str]) -> dict[str, Any]:
        """Send the token and what shall be certified; return certificate and records."""
        return self._json("POST", "/v1/join", request)

    def renew(self, request: dict[str, Any]) -> dict[str, Any]:
        """Renew a certificate that expired, by the registered key's proof."""
        return self._json("POST", "/v1/renew", request)

    def _json(self, method: str, path: str, request: dict[str, Any] | None) -> dict[str, Any]:
        body = self._verified(method, path, request, _MAX_JSON)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UnreachableError(
                self.address, found=f"no JSON answer to {path}", expected="a swarm's join port"
            )
        return found

    def _verified(self, method: str, path: str, request: dict[str, Any] | None, limit: int) -> bytes:
        if not self._ca_pem:
            raise VerificationError(self.address, found="no trusted CA yet", expected="fetch_ca first")
        context = ssl.create_default_context(cadata=self._ca_pem.decode("ascii"))
        name = target_name(ca_swarm(self._ca_pem), "coordinator", NodeId("coordinator"))
        return self._exchange(method, path, request, context=context, server_name=name, limit=limit)

    def _exchange(
        self,
        method: str,
        path: str,
        request: dict[str, Any] | None,
        *,
        context: ssl.SSLContext,
        server_name: str,
        limit: int,
    ) -> bytes:
        connection = _Connection(
            self.host, self._port, self._timeout_s, context=context, server_name=server_name
        )
        body = None if request is None else json.dumps(request).encode()
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if len(content) > limit:
            raise VerificationError(f"{self.address}{path}", found=f"more than {limit} bytes")
        if answer.status != http.client.OK:
            raise _problem(content, answer.status, f"{self.address}{path}")
        return content

    def _unreachable(self, error: Exception) -> SwarmError:
        if isinstance(error, socket.gaierror):
            return UnreachableError(
                f"host {self.host}",
                found="no such host",
                expected="a name or address that this machine can resolve",
                remedy="check the host in the join line",
            )
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(
                self.address,
                found="connection refused",
                expected="a coordinator's join port",
                remedy="start it there (swarm coordinator), or check the port in the join line",
            )
        if isinstance(error, TimeoutError):
            return DeadlineError(
                self.address,
                found=f"no answer within {self._timeout_s:g} s",
                remedy="check the address, the network and the firewall",
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return VerificationError(
                self.address,
                found=f"a certificate that does not verify ({error.verify_message})",
                expected="the coordinator's own, under the pinned CA",
                remedy="someone else answers at this address, or this machine's clock is wrong",
            )
        return UnreachableError(
            self.address,
            found=str(error) or type(error).__name__,
            expected="a coordinator's join port (HTTPS)",
            remedy="check the address in the join line",
        )


class _Connection(http.client.HTTPSConnection):
    """HTTPS to any address, demanding the certificate of `server_name`."""

    def __init__(
        self, host: str, port: int, timeout_s: float, *, context: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._server_name, self._tls = server_name, context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._server_name)
        except BaseException:
            plain.close()
            raise


def _problem(content: bytes, status: int, where: str) -> SwarmError:
    try:
        return error_from_json(json.loads(content), status, where)
    except (ValueError, RecursionError):
        return UnreachableError(
            where, found=f"HTTP status {status}", expected="a swarm's join port", remedy="check the address"
        )
