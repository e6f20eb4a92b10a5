"""Deliver one intent: blobs and manifest to the registry, a contribution to the coordinator.

Bytes before manifest: only what the registry lacks is sent, and the commit comes last. Everything is listed
in the outbound log before it goes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from node.leaves import LeafBook
from node.outbound import OutboundLog
from node.outbox import Intent, Outbox, refreshed
from node.statements import on_newer_head
from swarm.domain.contributions import BranchContribution, Contribution, LeafContribution
from swarm.domain.errors import ConflictError, NotReadyError, StaleParentError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.inference import Listing
from swarm.domain.manifests import Manifest
from swarm.domain.membership import ContributionOutcome, Head
from swarm.domain.tensors import TensorEntry
from swarm.fault_points import reached
from swarm.modules.blobs import BlobFiles
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.lineage_deltas import Bases, LineageDeltas
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement

SendBlob = Callable[[Digest, memoryview, Callable[[int], None]], Awaitable[None]]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How far a version's weights are on their way to the registry. `key` is its intent's."""

    key: str
    sent_bytes: int
    total_bytes: int


class Publisher:
    """Performs what the outbox holds. Each call may be repeated: keys and digests make it act once."""

    sending: Sending | None = None
    """What is being sent right now."""

    def __init__(
        self,
        *,
        registry: RegistryClient,
        coordinator: CoordinatorClient,
        cache: BlobFiles,
        book: LeafBook,
        outbox: Outbox,
        outbound: OutboundLog,
        signer: Signer,
        clock: Callable[[], float] = time.time,
        deltas: bool = False,
        send: SendBlob | None = None,
    ) -> None:
        """`deltas`: blobs go as deltas to those of the versions that they came from, where that pays. `send`:
        how whole blobs go, as `RegistryClient.publish_blob` (None: by the registry's client)."""
        self._registry, self._coordinator, self._cache = registry, coordinator, cache
        self._book, self._outbox, self._outbound = book, outbox, outbound
        self._signer, self._clock = signer, clock
        self._send = send
        self._deltas = LineageDeltas(registry, cache, self._ancestor) if deltas else None

    async def publish(self, intent: Intent, fence: int) -> Head:
        """Bring one expert's version to the registry and return its head; on a stale parent sign once more
        on top of the registry's head. Raises StaleParentError if that is stale, too."""
        statement = read_statement(intent.envelope, Manifest)
        reached("node.publish.began")
        try:
            await self._send_blobs(intent.key, statement)
        finally:
            self.sending = None
        reached("node.publish.sent")
        try:
            head = await self._commit(intent, statement, fence)
        except StaleParentError:
            if intent.refreshed:
                raise
            intent = await self._on_newer_head(intent, statement)
            statement = read_statement(intent.envelope, Manifest)
            head = await self._commit(intent, statement, fence)
        reached("node.publish.committed")
        self._book.note_accepted(statement, head)
        reached("node.publish.noted")
        _log.info("module.published", expert=head.expert, version=head.version, manifest=head.manifest[:12])
        return head

    async def contribute(self, intent: Intent, fence: int) -> ContributionOutcome:
        """Bring a contribution to the coordinator and return what became of it. ConflictError for one that
        waited while leaves of it were split, rolled back or withdrawn: it would bring them back."""
        statement = read_statement(intent.envelope, Contribution)
        self._check_standing(statement.value)
        self._outbound.record(_contribution_lines(statement, self._clock()))
        arrays = self._outbox.arrays(intent) or b""
        outcome = await self._coordinator.contribute(intent.envelope, arrays, fence, intent.key)
        _log.info(
            "contribution.delivered", epoch=statement.value.epoch, state=outcome.state, reason=outcome.reason
        )
        return outcome

    def _check_standing(self, contribution: Contribution) -> None:
        given = [] if contribution.proposal else [leaf.leaf for leaf in contribution.leaves]
        gone = [leaf for leaf in given if self._book.tree.place(leaf).standing != "leaf"]
        if gone:
            raise ConflictError(
                f"contribution, epoch {contribution.epoch}",
                found=f"{', '.join(gone)} was split, rolled back or withdrawn while it waited",
                expected="leaves that this node has",
                remedy="nothing is lost: the next training contributes what is there by then",
            )

    async def _send_blobs(self, key: str, statement: Statement[Manifest]) -> None:
        manifest = statement.value
        missing = await self._registry.missing(manifest.blobs())
        total = sum(self._cache.sizes(missing).values())
        sent = 0

        def on_bytes(count: int) -> None:
            nonlocal sent
            sent += count
            self.sending = Sending(key=key, sent_bytes=sent, total_bytes=total)

        bases: Bases = {}
        if missing and self._deltas is not None:
            bases = await self._deltas.bases(manifest, in_registry=True)
        send: SendBlob = self._send if self._send is not None else self._registry.publish_blob
        for digest in missing:
            data = self._cache.open_unverified(digest)
            base = bases.get(digest)
            line = Listing(
                what="blob",
                detail=f"weights of {manifest.expert}@{manifest.version}",
                size_bytes=len(data),
                recipient="registry",
                at=self._clock(),
                digest=digest,
                attributes={"delta_to": base.blob} if base is not None else {},
            )
            self._outbound.record([line])
            try:
                if base is None or self._deltas is None or not await self._deltas.publish(digest, data, base):
                    await send(digest, data, on_bytes)
                else:
                    on_bytes(len(data))
            except VerificationError:
                await asyncio.to_thread(
                    self._cache.open_verified, digest
                )  # is it this cache that is damaged?
                raise
            reached("node.publish.blob_sent")

    async def _ancestor(self, digest: Digest) -> Manifest:
        """Return a version that a manifest of ours names, whose digest we signed."""
        statement = read_statement(await self._registry.manifest(digest=digest), Manifest)
        if statement.digest != digest:
            raise VerificationError(
                f"manifest {digest[:12]}",
                found=f"a statement with digest {statement.digest[:12]}",
                expected="the one asked for",
            )
        return statement.value

    async def _commit(self, intent: Intent, statement: Statement[Manifest], fence: int) -> Head:
        manifest = statement.value
        line = Listing(
            what="manifest",
            detail=f"{manifest.expert}@{manifest.version}: classes, cost, metrics",
            size_bytes=len(intent.envelope),
            recipient="registry",
            at=self._clock(),
            digest=statement.digest,
            attributes={name: f"{value:.6g}" for name, value in manifest.metrics.items()},
        )
        self._outbound.record([line])
        return await self._registry.commit(intent.envelope, fence, intent.key)

    async def _on_newer_head(self, intent: Intent, statement: Statement[Manifest]) -> Intent:
        manifest = statement.value
        heads = await self._registry.heads(manifest.owner)
        head = next((found for found in heads if found.expert == manifest.expert), None)
        if head is not None and head.manifest == statement.digest:
            return intent
        known = self._book.leaf(manifest.leaf)
        accepted = known.head_version if known is not None else 0
        if accepted > (head.version if head is not None else 0):
            raise NotReadyError(
                f"{manifest.expert} in the registry",
                found=f"version {head.version}" if head is not None else "no version",
                expected=f"version {accepted}, which it had accepted",
                remedy="it is being brought back; otherwise on the founder's machine: swarm registry rebuild",
            )
        envelope = sign_statement(on_newer_head(manifest, head, now=self._clock()), self._signer)
        renewed = refreshed(intent, key=f"{intent.key}-on-{head.version if head else 0}", envelope=envelope)
        self._outbox.rewrite(renewed)
        _log.info("manifest.signed_again", expert=manifest.expert, on_version=head.version if head else 0)
        return renewed


