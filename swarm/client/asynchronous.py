"""The client for asyncio; `swarm.client.Client` is the same for everyone else."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import ArrayLike

from swarm.answering.direct import LOOK_S, DirectAnswers, is_news, tell_failure
from swarm.answering.known_members import KnownMembers
from swarm.answering.owner_links import OwnerLinks
from swarm.client.cache import CacheFolder
from swarm.client.credentials import Credentials, load_credentials
from swarm.client.inputs import as_batch
from swarm.client.parts import joined, rows_at_once
from swarm.client.retrying import until_answered
from swarm.client.routing_nodes import RoutingNodes
from swarm.client.ways import Ways
from swarm.domain.errors import ConflictError, NotFoundError, NotReadyError, SwarmError
from swarm.domain.ids import NodeId, node_id
from swarm.domain.inference import Answer, Examples, Profile, Query
from swarm.domain.specification import Specification
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.credentials import IdentitySource
from swarm.rpc.gate_follower import GateFollower
from swarm.rpc.renewing import renew_if_due
from swarm.telemetry import log_as_library

COORDINATOR: Final = NodeId("coordinator")
REGISTRY: Final = NodeId("registry")
TIMEOUT_S: Final = 30.0
PARTS_AT_ONCE: Final = 4
"""So many calls of one large batch are under way at a time."""
SETTLING_SHARE: Final = 0.5
"""Of the first call's time, at most, direct mode takes to learn the gate."""
RENEWAL_LOOK_S: Final = 3600.0
_log = structlog.get_logger(__name__)


