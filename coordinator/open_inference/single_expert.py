"""One expert asked by its name: no gate, no mixture; whoever holds its version answers."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.gathering import Asking, Gathering
from swarm.answering.known_head import KnownHead
from swarm.answering.query_checks import check_answer_size, check_inputs
from swarm.answering.short_work import SHORT_VALUES, worked
from swarm.domain.errors import NotReadyError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.inference import MAX_QUERY_ROWS, Answer, Source
from swarm.domain.specification import Specification


class SingleExpert:
    """Asks one version of an expert, its owner first, then the other holders."""

    def __init__(self, calls: ExpertCalls, specification: Callable[[], Specification]) -> None:
        self._calls, self._specification = calls, specification

    def can_answer(self, head: KnownHead) -> bool:
        """Say whether somebody who is connected holds this version."""
        return bool(self._calls.holders(head))

    async def predict(
        self, head: KnownHead, gate: GateStatement, inputs: NDArray[np.generic], timeout_s: float
    ) -> Answer:
        """Return the expert's probabilities over its own classes.

        Raises as `Router.predict` does: InvalidInputError and ShapeMismatchError for the inputs,
        NotReadyError where nobody who holds it answers, DeadlineError beyond timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        is_small = inputs.size <= SHORT_VALUES
        await worked(is_small, check_inputs, inputs, self._specification(), MAX_QUERY_ROWS)
        manifest = head.manifest
        check_answer_size(len(inputs), manifest.class_names)
        asking = Asking(inputs=inputs, gate=gate, form="probabilities", deadline=deadline)
        gathering = Gathering(self._calls, asking, lambda _: ((0, head),), lambda _: {})
        replies = await gathering.replies({0: np.arange(len(inputs))})
        if not replies:
            raise _nobody(head, gathering.failed.get(0, set()))
        answer = replies[0].answer
        source = Source(
            leaf=manifest.leaf,
            expert=manifest.expert,
            version=manifest.version,
            manifest=head.digest,
            owner=manifest.owner,
            served_by=answer.served_by,
            weight=1.0,
            module_digests=head.module_digests,
        )
        return Answer(
            class_names=manifest.class_names,
            probabilities=answer.values,
            gate_version=gate.version,
            degraded=(False,) * len(inputs),
            sources=((source,),) * len(inputs),
            flops_per_query=answer.flops_per_query,
            combination="expert",
        )


def _nobody(head: KnownHead, asked: set[NodeId]) -> NotReadyError:
    manifest = head.manifest
    return NotReadyError(
        f"expert {manifest.expert}",
        found=f"no answer from {', '.join(sorted(asked)) or 'anybody: no holder is connected'}",
        expected=f"{manifest.owner}, or another node that holds version {manifest.version}",
        remedy="see who is connected: swarm status; or ask model swarm",
    )
