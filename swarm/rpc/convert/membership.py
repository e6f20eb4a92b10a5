"""Members, streams, tokens, events and the swarm's status."""

from collections.abc import Sequence
from typing import TypeVar

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, NodeId, node_id
from swarm.domain.membership import (
    ContributionOutcome,
    Event,
    Heartbeat,
    Hello,
    NodeView,
    PlacedVersions,
    SwarmStatus,
    TokenView,
    Welcome,
)
from swarm.rpc.convert.scalars import (
    digests,
    expert_id,
    finite,
    role,
    socket_bytes_from_pb,
    socket_bytes_to_pb,
)
from swarm.rpc.pb import gate_pb2, membership_pb2, node_stream_pb2, types_pb2

_MAX_ACTIVITY = 200
_MAX_NETS, _MAX_MANIFESTS, _MAX_SERVED = 1024, 1000, 1 << 16
_DIGEST_BYTES = 32
Item = TypeVar("Item")


def hello_to_pb(hello: Hello) -> node_stream_pb2.Hello:
    return node_stream_pb2.Hello(
        advertise=hello.advertise,
        can_build=hello.can_build,
        manifests=hello.manifests,
        served=hello.served,
        gate_version=hello.gate_version,
        software=hello.software,
    )


def hello_from_pb(message: node_stream_pb2.Hello) -> Hello:
    """Return the hello; its words are short lines, as every status repeats them, and its lists have ends."""
    return Hello(
        advertise=_line("advertise", message.advertise),
        can_build=tuple(_line("can_build", net) for net in _few("can_build", message.can_build, _MAX_NETS)),
        manifests=tuple(_few("manifests", message.manifests, _MAX_MANIFESTS)),
        served=digests(_few("served", message.served, _MAX_SERVED)),
        gate_version=message.gate_version,
        software=_line("software", message.software),
    )


def heartbeat_to_pb(beat: Heartbeat) -> node_stream_pb2.Heartbeat:
    return node_stream_pb2.Heartbeat(
        fence=beat.fence,
        socket_bytes=socket_bytes_to_pb(beat.socket_bytes),
        activity=beat.activity,
        served=beat.served,
        gate_version=beat.gate_version,
        trouble=beat.trouble,
        loaded=beat.loaded,
        declined=beat.declined,
        room_bytes=beat.room_bytes,
    )


def heartbeat_from_pb(message: node_stream_pb2.Heartbeat) -> Heartbeat:
    """Return the heartbeat; what it says are short printable lines, as operators' terminals show them."""
    return Heartbeat(
        fence=message.fence,
        socket_bytes=socket_bytes_from_pb(message.socket_bytes),
        activity=_line("activity", message.activity),
        served=digests(_few("served", message.served, _MAX_SERVED)),
        gate_version=message.gate_version,
        trouble=_line("trouble", message.trouble),
        loaded=digests(_few("loaded", message.loaded, _MAX_SERVED)),
        declined=digests(_few("declined", message.declined, _MAX_SERVED)),
        room_bytes=message.room_bytes,
    )


def placement_to_pb(manifests: Sequence[Digest]) -> node_stream_pb2.Placement:
    return node_stream_pb2.Placement(manifests=manifests)


def placement_from_pb(message: node_stream_pb2.Placement) -> tuple[Digest, ...]:
    return digests(_few("placement", message.manifests, _MAX_SERVED))


def _line(name: str, text: str) -> str:
    if len(text) > _MAX_ACTIVITY or not text.isprintable():
        raise InvalidInputError(
            name, found=ascii(text[:40]), expected=f"at most {_MAX_ACTIVITY} printable characters"
        )
    return text


def _few(name: str, values: Sequence[Item], most: int) -> Sequence[Item]:
    if len(values) > most:
        raise InvalidInputError(name, found=str(len(values)), expected=f"at most {most}")
    return values


def welcome_to_pb(welcome: Welcome) -> node_stream_pb2.Welcome:
    return node_stream_pb2.Welcome(
        fence=welcome.fence,
        lease_s=welcome.lease_s,
        specification=welcome.specification,
        gate=welcome.gate,
        revocations=welcome.revocations,
        server_time=welcome.server_time,
    )


def welcome_from_pb(message: node_stream_pb2.Welcome) -> Welcome:
    return Welcome(
        fence=message.fence,
        lease_s=finite(message.lease_s, "lease_s"),
        specification=message.specification,
        gate=message.gate,
        revocations=message.revocations,
        server_time=finite(message.server_time, "server_time"),
    )


def event_to_pb(event: Event) -> types_pb2.Event:
    return types_pb2.Event(id=event.id, kind=event.kind, at=event.at, fields=dict(event.fields))


def event_from_pb(message: types_pb2.Event) -> Event:
    """Return the event, its fields sorted by name."""
    return Event(
        id=message.id, kind=message.kind, at=message.at, fields=tuple(sorted(message.fields.items()))
    )


def token_to_pb(token: TokenView) -> membership_pb2.TokenView:
    return membership_pb2.TokenView(
        id=token.id,
        role=token.role,
        uses_left=token.uses_left,
        expires_at=token.expires_at,
        created_at=token.created_at,
        bearer=token.bearer,
    )


