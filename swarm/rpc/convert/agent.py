"""What the command and the agent on its machine say to each other."""

from dataclasses import asdict
from typing import cast, get_args

from swarm.domain.agent import AgentState, ExpertMemory, StreamOptions, SumsForm, TrainOrder, TrainStep
from swarm.domain.errors import InvalidInputError
from swarm.domain.inference import Listing
from swarm.rpc.convert.scalars import (
    finite,
    idempotency_key,
    share,
    socket_bytes_from_pb,
    socket_bytes_to_pb,
)
from swarm.rpc.pb import agent_pb2


def train_order_to_pb(order: TrainOrder) -> agent_pb2.TrainRequest:
    message = agent_pb2.TrainRequest(
        data=order.data,
        net=order.net,
        budget_s=order.budget_s,
        steps=order.steps,
        dry_run=order.dry_run,
        seed=order.seed,
        share=order.share,
        import_paths=order.import_paths,
        idempotency_key=order.idempotency_key,
        sums=order.sums,
        sums_mb=order.sums_mb,
        borrow=order.borrow,
        refine=order.refine,
        update=order.update,
        memory=order.memory,
        remember=order.remember,
        head=order.head,
        start=order.start,
        stop=order.stop,
    )
    if order.stream is not None:
        stream = order.stream
        message.stream.CopyFrom(
            agent_pb2.StreamOptions(
                wait=stream.wait,
                test=stream.test,
                idle_s=stream.idle_s,
                most=stream.most,
                keep_mb=stream.keep_mb,
            )
        )
    return message


def train_order_from_pb(message: agent_pb2.TrainRequest) -> TrainOrder:
    """Return the order; an order that changes something (not a dry run) has an idempotency key."""
    if not message.data and not message.stop:
        raise InvalidInputError(
            "data", found="no source", expected="digits, a folder, an .npz file or package.module:dataset"
        )
    if finite(message.budget_s, "budget_s") < 0:
        raise InvalidInputError("budget_s", found=str(message.budget_s), expected="0 or more seconds")
    if message.sums not in get_args(SumsForm) or not finite(message.sums_mb, "sums_mb") > 0:
        raise InvalidInputError(
            "sums",
            found=f"{message.sums[:20]!r}, {message.sums_mb} MB",
            expected=f"{', '.join(get_args(SumsForm))}; more than 0 MB",
        )
    return TrainOrder(
        data=message.data,
        net=message.net,
        budget_s=message.budget_s,
        steps=message.steps,
        dry_run=message.dry_run,
        seed=message.seed,
        share=share(message.share),
        import_paths=tuple(message.import_paths),
        idempotency_key=message.idempotency_key
        if message.dry_run
        else idempotency_key(message.idempotency_key),
        sums=cast(SumsForm, message.sums),
        sums_mb=message.sums_mb,
        borrow=message.borrow,
        refine=message.refine,
        update=message.update,
        memory=message.memory,
        remember=message.remember,
        head=message.head,
        start=message.start,
        stream=_stream_from_pb(message.stream) if message.HasField("stream") else None,
        stop=message.stop,
    )


def _stream_from_pb(message: agent_pb2.StreamOptions) -> StreamOptions:
    return StreamOptions(
        wait=message.wait,
        test=message.test,
        idle_s=finite(message.idle_s, "idle_s"),
        most=message.most,
        keep_mb=finite(message.keep_mb, "keep_mb"),
    )


def listing_to_pb(listing: Listing) -> agent_pb2.Listing:
    return agent_pb2.Listing(
        what=listing.what,
        detail=listing.detail,
        size_bytes=listing.size_bytes,
        recipient=listing.recipient,
        at=listing.at,
        digest=listing.digest,
        attributes=listing.attributes,
    )


def listing_from_pb(message: agent_pb2.Listing) -> Listing:
    return Listing(
        what=message.what,
        detail=message.detail,
        size_bytes=message.size_bytes,
        recipient=message.recipient,
        at=message.at,
        digest=message.digest,
        attributes=dict(message.attributes),
    )


def train_step_to_pb(step: TrainStep) -> agent_pb2.TrainProgress:
    return agent_pb2.TrainProgress(
        stage=step.stage,
        message=step.message,
        fraction=step.fraction,
        listings=[listing_to_pb(listing) for listing in step.listings],
        figures=step.figures,
    )


def train_step_from_pb(message: agent_pb2.TrainProgress) -> TrainStep:
    return TrainStep(
        stage=message.stage,
        message=message.message,
        fraction=message.fraction,
        listings=tuple(listing_from_pb(listing) for listing in message.listings),
        figures=dict(message.figures),
    )


def agent_state_to_pb(state: AgentState) -> agent_pb2.AgentStateReply:
    return agent_pb2.AgentStateReply(
        node=state.node,
        swarm=state.swarm,
        connected=state.connected,
        fence=state.fence,
        gate_version=state.gate_version,
        activity=state.activity,
        outbox=state.outbox,
        certificate_days=state.certificate_days,
        experts=state.experts,
        socket_bytes=socket_bytes_to_pb(state.socket_bytes),
        disk_free_bytes=state.disk_free_bytes,
        clock_skew_s=state.clock_skew_s,
        expert_server_pid=state.expert_server_pid,
        trouble=state.trouble,
        outbox_trouble=state.outbox_trouble,
        memory=agent_pb2.ExpertMemory(**asdict(state.memory)),
    )


def agent_state_from_pb(message: agent_pb2.AgentStateReply) -> AgentState:
    return AgentState(
        node=message.node,
        swarm=message.swarm,
        connected=message.connected,
        fence=message.fence,
        gate_version=message.gate_version,
        activity=message.activity,
        outbox=message.outbox,
        certificate_days=message.certificate_days,
        experts=tuple(message.experts),
        socket_bytes=socket_bytes_from_pb(message.socket_bytes),
        disk_free_bytes=message.disk_free_bytes,
        clock_skew_s=message.clock_skew_s,
        expert_server_pid=message.expert_server_pid,
        trouble=message.trouble,
        outbox_trouble=message.outbox_trouble,
        memory=_memory_from_pb(message.memory),
    )


def _memory_from_pb(message: agent_pb2.ExpertMemory) -> ExpertMemory:
    return ExpertMemory(
        loaded=message.loaded,
        size_bytes=message.size_bytes,
        budget_bytes=message.budget_bytes,
        hits=message.hits,
        loads=message.loads,
    )
