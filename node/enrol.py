"""Make this machine a member: every check that can fail comes before the secret is sent.

Pin -> CA -> specification -> data against the specification -> trunk against its probe -> token.
Nothing of the data leaves the machine here.
"""

import json
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.durable import write_durably
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.join_port import JoinPort
from swarm.config import NodeHome, SwarmHome
from swarm.digests import verify_digest
from swarm.domain.errors import ConflictError, InvalidInputError, UsageError, VerificationError
from swarm.domain.ids import NodeId, SwarmId, node_id
from swarm.domain.members import Role
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.trust.certificates import ca_swarm, new_key_and_csr
from swarm.trust.identity import Identity, certificate_not_after, save_identity
from swarm.trust.key_files import read_key, write_key
from swarm.trust.keyring import Keyring
from swarm.trust.proofs import join_proof
from swarm.trust.signing import Signer
from swarm.trust.tokens import parse_join_line

_ADVERTISED = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})")


def join(
    line: str,
    home: NodeHome,
    *,
    name: str = "",
    data: str | None = None,
    advertise: str = "",
    import_paths: Sequence[str] = (),
    role: Role = "node",
    on_step: Callable[[str], None] = lambda _: None,
) -> Identity:
    """Join the swarm that the line `TOKEN@HOST:PORT` leads to and return the new identity in home.

    `name`: the member's id, this machine's host name unless given. `data`: a source to check against the
    specification first. Raises UnreachableError for an unknown host or a refused port, VerificationError
    for a wrong pin or damaged trunk, InvalidInputError where the data do not fit, UnauthenticatedError for
    a wrong, used or expired token, ConflictError where this home or the name belongs to a member already.
    """
    token, host, port = parse_join_line(line)
    member = node_id(name) if name else own_name()
    check_advertised(advertise)
    if (home.identity / "identity.json").exists():
        found = Identity.load(home.identity)
        raise ConflictError(
            f"home {home.root}",
            found=f"{found.role} {found.id} of swarm {found.swarm}",
            expected="no member yet",
            remedy="choose another folder: --home DIR (one home is one member for good)",
        )
    if SwarmHome(home.root).ca.exists():
        raise ConflictError(
            f"home {home.root}",
            found="a founder's home, which swarm init made",
            expected="a folder for this member alone",
            remedy="choose another folder: --home DIR",
        )
    door = JoinPort(host, port)
    ca_pem = door.fetch_ca(token.pin)
    # What lies in a home, held-out samples among it, is nobody else's on this machine.
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    swarm = ca_swarm(ca_pem)
    on_step(f"CA of swarm {swarm} matches the token's pin")
    keyring = Keyring(ca_pem, swarm)
    specification, envelope = read_specification(door, keyring)
    on_step(f"specification {specification.version}: {len(specification.class_names)} classes")
    if role == "node":
        if data is not None:
            _check_data(data, specification, import_paths)
            on_step(f"data {data} fit the specification")
        _check_trunk(door, specification, BlobFiles(home.cache), import_paths)
        on_step(f"trunk {specification.trunk.factory} computes the swarm's features here")
    identity = _send_token(door, home, token.text, swarm=swarm, role=role, member=member, ca_pem=ca_pem)
    write_durably(home.state / "specification.json", envelope)
    _write_settings(home, advertise, import_paths)
    on_step(
        f"joined swarm {swarm} as {role} {member}, certificate until "
        f"{certificate_not_after(identity.certificate_pem):%Y-%m-%d %H:%M} UTC"
    )
    return identity


def own_name() -> NodeId:
    """Return this machine's host name as a node's id."""
    label = socket.gethostname().split(".")[0].lower()
    return node_id(re.sub(r"[^a-z0-9-]+", "-", label).strip("-")[:40].strip("-") or "node")


def check_advertised(address: str) -> None:
    """Raise UsageError unless address is empty or HOST:PORT."""
    match = _ADVERTISED.fullmatch(address)
    if address and (match is None or not 1 <= int(match[2]) <= 65535):
        raise UsageError("--advertise", found=repr(address[:80]), expected="HOST:PORT that peers can reach")


def read_specification(door: JoinPort, keyring: Keyring) -> tuple[Specification, bytes]:
    """Return the specification that the coordinator signed, and its envelope."""
    answer = door.specification()
    keyring.add_record(_text(answer, "coordinator_record").encode())
    envelope = _text(answer, "specification").encode()
    return keyring.open(envelope, Specification).value, envelope


