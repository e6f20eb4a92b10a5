"""Addresses as members are told: `host:port`, with an empty host where they know a better one themselves."""

import ipaddress
import socket
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Endpoints:
    """Where this coordinator listens; the ports are known once it does."""

    advertise: str
    listen: str
    join_port: int
    port: int
    registry: str
    http_port: int = 0
    loopback_port: int = 0

    @property
    def coordinator_told(self) -> str:
        """The coordinator's address as a joiner is told it."""
        return told_address(self.advertise, self.listen, self.port)

    @property
    def registry_told(self) -> str:
        """The registry's address as a joiner is told it."""
        return told_elsewhere(self.registry)

    @property
    def join(self) -> str:
        """The join port's address for a join line, which must name a host."""
        host = self.advertise or ("" if _is_local(self.listen) else self.listen)
        if not host:
            host = "127.0.0.1" if _is_loopback(self.listen) else socket.gethostname()
        return joined_address(host, self.join_port)


def joined_address(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def told_address(advertised: str, listen: str, port: int) -> str:
    """Return what a member is told: the advertised host, else the one that is listened on.

    Empty host: loopback and wildcard addresses mean nothing elsewhere, so the member uses the host that it
    joined through.
    """
    if advertised:
        return joined_address(advertised, port)
    return f":{port}" if _is_local(listen) else joined_address(listen, port)


def told_elsewhere(address: str) -> str:
    """Return an address of another service as members are told: as it is, or without a local host."""
    host, _, port = address.rpartition(":")
    return f":{port}" if _is_local(host.strip("[]")) else address


def _is_loopback(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