def _contribution_lines(statement: Statement[Contribution], now: float) -> list[Listing]:
    """Return what a contribution says, item by item, with the bytes of each; they add up to what is sent, but
    for the padding between tensors."""
    contribution = statement.value
    epoch, leaves = f"epoch {contribution.epoch}", contribution.leaves
    regions: tuple[LeafContribution | BranchContribution, ...] = (*leaves, *contribution.branches)
    splits = [branch.split for branch in contribution.branches if branch.split is not None]
    counts = {
        f"{leaf.leaf} {name}": str(count) for leaf in leaves for name, count in leaf.class_counts.items()
    }
    prototypes = sum(each.prototypes.shape[0] for each in regions)
    items = [
        (
            "contribution",
            f"{epoch}: {len(leaves)} leaves, class counts, the statement itself",
            len(statement.envelope),
            counts,
        ),
        (
            "prototypes",
            f"{epoch}: {prototypes} means of features, with counts and radii",
            _bytes(
                tensor for each in regions for tensor in (each.prototypes, each.prototype_counts, each.radii)
            ),
            {},
        ),
    ]
    if splits:
        items.append(
            ("split gates", f"{epoch}: learned gates between the children of leaves", _bytes(splits), {})
        )
    if contribution.sums is not None:
        sums = contribution.sums
        columns = [leaf.columns for leaf in leaves if leaf.columns is not None]
        rank = f" rank {sums.tensor('factors').shape[1]}" if sums.form == "compact" else ""
        items += [
            (
                "columns",
                f"{epoch}: sums F't, the features' sum for each of {sum(c.shape[1] for c in columns)} classes"
                " of leaves",
                _bytes(columns),
                {},
            ),
            (
                f"sums F'F, {sums.form}{rank}",
                f"{epoch}: products of features, summed over {sums.samples} samples",
                _bytes(sums.tensors),
                {},
            ),
        ]
    return [
        Listing(
            what=what,
            detail=detail,
            size_bytes=size_bytes,
            recipient="coordinator",
            at=now,
            digest=statement.digest,
            attributes=attributes,
        )
        for what, detail, size_bytes, attributes in items
    ]


def _bytes(tensors: Iterable[TensorEntry]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)
