"""Removing blobs that nothing in reach needs, safely against publishes in flight.

Two phases. Mark: what heads, kept versions, gates in reach and specifications need, read from the store after
a watch over all claims began. A store that lost acknowledged versions is brought forward first, and the heads
that the journal has count too. Sweep: each other blob goes unless somebody claimed it at any moment since, so
what was told to be here, or committed meanwhile, stays. A crash in between leaves blobs that the next
collection takes.

Blobs that nothing ever named (broken-off uploads) wait a week: after a total loss of the store all are such
until their owners announce them. That clock is on disk, and begins anew when the store has lost manifests.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from swarm.domain.collection import BlobVerdict, Collection, RetentionPolicy
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.specification import Specification
from swarm.fault_points import reached
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.reconciling import Reconciler
from swarm.registry.retention import GateUse, gates_in_reach, kept_versions
from swarm.registry.store import MetadataStore
from swarm.trust.statements import read_statement

UNNAMED_S: Final = 7 * 86_400.0
LARGEST_KEPT: Final = 20
_AT_ONCE: Final = 256
_log = structlog.get_logger(__name__)


class Collector:
    """Collects one registry's blobs."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        blobs: BlobStore,
        catalogue: Catalogue,
        claims: Claims,
        commits: CommitJournal,
        reconciler: Reconciler,
        policy: RetentionPolicy,
        journal: Path | None = None,
        unnamed_s: float = UNNAMED_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._blobs, self._catalogue, self._claims = store, blobs, catalogue, claims
        self._commits, self._reconciler = commits, reconciler
        self._policy = policy
        self._unnamed = _UnnamedBlobs(journal, unnamed_s, clock)
        self._gates: dict[int, GateUse | None] = {}
        self._collecting = asyncio.Lock()
        self.needed_by: dict[Digest, frozenset[str]] = {}
        """Who needs each blob that experts' versions or publishes in flight keep, as of the last collection:
        owners, by their versions' and heads' sake; where it is no owner, who claims it."""

    async def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove what nothing needs, or only say what would go. UnreachableError while the store or what
        holds the blobs is away, NotReadyError while the store lacks what was acknowledged; then nothing was
        removed."""
        async with self._collecting:
            with self._claims.watching() as claimed:
                await self._reconciler.reconcile()
                self._reconciler.check_whole()
                if not await self._catalogue.refresh():
                    raise UnreachableError(
                        "collection",
                        found="a store that does not answer",
                        expected="all heads, manifests and gates",
                        remedy="try again when Redis is back: swarm doctor",
                    )
                self._check_known()
                kept, needed_by = await self._reachable()
                named = await self._named()
                present = await asyncio.to_thread(self._sizes)
                waiting = self._unnamed.waiting(
                    set(present) - named.keys(), self._is_whole(), self._catalogue.count, write=not dry_run
                )
                for blob in claimed & present.keys():
                    needed_by[blob] = needed_by.get(blob) or self._claims.claimants(blob)
                    kept.setdefault(blob, "claimed by a publish in flight")
                for blob in waiting:
                    kept.setdefault(blob, "named by nothing yet")
                doomed = [
                    BlobVerdict(blob=blob, size_bytes=size, reason=named.get(blob, "named by nothing"))
                    for blob, size in present.items()
                    if blob not in kept
                ]
                reached("registry.collect.marked")
                gone = doomed if dry_run else await self._sweep(doomed, claimed)
        reached("registry.collect.removed")
        if not dry_run:
            self._claims.compact()
            self.needed_by = {blob: frozenset(who) for blob, who in needed_by.items()}
        went = {each.blob for each in gone}
        left = [
            BlobVerdict(blob=blob, size_bytes=size, reason=kept.get(blob, "claimed by a publish in flight"))
            for blob, size in present.items()
            if blob not in went
        ]
        left.sort(key=lambda each: (-each.size_bytes, each.blob))
        return Collection(
            gone=tuple(sorted(gone, key=lambda each: (-each.size_bytes, each.blob))),
            largest_kept=tuple(left[:LARGEST_KEPT]),
            gone_blobs=len(gone),
            gone_bytes=sum(each.size_bytes for each in gone),
            kept_blobs=len(left),
            kept_bytes=sum(each.size_bytes for each in left),
        )

    async def needed(self) -> dict[Digest, str]:
        """Return every blob that must be here, and why. The catalogue must be up to date."""
        return (await self._reachable())[0]

    async def _sweep(self, doomed: list[BlobVerdict], claimed: set[Digest]) -> list[BlobVerdict]:
        """Remove each blob that nobody claimed since the mark began; between looking and removing nothing
        else runs: `remove` waits for no network."""
        gone = []
        for row, verdict in enumerate(doomed):
            if row % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if verdict.blob not in claimed:
                reached("registry.collect.removing")
                self._blobs.remove(verdict.blob)
                gone.append(verdict)
        if gone:
            _log.info("blobs.collected", blobs=len(gone), size_bytes=sum(each.size_bytes for each in gone))
        return gone

    def _check_known(self) -> None:
        """Raise NotReadyError where the store went back once more since it was brought forward."""
        lacking = self._commits.commits - self._catalogue.digests
        if lost := [each for each in lacking if not self._reconciler.is_left_out(each)]:
            raise NotReadyError(
                "collection",
                found=f"{len(lost)} acknowledged versions that the store lacks",
                expected="every acknowledged version",
                remedy="nothing was removed; run it again, and if it stays so: swarm registry rebuild",
            )

    async def _reachable(self) -> tuple[dict[Digest, str], dict[Digest, set[str]]]:
        """Return the blobs that stay, each with the reason, and which owners need those of versions."""
        heads = {head.expert: head.manifest for head in await self._store.heads()}
        # A store that is going back just now may have older ones.
        recorded = {expert: self._commits.newest(expert) for expert in self._commits.experts()}
        await self._read_gates()
        gates = gates_in_reach([gate for gate in self._gates.values() if gate is not None], self._policy)
        manifests, policy = self._catalogue.manifests, self._policy
        if not self._is_whole():  # nobody knows what else is pinned, or came from where
            policy = replace(policy, keep_versions=0, keep_ancestors="all")
        versions = kept_versions(manifests, heads, gates, self._catalogue.is_gone, policy)
        if recorded.items() - heads.items():
            more = kept_versions(manifests, recorded, gates, self._catalogue.is_gone, policy)
            for digest, why in more.items():
                versions.setdefault(digest, why).needed_by.update(why.needed_by)
        kept: dict[Digest, str] = {}
        needed_by: dict[Digest, set[str]] = {}
        for digest, why in versions.items():
            made = manifests[digest]
            for blob in made.blobs():
                kept.setdefault(blob, f"{made.expert}@{made.version}: {why.reason}")
                needed_by.setdefault(blob, set()).update(why.needed_by)
        for gate in gates:
            for blob in gate.blobs:
                kept.setdefault(blob, f"arrays of gate {gate.version}")
        for blob in await self._trunk_blobs():
            kept.setdefault(blob, "the swarm's trunk")
        return kept, needed_by

    def _is_whole(self) -> bool:
        """Say whether every manifest and gate could be read."""
        return self._catalogue.is_whole and None not in self._gates.values()

    async def _named(self) -> dict[Digest, str]:
        """Return every blob that some statement names, with why it is not needed if it is not."""
        named: dict[Digest, str] = {}
        for gate in filter(None, self._gates.values()):
            for blob in gate.blobs:
                named.setdefault(blob, f"arrays of gate {gate.version}, which is out of reach")
        for made in self._catalogue.manifests.values():
            why = "withdrawn" if self._catalogue.is_gone(made) else "superseded"
            for blob in made.blobs():
                named[blob] = f"{made.expert}@{made.version}: {why}"
        named |= dict.fromkeys(await self._trunk_blobs(), "the swarm's trunk")
        return named

    async def _read_gates(self) -> None:
        if self._gates and await self._store.gate(len(self._gates)) is None:
            self._gates = {}  # the store went back to an older state
        while (envelope := await self._store.gate(len(self._gates) + 1)) is not None:
            version = len(self._gates) + 1
            self._gates[version] = _gate_use(version, envelope)

    async def _trunk_blobs(self) -> set[Digest]:
        newest = await self._store.specification()
        if newest is None:
            return set()
        trunk = read_statement(newest, Specification).value.trunk
        return {tensor.blob for module in (trunk.weights, trunk.probe) for tensor in module.tensors}

    def _sizes(self) -> dict[Digest, int]:
        return self._blobs.sizes(self._blobs.digests())


class _UnnamedBlobs:
    """Since when each blob has been named by nothing, and how many manifests there were; on disk."""

    def __init__(self, journal: Path | None, wait_s: float, clock: Callable[[], float]) -> None:
        self._journal, self._wait_s, self._clock = journal, wait_s, clock
        self._since: dict[Digest, float] = {}
        self._manifests = 0
        if journal is not None and journal.exists():
            try:
                kept = json.loads(journal.read_text())
                self._since = {Digest(blob): float(since) for blob, since in kept["since"].items()}
                self._manifests = int(kept["manifests"])
            except (ValueError, KeyError, TypeError, AttributeError):
                _log.warning("collection.clock_unreadable", file=str(journal))

    def waiting(self, unnamed: set[Digest], is_whole: bool, manifests: int, *, write: bool) -> set[Digest]:
        """Return which of the unnamed blobs must still stay. `is_whole`: every statement could be read."""
        now = self._clock()
        begin_anew = manifests < self._manifests or not is_whole
        # A time to come was written while the clock was wrong.
        since = {blob: now if begin_anew else min(now, self._since.get(blob, now)) for blob in unnamed}
        if begin_anew:
            _log.warning("collection.unnamed_kept", blobs=len(unnamed), manifests=manifests, whole=is_whole)
        if write:
            self._since, self._manifests = since, manifests
            self._write()
        return {blob for blob, at in since.items() if at > now - self._wait_s or begin_anew}

    def _write(self) -> None:
        """Keep what is known. On a disk that takes nothing a collection goes on: it is what makes room."""
        if self._journal is None:
            return
        beside = self._journal.with_suffix(".new")
        try:
            beside.write_text(json.dumps({"since": self._since, "manifests": self._manifests}))
            beside.replace(self._journal)
        except OSError as error:
            _log.warning("collection.clock_not_written", reason=str(error))
            with suppress(OSError):
                beside.unlink()


def _gate_use(version: int, envelope: bytes) -> GateUse | None:
    try:
        return GateUse.of(read_statement(envelope, GateStatement).value)
    except SwarmError as error:
        _log.error("gate.unreadable", version=version, reason=str(error))
        return None
