"""Calls that came over the stream, answered concurrently through the node's ports."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from swarm.domain.errors import DeadlineError, ExhaustedError, NotFoundError, SwarmError
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.convert.federation import federation_part_from_pb, federation_part_to_pb
from swarm.rpc.convert.growth import growth_order_from_pb, survey_to_pb
from swarm.rpc.convert.scalars import finite
from swarm.rpc.options import MAX_MESSAGE_BYTES
from swarm.rpc.pb import growth_pb2, node_stream_pb2
from swarm.rpc.ports import ExpertPort, FederationClientPort, GrowerPort, PassingExpertPort

MAX_CONCURRENT = 16
_log = structlog.get_logger(__name__)


class Calls:
    """At most MAX_CONCURRENT at a time; the others wait, within their own time limits."""

    def __init__(
        self,
        experts: ExpertPort,
        send: Callable[[node_stream_pb2.FromNode], Awaitable[None]],
        federation: FederationClientPort | None = None,
        grower: GrowerPort | None = None,
    ) -> None:
        self._experts, self._send = experts, send
        self._passing = experts if isinstance(experts, PassingExpertPort) else None
        self._federation, self._grower = federation, grower
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._replying: set[str] = set()

    @property
    def running(self) -> int:
        """How many calls are not answered yet."""
        return len(self._tasks)

    def start(self, call: node_stream_pb2.Call) -> None:
        """Answer a call as soon as there is a free slot."""
        task = asyncio.create_task(self._serve(call))
        self._tasks[call.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call.call_id, None))

    def cancel(self, call_id: str) -> None:
        """End a call that nobody waits for any more.

        Not while its reply is being written: gRPC ends the whole stream when a write is cancelled.
        """
        task = self._tasks.get(call_id)
        if task is not None and call_id not in self._replying:
            task.cancel()

    async def end(self) -> None:
        """End all calls: the stream is gone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, call: node_stream_pb2.Call) -> None:
        message = node_stream_pb2.FromNode()
        reply = message.reply  # filled in place: a message that is given to another's constructor is copied
        reply.call_id = call.call_id
        try:
            async with asyncio.timeout(finite(call.timeout_s, "timeout_s")), self._slots:
                reply.payload = await self._perform(call)
        except TimeoutError:
            late = DeadlineError(call.method, found=f"no answer within {call.timeout_s:g} s")
            reply.problem.CopyFrom(convert.problem_to_pb(late))
        except SwarmError as error:
            _log.info("call.refused", method=call.method, code=error.code, reason=str(error))
            reply.problem.CopyFrom(convert.problem_to_pb(error))
        except Exception as error:
            _log.error("call.failed", method=call.method, exc_info=error)
            failure = SwarmError(call.method, found=f"an internal error ({type(error).__name__})")
            reply.problem.CopyFrom(convert.problem_to_pb(failure))
        self._replying.add(call.call_id)
        try:
            await self._send(message)
        finally:
            self._replying.discard(call.call_id)

    async def _perform(self, call: node_stream_pb2.Call) -> bytes:
        payload = await self._answer(f"/{call.method}", call.payload)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ExhaustedError(
                "answer",
                found=f"{len(payload)} bytes",
                expected="at most 64 MiB",
                remedy="ask in smaller batches",
            )
        return payload

    async def _answer(self, path: str, payload: bytes) -> bytes:
        if path == m.EXPERT_PREDICT.path and self._passing is not None:
            return await self._passing.pass_on(payload)
        if path == m.EXPERT_PREDICT.path:
            request = convert.expert_request_from_pb(m.EXPERT_PREDICT.read_request(payload))
            answers = await self._experts.predict(request)
            return convert.expert_answers_to_pb(answers).SerializeToString()
        if path == m.TRY_GATE.path:
            trial = m.TRY_GATE.read_request(payload)
            options = convert.trial_options_from_pb(trial.options)
            judged = await self._experts.try_gate(
                trial.candidate, trial.incumbent, options, trial.specification
            )
            return convert.gate_trial_to_pb(judged).SerializeToString()
        if path == m.SURVEY.path:
            asked = m.SURVEY.read_request(payload)
            found = await self._experts.survey(asked.gate, asked.specification)
            return survey_to_pb(found).SerializeToString()
        if path == m.CARRY_OUT.path and self._grower is not None:
            await self._grower.carry_out(growth_order_from_pb(m.CARRY_OUT.read_request(payload)))
            return growth_pb2.CarryOutReply().SerializeToString()
        if path == m.FEDERATION_DELIVER.path and self._federation is not None:
            part = federation_part_from_pb(m.FEDERATION_DELIVER.read_request(payload))
            return federation_part_to_pb(await self._federation.deliver(part)).SerializeToString()
        raise NotFoundError(
            path.lstrip("/"), found="a call this node does not know", remedy="update the node"
        )
