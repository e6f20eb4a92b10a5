"""The one place that touches what Flower does not publish; a contract test holds it against Flower.

`flwr.app.Message(...)` reads Flower's process-wide identity of a task for a new instruction: one per process,
so a run is one process. And a message that came over our own wire gets its metadata back whole.
"""

from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1
"""The number that the server's messages come from."""


def take_task_identity(run_number: int) -> None:
    """Say which run this process is; before the first message of a ServerApp."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_number, run_number, SERVER_NODE


def message_with(metadata: Metadata, content: RecordDict | Error) -> Message:
    """Return the message that has this metadata."""
    make: Any = Message
    named = {"error": content} if isinstance(content, Error) else {"content": content}
    message: Message = make(metadata=metadata, **named)
    return message
