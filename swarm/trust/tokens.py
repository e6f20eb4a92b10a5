"""Join tokens: `swm1.<id>.<sha256 of the CA's public key>.<secret>`.

The pin lets a joiner check whom it talks to before it sends the secret; the swarm keeps the secret's
hash only.
"""

import hashlib
import ipaddress
import re
import secrets
from dataclasses import dataclass, field

from swarm.domain.errors import UsageError

_PREFIX = "swm1"
_TOKEN = re.compile(r"swm1\.([a-z0-9]{4,32})\.([0-9a-f]{64})\.([A-Za-z0-9_-]{22,86})")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_SHAPE = "swm1.<id>.<64 hexadecimal digits>.<secret>"
_REMEDY = "copy the whole join line, or make a new one: swarm token create"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A join token. `pin` is the SHA-256 of the CA's SubjectPublicKeyInfo; `secret` never shows in a repr."""

    id: str
    pin: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The token as the joiner types it; holds the secret."""
        return f"{_PREFIX}.{self.id}.{self.pin}.{self.secret}"


def new_join_token(pin: str) -> JoinToken:
    """Return a new token for the swarm whose CA has this pin; 256 bits from the operating system."""
    return JoinToken(id=secrets.token_hex(4), pin=pin, secret=secrets.token_urlsafe(32))


def secret_hash(secret: str) -> str:
    """Return what the swarm stores of a secret: its SHA-256 (the secret is random, so no salt is needed)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_join_token(text: str) -> JoinToken:
    """Return the token in text; UsageError, without repeating the secret, if it is not one."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise UsageError("join token", found=_describe(text.strip()), expected=_SHAPE, remedy=_REMEDY)
    return JoinToken(id=match[1], pin=match[2], secret=match[3])


def parse_join_line(text: str) -> tuple[JoinToken, str, int]:
    """Return the token, host and port of `TOKEN@HOST:PORT`; IPv6 addresses stand in brackets.

    Raises UsageError, without repeating the secret.
    """
    token_text, at, address = text.strip().removeprefix("swarm join ").strip().rpartition("@")
    if not at:
        raise UsageError("join line", found="no @", expected="TOKEN@HOST:PORT", remedy=_REMEDY)
    token = parse_join_token(token_text)
    host, colon, port_text = address.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
        raise UsageError(
            "join line",
            found=f"address {address[:80]!r}",
            expected="HOST:PORT with a port from 1 to 65535",
            remedy=_REMEDY,
        )
    return token, _host(host), int(port_text)


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare != text or ":" in text:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError as error:
            raise UsageError("join line", found=f"host {text[:80]!r}", expected="[IPv6 address]") from error
        if bare == text:
            raise UsageError("join line", found=f"host {text!r}", expected=f"[{text}] in brackets")
        return bare
    if not _HOST.fullmatch(text):
        raise UsageError("join line", found=f"host {text[:80]!r}", expected="a host name or IP address")
    return text


def _describe(text: str) -> str:
    parts = text.split(".")
    if parts[0] != _PREFIX:
        return "text that does not begin with swm1." if text else "nothing"
    if len(parts) != 4:
        return f"{len(parts)} parts"
    if not re.fullmatch(r"[a-z0-9]{4,32}", parts[1]):
        return "a malformed id"
    if not re.fullmatch(r"[0-9a-f]{64}", parts[2]):
        return f"a pin of {len(parts[2])} characters or with other than hexadecimal digits"
    return f"a secret of {len(parts[3])} characters"
