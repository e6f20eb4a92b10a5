"""Who calls, and whether they may: proven by the certificate, held against the roles and the revocations."""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from swarm.domain.errors import NotAuthorisedError, SwarmError, UnauthenticatedError
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.membership import Caller
from swarm.rpc.methods import ROLES, Roles
from swarm.rpc.open_inference.methods import OPEN_INFERENCE_ROLES
from swarm.trust.certificates import certificate_not_after, peer_caller

SERVED: Final[Mapping[str, Roles]] = {**ROLES, **OPEN_INFERENCE_ROLES}
"""Who may call what over TCP. A path that is not here is refused to everyone."""
_CALLER: Final[ContextVar[Caller]] = ContextVar("swarm_rpc_caller")


class CallContext(Protocol):
    """What is asked of a call's gRPC context here."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A caller, and until when (seconds since the epoch) its certificate proves it."""

    caller: Caller
    expires_at: float


class Gatekeeper(Protocol):
    """Decides on every call, and again every second while a stream lasts."""

    def admit(self, path: str, context: CallContext) -> Standing:
        """Return who calls; UnauthenticatedError or NotAuthorisedError if they may not call path."""

    def check(self, standing: Standing) -> None:
        """Raise UnauthenticatedError if a caller that was admitted is expired or revoked by now."""


class CertificateGatekeeper:
    """For TCP: mutual TLS has verified the certificate; this reads its name and looks at its standing."""

    def __init__(
        self, swarm: SwarmId, is_revoked: Callable[[NodeId], bool], now: Callable[[], float]
    ) -> None:
        self._swarm, self._is_revoked, self._now = swarm, is_revoked, now

    def admit(self, path: str, context: CallContext) -> Standing:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise UnauthenticatedError(
                "caller",
                found="no client certificate",
                expected="a certificate of this swarm",
                remedy="join first: swarm join TOKEN@HOST:PORT",
            )
        standing = _standing(pem, self._swarm)
        self.check(standing)
        check_role(standing.caller, path)
        return standing

    def check(self, standing: Standing) -> None:
        caller = standing.caller
        if self._is_revoked(caller.id):
            raise UnauthenticatedError(
                f"{caller.role} {caller.id}",
                found="a certificate that was revoked",
                expected="a member in good standing",
                remedy="ask the operator for a new token and join under another name",
            )
        if standing.expires_at <= self._now():
            raise UnauthenticatedError(
                f"{caller.role} {caller.id}",
                found="a certificate that has expired",
                expected="a current one",
                remedy="it renews by itself while its process runs; check the clock: swarm doctor",
            )


class LoopbackGatekeeper:
    """For a listener on the loopback without TLS: everybody on this machine counts as one client."""

    def __init__(self, caller: Caller) -> None:
        self._standing = Standing(caller, float("inf"))

    def admit(self, path: str, context: CallContext) -> Standing:
        check_role(self._standing.caller, path)
        return self._standing

    def check(self, standing: Standing) -> None:
        """The loopback's standing does not end."""


class SameMachineGatekeeper:
    """For unix sockets in a folder of mode 0700: whoever can open the socket is the owner of the process."""

    def __init__(self, caller: Caller) -> None:
        self._standing = Standing(caller, float("inf"))

    def admit(self, path: str, context: CallContext) -> Standing:
        return self._standing

    def check(self, standing: Standing) -> None:
        """A socket's owner does not lose its standing."""


def check_role(caller: Caller, path: str) -> None:
    """Raise NotAuthorisedError unless callers of this role may call path."""
    roles = SERVED.get(path, frozenset())
    if caller.role not in roles:
        raise NotAuthorisedError(
            f"{caller.role} {caller.id}",
            found=f"a call of {path.lstrip('/')}",
            expected=f"one of the roles {', '.join(sorted(roles))}" if roles else "nobody over TCP",
            remedy="name the founder's folder: --home DIR" if "operator" in roles else "",
        )


def claimed_caller(context: CallContext) -> str:
    """Return `role/id` of a certificate that TLS accepted, whatever its standing; empty without one."""
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    try:
        return _named(pem) if pem is not None else ""
    except SwarmError:
        return ""


def current_caller() -> Caller:
    """Return who made the call that the present task serves."""
    return _CALLER.get()


def caller_name() -> str:
    """Return `role/id` of who made the call that the present task serves; empty where it serves none."""
    caller = _CALLER.get(None)
    return "" if caller is None else f"{caller.role}/{caller.id}"


def set_current_caller(caller: Caller) -> None:
    """Remember, in the present task and those that it starts, who made the call."""
    _CALLER.set(caller)


@lru_cache(maxsize=4096)
def _named(pem: bytes) -> str:
    caller = peer_caller(pem)
    return f"{caller.role}/{caller.id}"


@lru_cache(maxsize=4096)
def _standing(pem: bytes, swarm: SwarmId) -> Standing:
    return Standing(peer_caller(pem, swarm), certificate_not_after(pem).timestamp())
