"""`python -m benchmarks.registry.tls_socket receive|send IDENTITY [PORT]`: the baseline.

A plain Python TLS socket, mutual, TLS 1.3 with AES-256-GCM, under the swarm's own certificates: 1 MiB from a
mapped file at a time, received into one buffer and dropped. No hashing, no files at the receiver.
"""

import mmap
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.registry.talking import MIB, obey
from swarm.domain.ids import NodeId
from swarm.trust.certificates import target_name
from swarm.trust.identity import Identity

CIPHER = "TLS_AES_256_GCM_SHA384"
_SIZE = struct.Struct("<Q")


def context(identity: Identity, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a context that shows our certificate and demands one of the same swarm."""
    made = ssl.create_default_context(purpose, cadata=identity.ca_pem.decode())
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "key.pem")
    return made


def receive(identity: Identity) -> None:
    """Listen, say the port, take one connection and then what comes on it, until it ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f'{{"port": {listener.getsockname()[1]}}}', flush=True)
    plain, _ = listener.accept()
    buffer = memoryview(bytearray(MIB))
    with context(identity, ssl.Purpose.CLIENT_AUTH).wrap_socket(plain, server_side=True) as connection:
        while head := connection.recv(_SIZE.size):
            left = _SIZE.unpack(head)[0]
            while left:
                came = connection.recv_into(buffer[: min(MIB, left)])
                if not came:
                    raise ConnectionError("the sender went away")
                left -= came
            connection.sendall(b"!")


def send(identity: Identity, port: int) -> None:
    """Connect once; then send each file that is asked for and wait until all of it was taken."""
    plain = socket.create_connection(("127.0.0.1", port))
    name = target_name(identity.swarm, "registry", NodeId("registry"))
    with context(identity, ssl.Purpose.SERVER_AUTH).wrap_socket(plain, server_hostname=name) as connection:
        cipher = connection.cipher()
        if cipher is None or cipher[0] != CIPHER:
            raise RuntimeError(f"the socket speaks {cipher}, not {CIPHER}")

        def send_file(path: str) -> dict[str, Any]:
            started = time.perf_counter()
            with Path(path).open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            connection.sendall(_SIZE.pack(len(view)))
            for start in range(0, len(view), MIB):
                connection.sendall(view[start : start + MIB])
            connection.recv(1)
            return {"wall_s": time.perf_counter() - started}

        obey({"send": send_file}, cipher=cipher[0])


def main(role: str, identity: str, port: str = "0") -> None:
    known = Identity.load(Path(identity))
    if role == "receive":
        receive(known)
    else:
        send(known, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
