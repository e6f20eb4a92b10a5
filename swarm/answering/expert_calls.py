"""Asking one node's experts: what is sent, what is believed of the answer, and whom to ask first."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from swarm.answering.call_times import CallTimes, HedgeBudget
from swarm.answering.known_head import KnownHead
from swarm.domain.errors import DeadlineError, NotFoundError, SwarmError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import ExpertAnswer, ExpertForm, ExpertRequest, ExpertTask
from swarm.domain.manifests import Manifest

PATIENCE_S = 5.0
"""How long one node may take before another is asked."""
FAIR_PATIENCE_S = 1.0
"""A node that did not answer within less is not suspected: its caller was in a hurry."""
PATIENCE_SHARE = 0.4
"""At most this share of what is left of the query's time."""
LACKING_S = 10.0
"""So long a node that said it does not hold a version is asked for it after all others."""
SUM_TOLERANCE = 1e-3
LARGEST_CORRECTION = 1e4
"""No expert may move a class score by more: class scores lie around 0 to 1, so this is beyond any sense."""

LARGEST_FLOPS = 1e15
"""Of one query: what a node says is added up, and infinity is refused by whoever asked."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One expert's believed answer: values float32 [len(rows), C_own] over class_names, as was asked for."""

    served_by: NodeId
    class_names: tuple[str, ...]
    values: NDArray[np.float32]
    flops_per_query: float
    computed_on: str = ""


class ExpertLink(Protocol):
    """The way to one node's experts."""

    @property
    def node(self) -> NodeId: ...

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        """Ask the node's experts; DeadlineError or UnreachableError when it does not answer."""


class LiveExperts(Protocol):
    """A node that can be asked. `suspected`: it let a call time out and has not been heard of since."""

    suspected: bool

    @property
    def link(self) -> ExpertLink: ...


class Holders(Protocol):
    """Which nodes can be asked now, and which of them answer for a version of an expert."""

    def get(self, node: NodeId) -> LiveExperts | None:
        """Return a node while it can be asked."""

    def holders(self, manifest: Manifest, digest: Digest) -> Sequence[LiveExperts]:
        """Return who can answer for this version now, the owner first, those under suspicion left out."""

    def holds(self, node: NodeId, manifest: Manifest, digest: Digest) -> bool:
        """Say whether one of these is expected to have the version: others are asked only where none is."""


