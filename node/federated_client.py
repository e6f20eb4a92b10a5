"""A node's side of one federated run, a process: `python -m node.federated_client APP HOME THREADS`.

Messages come as frames on standard input, replies leave on standard output; what apps print goes to the log
on standard error. The run's state (Flower's Context) lives as long as this process. The end of standard input
ends it.
"""

import os
import sys
from typing import IO, Any

from node.federated_samples import SOURCE
from swarm.domain.errors import SwarmError
from swarm.exits import leave_process
from swarm.federation.frames import frame, problem_of, read_frame

_APP_RAISED = 2
"""Flower's code for an app that had no answer."""


def main() -> int:
    """Answer messages until there are no more; return the exit status."""
    app, home, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sink = _own_output()
    source = os.fdopen(0, "rb", closefd=False)
    runner = _Runner(app, home, threads)
    while (found := read_frame(source)) is not None:
        header, payload = found
        answer: dict[str, Any] = {"id": header.get("id", "")}
        try:
            detail, reply = runner.answer(payload)
            sent = frame({**answer, "kind": "reply", "detail": detail}, reply)
        except SwarmError as error:
            sent = frame({**answer, "kind": "problem", "problem": problem_of(error)})
        sink.write(sent)
        sink.flush()
    return 0


class _Runner:
    """A ClientApp and its context."""

    def __init__(self, app: str, home: str, threads: int) -> None:
        import torch

        from swarm.federation.apps import client_app

        torch.set_num_threads(max(1, threads))
        self._app, self._home = client_app(app), home
        self._context: Any = None

    def answer(self, data: bytes) -> tuple[str, bytes]:
        """Return what a reply holds, for people, and the reply; an app's refusal is a reply too."""
        from flwr.app import Context, Error, Message, RecordDict

        from swarm.federation.messages import decode_message, described, encode_message

        message = decode_message(data, "message from the coordinator")
        if self._context is None:
            self._context = Context(
                run_id=message.metadata.run_id,
                node_id=message.metadata.dst_node_id,
                node_config={"samples": SOURCE, "home": self._home},
                state=RecordDict(),
                run_config={},
            )
        try:
            reply = self._app(message, self._context)
            return described(reply.content), encode_message(reply, f"r{message.metadata.message_id}")
        except SwarmError as error:
            refusal = Message(Error(_APP_RAISED, f"{error.code}: {error}"), reply_to=message)
        except Exception as error:
            import traceback

            traceback.print_exc()
            # Its words may hold samples: only its kind leaves the node.
            refusal = Message(Error(_APP_RAISED, f"internal: {type(error).__name__}"), reply_to=message)
        return "a refusal with its reason", encode_message(refusal, f"r{message.metadata.message_id}")


def _own_output() -> IO[bytes]:
    """Return standard output for frames alone; what anyone prints goes to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    os.umask(0o077)
    leave_process(main())