class AsyncClient:
    """Asks one swarm. Connections open at the first call; `close`, or `async with`, closes them."""

    def __init__(
        self,
        address: str = "",
        credentials: Credentials = None,
        *,
        direct: bool = False,
        timeout_s: float = TIMEOUT_S,
        registry: str = "",
        cache: str | Path | None = None,
        import_paths: Sequence[str] = (),
    ) -> None:
        """`address`, `registry`: host:port of the coordinator and the registry (empty: as the credentials
        tell). `credentials`: the home of a node, a client or an operator, or its identity folder.
        `timeout_s`: a call's deadline unless it brings its own. `cache`: a folder for what is known of the
        swarm, which may be lost (None: beside the identity).

        `direct`: features, gate and plan are computed here, and the experts' owners asked in one hop; the
        coordinator where that cannot be. It needs the trunk here: `import_paths` are for a user's own.

        Raises NotFoundError where there are no credentials, VerificationError where they do not fit together.
        """
        log_as_library()
        identity = load_credentials(credentials)
        source = IdentitySource(identity.folder)
        self._timeout_s, self._source = timeout_s, source
        self._cache = CacheFolder(identity, cache)
        to_coordinator = open_channel(source, address or identity.coordinator, "coordinator", COORDINATOR)
        to_registry = open_channel(source, registry or identity.registry, "registry", REGISTRY)
        self._coordinator, self._registry = CoordinatorClient(to_coordinator), RegistryClient(to_registry)
        self._known: KnownMembers
        self._direct: DirectAnswers | None = None
        if direct:
            self._direct = DirectAnswers(
                identity,
                source,
                coordinator=self._coordinator,
                registry=self._registry,
                folder=self._cache.folder,
                import_paths=import_paths,
            )
            self._known, self._links = self._direct.known, self._direct.links
        else:
            self._known = KnownMembers(self._cache.folder, identity)
            self._links = OwnerLinks(
                source,
                nodes=lambda: self._known.nodes,
                owners=tuple,
                is_revoked=self._known.keyring.is_revoked,
            )
        self._ways = Ways(
            self._coordinator,
            direct=self._direct,
            nodes=RoutingNodes(self._links, lambda: self._known.nodes.keys() - {identity.id}),
        )
        self._upkeep: list[asyncio.Task[None]] = []

    async def predict(
        self,
        array: ArrayLike,
        *,
        top_k: int = 0,
        explain: bool = False,
        combination: str = "",
        owners: Sequence[str] = (),
        uniform: bool = False,
        profile: str = "",
        gate_version: int = 0,
        min_confidence: float = 0.0,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the swarm's answer to raw inputs [B, *input_shape], or to one input [*input_shape].

        However many rows: what is more than one call takes is cut, and answered by one gate. The options are
        those of `swarm.domain.inference.Query`; `top_k` 0 and `combination` empty: as the gate serves. What
        may pass is asked again until the deadline: no answer, no gate yet, too much at once.

        Raises ShapeMismatchError or InvalidInputError for inputs that are not the swarm's, NotFoundError for
        an owner, a combination, a profile or a gate that is not there, UnauthenticatedError where the
        credentials do not count any more, NotReadyError where nobody can answer, UnreachableError where
        nobody does, DeadlineError where that takes longer than timeout_s.
        """
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        self._keep_up()
        specification = await until_answered(self._specification, deadline)
        if self._direct is not None:
            await self._direct.settled((deadline - time.monotonic()) * SETTLING_SHARE)
        query = Query(
            inputs=as_batch(np.asarray(array), specification),
            top_k=top_k,
            explain=explain,
            combination=combination,
            owners=tuple(node_id(name) for name in ([owners] if isinstance(owners, str) else owners)),
            uniform=uniform,
            profile=profile,
            gate_version=gate_version,
            min_confidence=min_confidence,
        )
        at_once = rows_at_once(specification, explain=explain)
        while True:
            first = await self._ask(replace(query, inputs=query.inputs[:at_once]), deadline)
            if len(query.inputs) <= at_once:
                return first
            pinned = query if profile else replace(query, gate_version=first.gate_version)
            try:
                return joined([first, *await self._rest(pinned, at_once, deadline)])
            except (NotFoundError, ConflictError):
                # The gate that answered first is gone meanwhile: all rows are asked of the next one.
                if gate_version or time.monotonic() >= deadline:
                    raise

    async def make_profile(
        self, array: ArrayLike, labels: Sequence[str], *, timeout_s: float | None = None
    ) -> Profile:
        """Return the profile of labelled inputs [N, *input_shape]: queries that name its `id` are answered by
        the owners whose sums agree with them. Raises as `predict` does, InvalidInputError for a label that no
        owner knows."""
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        inputs = as_batch(np.asarray(array), await until_answered(self._specification, deadline))
        examples = Examples(inputs=inputs, labels=tuple(labels))
        return await until_answered(
            lambda left: self._coordinator.make_profile(examples, timeout_s=left), deadline
        )

    async def close(self) -> None:
        """Close the connections; calls in flight end with UnreachableError."""
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        if self._direct is not None:
            await self._direct.close()
        else:
            await self._links.close()
        await self._coordinator.close()
        await self._registry.close()
        self._cache.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, query: Query, deadline: float) -> Answer:
        return await until_answered(lambda left: self._ways.predict(query, left), deadline)

    async def _rest(self, query: Query, at_once: int, deadline: float) -> list[Answer]:
        """Return the answers to all rows but the first so many, in their order."""
        slots = asyncio.Semaphore(PARTS_AT_ONCE)

        async def part(start: int) -> Answer:
            async with slots:
                return await self._ask(replace(query, inputs=query.inputs[start : start + at_once]), deadline)

        tasks = [asyncio.create_task(part(start)) for start in range(at_once, len(query.inputs), at_once)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _specification(self, timeout_s: float) -> Specification:
        try:
            return self._known.specification()
        except NotReadyError:
            await self._known.take_specification(await self._coordinator.specification(timeout_s=timeout_s))
            return self._known.specification()

    def _keep_up(self) -> None:
        """Begin to keep what is known current, at the first call."""
        if self._upkeep:
            return
        work: list[Coroutine[None, None, None]] = [self._renewing()]
        if self._direct is None:
            work.append(self._looking_for_nodes())
        else:
            kick = self._direct.kick
            follower = GateFollower(
                self._coordinator,
                self._known.keyring,
                on_gate=lambda _: kick(),
                on_event=lambda event: kick() if is_news(event) else None,
            )
            work += [self._direct.run(), self._direct.warm(), follower.run()]
        self._upkeep = [asyncio.create_task(each) for each in work]
        for task in self._upkeep:
            task.add_done_callback(tell_failure)

    async def _renewing(self) -> None:
        while True:
            await renew_if_due(self._source.current(), self._coordinator)
            await asyncio.sleep(RENEWAL_LOOK_S)

    async def _looking_for_nodes(self) -> None:
        """Know who listens before the coordinator is away."""
        while True:
            try:
                await self._known.refresh_members(self._coordinator)
            except (SwarmError, OSError) as error:
                _log.info("nodes.not_known", because=str(error))
            await asyncio.sleep(LOOK_S)