class ExpertCalls:
    """Calls to the live nodes' experts, and what they took."""

    def __init__(
        self,
        live: Holders,
        times: CallTimes | None = None,
        on_nobody: Callable[[KnownHead], None] = lambda head: None,
    ) -> None:
        """`times`: what calls took so far; `on_nobody` is told each version that nobody answered for."""
        self._live, self.times, self._on_nobody = live, times or CallTimes(), on_nobody
        self.hedges = HedgeBudget()
        self._lacking: dict[tuple[NodeId, Digest], float] = {}

    def holders(self, head: KnownHead) -> list[NodeId]:
        """Return who can answer for this version, in order: the owner, other holders, and last those that
        said a moment ago that they do not hold it."""
        names = [node.link.node for node in self._live.holders(head.manifest, head.digest)]
        now = time.monotonic()
        return sorted(names, key=lambda name: self._lacking.get((name, head.digest), 0.0) > now)

    def is_expected(self, node: NodeId, head: KnownHead) -> bool:
        """Say whether a holder is expected to have this version, and did not say otherwise a moment ago."""
        lacks = self._lacking.get((node, head.digest), 0.0) > time.monotonic()
        return not lacks and self._live.holds(node, head.manifest, head.digest)

    def nobody(self, head: KnownHead, tried: Iterable[NodeId]) -> None:
        """Called where nobody is left to ask for a version; what it raises ends the query."""
        self._on_nobody(head)

    async def ask(
        self,
        node: NodeId,
        inputs: NDArray[np.generic],
        wanted: Mapping[int, NDArray[np.int64]],
        heads: Mapping[int, KnownHead],
        gate: GateStatement,
        form: ExpertForm,
        deadline: float,
        replayable: bool = False,
    ) -> dict[int, Asked]:
        """Return the answers by leaf; a leaf that is absent was not answered, for a reason in the log.

        `wanted` are the rows for each leaf, `heads` the version to ask for it.
        """
        live = self._live.get(node)
        if live is None:
            return {}
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError("query", found="no time left", expected="answers of the experts' owners")
        rows = np.unique(np.concatenate(list(wanted.values())))
        asked = {leaf: heads[leaf] for leaf in wanted}
        request = ExpertRequest(
            inputs=inputs if len(rows) == len(inputs) else inputs[rows],
            tasks=tuple(
                ExpertTask(
                    expert=head.manifest.expert,
                    manifest=head.digest,
                    rows=np.searchsorted(rows, wanted[leaf]),
                    form=form,
                )
                for leaf, head in asked.items()
            ),
            trunk=gate.trunk,
            gate_version=gate.version,
            replayable=replayable,
        )
        try:
            answers = await self._answers(live, node, request, left)
        except NotFoundError:  # of one; a node answers all of a call or nothing of it
            each = [
                self.ask(node, inputs, {leaf: rows}, heads, gate, form, deadline, replayable)
                for leaf, rows in wanted.items()
            ]
            return {leaf: one for found in await asyncio.gather(*each) for leaf, one in found.items()}
        if answers is None:
            return {}
        found = {}
        for (leaf, head), answer in zip(asked.items(), answers, strict=True):
            try:
                found[leaf] = believed(answer, head, len(wanted[leaf]), node, form)
            except VerificationError as error:
                log.error("expert.answer_refused", node=node, reason=str(error))
        return found

    async def _answers(
        self, live: LiveExperts, node: NodeId, request: ExpertRequest, left_s: float
    ) -> list[ExpertAnswer] | None:
        """Return what a node answers, None where it does not; take note of how long that took.

        Raises NotFoundError where it lacks one of several versions that it was asked for at once.
        """
        rows, began = sum(len(task.rows) for task in request.tasks), time.monotonic()
        patience_s = min(PATIENCE_S, PATIENCE_SHARE * left_s)
        self.times.started(node, rows)
        try:
            answers = await live.link.predict(request, patience_s)
        except asyncio.CancelledError:
            if not request.replayable:
                self.times.took_longer(node, rows, time.monotonic() - began)
            raise
        except SwarmError as error:
            if isinstance(error, NotFoundError) and len(request.tasks) > 1:
                raise
            live.suspected = isinstance(error, DeadlineError) and patience_s >= FAIR_PATIENCE_S
            self._note_failure(node, request, error)
            log.warning(
                "experts.no_answer", node=node, experts=[t.expert for t in request.tasks], reason=str(error)
            )
            return None
        finally:
            self.times.ended(node, rows)
        if not request.replayable:
            self.times.took(node, rows, time.monotonic() - began)
        return answers

    def _note_failure(self, node: NodeId, request: ExpertRequest, error: SwarmError) -> None:
        if not isinstance(error, NotFoundError):
            self.times.failed(node)
            return
        now = time.monotonic()
        self._lacking = {each: until for each, until in self._lacking.items() if until > now}
        self._lacking |= {(node, task.manifest): now + LACKING_S for task in request.tasks}


def believed(answer: ExpertAnswer, head: KnownHead, rows: int, served_by: NodeId, form: ExpertForm) -> Asked:
    """Return an answer that is what its manifest promises, in the form that was asked for.

    Its FLOPs count unless they are absurd. Raises VerificationError otherwise: probabilities sum to 1 in each
    row; corrections are finite, at most LARGEST_CORRECTION and sum to 0.
    """
    manifest = head.manifest
    subject = f"answer of {manifest.expert}@{manifest.version} from {served_by}"
    values = answer.values
    if answer.expert != manifest.expert or answer.class_names != manifest.class_names:
        raise VerificationError(subject, found="another expert or other classes", expected="the manifest's")
    if answer.form != form or values.shape != (rows, len(manifest.class_names)):
        raise VerificationError(
            subject,
            found=f"{answer.form} {list(values.shape)}",
            expected=f"{form} [{rows}, {len(manifest.class_names)}]",
        )
    if not (_are_probabilities(values) if form == "probabilities" else _are_corrections(values)):
        raise VerificationError(subject, found=f"numbers that are no {form}")
    flops = answer.flops_per_query
    return Asked(
        served_by=served_by,
        class_names=manifest.class_names,
        values=values.astype(np.float32, copy=False),
        flops_per_query=flops if 0 <= flops <= LARGEST_FLOPS else 0.0,
        computed_on="".join(filter(str.isprintable, answer.computed_on)),
    )


def _are_probabilities(values: NDArray[np.floating]) -> bool:
    if not np.isfinite(values).all() or (values < 0).any():
        return False
    return bool((np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _are_corrections(values: NDArray[np.floating]) -> bool:
    """Centred by their owner in float32, so the sum may be off by as much as rounding leaves."""
    if not np.isfinite(values).all() or (np.abs(values) > LARGEST_CORRECTION).any():
        return False
    scale = np.maximum(np.abs(values).max(axis=1, initial=0.0), 1.0)
    return bool((np.abs(values.sum(axis=1, dtype=np.float64)) <= SUM_TOLERANCE * scale).all())
