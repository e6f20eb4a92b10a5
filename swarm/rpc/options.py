"""Sizes, deadlines and keepalive of every channel and server, in one place."""

from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 64 << 20
"""The largest payload of one message: inputs, probabilities."""

MAX_CONTRIBUTION_BYTES: Final = 256 << 20
"""The largest contribution; its arrays travel in many messages."""

CHUNK_BYTES: Final = 1 << 20
"""Blobs travel in messages of this size: the cheapest that were measured."""

UNARY_TIMEOUT_S: Final = 30.0
"""What a call may take unless its caller says otherwise."""

COLLECT_TIMEOUT_S: Final = 600.0
"""What looking through all blobs or all versions of a registry may take."""

IDLE_TIMEOUT_S: Final = 30.0
"""How long a stream of blob bytes may stand still."""

DIGEST_KEY: Final = "swarm-digest"
SIZE_KEY: Final = "swarm-size"
OFFSET_KEY: Final = "swarm-offset"
"""Metadata of Publish: what the bytes hash to, how many they are, and where sending goes on (none: 0)."""

DELTA_PARENT_KEY: Final = "swarm-delta-parent"
"""Metadata of PublishDelta besides: the blob that the delta is to."""

SERVER_WINDOW_BYTES: Final = 4 << 20
CLIENT_WINDOW_BYTES: Final = 16 << 20
"""So much of a stream may be under way to a server or client, or wait there for its reader: 40 and 160 MB/s
over a line of 100 ms. A server has many at once, and who asks it meanwhile waits longer with more."""

_ENVELOPE_BYTES = 1 << 20
_KEEPALIVE: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own guess of what is under way grows without bound where a busy machine answers pings late: a
    # receiver was seen to hold 235 MiB of messages that nobody had read.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + _ENVELOPE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + _ENVELOPE_BYTES),
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_KEEPALIVE,
    ("grpc.http2.lookahead_bytes", CLIENT_WINDOW_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_KEEPALIVE,
    ("grpc.http2.lookahead_bytes", SERVER_WINDOW_BYTES),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    # On one connection: what comes beyond waits at its client, or is refused by gRPC itself (REFUSED_STREAM).
    # Python takes up some hundreds of calls in a second where it is busy; with a thousand waiting to be taken
    # up, each would be past its deadline before anybody looks at it. (gRPC's own limit of them,
    # grpc.server.max_pending_requests, does nothing in the kind of calls that 1.81 makes.)
    ("grpc.max_concurrent_streams", 256),
)
