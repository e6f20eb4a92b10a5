"""The client for asyncio; `swarm.client.Client` is the same for everyone else."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from swarm.client.credentials import Credentials, load_credentials
from swarm.client.inputs import as_batch
from swarm.client.parts import joined, rows_at_once
from swarm.client.retrying import until_answered
from swarm.domain.errors import ConflictError, NotFoundError
from swarm.domain.ids import NodeId, node_id
from swarm.domain.inference import Answer, Examples, Profile, Query
from swarm.domain.specification import Specification
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.credentials import IdentitySource

COORDINATOR: Final = NodeId("coordinator")
TIMEOUT_S: Final = 30.0
PARTS_AT_ONCE: Final = 4
"""So many calls of one large batch are under way at a time."""


class AsyncClient:
    """Asks one swarm. Connections open at the first call; `close`, or `async with`, closes them."""

    def __init__(
        self, address: str = "", credentials: Credentials = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`address`: the coordinator's host:port (empty: as the credentials tell). `credentials`: the home of
        a node, a client or an operator, or its identity folder. `timeout_s`: a call's deadline unless it
        brings its own.

        Raises NotFoundError where there are no credentials, VerificationError where they do not fit together.
        """
        identity = load_credentials(credentials)
        self._keyring = identity.keyring()
        self._timeout_s = timeout_s
        source = IdentitySource(identity.folder)
        self._connection = open_channel(source, address or identity.coordinator, "coordinator", COORDINATOR)
        self._coordinator = CoordinatorClient(self._connection)
        self._known: Specification | None = None

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
        specification = await until_answered(self._specification, deadline)
        query = Query(
            inputs=as_batch(np.asarray(array), specification),
            top_k=top_k,
            explain=explain,
            combination=combination,
            owners=tuple(node_id(name) for name in owners),
            uniform=uniform,
            profile=profile,
            gate_version=gate_version,
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
        await self._coordinator.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, query: Query, deadline: float) -> Answer:
        return await until_answered(lambda left: self._coordinator.predict(query, left), deadline)

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
        if self._known is None:
            envelope = await self._coordinator.specification(timeout_s=timeout_s)
            self._known = self._keyring.open(envelope, Specification).value
        return self._known
