"""Try a candidate gate on this node's own validation data, with the experts that the swarm would ask.

Only the arrays that the options under trial name are fetched, and only the experts that receive weight on
some sample. Own experts come from disk; a peer's is fetched, verified, asked once about the samples and
dropped again, where its owner shares it. What this node may not hold, or cannot build, is missing.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from node.expert_store import ExpertStore, load_expert
from node.gate_trial import TrialGate, Voice, arrays_for, experts_wanted, judge, no_samples
from node.own_validation import Floats, OwnValidation
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.errors import ExhaustedError, NotFoundError, TrunkMismatchError, UnreachableError
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.inference import ExpertForm, GateTrial
from swarm.domain.manifests import GateStatement, Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.gating.combinations import FALLBACK
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import Statement

T = TypeVar("T")
Forms = frozenset[ExpertForm]
MOST_FLOPS = (1 << 63) - 1
"""What the wire carries; peers say what their experts cost."""
MOST_PEERS_FLOPS = 2 * 10**13
"""What asking one peer's expert about all samples may cost, minutes on a CPU; beyond, it is missing."""
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
        options: Sequence[TrialOption],
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
            return no_samples(options)
        features, flops = await self._run(
            partial(self._validation.features, specification, self._import_paths)
        )
        under_trial = await self._gate(candidate.value, options, specification)
        tried = [(under_trial, tuple(option.combination for option in options))]
        present = None
        if incumbent is not None and incumbent.value.leaves:
            served = incumbent.value.combination()
            needed = [TrialOption(combination=served)]
            if any(option.against_root for option in options) and incumbent.value.kind == "analytic":
                needed.append(FALLBACK)
            gate_now = await self._gate(incumbent.value, needed, specification)
            present = (gate_now, served)
            tried.append((gate_now, (served,)))
        voices, asked = await self._voices(tried, features, specification)
        flops += count * (asked + sum(gate.flops(combinations) for gate, combinations in tried))
        await self._run(partial(self._forget_all_but, (candidate, incumbent)))
        return await self._run(
            partial(
                judge,
                self._validation.labels,
                features,
                under_trial,
                options,
                voices,
                incumbent=present,
                flops=min(flops, MOST_FLOPS),
            )
        )

    async def _gate(
        self, statement: GateStatement, options: Sequence[TrialOption], specification: Specification
    ) -> TrialGate:
        arrays = await self._registry.gate_arrays(statement, arrays_for(statement, options))
        return await self._run(partial(TrialGate.of, statement, arrays, specification.trunk))

    async def _voices(
        self,
        tried: Sequence[tuple[TrialGate, tuple[Combination, ...]]],
        features: Floats,
        specification: Specification,
    ) -> tuple[dict[ExpertId, Voice], int]:
        """Return what the experts that anybody needs say, and the FLOPs per sample that they cost now."""
        forms: dict[ExpertId, set[ExpertForm]] = {}
        for gate, combinations in tried:
            wanted = await self._run(partial(experts_wanted, gate, combinations, features))
            for form, experts in wanted.items():
                for expert in experts:
                    forms.setdefault(expert, set()).add(form)
        names = {leaf.expert: leaf.class_names for gate, _ in tried for leaf in gate.leaves}
        voices: dict[ExpertId, Voice] = {}
        flops = 0
        for expert in sorted(forms):
            try:
                head = await self._registry.manifest(expert)
            except NotFoundError:
                voices[expert] = Voice(class_names=names[expert])
                continue
            voices[expert], asked = await self._voice(head, frozenset(forms[expert]), specification)
            flops += asked
        return voices, flops

    async def _voice(
        self, head: Statement[Manifest], forms: Forms, specification: Specification
    ) -> tuple[Voice, int]:
        manifest, flops = head.value, 0
        values = {form: self._validation.values(head.digest, form) for form in forms}
        if manifest.correction is None:
            # Not missing: this is what such an expert adds to everybody's answers.
            shape = (len(self._validation.labels), len(manifest.class_names))
            values["corrections"] = np.broadcast_to(np.float32(0), shape)
        unknown = [form for form, known in values.items() if known is None]
        if unknown and self._may_hold(manifest):
            try:
                said, flops = await self._ask(head, unknown, specification)
                values |= said
            except UnreachableError:
                raise
            except Exception as error:  # whatever a peer's expert does, the trial goes on without it
                _log.warning("trial.expert_missing", expert=manifest.expert, because=str(error)[:1000])
        voice = Voice(
            class_names=manifest.class_names,
            probabilities=values.get("probabilities"),
            corrections=values.get("corrections"),
        )
        return voice, flops

    def _may_hold(self, manifest: Manifest) -> bool:
        return manifest.owner == self._node or manifest.share in ("borrow", "public")

    async def _ask(
        self, head: Statement[Manifest], forms: Sequence[ExpertForm], specification: Specification
    ) -> tuple[dict[ExpertForm, Floats], int]:
        """Return what an expert says in these forms, which is kept, and the FLOPs per sample that it cost."""
        if head.digest in self._store.served():
            load = partial(self._store.expert, head.digest, specification)
            return await self._run(partial(self._listen, head, forms, load))
        try:
            await self._registry.blobs(head.value)
            load = partial(load_expert, head.value, self._visiting, specification, self._import_paths)
            return await self._run(partial(self._listen, head, forms, load, MOST_PEERS_FLOPS))
        finally:
            for digest in head.value.blobs():
                self._visiting.remove(digest)

    def _listen(
        self,
        head: Statement[Manifest],
        forms: Sequence[ExpertForm],
        load: Callable[[], LoadedExpert],
        most_flops: float = math.inf,
    ) -> tuple[dict[ExpertForm, Floats], int]:
        expert = load()
        asked = sum(expert.flops_per_query(form) for form in forms)
        if asked * len(self._validation.inputs) > most_flops:
            raise ExhaustedError(
                f"expert {head.value.expert}",
                found=f"{asked:.3g} FLOPs for each of {len(self._validation.inputs)} samples",
                expected=f"at most {most_flops:.3g} in all",
            )
        said = {form: expert.values(self._validation.inputs, form) for form in forms}
        for form, values in said.items():
            self._validation.keep(head.digest, form, values)
        return said, asked

    def _forget_all_but(self, gates: Iterable[Statement[GateStatement] | None]) -> None:
        """Keep the arrays of these gates only: the candidate of today is the incumbent of tomorrow."""
        kept = {entry.blob for gate in gates if gate is not None for entry in gate.value.arrays}
        for digest in list(self._visiting.digests()):
            if digest not in kept:
                self._visiting.remove(digest)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
