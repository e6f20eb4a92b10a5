"""One federated run's server side, a process of its own: `python -m coordinator.federated_run`.

The parent's frames come on standard input, ours leave on standard output; what apps print goes to the log on
standard error. The first frame is the order; then each `piece` of a reply, or `lost`, answers our `send`, and
`nodes` our `nodes`. Replies are joined here. The end of standard input ends the process.
"""

import itertools
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import IO, Any

from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.federation import MAX_MESSAGE_BYTES, MAX_PARTS
from swarm.exits import leave_process
from swarm.federation.frames import error_of, frame, problem_of, read_frame
from swarm.federation.stream_grid import Arrived

_ANSWER_S = 10.0


class Replies:
    """Replies on their way, joined from their pieces; only of messages that somebody waits for."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._expected: dict[str, str] = {}
        self._pieces: dict[str, list[bytes]] = {}

    def expect(self, message: str, node: str) -> None:
        """Wait for a node's reply to a message."""
        with self._changing:
            self._expected[message] = node

    def forget(self, messages: Sequence[str]) -> None:
        """Drop what has come for these; nobody waits for them any more."""
        with self._changing:
            for message in messages:
                self._expected.pop(message, None)
                self._pieces.pop(message, None)

    def take(self, header: Mapping[str, Any], payload: bytes) -> Arrived | None:
        """Take a piece; return the reply when it is whole, or the problem where pieces do not fit together.

        Piece 0 begins a reply, again after its node was asked again. What comes late, twice, or from another
        node than was asked changes nothing.
        """
        message, node = str(header["id"]), str(header["node"])
        part, parts = int(header["part"]), int(header["parts"])
        with self._changing:
            if self._expected.get(message) != node:
                return None
            pieces = self._pieces[message] = self._pieces.get(message, []) if part else []
            pieces.append(payload)
            size = sum(map(len, pieces))
            fits = part == len(pieces) - 1 and part < parts <= MAX_PARTS and size <= MAX_MESSAGE_BYTES
            if fits and part < parts - 1:
                return None
            del self._pieces[message], self._expected[message]
        if not fits:
            problem = InvalidInputError(
                f"reply of node {node}",
                found=f"part {part} of {parts} after {len(pieces) - 1}, {size} bytes",
                expected=f"one part after the other, at most {MAX_PARTS} and {MAX_MESSAGE_BYTES} bytes",
            )
            return Arrived(message=message, node=node, problem=problem)
        return Arrived(message=message, node=node, data=b"".join(pieces))


class ParentWire:
    """The way to the nodes through the parent (`swarm.federation.stream_grid.Wire`)."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._replies = Replies()
        self._arrived: queue.Queue[Arrived] = queue.Queue()
        self._nodes: queue.Queue[tuple[int, list[str]]] = queue.Queue()
        self._questions = itertools.count(1)

    def start(self) -> None:
        """Read the parent's frames from now on, in a thread that ends the process with them."""
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def tell(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send one frame to the parent."""
        with self._writing:
            self._sink.write(frame(dict(header), payload))
            self._sink.flush()

    def nodes(self) -> Sequence[str]:
        number = next(self._questions)
        self.tell({"kind": "nodes", "id": number})
        deadline = monotonic() + _ANSWER_S
        while True:
            found, names = self._nodes.get(timeout=max(deadline - monotonic(), 0.01))
            if found == number:
                return names

    def send(self, message: str, node: str, data: bytes, timeout_s: float) -> None:
        self._replies.expect(message, node)
        self.tell({"kind": "send", "id": message, "node": node, "timeout_s": timeout_s}, data)

    def arrival(self, timeout_s: float) -> Arrived | None:
        try:
            return self._arrived.get(timeout=timeout_s) if timeout_s > 0 else self._arrived.get_nowait()
        except queue.Empty:
            return None

    def forget(self, messages: Sequence[str]) -> None:
        self._replies.forget(messages)
        self.tell({"kind": "forget", "ids": list(messages)})

    def _read(self) -> None:
        while (found := read_frame(self._source)) is not None:
            header, payload = found
            match header.get("kind"):
                case "piece":
                    whole = self._replies.take(header, payload)
                    if whole is not None:
                        self._arrived.put(whole)
                case "lost":
                    self._replies.forget([header["id"]])
                    problem = error_of(header.get("problem"))
                    self._arrived.put(Arrived(message=header["id"], node=header["node"], problem=problem))
                case "nodes":
                    self._nodes.put((header["id"], header["nodes"]))
        os._exit(0)


def main() -> int:
    """Carry out the order that the parent sends; return the exit status."""
    sink = _own_output()
    source = os.fdopen(0, "rb", closefd=False)
    first = read_frame(source)
    if first is None:
        return 1
    wire = ParentWire(source, sink)
    wire.start()
    try:
        _run(wire, first[0])
    except SwarmError as error:
        wire.tell({"kind": "problem", "problem": problem_of(error)})
        return 2
    return 0


def _run(wire: ParentWire, order: Mapping[str, Any]) -> None:
    from flwr.app import Context, RecordDict

    from swarm.federation.apps import server_app
    from swarm.federation.messages import named_arrays
    from swarm.federation.packing import pack_named
    from swarm.federation.progress import heard_by
    from swarm.federation.rounds import FIGURES, RESULT
    from swarm.federation.stream_grid import StreamGrid
    from swarm.federation.task_identity import SERVER_NODE, take_task_identity

    number = int(order["number"])
    take_task_identity(number)
    settings = dict(order["settings"])
    grid = StreamGrid(wire, str(order["run"]), float(settings["timeout-s"]))

    def hear(stage: str, message: str, fraction: float, figures: Mapping[str, float]) -> None:
        traffic = {"bytes_sent": float(grid.traffic.sent), "bytes_received": float(grid.traffic.received)}
        if stage != "done":
            wire.tell(
                {
                    "kind": "step",
                    "stage": stage,
                    "message": message,
                    "fraction": fraction,
                    "figures": {**{name: float(value) for name, value in figures.items()}, **traffic},
                }
            )

    heard_by(hear)
    context = Context(
        run_id=number,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config={**settings, "specification": str(order["specification"])},
    )
    server_app(str(order["app"]))(grid, context)
    arrays = named_arrays(context.state.array_records[RESULT])
    told = context.state.metric_records[FIGURES]
    figures = {name: float(value) for name, value in told.items() if not isinstance(value, list)}
    figures |= {"bytes_sent": float(grid.traffic.sent), "bytes_received": float(grid.traffic.received)}
    lost = "; ".join(f"{node}: {why}" for node, why in sorted(grid.traffic.lost.items()))
    wire.tell({"kind": "result", "figures": figures, "lost": lost[:4000]}, pack_named(arrays, "result"))


def _own_output() -> IO[bytes]:
    """Return standard output for frames alone; what anyone prints goes to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    leave_process(main())
