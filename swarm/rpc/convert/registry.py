"""Heads, lineage and the registry's health."""

from typing import Final, cast, get_args

from swarm.domain.collection import BlobVerdict, Collection, OwnerBytes
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import digest, node_id
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode, Standing
from swarm.domain.manifests import ParentKind
from swarm.domain.membership import Head, RegistryHealth
from swarm.modules.outlines import BLOCK_BYTES, Outline
from swarm.rpc.convert.scalars import expert_id, socket_bytes_from_pb, socket_bytes_to_pb
from swarm.rpc.pb import registry_pb2

MAX_VERDICTS: Final = 10_000
_DIGEST_BYTES: Final = 32


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
        owners=[
            registry_pb2.OwnerBytes(
                owner=each.owner, size_bytes=each.size_bytes, refused_bytes=each.refused_bytes
            )
            for each in health.owners
        ],
        node_quota_bytes=health.node_quota_bytes,
        blobs_away=health.blobs_away,
        missing_blobs=health.missing_blobs,
        lost=health.lost,
        journal_damaged=health.journal_damaged,
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
        owners=tuple(
            OwnerBytes(
                owner=node_id(each.owner), size_bytes=each.size_bytes, refused_bytes=each.refused_bytes
            )
            for each in message.owners
        ),
        node_quota_bytes=message.node_quota_bytes,
        blobs_away=message.blobs_away,
        missing_blobs=message.missing_blobs,
        lost=message.lost,
        journal_damaged=message.journal_damaged,
    )


def collection_to_pb(collection: Collection) -> registry_pb2.CollectReply:
    """Return the reply; of what went, the largest MAX_VERDICTS by name."""
    return registry_pb2.CollectReply(
        gone=map(_verdict_to_pb, collection.gone[:MAX_VERDICTS]),
        largest_kept=map(_verdict_to_pb, collection.largest_kept),
        gone_blobs=collection.gone_blobs,
        gone_bytes=collection.gone_bytes,
        kept_blobs=collection.kept_blobs,
        kept_bytes=collection.kept_bytes,
    )


def collection_from_pb(message: registry_pb2.CollectReply) -> Collection:
    return Collection(
        gone=tuple(map(_verdict_from_pb, message.gone)),
        largest_kept=tuple(map(_verdict_from_pb, message.largest_kept)),
        gone_blobs=message.gone_blobs,
        gone_bytes=message.gone_bytes,
        kept_blobs=message.kept_blobs,
        kept_bytes=message.kept_bytes,
    )


def _verdict_to_pb(verdict: BlobVerdict) -> registry_pb2.BlobVerdict:
    return registry_pb2.BlobVerdict(blob=verdict.blob, size_bytes=verdict.size_bytes, reason=verdict.reason)


def _verdict_from_pb(message: registry_pb2.BlobVerdict) -> BlobVerdict:
    return BlobVerdict(blob=digest(message.blob), size_bytes=message.size_bytes, reason=message.reason)


def outline_to_pb(outline: Outline) -> registry_pb2.OutlineReply:
    return registry_pb2.OutlineReply(
        size_bytes=outline.size_bytes,
        block_bytes=BLOCK_BYTES,
        blocks=b"".join(map(bytes.fromhex, outline.blocks)),
    )


def outline_from_pb(message: registry_pb2.OutlineReply) -> Outline:
    if message.block_bytes != BLOCK_BYTES or message.size_bytes < 0:
        raise InvalidInputError(
            "outline",
            found=f"{message.size_bytes} bytes in blocks of {message.block_bytes}",
            expected=f"blocks of {BLOCK_BYTES}",
        )
    names = message.blocks.hex()
    blocks = tuple(
        digest(names[start : start + 2 * _DIGEST_BYTES]) for start in range(0, len(names), 2 * _DIGEST_BYTES)
    )
    return Outline(message.size_bytes, blocks)


def _one_of(text: str, allowed: tuple[str, ...], subject: str) -> str:
    if text not in allowed:
        raise InvalidInputError(subject, found=repr(text[:40]), expected=", ".join(allowed))
    return text
