"""The node's experts behind ExpertPort: answers queries, and tries gates on the node's own data.

Answering, the loading of experts and trials have threads of their own: the latter two hold up no answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from node.expert_jobs import Answers, ExpertJob, ExpertJobs
from node.expert_store import ExpertStore
from node.fair_queue import PIECE_BYTES, Room
from node.gate_evaluation import GateEvaluator
from node.gate_survey import sent_survey_listing
from node.listings import sent_trial_listing
from node.micro_batches import MOST_ROWS, MicroBatches
from node.outbound import OutboundLog
from node.request_checks import answer_bytes, check_answer_size, check_manifest, check_request
from swarm.config import NodeHome
from swarm.domain.combination import TrialOption
from swarm.domain.errors import NotReadyError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Survey
from swarm.domain.inference import ExpertAnswer, ExpertRequest, ExpertTask, GateTrial
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.rpc.callers import caller_name
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
        micro_batching: bool = True,
    ) -> None:
        """`fresh` counts the newest training samples, and the novel ones among them; it may read files.

        Without `micro_batching` each request is computed apart.
        """
        self._fresh = fresh
        self._store, self._specification, self._keyring = store, specification, keyring
        self._evaluator, self._outbound, self._clock = evaluator, outbound, clock
        self._room = Room("experts of this node")
        self._batches: MicroBatches[ExpertJob, Answers] = MicroBatches(
            ExpertJobs(store).answers, together=micro_batching, worked=self._room.note
        )
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._one_load = asyncio.Lock()
        self._one_trial = asyncio.Lock()

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        """Return one answer per task, in their order. Nothing is answered unless all of it can be.

        Rows of several requests may go through an expert together. Raises ExhaustedError where too much of
        this caller waits already.
        """
        specification = self._specification.current()
        check_request(request, specification)
        with self._room.held(caller_name(), _room_of(request)):
            return await self._answers(request, specification)

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

    async def _answers(self, request: ExpertRequest, specification: Specification) -> list[ExpertAnswer]:
        caller = caller_name()
        places = {place: task for place, task in enumerate(request.tasks)}
        answers: dict[int, ExpertAnswer] = {}
        submitted: list[tuple[list[int], asyncio.Future[Answers]]] = []
        try:
            for piece in _pieces(self._in_memory(places, specification)):
                job = self._job(request, piece)
                submitted.append((list(piece), self._batches.submit(caller, job, rows_of(job.tasks))))
            for numbers, future in submitted:
                found = await future
                answers |= {n: each for n, each in zip(numbers, found, strict=True) if each is not None}
            while absent := {n: task for n, task in places.items() if n not in answers}:
                answers |= await self._loaded_for(request, absent, specification, caller)
                check_answer_size(sum(map(_answer_size, answers.values())))
        finally:
            for _, future in submitted:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # that of a second piece is nobody's
        return [answers[place] for place in range(len(places))]

    def _in_memory(
        self, places: Mapping[int, ExpertTask], specification: Specification
    ) -> dict[int, ExpertTask]:
        """Return the tasks whose experts are in memory; raises where their answers would not be sent."""
        found, size = dict[int, ExpertTask](), 0
        for place, task in places.items():
            expert = self._store.loaded(task.manifest)
            if expert is not None:
                check_manifest(expert.manifest, task, specification)
                size += answer_bytes(len(task.rows), expert.class_names)
                check_answer_size(size)
                found[place] = task
        return found

    async def _loaded_for(
        self,
        request: ExpertRequest,
        absent: Mapping[int, ExpertTask],
        specification: Specification,
        caller: str,
    ) -> dict[int, ExpertAnswer]:
        """Load the expert of the first absent task and return the answers of all that ask for it.

        One request at a time, so that what is loaded for those that wait never fills memory.
        """
        digest = next(iter(absent.values())).manifest
        asking = {place: task for place, task in absent.items() if task.manifest == digest}
        loop, answers = asyncio.get_running_loop(), dict[int, ExpertAnswer]()
        async with self._one_load:
            expert = await loop.run_in_executor(self._loading, self._store.expert, digest, specification)
            for task in asking.values():
                check_manifest(expert.manifest, task, specification)
            names = expert.class_names
            check_answer_size(sum(answer_bytes(len(task.rows), names) for task in asking.values()))
            for piece in _pieces(asking):
                job = self._job(request, piece, expert)
                found = await self._batches.submit(caller, job, rows_of(job.tasks))
                answers |= {n: each for n, each in zip(piece, found, strict=True) if each is not None}
        return answers

    def _job(
        self, request: ExpertRequest, piece: Mapping[int, ExpertTask], expert: LoadedExpert | None = None
    ) -> ExpertJob:
        return ExpertJob(
            inputs=request.inputs,
            tasks=tuple(piece.values()),
            expert=expert,
            replayable=request.replayable,
        )


def rows_of(tasks: Iterable[ExpertTask]) -> int:
    """Return how many rows tasks have together."""
    return sum(len(task.rows) for task in tasks)


def _pieces(tasks: Mapping[int, ExpertTask]) -> Iterator[dict[int, ExpertTask]]:
    """Yield tasks in pieces of about MOST_ROWS rows, so that others take turns with a large request."""
    piece, rows = dict[int, ExpertTask](), 0
    for place, task in tasks.items():
        if piece and rows + len(task.rows) > MOST_ROWS:
            yield piece
            piece, rows = {}, 0
        piece[place] = task
        rows += len(task.rows)
    if piece:
        yield piece


def _room_of(request: ExpertRequest) -> int:
    """Return what a request takes of the room: its rows, each once for each piece of its input."""
    row_bytes = request.inputs.nbytes // max(1, len(request.inputs))
    return max(1, rows_of(request.tasks)) * max(1, -(-row_bytes // PIECE_BYTES))


def _answer_size(answer: ExpertAnswer) -> int:
    return answer_bytes(len(answer.values), answer.class_names)