def token_from_pb(message: membership_pb2.TokenView) -> TokenView:
    return TokenView(
        id=message.id,
        role=role(message.role),
        uses_left=message.uses_left,
        expires_at=message.expires_at,
        created_at=message.created_at,
        bearer=message.bearer,
    )


def outcome_to_pb(outcome: ContributionOutcome) -> gate_pb2.ContributeReply:
    return gate_pb2.ContributeReply(
        state=outcome.state, gate_version=outcome.gate_version, reason=outcome.reason
    )


def outcome_from_pb(message: gate_pb2.ContributeReply) -> ContributionOutcome:
    return ContributionOutcome(state=message.state, gate_version=message.gate_version, reason=message.reason)


def status_to_pb(status: SwarmStatus) -> membership_pb2.StatusReply:
    return membership_pb2.StatusReply(
        swarm=status.swarm,
        specification_version=status.specification_version,
        class_names=status.class_names,
        gate_version=status.gate_version,
        nodes=[_node_to_pb(node) for node in status.nodes],
        leaves_without_owner=status.leaves_without_owner,
        redis=status.redis,
        durability=status.durability,
        started_at=status.started_at,
        server_time=status.server_time,
        socket_bytes=socket_bytes_to_pb(status.socket_bytes),
        certificate_days=status.certificate_days,
        stand_ins=status.stand_ins,
        replicas=status.replicas,
        under_replicated=status.under_replicated,
    )


def status_from_pb(message: membership_pb2.StatusReply) -> SwarmStatus:
    return SwarmStatus(
        swarm=message.swarm,
        specification_version=message.specification_version,
        class_names=tuple(message.class_names),
        gate_version=message.gate_version,
        nodes=tuple(_node_from_pb(node) for node in message.nodes),
        leaves_without_owner=tuple(message.leaves_without_owner),
        redis=message.redis,
        durability=message.durability,
        started_at=message.started_at,
        server_time=message.server_time,
        socket_bytes=socket_bytes_from_pb(message.socket_bytes),
        certificate_days=message.certificate_days,
        stand_ins={leaf: node_id(node) for leaf, node in message.stand_ins.items()},
        replicas=message.replicas,
        under_replicated=dict(message.under_replicated),
    )


def placed_to_pb(placement: PlacedVersions, known: str) -> membership_pb2.GetPlacementReply:
    """Return the reply for a caller who has what the mark `known` says."""
    if placement.mark == known:
        return membership_pb2.GetPlacementReply(mark=known)
    names = sorted({node for nodes in placement.nodes.values() for node in nodes})
    place = {name: number for number, name in enumerate(names)}
    return membership_pb2.GetPlacementReply(
        mark=placement.mark,
        nodes=names,
        manifests=b"".join(map(bytes.fromhex, placement.nodes)),
        counts=[len(nodes) for nodes in placement.nodes.values()],
        places=[place[node] for nodes in placement.nodes.values() for node in nodes],
    )


def placed_from_pb(message: membership_pb2.GetPlacementReply, known: str) -> PlacedVersions | None:
    """Return a placement, None where it is what the caller has; InvalidInputError for one that is none."""
    if known and message.mark == known:
        return None
    names, places = [node_id(name) for name in message.nodes], iter(message.places)
    if len(message.manifests) != _DIGEST_BYTES * len(message.counts) or sum(message.counts) != len(
        message.places
    ):
        raise InvalidInputError(
            "placement",
            found=f"{len(message.manifests)} bytes of digests, {len(message.counts)} counts,"
            f" {len(message.places)} places",
            expected="a digest for each count, and as many places as they say",
        )
    if any(place >= len(names) for place in message.places):
        raise InvalidInputError("placement", found="a place without a node")
    found: dict[Digest, tuple[NodeId, ...]] = {}
    for row, count in enumerate(message.counts):
        manifest = message.manifests[_DIGEST_BYTES * row : _DIGEST_BYTES * (row + 1)].hex()
        found[Digest(manifest)] = tuple(names[next(places)] for _ in range(count))
    return PlacedVersions(mark=message.mark, nodes=found)


def _node_to_pb(node: NodeView) -> membership_pb2.NodeView:
    return membership_pb2.NodeView(
        id=node.id,
        alive=node.alive,
        revoked=node.revoked,
        fence=node.fence,
        advertise=node.advertise,
        activity=node.activity,
        last_seen=node.last_seen,
        experts=node.experts,
        socket_bytes=socket_bytes_to_pb(node.socket_bytes),
        software=node.software,
    )


def _node_from_pb(message: membership_pb2.NodeView) -> NodeView:
    return NodeView(
        id=node_id(message.id),
        alive=message.alive,
        revoked=message.revoked,
        fence=message.fence,
        advertise=message.advertise,
        activity=message.activity,
        last_seen=message.last_seen,
        experts=tuple(map(expert_id, message.experts)),
        socket_bytes=socket_bytes_from_pb(message.socket_bytes),
        software=message.software,
    )
