"""What comes back to a registry, and what is missing still."""

from swarm.domain.ids import node_id
from swarm.domain.rebuild import BroughtBack, MissingPiece, OwnerCame, RebuildReport
from swarm.rpc.convert.scalars import digests
from swarm.rpc.pb import registry_pb2


def brought_back_to_pb(found: BroughtBack) -> registry_pb2.BringBackReply:
    return registry_pb2.BringBackReply(
        restored=found.restored, refused=found.refused, missing_blobs=found.missing_blobs
    )


def brought_back_from_pb(message: registry_pb2.BringBackReply) -> BroughtBack:
    return BroughtBack(
        restored=tuple(message.restored),
        refused=tuple(message.refused),
        missing_blobs=tuple(digests(message.missing_blobs)),
    )


def rebuild_to_pb(report: RebuildReport) -> registry_pb2.RebuildReply:
    return registry_pb2.RebuildReply(
        heads=report.heads,
        manifests=report.manifests,
        blobs=report.blobs,
        from_journal=report.from_journal,
        conflicts=report.conflicts,
        came=[
            registry_pb2.OwnerCame(
                owner=each.owner,
                offered=each.offered,
                restored=each.restored,
                refused=each.refused,
                blobs=each.blobs,
            )
            for each in report.came
        ],
        missing=[
            registry_pb2.MissingPiece(owner=each.owner, version=each.version, what=each.what)
            for each in report.missing
        ],
        journal_damaged=report.journal_damaged,
    )


def rebuild_from_pb(message: registry_pb2.RebuildReply) -> RebuildReport:
    return RebuildReport(
        heads=message.heads,
        manifests=message.manifests,
        blobs=message.blobs,
        from_journal=tuple(message.from_journal),
        conflicts=tuple(message.conflicts),
        came=tuple(
            OwnerCame(
                owner=node_id(each.owner),
                offered=each.offered,
                restored=each.restored,
                blobs=each.blobs,
                refused=tuple(each.refused),
            )
            for each in message.came
        ),
        missing=tuple(
            MissingPiece(owner=node_id(each.owner), version=each.version, what=each.what)
            for each in message.missing
        ),
        journal_damaged=message.journal_damaged,
    )
