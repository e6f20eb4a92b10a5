"""Answers without the coordinator: features, gate and plan here, then one hop to the experts' owners."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from swarm.answering.active_gate import ActiveGate
from swarm.answering.expert_calls import ExpertCalls, ExpertLink
from swarm.answering.feature_service import FeatureMap, FeatureService
from swarm.answering.known_head import KnownHead
from swarm.answering.known_swarm import KnownSwarm
from swarm.answering.owner_links import OwnerLinks
from swarm.answering.routing import Router
from swarm.domain.errors import NotFoundError, NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.domain.membership import Event
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.credentials import IdentitySource
from swarm.trust.identity import Identity

LOOK_S: Final = 30.0
"""How often it looks for news where nothing tells it to."""
SETTLING_S: Final = 5.0
"""So long, at most, the first answer waits for news of a gate that is known from before."""
PAUSE_S: Final = 0.2
"""Between two looks, at least."""
_log = structlog.get_logger(__name__)


class NotDirectError(UnreachableError):
    """An expert that the gate chose cannot be asked from here; the coordinator may reach its owner."""


class DirectAnswers:
    """Routes by the newest gate that it has verified. `run` keeps that current until it is cancelled."""

    def __init__(
        self,
        identity: Identity,
        source: IdentitySource,
        *,
        coordinator: CoordinatorClient,
        registry: RegistryClient,
        folder: Path,
        import_paths: Sequence[str] = (),
        own: ExpertLink | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        """`folder`: where it keeps what it knows. `import_paths`: where a user's own trunk is imported from.
        `own`: the experts of this process, if it has any. `look_s`: how often it looks for news by itself."""
        self.known = KnownSwarm(folder, identity)
        self.links = OwnerLinks(
            source,
            nodes=lambda: self.known.nodes,
            owners=lambda: self.known.owners,
            is_revoked=self.known.keyring.is_revoked,
            own=own,
            placed=lambda digest: self.known.placed.get(digest, ()),
        )
        self._coordinator, self._registry, self._import_paths = coordinator, registry, tuple(import_paths)
        self._look_s = look_s
        self._features = FeatureService(self._trunk)
        whole = _WholeCalls(self.links)
        self._whole = self._router(whole)
        self._degraded = self._router(ExpertCalls(self.links, whole.times))
        self._kicked, self._looked = asyncio.Event(), asyncio.Event()

    def kick(self) -> None:
        """Look for news soon."""
        self._kicked.set()

    async def run(self) -> None:
        """Look for news whenever kicked, and now and then."""
        while True:
            try:
                await self.known.refresh(self._coordinator, self._registry)
            except (SwarmError, OSError) as error:
                _log.info("routing.not_refreshed", because=str(error))
            self._looked.set()
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await self._kicked.wait()
            self._kicked.clear()

    async def warm(self) -> None:
        """Load gate and trunk as soon as they are here, ahead of the first query."""
        await self._looked.wait()
        try:
            if await self.known.load() is not None:
                await self._features.warm()
        except (SwarmError, OSError) as error:
            _log.warning("trunk.not_loaded", because=str(error))

    async def settled(self, within_s: float) -> None:
        """Return once it has looked for news, whatever came of that, or after within_s; where it knows a gate
        from before, sooner."""
        known_s = SETTLING_S if self.known.gate is not None else within_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(known_s, within_s)):
                await self._looked.wait()

    async def predict(self, query: Query, timeout_s: float, *, whole: bool = True) -> Answer:
        """Return the answer, as the coordinator would give it by the same gate.

        `whole`: NotDirectError where an expert that the gate chose cannot be asked from here; without, other
        leaves or the root stand in for it, and the answer says degraded. Raises as `Router.predict` does,
        NotFoundError for every gate but the newest that is here.
        """
        if await self.known.load() is None:
            raise NotReadyError("gate", found="none that was verified here", expected="one to route by")
        if not whole:
            return await self._degraded.predict(query, timeout_s)
        lacking = self.known.lacking()
        if lacking:
            raise NotDirectError(lacking[0], found="no verified manifest here", expected="its newest version")
        try:
            return await self._whole.predict(query, timeout_s)
        except NotDirectError:
            self.kick()  # perhaps its owner listens elsewhere by now, or has a newer version
            raise

    async def close(self) -> None:
        """Close the connections to the nodes, and end the trunk's thread."""
        await self.links.close()
        await self._features.close()

    def _router(self, calls: ExpertCalls) -> Router:
        return Router(
            active=lambda: self.known.active,
            specification=self.known.specification,
            heads=self.known,
            features=self._features,
            calls=calls,
            older=self._older,
        )

    async def _older(self, version: int) -> ActiveGate:
        present = 0 if self.known.active is None else self.known.active.version
        raise NotFoundError(
            f"gate {version}",
            found=f"gate {present} here",
            expected="the present one",
            remedy="name no version; the coordinator answers by older ones",
        )

    def _trunk(self) -> FeatureMap:
        from swarm.experts.trunk import Trunk

        value = self.known.specification()
        return Trunk.load(
            value.trunk,
            self.known.blobs.open_verified,
            scale=value.scale,
            offset=value.offset,
            import_paths=self._import_paths,
        )


def is_news(event: Event) -> bool:
    """Say whether an event may change how to route."""
    return event.kind.startswith(("gate.", "node.", "expert.")) or "expert" in dict(event.fields)


def tell_failure(task: "asyncio.Task[None]") -> None:
    """Log what ended a task that was to go on; for `add_done_callback`."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("routing.upkeep_failed", exc_info=error)


class _WholeCalls(ExpertCalls):
    """Refuses where nobody else could answer for a version, instead of doing without it."""

    def nobody(self, head: KnownHead, tried: Iterable[NodeId]) -> None:
        asked = ", ".join(sorted(tried))
        raise NotDirectError(
            head.manifest.expert,
            found=f"no answer from {asked}" if asked else "no node that listens",
            expected=f"{head.manifest.owner}, or who stands in for it, at an address of its own",
        )
