"""Who calls over HTTP: told by a bearer token, or, on a loopback listener, nobody in particular."""

import ipaddress
from collections.abc import Mapping

from coordinator.bearer_tokens import BearerTokens
from swarm.domain.errors import UnauthenticatedError

LOCAL_CALLER = "client/loopback"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_REMEDY = "ask the operator for one: swarm token create --bearer NAME"


class HttpCallers:
    """Admits callers of one listener; `is_loopback`: it is reached from this machine only."""

    def __init__(self, tokens: BearerTokens, *, is_loopback: bool) -> None:
        self._tokens, self._is_loopback = tokens, is_loopback

    def admit(self, headers: Mapping[str, str]) -> str:
        """Return who calls, as `role/name`; UnauthenticatedError where that is not proven.

        Without a token only on loopback, and only by one of its own names: a web page that a browser on this
        machine has open must not ask in its name, by a name of its own (DNS rebinding) or from where it is
        (browsers then send `Origin`).
        """
        authorisation = headers.get("authorization")
        if authorisation is not None:
            scheme, _, token = authorisation.partition(" ")
            if scheme.lower() != "bearer":
                raise UnauthenticatedError(
                    "header Authorization", found=f"scheme {scheme[:20]!r}", expected="Bearer", remedy=_REMEDY
                )
            return f"client/{self._tokens.holder(token.strip())}"
        if not self._is_loopback:
            raise UnauthenticatedError(
                "caller", found="no bearer token", expected="Authorization: Bearer TOKEN", remedy=_REMEDY
            )
        name = _host_name(headers.get("host", ""))
        if name not in _LOCAL_NAMES:
            raise UnauthenticatedError(
                "header Host",
                found=repr(name[:80]),
                expected=f"{' or '.join(_LOCAL_NAMES)}, or a bearer token",
                remedy=_REMEDY,
            )
        origin = headers.get("origin")
        if origin is not None and _host_name(origin.partition("://")[2]) not in _LOCAL_NAMES:
            raise UnauthenticatedError(
                "header Origin",
                found=repr(origin[:80]),
                expected="a page of this machine, or a bearer token",
                remedy=_REMEDY,
            )
        return LOCAL_CALLER


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
