"""A gRPC server of this swarm: mutual TLS with renewed certificates, guard, health, reflection, keepalive."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from swarm.audit import RefusalLog
from swarm.config import LOOPBACK
from swarm.domain.errors import UsageError
from swarm.domain.ids import NodeId
from swarm.domain.membership import Caller
from swarm.rpc.allowances import MOST_CALLS_OF_ALL, Allowances, Limits
from swarm.rpc.callers import CertificateGatekeeper, Gatekeeper, LoopbackGatekeeper, SameMachineGatekeeper
from swarm.rpc.credentials import IdentitySource, server_credentials
from swarm.rpc.health import Health
from swarm.rpc.interceptors import RECHECK_S, Admission, Behaviour, CallGuard
from swarm.rpc.methods import Method
from swarm.rpc.open_inference.descriptors import ServedDescriptors
from swarm.rpc.options import SERVER_OPTIONS

SWITCH_S: Final = 0.0005
"""So long a thread keeps Python's lock while another one waits for it. gRPC's own thread hands each call to
the event loop, and computing is in threads: with Python's 5 ms a busy loop takes up fewer calls than come."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service's methods and what performs each: `async def (request, context) -> reply`, or an async
    generator of replies where the method streams out."""

    name: str
    behaviours: Mapping[Method[Any, Any], Behaviour]
    admissions: Mapping[Method[Any, Any], Admission] = field(default_factory=dict)
    """What may refuse a caller of a method before any of its request is read."""
    is_ready: Callable[[], bool] = lambda: True
    """Whether it can answer now, for health."""

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service as gRPC takes it."""
        handlers = {method.name: _handler(method, run) for method, run in self.behaviours.items()}
        return grpc.method_handlers_generic_handler(self.name, handlers)


class RpcServer:
    """Services on TCP ports (mutual TLS) or on a unix socket. Ports are added before `start`."""

    def __init__(
        self,
        services: Iterable[Service],
        gatekeeper: Gatekeeper,
        source: IdentitySource | None,
        recheck_s: float = RECHECK_S,
        allowances: Allowances | None = None,
    ) -> None:
        self._source = source
        self._refusals = RefusalLog()
        offered = tuple(services)
        admissions = {
            method.path: admit for service in offered for method, admit in service.admissions.items()
        }
        served = {service.name: [method.name for method in service.behaviours] for service in offered}
        self._server = grpc.aio.server(
            interceptors=[CallGuard(gatekeeper, recheck_s, self._refusals, allowances, admissions, served)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=None if allowances is None else MOST_CALLS_OF_ALL,
        )
        self._health = Health({service.name: service.is_ready for service in offered})
        self._server.add_generic_rpc_handlers([service.handler() for service in offered])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*(service.name for service in offered), health.SERVICE_NAME, reflection.SERVICE_NAME]
        descriptors: Any = ServedDescriptors()
        reflection.enable_server_reflection(names, self._server, pool=descriptors)

    def add_port(self, address: str) -> int:
        """Listen on `host:port` (port 0: any free one) with mutual TLS; return the port.

        Raises UsageError where the port is taken or the host is not this machine.
        """
        if self._source is None:
            raise UsageError(f"listener {address}", found="no identity", expected="mutual TLS on TCP")
        try:
            return self._server.add_secure_port(address, server_credentials(self._source))
        except RuntimeError as error:
            raise UsageError(
                f"listener {address}",
                found="a port in use, or an address that is not this machine's",
                expected="a free port",
                remedy="stop what listens there, or choose another port",
            ) from error

    def add_loopback_port(self, port: int) -> int:
        """Listen on this machine's loopback without TLS (port 0: any free one); return the port.

        For a server whose gatekeeper asks for no certificate. Raises UsageError where the port is taken.
        """
        try:
            return self._server.add_insecure_port(f"{LOOPBACK}:{port}")
        except RuntimeError as error:
            raise UsageError(
                f"loopback listener {LOOPBACK}:{port}",
                found="a port in use",
                expected="a free port",
                remedy="stop what listens there, or choose another port: --loopback-port",
            ) from error

    def add_socket(self, path: Path) -> None:
        """Listen on a unix socket, without TLS: its folder must have mode 0700.

        Raises UsageError where the folder is open to others, or the path is too long for a socket.
        """
        if path.parent.stat().st_mode & 0o077:
            raise UsageError(
                f"socket {path}",
                found="a folder that others may enter",
                expected="mode 0700",
                remedy=f"run: chmod 700 {path.parent}",
            )
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise UsageError(
                f"socket {path}", found="a path in use or longer than 107 bytes", expected="a free short path"
            ) from error

    async def start(self) -> None:
        """Serve from now on; health says SERVING for every service that is ready."""
        sys.setswitchinterval(SWITCH_S)
        await self._server.start()

    async def say_ending(self) -> None:
        """Let health say NOT_SERVING from now on, whatever is served still."""
        self._health.end()

    async def stop(self, grace_s: float = 1.0) -> None:
        """Take no new calls, give running ones grace_s to end, then end them."""
        self._health.stop()
        await self._server.stop(grace_s)
        self._refusals.flush()
        # A call that ended with an error is kept alive by its traceback; at exit gRPC waits 2 s for such.
        gc.collect()


def create_server(
    identity_folder: Path,
    is_revoked: Callable[[NodeId], bool],
    services: Iterable[Service],
    *,
    now: Callable[[], float] = time.time,
    recheck_s: float = RECHECK_S,
    limits: Limits | None = None,
) -> RpcServer:
    """Return a server under the identity in a folder, whose renewed certificates it takes up by itself.

    Every call is held against `swarm.rpc.methods.ROLES`, the certificate's dates and is_revoked, and against
    what its member may have open at once.
    """
    source = IdentitySource(identity_folder)
    gatekeeper = CertificateGatekeeper(source.current().swarm, is_revoked, now)
    return RpcServer(services, gatekeeper, source, recheck_s, Allowances(limits))


def create_loopback_server(services: Iterable[Service], limits: Limits | None = None) -> RpcServer:
    """Return a server for this machine's loopback: whoever is on this machine may call what clients may."""
    caller = Caller(role="client", id=NodeId("loopback"))
    return RpcServer(services, LoopbackGatekeeper(caller), None, allowances=Allowances(limits))


def create_local_server(caller: Caller, services: Iterable[Service]) -> RpcServer:
    """Return a server for unix sockets; every call on it counts as made by caller."""
    return RpcServer(services, SameMachineGatekeeper(caller), None)


def _handler(method: Method[Any, Any], behaviour: Behaviour) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = ("stream" if method.streams_in else "unary", "stream" if method.streams_out else "unary")
    make = getattr(grpc, f"{'_'.join(kinds)}_rpc_method_handler")
    read = None if method.request is bytes else method.read_request
    write = None if method.reply is bytes else method.reply.SerializeToString
    return make(behaviour, read, write)  # type: ignore[no-any-return]