def _check_data(data: str, specification: Specification, import_paths: Sequence[str]) -> None:
    from swarm.data.dataset import check_fits
    from swarm.data.sources import load_training

    samples = load_training(data, import_paths)
    check_fits(samples, specification)
    hold_out(samples.inputs, samples.labels, VALIDATION_FRACTION)  # as training will: it names absurd labels


def _check_trunk(
    door: JoinPort, specification: Specification, cache: BlobFiles, import_paths: Sequence[str]
) -> None:
    trunk = specification.trunk
    tensors = (*trunk.weights.tensors, *trunk.probe.tensors)
    for digest in cache.missing(tensor.blob for tensor in tensors):
        data = door.blob(digest)
        verify_digest(data, digest, f"trunk {trunk.factory}, blob")
        cache.put(data)

    from swarm.experts.trunk import Trunk

    Trunk.load(
        trunk,
        cache.open_verified,
        scale=specification.scale,
        offset=specification.offset,
        import_paths=import_paths,
    )


def _send_token(
    door: JoinPort,
    home: NodeHome,
    token: str,
    *,
    swarm: SwarmId,
    role: Role,
    member: NodeId,
    ca_pem: bytes,
) -> Identity:
    keys = _keys_to_certify(home, swarm, role, member)
    answer = door.join(
        {
            "token": token,
            "node": member,
            "role": role,
            "csr_pem": keys.csr_pem.decode(),
            "signing_key": keys.signer.public_hex,
            "proof": join_proof(keys.signer, keys.csr_pem),
        }
    )
    identity = save_identity(
        home.identity,
        swarm=swarm,
        role=role,
        id=member,
        coordinator=_address(_text(answer, "coordinator"), door.host),
        registry=_address(_text(answer, "registry"), door.host),
        join=door.address,
        ca_pem=ca_pem,
        certificate_pem=_text(answer, "certificate_pem").encode(),
        key_pem=keys.key_pem,
        record=_text(answer, "record").encode(),
        coordinator_record=_text(answer, "coordinator_record").encode(),
        signer=keys.signer,
    )
    _attempt_file(home).unlink(missing_ok=True)
    return identity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """What a joiner wants certified."""

    signer: Signer
    key_pem: bytes = field(repr=False)
    csr_pem: bytes


def _keys_to_certify(home: NodeHome, swarm: SwarmId, role: Role, member: NodeId) -> _Keys:
    """Return the keys of an attempt to join that did not end, else new ones, kept until the attempt ends.

    A joiner that lost the answer sends exactly the same again, and gets the same answer.
    """
    whom = [swarm, role, member]
    file = _attempt_file(home)
    if file.exists():
        kept = json.loads(read_key(file))
        if kept["whom"] == whom:
            signer = Signer.from_hex(kept["signing_key"])
            return _Keys(signer=signer, key_pem=kept["key"].encode(), csr_pem=kept["csr"].encode())
    signer = Signer.generate()
    key_pem, csr_pem = new_key_and_csr(swarm, role, member)
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = {"whom": whom, "signing_key": signer.private_hex, "key": key_pem.decode(), "csr": csr_pem.decode()}
    write_key(file, json.dumps(kept).encode())
    return _Keys(signer=signer, key_pem=key_pem, csr_pem=csr_pem)


def _attempt_file(home: NodeHome) -> Path:
    return home.root / "joining.json"


def _address(address: str, joined_through: str) -> str:
    """Return address; where its host is empty, the host that this member joined through."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise VerificationError("join answer", found=f"address {address[:80]!r}", expected="HOST:PORT")
    if host:
        return address
    return f"[{joined_through}]:{port}" if ":" in joined_through else f"{joined_through}:{port}"


def _text(answer: dict[str, Any], field: str) -> str:
    found = answer.get(field)
    if not isinstance(found, str):
        raise InvalidInputError("join port's answer", found=f"no text field {field!r}", expected="a swarm")
    return found


def _write_settings(home: NodeHome, advertise: str, import_paths: Sequence[str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"advertise = {quoted(advertise)}"] if advertise else []
    if import_paths:
        lines.append(f"import_paths = [{', '.join(quoted(path) for path in import_paths)}]")
    text = "# How this node runs; flags and SWARM_* variables go before it.\n" + "\n".join(lines) + "\n"
    write_durably(home.settings, text.encode(), mode=0o644)
