"""The root as a signed expert of the coordinator: what every node and client may hold of the active gate."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from coordinator.envelope_files import EnvelopeFiles
from coordinator.gate_publication import BlobRegistry
from coordinator.heads import Heads
from coordinator.solver_jobs import RootNet
from coordinator.solver_process import Solver
from swarm.answering.active_gate import ActiveGate
from swarm.answering.combining import root_combination
from swarm.answering.known_head import KnownHead
from swarm.domain.errors import SwarmError
from swarm.domain.ids import ROOT_EXPERT, ROOT_LEAF, ROOT_OWNER
from swarm.domain.manifests import Cost, Manifest, NetReference, Parent
from swarm.domain.membership import Head
from swarm.domain.rebuild import BroughtBack, in_parts
from swarm.domain.specification import Specification
from swarm.fault_points import reached
from swarm.gating.analytic_gate import AnalyticGate
from swarm.modules.blobs import BlobFiles
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement

NO_FENCE = 0
"""Nobody leases the coordinator's own expert."""

log = structlog.get_logger()


class ManifestRegistry(BlobRegistry, Protocol):
    """Where blobs and manifests are published (`swarm.rpc.clients.RegistryClient`)."""

    async def commit(self, envelope: bytes, fence: int) -> Head: ...
    async def bring_back(self, envelopes: Sequence[bytes], fence: int) -> BroughtBack: ...


class RootExpert:
    """Publishes the next version whenever the root's weights change. A failure stops nobody: `notice_gate`,
    called at intervals, makes up for it."""

    def __init__(
        self,
        *,
        active: Callable[[], ActiveGate | None],
        specification: Callable[[], Specification],
        heads: Heads,
        solver: Solver,
        registry: ManifestRegistry,
        blobs: BlobFiles,
        signer: Signer,
        clock: Callable[[], float],
        kept: EnvelopeFiles,
    ) -> None:
        """`kept`: the signed manifests of the accepted versions, by version."""
        self._kept = kept
        self._active, self._specification = active, specification
        self._heads, self._solver, self._registry = heads, solver, registry
        self._blobs, self._signer, self._clock = blobs, signer, clock
        self._publishing = asyncio.Lock()
        self._published = 0
        self._task: asyncio.Task[None] | None = None

    def notice_gate(self) -> None:
        """Begin to publish the active gate's root, and do not wait."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._publish_calmly(), name="publish the root")

    async def publish(self) -> None:
        """Publish the active gate's root, unless its head says the same already.

        Raises what solver and registry raise.
        """
        async with self._publishing:
            # A newer gate may come while one is published.
            while (active := self._active()) is not None and active.version > self._published:
                if active.analytic is not None:
                    await self._publish(active, active.analytic)
                self._published = active.version

    async def put_back(self) -> None:
        """Offer all versions, the newest first, to a registry that may have lost them, and blobs it lacks."""
        await self._keep_head(self._heads.get(ROOT_EXPERT))
        envelopes = [self._kept.get(version) or b"" for version in sorted(map(int, self._kept.names()))]
        for part in in_parts(envelopes):
            await self._offer(part)

    async def _offer(self, envelopes: Sequence[bytes]) -> None:
        found = await self._registry.bring_back(envelopes, NO_FENCE)
        here = [blob for blob in found.missing_blobs if self._blobs.has(blob)]
        for blob in here:
            await self._registry.publish_blob(blob, await asyncio.to_thread(self._blobs.open_verified, blob))
        if here:
            found = await self._registry.bring_back(envelopes, NO_FENCE)
        log.info("root.put_back", restored=len(found.restored), missing_blobs=len(found.missing_blobs))

    async def _keep_head(self, head: KnownHead | None) -> None:
        """Keep the head's envelope where it is not kept: a crash came right after its commit, or the
        coordinator is older than this folder."""
        if head is None or self._kept.get(head.manifest.version) is not None:
            return
        envelope = self._heads.envelope(ROOT_EXPERT)
        if envelope is not None:
            await asyncio.to_thread(self._kept.put, head.manifest.version, envelope)

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _publish_calmly(self) -> None:
        try:
            await self.publish()
        except (SwarmError, OSError) as error:
            log.warning("root.not_published", reason=str(error))

    async def _publish(self, active: ActiveGate, analytic: AnalyticGate) -> None:
        head = self._heads.get(ROOT_EXPERT)
        await self._keep_head(head)
        if head is not None and head.manifest.gate_version_seen == active.version:
            return
        specification = self._specification()
        columns = await asyncio.to_thread(lambda: analytic.class_columns)
        temperature = root_combination(active.value).answer_temperature
        made = await self._solver.make_root(
            columns, temperature, specification.trunk, specification.input_shape
        )
        if made.net is None:
            log.info("root.not_published", reason="others may lack the code of the swarm's own trunk")
            return
        if head is not None and head.manifest.modules == made.modules:
            return
        head = await self._heads.refresh_expert(ROOT_EXPERT)
        await self._keep_head(head)
        manifest = self._manifest(active, head, made, made.net)
        blobs = manifest.blobs()
        for blob in await self._registry.missing(blobs):
            await self._registry.publish_blob(blob, await asyncio.to_thread(self._blobs.open_verified, blob))
        envelope = sign_statement(manifest, self._signer)
        done = await self._registry.commit(envelope, NO_FENCE)
        reached("coordinator.root.committed")
        await asyncio.to_thread(self._kept.put, done.version, envelope)
        log.info("root.published", expert=done.expert, version=done.version, gate_version=active.version)

    def _manifest(
        self, active: ActiveGate, head: KnownHead | None, made: RootNet, net: NetReference
    ) -> Manifest:
        specification, evidence = self._specification(), active.value.evidence
        metrics = {"validation_accuracy": evidence["accuracy_root"]} if "accuracy_root" in evidence else {}
        version = head.manifest.version if head is not None else 0
        return Manifest(
            swarm=specification.swarm,
            expert=ROOT_EXPERT,
            version=version + 1,
            parent_version=version,
            leaf=ROOT_LEAF,
            owner=ROOT_OWNER,
            net=net,
            class_names=active.value.class_names,
            modules=made.modules,
            parents=(Parent(kind="trained-from", manifest=head.digest),) if head is not None else (),
            trunk=active.value.trunk,
            gate_version_seen=active.version,
            share="public",
            metrics=metrics,
            cost=Cost(train_flops=0, inference_flops=made.inference_flops, samples_seen=0, duration_s=0.0),
            created_at=self._clock(),
        )
