"""Experts that are to answer at once: each is asked a question of this node's own, so that it is loaded."""

import asyncio
from collections.abc import Collection
from typing import Final

import numpy as np
import structlog

from node.expert_relay import ExpertRelay
from node.knowledge import SwarmKnowledge
from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest
from swarm.domain.inference import ExpertRequest, ExpertTask
from swarm.domain.manifests import Manifest

LONGEST_S: Final = 60.0
"""So long the loading of one expert may take."""
_log = structlog.get_logger(__name__)


class Loading:
    """What the present expert server has loaded because it was told to, and has not forgotten since."""

    def __init__(self, relay: ExpertRelay, knowledge: SwarmKnowledge) -> None:
        self._relay, self._knowledge = relay, knowledge
        self._loaded: dict[Digest, tuple[int, int]] = {}
        """In which process each was loaded, and after how many of its reports."""

    def loaded(self) -> tuple[Digest, ...]:
        """Return what the expert server that runs now has in memory: what did not fit beside the rest is none
        of it, from its second report after the loading on (the first may have been under way)."""
        pid, reports, in_memory = self._relay.pid, self._relay.reports, self._relay.in_memory
        return tuple(
            sorted(
                digest
                for digest, (server, then) in self._loaded.items()
                if server == pid and (digest in in_memory or reports < then + 2)
            )
        )

    def keep(self, wanted: Collection[Digest]) -> None:
        """Count only these as loaded from now on; the others leave the memory when it is needed."""
        self._loaded = {digest: when for digest, when in self._loaded.items() if digest in wanted}

    async def load(self, manifest: Manifest, digest: Digest) -> bool:
        """Have a version loaded, as the one that was asked last; say whether it answers."""
        specification = self._knowledge.specification()
        inputs = np.zeros((1, *specification.input_shape), dtype=specification.input_dtype)
        task = ExpertTask(expert=manifest.expert, manifest=digest, rows=np.zeros(1, dtype=np.int64))
        request = ExpertRequest(
            inputs=inputs,
            tasks=(task,),
            trunk=specification.trunk.digest,
            gate_version=self._knowledge.gate_version,
        )
        pid = self._relay.pid
        try:
            async with asyncio.timeout(LONGEST_S):
                await self._relay.predict(request)
        except (SwarmError, TimeoutError) as error:
            self._loaded.pop(digest, None)
            _log.warning("expert.not_loaded", expert=manifest.expert, because=str(error)[:200])
            return False
        if self._loaded.get(digest, (0, 0))[0] != pid:
            _log.info("expert.loaded", expert=manifest.expert, version=manifest.version)
        self._loaded[digest] = pid, self._relay.reports
        return True
