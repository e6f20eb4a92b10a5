"""Try a candidate gate on this node's own validation data, with the experts that the swarm would ask.

Only the arrays that the options under trial name are fetched, and only the experts that receive weight on
some sample. Own experts come from disk; a peer's is fetched, verified, asked once about the samples and
dropped again, where its owner shares it. What this node may not hold, cannot build, or has no FLOPs left for
is missing.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from node.expert_store import ExpertStore, load_expert
from node.gate_survey import survey, survey_combination, survey_options
from node.gate_trial import TrialGate, Voice, answering, arrays_for, experts_wanted, judge, no_samples
from node.own_validation import Floats, OwnValidation
from swarm.domain.combination import USES_EXPERTS, Combination, TrialOption
from swarm.domain.errors import ExhaustedError, NotFoundError, TrunkMismatchError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Survey
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import ExpertForm, GateTrial
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import best_device
from swarm.experts.nets import flops_by_name
from swarm.gating.combinations import FALLBACK
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import Statement

T = TypeVar("T")
Values = dict[ExpertForm, Floats | None]
Heads = dict[str, Statement[Manifest]]
"""The version that answers for a leaf, by its pinned digest or its expert's id."""
Tried = tuple[TrialGate, tuple[Combination, ...]]
MOST_FLOPS = (1 << 63) - 1
"""What the wire carries; peers say what their experts cost."""
MOST_PEERS_FLOPS = 2 * 10**12
"""What asking peers' experts may cost in one trial on a CPU, all together; who no longer fits is missing."""
CUDA_SPEED = 100
"""So many times that where they are asked on a CUDA GPU."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """An expert to ask about all samples, and the FLOPs that each of them takes. `is_here`: on this node."""

    head: Statement[Manifest]
    forms: tuple[ExpertForm, ...]
    flops: int
    is_here: bool


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
            if gate is not None:
                _check_trunk(gate.value, specification)
        count = await self._run(self._validation.refresh)
        if not count:
            return no_samples(options)
        features, flops = await self._run(
            partial(self._validation.features, specification, self._import_paths)
        )
        under_trial = await self._gate(candidate.value, options, specification)
        tried: list[Tried] = [(under_trial, tuple(option.combination for option in options))]
        served = None
        if incumbent is not None and incumbent.value.leaves:
            served = incumbent.value.combination()
            needed = [TrialOption(combination=served)]
            if any(option.against_root for option in options) and incumbent.value.kind == "analytic":
                needed.append(FALLBACK)
            tried.append((await self._gate(incumbent.value, needed, specification), (served,)))
        tried, heads = await self._knowing(tried)
        voices, asked = await self._voices(tried, heads, features, specification)
        flops += count * (asked + sum(gate.flops(combinations) for gate, combinations in tried))
        await self._run(partial(self._forget_all_but, (candidate, incumbent)))
        return await self._run(
            partial(
                judge,
                self._validation.labels,
                features,
                tried[0][0],
                options,
                voices,
                incumbent=None if served is None else (tried[1][0], served),
                flops=min(flops, MOST_FLOPS),
            )
        )

    async def survey(self, gate: Statement[GateStatement], specification: Specification) -> Survey:
        """Return how each leaf does on the node's validation samples that are routed to it (`gate_survey`).

        Experts as in trials: own ones, and peers' that this node may hold and afford. `fresh` is left to
        those who know the node's newest training samples.
        """
        value = gate.value
        _check_trunk(value, specification)
        count = await self._run(self._validation.refresh)
        if not count or not value.leaves:
            return Survey(gate_version=value.version, leaves=())
        features, _ = await self._run(partial(self._validation.features, specification, self._import_paths))
        combination = survey_combination(value)
        loaded = await self._gate(value, survey_options(combination), specification)
        # Its expert's own answers tell how a leaf does, also where corrections are served.
        spoken = replace(combination, name="gate") if combination.name == "corrected" else combination
        tried, heads = await self._knowing([(loaded, (spoken,))])
        voices, _ = await self._voices(tried, heads, features, specification)
        await self._run(partial(self._forget_all_but, (gate,)))
        leaves = await self._run(
            partial(survey, self._validation.labels, features, tried[0][0], spoken, voices)
        )
        return Survey(gate_version=value.version, leaves=leaves)

    async def _knowing(self, tried: Sequence[Tried]) -> tuple[list[Tried], Heads]:
        """Return the gates with what their experts compute, and the versions that answer, where anybody asks
        experts."""
        asking = [gate for gate, each in tried if any(one.name in USES_EXPERTS for one in each)]
        heads = await self._heads(asking)
        manifests = {expert: head.value for expert, head in heads.items()}
        return [(gate.knowing(manifests), combinations) for gate, combinations in tried], heads

    async def _gate(
        self, statement: GateStatement, options: Sequence[TrialOption], specification: Specification
    ) -> TrialGate:
        arrays = await self._registry.gate_arrays(statement, arrays_for(statement, options))
        return await self._run(partial(TrialGate.of, statement, arrays, specification.trunk))

    async def _voices(
        self,
        tried: Sequence[Tried],
        heads: Heads,
        features: Floats,
        specification: Specification,
    ) -> tuple[dict[str, Voice], int]:
        """Return what the experts that anybody needs say, and the FLOPs per sample that they cost now."""
        forms: dict[str, set[ExpertForm]] = {}
        for gate, combinations in tried:
            wanted = await self._run(partial(experts_wanted, gate, combinations, features))
            for form, experts in wanted.items():
                for expert in experts:
                    forms.setdefault(expert, set()).add(form)
        voices = {
            answering(leaf): Voice(class_names=leaf.class_names)
            for gate, _ in tried
            for leaf in gate.leaves
            if answering(leaf) in forms
        }
        asked = {expert: heads[expert] for expert in sorted(forms) if expert in heads}
        by_digest: dict[Digest, set[ExpertForm]] = {}
        for expert, head in asked.items():
            by_digest.setdefault(head.digest, set()).update(forms[expert])
        distinct = list({head.digest: head for head in asked.values()}.values())
        values = {head.digest: self._known(head, by_digest[head.digest]) for head in distinct}
        flops = 0
        for question in await self._run(partial(self._affordable, distinct, values)):
            said = await self._answers(question, specification)
            values[question.head.digest] |= said
            flops += question.flops if said else 0
        for expert, head in asked.items():
            voices[expert] = Voice(
                class_names=head.value.class_names,
                probabilities=values[head.digest].get("probabilities"),
                corrections=values[head.digest].get("corrections"),
            )
        return voices, flops

    async def _heads(self, gates: Iterable[TrialGate]) -> Heads:
        """Return the versions that answer for these gates' leaves: those pinned, else the heads. One that the
        registry does not have, or that is of another expert than the leaf's, is missing."""
        found: Heads = {}
        for leaf in {answering(leaf): leaf for gate in gates for leaf in gate.leaves}.values():
            with suppress(NotFoundError):
                head = await self._registry.manifest(answering(leaf))
                if head.value.expert == leaf.expert:
                    found[answering(leaf)] = head
        return found

    def _known(self, head: Statement[Manifest], forms: Iterable[ExpertForm]) -> Values:
        """Return what an expert says in these forms, None where it has to be asked."""
        values: Values = {form: self._validation.values(head.digest, form) for form in sorted(forms)}
        if head.value.correction is None:
            # Not missing: this is what such an expert adds to everybody's answers.
            shape = (len(self._validation.labels), len(head.value.class_names))
            values["corrections"] = np.broadcast_to(np.float32(0), shape)
        return values

    def _affordable(
        self, heads: Sequence[Statement[Manifest]], values: Mapping[Digest, Values]
    ) -> list[_Question]:
        """Return whom to ask what: the experts on this node, then the cheapest of the peers' that fit
        together into MOST_PEERS_FLOPS, so that a dear one displaces nobody else's."""
        here = set(self._store.served())
        own: list[_Question] = []
        peers: list[_Question] = []
        for head in heads:
            unknown = tuple(form for form, known in values[head.digest].items() if known is None)
            if not unknown or not self._may_hold(head.value):
                continue
            try:
                flops = _flops_per_sample(head.value, unknown)
            except Exception as error:  # whatever net a peer names
                _missing(head, error)
                continue
            is_here = head.digest in here
            question = _Question(head=head, forms=unknown, flops=flops, is_here=is_here)
            (own if is_here else peers).append(question)
        samples = len(self._validation.inputs)
        left = MOST_PEERS_FLOPS * (CUDA_SPEED if best_device().type == "cuda" else 1)
        affordable: list[_Question] = []
        for question in sorted(peers, key=lambda each: (each.flops, each.head.value.expert)):
            if question.flops * samples <= left:
                left -= question.flops * samples
                affordable.append(question)
                continue
            too_dear = ExhaustedError(
                f"expert {question.head.value.expert}",
                found=f"{question.flops:.3g} FLOPs for each of {samples} samples",
                expected=f"at most {left:.3g} in all, what cheaper experts of peers left",
            )
            _missing(question.head, too_dear)
        return own + affordable

    async def _answers(self, question: _Question, specification: Specification) -> dict[ExpertForm, Floats]:
        """Return what an expert says, nothing where it is missing."""
        try:
            return await self._ask(question, specification)
        except UnreachableError:
            raise
        except Exception as error:  # whatever a peer's expert does, the trial goes on without it
            _missing(question.head, error)
            return {}

    def _may_hold(self, manifest: Manifest) -> bool:
        return manifest.owner == self._node or manifest.share in ("borrow", "public")

    async def _ask(self, question: _Question, specification: Specification) -> dict[ExpertForm, Floats]:
        head = question.head
        if question.is_here:
            load = partial(self._store.expert, head.digest, specification)
            return await self._run(partial(self._listen, question, load))
        try:
            await self._registry.blobs(head.value)
            load = partial(load_expert, head.value, self._visiting, specification, self._import_paths)
            return await self._run(partial(self._listen, question, load))
        finally:
            for digest in head.value.blobs():
                self._visiting.remove(digest)

    def _listen(self, question: _Question, load: Callable[[], LoadedExpert]) -> dict[ExpertForm, Floats]:
        """Return what an expert says, which is kept."""
        expert = load()
        said = {form: expert.values(self._validation.inputs, form) for form in question.forms}
        for form, values in said.items():
            self._validation.keep(question.head.digest, form, values)
        return said

    def _forget_all_but(self, gates: Iterable[Statement[GateStatement] | None]) -> None:
        """Keep the arrays of these gates only: the candidate of today is the incumbent of tomorrow."""
        kept = {entry.blob for gate in gates if gate is not None for entry in gate.value.arrays}
        for digest in list(self._visiting.digests()):
            if digest not in kept:
                self._visiting.remove(digest)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _check_trunk(gate: GateStatement, specification: Specification) -> None:
    if gate.trunk != specification.trunk.digest:
        raise TrunkMismatchError(
            f"gate {gate.version}",
            found=f"trunk {gate.trunk[:12]}",
            expected=f"trunk {specification.trunk.digest[:12]}",
        )


def _flops_per_sample(manifest: Manifest, forms: Iterable[ExpertForm]) -> int:
    """Return what an expert costs in these forms: what its owner declares, but no less than what a built-in
    net takes."""
    takes = flops_by_name(manifest.net)
    costs = {"probabilities": manifest.cost}
    if manifest.correction is not None:
        costs["corrections"] = manifest.correction.cost
    return sum(max(takes, costs[form].inference_flops) for form in forms)


def _missing(head: Statement[Manifest], error: Exception) -> None:
    _log.warning("trial.expert_missing", expert=head.value.expert, because=str(error)[:1000])
