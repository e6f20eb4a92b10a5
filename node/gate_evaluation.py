"""Try a candidate gate on this node's own validation data, with the experts that the swarm would ask.

Own experts come from disk; a peer's is fetched, verified, asked once about the samples and dropped again,
where its owner shares it. What this node may not hold, or cannot build, counts as uniform over its classes.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from node.expert_store import ExpertStore, load_expert
from node.gate_trial import TrialGate, TrialLeaf, judge
from node.own_validation import OwnValidation
from swarm.domain.errors import NotFoundError, SwarmError, TrunkMismatchError, UnreachableError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.domain.manifests import GateLeaf, GateStatement, Manifest
from swarm.domain.specification import Specification
from swarm.gating.prototype_gate import PrototypeGate
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import Statement

T = TypeVar("T")
MOST_FLOPS = (1 << 63) - 1
"""What the wire carries; peers say what their experts cost."""
_log = structlog.get_logger(__name__)


class GateEvaluator:
    """Judges gates for one node. `visiting` is a folder of blobs for peers' experts, emptied after each."""

    def __init__(
        self,
        *,
        node: NodeId,
        registry: VerifiedRegistry,
        visiting: BlobFiles,
        store: ExpertStore,
        validation: OwnValidation,
        executor: Executor,
        import_paths: tuple[str, ...],
    ) -> None:
        self._node, self._registry, self._visiting = node, registry, visiting
        self._store, self._validation = store, validation
        self._executor, self._import_paths = executor, import_paths

    async def judge(
        self,
        candidate: Statement[GateStatement],
        incumbent: Statement[GateStatement] | None,
        temperatures: Sequence[float],
        specification: Specification,
    ) -> GateTrial:
        """Return the candidate's sums over the node's samples, zeros if it has none."""
        for gate in (candidate, incumbent):
            if gate is not None and gate.value.trunk != specification.trunk.digest:
                raise TrunkMismatchError(
                    f"gate {gate.value.version}",
                    found=f"trunk {gate.value.trunk[:12]}",
                    expected=f"trunk {specification.trunk.digest[:12]}",
                )
        count = await self._run(self._validation.refresh)
        if not count:
            return _no_samples(temperatures)
        features, trunk_flops = await self._run(
            partial(self._validation.features, specification, self._import_paths)
        )
        leaves: dict[str, TrialLeaf] = {}
        flops = trunk_flops * count
        gates: list[TrialGate | None] = []
        for gate in (candidate, incumbent):
            if gate is None:
                gates.append(None)
                continue
            for leaf in gate.value.leaves:
                if leaf.expert not in leaves:
                    leaves[leaf.expert], asked = await self._leaf(leaf, specification)
                    flops += asked * count
            arrays = await self._registry.gate_arrays(gate.value)
            scores = PrototypeGate.from_arrays(
                arrays, leaves=len(gate.value.leaves), temperature=gate.value.temperature
            )
            tries = len(temperatures) if gate is candidate else 1
            flops += scores.flops_per_query * count * tries
            gates.append(
                TrialGate(
                    leaf_weights=partial(scores.leaf_weights, features),
                    leaves=tuple(leaves[leaf.expert] for leaf in gate.value.leaves),
                    class_names=gate.value.class_names,
                    temperature=gate.value.temperature,
                    top_k=gate.value.top_k,
                )
            )
        under_trial, present = gates
        assert under_trial is not None
        await self._run(partial(self._forget_all_but, (candidate, incumbent)))
        return await self._run(
            partial(
                judge,
                self._validation.labels,
                under_trial,
                present,
                temperatures,
                flops=min(flops, MOST_FLOPS),
            )
        )

    async def _leaf(self, leaf: GateLeaf, specification: Specification) -> tuple[TrialLeaf, int]:
        """Return the leaf with its expert's answers, and the FLOPs per sample that they cost now."""
        try:
            head = await self._registry.manifest(leaf.expert)
        except NotFoundError:
            return TrialLeaf(identity=leaf.expert, class_names=leaf.class_names, probabilities=None), 0
        manifest = head.value
        asked = 0
        answers = self._validation.answered(head.digest)
        if answers is None and self._may_hold(manifest):
            try:
                answers = await self._ask(head, specification)
                asked = manifest.cost.inference_flops
            except UnreachableError:
                raise
            except SwarmError as error:
                _log.warning("trial.expert_missing", expert=manifest.expert, because=str(error))
        return TrialLeaf(identity=head.digest, class_names=manifest.class_names, probabilities=answers), asked

    def _may_hold(self, manifest: Manifest) -> bool:
        return manifest.owner == self._node or manifest.share in ("borrow", "public")

    async def _ask(self, head: Statement[Manifest], specification: Specification) -> NDArray[np.float32]:
        if head.digest in self._store.served():
            expert = await self._run(partial(self._store.expert, head.digest, specification))
            return await self._run(partial(self._validation.answers, head.digest, expert))
        try:
            await self._registry.blobs(head.value)
            expert = await self._run(
                partial(load_expert, head.value, self._visiting, specification, self._import_paths)
            )
            return await self._run(partial(self._validation.answers, head.digest, expert))
        finally:
            for digest in head.value.blobs():
                self._visiting.remove(digest)

    def _forget_all_but(self, gates: Sequence[Statement[GateStatement] | None]) -> None:
        """Keep the arrays of these gates only: the candidate of today is the incumbent of tomorrow."""
        kept = {entry.blob for gate in gates if gate is not None for entry in gate.value.arrays}
        for digest in list(self._visiting.digests()):
            if digest not in kept:
                self._visiting.remove(digest)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _no_samples(temperatures: Sequence[float]) -> GateTrial:
    none = (0,) * len(temperatures)
    return GateTrial(
        samples=0,
        temperatures=tuple(float(t) for t in temperatures),
        nll_sum=(0.0,) * len(temperatures),
        correct_top1=none,
        correct_top2=none,
        correct_top4=none,
        incumbent_correct=0,
        gained=none,
        lost=none,
    )
