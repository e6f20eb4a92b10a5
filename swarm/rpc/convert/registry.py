"""Heads, lineage and the registry's health."""

from typing import cast, get_args

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import digest, node_id
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode, Standing
from swarm.domain.manifests import ParentKind
from swarm.domain.membership import Head, RegistryHealth
from swarm.rpc.convert.scalars import expert_id, socket_bytes_from_pb, socket_bytes_to_pb
from swarm.rpc.pb import registry_pb2


def head_to_pb(head: Head) -> registry_pb2.Head:
    return registry_pb2.Head(expert=head.expert, version=head.version, manifest=head.manifest)


def head_from_pb(message: registry_pb2.Head | registry_pb2.CommitReply) -> Head:
    return Head(expert=expert_id(message.expert), version=message.version, manifest=digest(message.manifest))


def lineage_to_pb(lineage: Lineage) -> registry_pb2.LineageReply:
    return registry_pb2.LineageReply(
        nodes=[
            registry_pb2.LineageNode(
                manifest=node.manifest,
                expert=node.expert,
                version=node.version,
                owner=node.owner,
                standing=node.standing,
                created_at=node.created_at,
            )
            for node in lineage.nodes
        ],
        edges=[
            registry_pb2.LineageEdge(child=edge.child, parent=edge.parent, kind=edge.kind)
            for edge in lineage.edges
        ],
    )


def lineage_from_pb(message: registry_pb2.LineageReply) -> Lineage:
    return Lineage(
        nodes=tuple(
            LineageNode(
                manifest=digest(node.manifest),
                expert=expert_id(node.expert),
                version=node.version,
                owner=node_id(node.owner),
                standing=cast(Standing, _one_of(node.standing, get_args(Standing), "standing")),
                created_at=node.created_at,
            )
            for node in message.nodes
        ),
        edges=tuple(
            LineageEdge(
                child=digest(edge.child),
                parent=digest(edge.parent),
                kind=cast(ParentKind, _one_of(edge.kind, get_args(ParentKind), "kind of parent")),
            )
            for edge in message.edges
        ),
    )


def health_to_pb(health: RegistryHealth) -> registry_pb2.RegistryHealthReply:
    return registry_pb2.RegistryHealthReply(
        redis=health.redis,
        durability=health.durability,
        blobs=health.blobs,
        blob_bytes=health.blob_bytes,
        disk_free_bytes=health.disk_free_bytes,
        socket_bytes=socket_bytes_to_pb(health.socket_bytes),
        certificate_days=health.certificate_days,
    )


def health_from_pb(message: registry_pb2.RegistryHealthReply) -> RegistryHealth:
    return RegistryHealth(
        redis=message.redis,
        durability=message.durability,
        blobs=message.blobs,
        blob_bytes=message.blob_bytes,
        disk_free_bytes=message.disk_free_bytes,
        socket_bytes=socket_bytes_from_pb(message.socket_bytes),
        certificate_days=message.certificate_days,
    )


def _one_of(text: str, allowed: tuple[str, ...], subject: str) -> str:
    if text not in allowed:
        raise InvalidInputError(subject, found=repr(text[:40]), expected=", ".join(allowed))
    return text
