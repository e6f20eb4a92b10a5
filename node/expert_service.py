"""The node's experts behind ExpertPort: answers queries, and tries gates on the node's own data.

Queries and trials compute in threads of their own, so that a trial does not hold up an answer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from node.expert_store import ExpertStore
from node.gate_evaluation import GateEvaluator
from node.gate_survey import sent_survey_listing
from node.listings import sent_trial_listing
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.combination import TrialOption
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotReadyError,
    ShapeMismatchError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Survey
from swarm.domain.inference import (
    MAX_QUERY_ROWS,
    ExpertAnswer,
    ExpertRequest,
    ExpertTask,
    GateTrial,
)
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.one_thread import computed_on, one_thread
from swarm.gating.tiles import in_tiles
from swarm.rpc.options import MAX_MESSAGE_BYTES
from swarm.trust.keyring import Keyring


class SpecificationFile:
    """The specification that the agent keeps on disk, read again when it changed."""

    def __init__(self, home: NodeHome, keyring: Keyring) -> None:
        self._path, self._keyring = home.state / "specification.json", keyring
        self._stamp: tuple[int, int] | None = None
        self._value: Specification | None = None

    def current(self) -> Specification:
        """Return the newest verified specification; NotReadyError before the first."""
        if not self._path.exists():
            raise NotReadyError("specification", found="none yet", expected="one from the coordinator")
        state = self._path.stat()
        stamp = (state.st_ino, state.st_mtime_ns)
        if self._value is None or stamp != self._stamp:
            self._value = self._keyring.open(self._path.read_bytes(), Specification).value
            self._stamp = stamp
        return self._value


class ExpertService:
    """ExpertPort over this node's store, judge and outbound log."""

    def __init__(
        self,
        *,
        store: ExpertStore,
        specification: SpecificationFile,
        keyring: Keyring,
        evaluator: GateEvaluator,
        outbound: OutboundLog,
        fresh: Callable[[], tuple[int, int]] = lambda: (0, 0),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fresh` counts the newest training samples, and the novel ones among them; it may read files."""
        self._fresh = fresh
        self._store, self._specification, self._keyring = store, specification, keyring
        self._evaluator, self._outbound, self._clock = evaluator, outbound, clock
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._one_trial = asyncio.Lock()

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        """Return one answer per task, in their order. Nothing is answered unless all of it can be."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._answering, partial(self._answer, request))

    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial:
        """Return how the candidate does on the node's own validation data; only sums leave."""
        opened = self._keyring.open(candidate, GateStatement)
        present = self._keyring.open(incumbent, GateStatement) if incumbent else None
        agreed = self._keyring.open(specification, Specification).value
        async with self._one_trial:
            trial = await self._evaluator.judge(opened, present, options, agreed)
        line = sent_trial_listing(trial, opened.value.version)
        self._outbound.record([replace(line, at=self._clock(), digest=opened.digest)])
        return trial

    async def survey(self, gate: bytes, specification: bytes) -> Survey:
        """Return how each leaf does on the node's own validation data that go to it; only sums leave."""
        opened = self._keyring.open(gate, GateStatement)
        agreed = self._keyring.open(specification, Specification).value
        async with self._one_trial:
            found = await self._evaluator.survey(opened, agreed)
        fresh, novel = await asyncio.to_thread(self._fresh)
        found = replace(found, fresh=fresh, fresh_novel=novel)
        line = sent_survey_listing(found)
        self._outbound.record([replace(line, at=self._clock(), digest=opened.digest)])
        return found

    def _answer(self, request: ExpertRequest) -> list[ExpertAnswer]:
        specification = self._specification.current()
        if request.trunk != specification.trunk.digest:
            raise TrunkMismatchError(
                f"query under gate {request.gate_version}",
                found=f"trunk {request.trunk[:12]}",
                expected=f"trunk {specification.trunk.digest[:12]}",
                remedy="route with a gate of this swarm's trunk",
            )
        check_query(request.inputs, specification)
        answers, size = list[ExpertAnswer](), 0
        with one_thread() if request.replayable else nullcontext():
            for task in request.tasks:
                expert = self._asked(task, request.inputs, specification)
                size += _answer_bytes(len(task.rows), expert.manifest.class_names)
                _check_answer_size(size)
                answers.append(_answer_of(expert, task, request.inputs, request.replayable))
        return answers

    def _asked(
        self, task: ExpertTask, inputs: NDArray[np.generic], specification: Specification
    ) -> LoadedExpert:
        rows = np.asarray(task.rows, dtype=np.int64)
        if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= len(inputs))):
            raise InvalidInputError(
                f"rows for {task.expert}",
                found=f"a row outside 0..{len(inputs) - 1}",
                expected="rows of the inputs",
            )
        expert = self._store.expert(task.manifest, specification)
        manifest = expert.manifest
        if manifest.expert != task.expert:
            raise VerificationError(
                f"task for {task.expert}",
                found=f"manifest {task.manifest[:12]} of {manifest.expert}",
                expected="a manifest of that expert",
            )
        if manifest.trunk != specification.trunk.digest:
            raise TrunkMismatchError(
                f"{manifest.expert}@{manifest.version}",
                found=f"trunk {manifest.trunk[:12]}",
                expected=f"trunk {specification.trunk.digest[:12]}",
                remedy="train it again under the present trunk",
            )
        return expert


def _answer_of(
    expert: LoadedExpert, task: ExpertTask, inputs: NDArray[np.generic], replayable: bool
) -> ExpertAnswer:
    manifest = expert.manifest
    rows = inputs[np.asarray(task.rows, dtype=np.int64)]
    asked = partial(expert.values, form=task.form)
    return ExpertAnswer(
        expert=manifest.expert,
        version=manifest.version,
        manifest=task.manifest,
        class_names=manifest.class_names,
        values=in_tiles(asked, rows) if replayable and len(rows) else asked(rows),
        module_digests=tuple(module.digest for module in expert.modules(task.form)),
        flops_per_query=float(expert.flops_per_query(task.form)),
        form=task.form,
        computed_on=computed_on(expert.device) if replayable else "",
    )


def _answer_bytes(rows: int, class_names: Sequence[str]) -> int:
    return rows * len(class_names) * np.dtype(np.float32).itemsize + sum(map(len, class_names))


def _check_answer_size(size: int) -> None:
    """Raise ExhaustedError, before more is computed, where answers of so many bytes fit into no message."""
    if size > MAX_MESSAGE_BYTES:
        raise ExhaustedError(
            "answer",
            found=f"more than {MAX_MESSAGE_BYTES >> 20} MiB",
            expected="values and class names that fit into one message",
            remedy="ask in smaller batches",
        )


def check_query(inputs: NDArray[np.generic], specification: Specification) -> None:
    """Raise by name unless inputs are finite raw inputs [B, *input_shape] of the specification's type."""
    if inputs.dtype.name != specification.input_dtype or inputs.shape[1:] != specification.input_shape:
        raise ShapeMismatchError(
            "inputs",
            found=f"{inputs.dtype} {list(inputs.shape)}",
            expected=f"{specification.input_dtype} [B, {', '.join(map(str, specification.input_shape))}]",
        )
    if len(inputs) > MAX_QUERY_ROWS:
        raise InvalidInputError(
            "inputs", found=f"{len(inputs)} rows", expected=f"at most {MAX_QUERY_ROWS} in one query"
        )
    if inputs.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))
        if len(bad):
            raise InvalidInputError(
                "inputs", found=f"a value that is not finite in row {bad[0]}", expected="finite numbers"
            )
