"""Founding a swarm: its CA, its services' identities, the signed specification, the first join token."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from coordinator.addresses import joined_address
from coordinator.config import CoordinatorFolder
from coordinator.envelope_files import EnvelopeFiles
from swarm.config import COORDINATOR_JOIN_PORT, COORDINATOR_PORT, REGISTRY_PORT, NodeHome, SwarmHome
from swarm.domain.errors import ConflictError
from swarm.domain.ids import Digest, swarm_id
from swarm.domain.members import Role
from swarm.domain.specification import MAX_NEW_CLASSES_PER_OWNER, Specification
from swarm.modules.blobs import BlobFiles
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.key_files import write_file
from swarm.trust.statements import sign_statement
from swarm.trust.tokens import JoinToken, new_join_token, secret_hash

FIRST_TOKEN_LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Addresses:
    coordinator: str
    registry: str
    join: str


def found_swarm(
    home: SwarmHome,
    *,
    swarm: str,
    input_shape: Sequence[int],
    input_dtype: Literal["uint8", "float32"],
    scale: float,
    offset: float,
    class_names: Sequence[str],
    trunk: str = "randconv-sqrt:64",
    accept_new_classes: bool = True,
    min_leaf_count: int = 20,
    max_leaves_per_owner: int = 8,
    max_prototypes_per_leaf: int = 60,
    max_new_classes_per_owner: int = MAX_NEW_CLASSES_PER_OWNER,
    host: str = "",
    registry_host: str = "",
    join_port: int = COORDINATOR_JOIN_PORT,
    port: int = COORDINATOR_PORT,
    registry_port: int = REGISTRY_PORT,
    seed: int = 0,
    import_paths: Sequence[str] = (),
    token_uses: int = 1,
    now: datetime,
) -> str:
    """Make everything that a swarm starts from in home, as a whole or not at all; return the join line.

    `host` is where other machines reach coordinator and registry (`registry_host`, where that differs);
    empty: this machine only, and joiners use the host that they joined through. Raises ConflictError where
    home holds a swarm already, InvalidInputError for a specification that makes no sense.
    """
    name = swarm_id(swarm)
    if home.root.exists() and any(
        part.exists() for part in (home.ca, home.coordinator, home.registry, home.operator)
    ):
        raise ConflictError(
            f"home {home.root}",
            found="a swarm already",
            expected="an empty folder",
            remedy="choose another folder: --home DIR",
        )
    if (NodeHome(home.root).identity / "identity.json").exists():
        raise ConflictError(
            f"home {home.root}",
            found="a member's home, which swarm join made",
            expected="a folder for the founder alone",
            remedy="choose another folder: --home DIR",
        )
    from swarm.experts.trunk import make_trunk

    reference, blobs = make_trunk(
        trunk, tuple(input_shape), scale=scale, offset=offset, seed=seed, import_paths=tuple(import_paths)
    )
    specification = Specification(
        swarm=name,
        version=1,
        input_shape=tuple(input_shape),
        input_dtype=input_dtype,
        scale=scale,
        offset=offset,
        task="classification",
        class_names=tuple(class_names),
        accept_new_classes=accept_new_classes,
        trunk=reference,
        min_leaf_count=min_leaf_count,
        max_leaves_per_owner=max_leaves_per_owner,
        max_prototypes_per_leaf=max_prototypes_per_leaf,
        max_new_classes_per_owner=max_new_classes_per_owner,
    )
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = SwarmHome(Path(tempfile.mkdtemp(prefix=".founding-", dir=home.root)))
    try:
        addresses = _Addresses(
            coordinator=joined_address(host or "127.0.0.1", port),
            registry=joined_address(registry_host or host or "127.0.0.1", registry_port),
            join=joined_address(host or "127.0.0.1", join_port),
        )
        token = _fill(beside, specification, blobs, addresses, token_uses, now)
        for part in ("coordinator", "registry", "operator", "ca"):
            (beside.root / part).rename(home.root / part)
    finally:
        shutil.rmtree(beside.root, ignore_errors=True)
    return f"swarm join {token.text}@{addresses.join}"


def _fill(
    home: SwarmHome,
    specification: Specification,
    blobs: Mapping[Digest, bytes],
    addresses: _Addresses,
    token_uses: int,
    now: datetime,
) -> JoinToken:
    ca = CertificateAuthority.create(home.ca, specification.swarm, now=now)
    folder = CoordinatorFolder(home.coordinator)

    def identity_of(role: Role, where: Path, coordinator_record: bytes) -> Identity:
        return create_service_identity(
            ca,
            where,
            role=role,
            coordinator=addresses.coordinator,
            registry=addresses.registry,
            join=addresses.join,
            coordinator_record=coordinator_record,
            now=now,
        )

    coordinator = identity_of("coordinator", folder.identity, b"")
    registry = identity_of("registry", home.registry / "identity", coordinator.record)
    operator = identity_of("operator", home.operator / "identity", coordinator.record)
    records = EnvelopeFiles(folder.records)
    for identity in (coordinator, registry, operator):
        records.put(identity.id, identity.record)
    envelope = sign_statement(specification, coordinator.required_signer())
    EnvelopeFiles(folder.specifications).put(specification.version, envelope)
    for files in (BlobFiles(folder.blobs), BlobFiles(home.registry / "blobs")):
        for data in blobs.values():
            files.put(data)
    token = new_join_token(ca.pin)
    seed_token(folder, token, uses=token_uses, now=now, lifetime=FIRST_TOKEN_LIFETIME)
    return token


def seed_token(
    folder: CoordinatorFolder, token: JoinToken, *, uses: int, now: datetime, lifetime: timedelta
) -> None:
    """Leave a node's token (its hash) for the coordinator, which takes it into the store when it starts."""
    folder.tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
    seed = {
        "hash": secret_hash(token.secret),
        "role": "node",
        "uses": uses,
        "created_at": now.timestamp(),
        "expires_at": (now + lifetime).timestamp(),
    }
    write_file(folder.tokens / f"{token.id}.json", json.dumps(seed).encode(), 0o600)
