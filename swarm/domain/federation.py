"""A federated run as the operator orders it and as it is told, and the parts that carry its messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError

APP_NAMES = ("sums", "kmeans", "average", "evaluate")
"""The apps that the coordinator and the nodes have installed with them."""
MAX_PART_BYTES = 1 << 20
"""The most bytes of a message that travel in one part."""
MAX_MESSAGE_BYTES = 256 << 20
"""The largest message: exact sums over 6,401 features are 82 MB."""
MAX_PARTS = MAX_MESSAGE_BYTES // MAX_PART_BYTES
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationOrder:
    """Run an app over the nodes that are connected now. `options` are what the app takes, as text."""

    app: str
    options: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FederationStep:
    """Progress of a run: `stage` "round 3 of 20", `message` "7 of 10 nodes", `fraction` 0..1.

    The last step's stage is `done`; it brings the result's arrays by name.
    """

    stage: str
    message: str = ""
    fraction: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationPart:
    """A piece of a message to a node, or of its reply: `part` of `parts`, counted from 0.

    To a node, `parts` 0 asks for a part of the reply to a message that it has whole; without a message it
    says that the run is over.
    """

    run: str
    message: str = ""
    part: int = 0
    parts: int = 0
    data: bytes = b""
    app: str = ""

    def __post_init__(self) -> None:
        for name, text in (("run", self.run), ("message", self.message or "-")):
            if not _ID.fullmatch(text):
                raise InvalidInputError(
                    f"federation part, {name}", found=repr(text[:70]), expected="1 to 64 of A-Z a-z 0-9 _ . -"
                )
        if self.app and self.app not in APP_NAMES:
            raise InvalidInputError(
                "federation part, app", found=repr(self.app[:40]), expected=", ".join(APP_NAMES)
            )
        if not 0 <= self.parts <= MAX_PARTS or not 0 <= self.part < (self.parts or MAX_PARTS):
            raise InvalidInputError(
                f"message {self.message}",
                found=f"part {self.part} of {self.parts}",
                expected=f"part 0 to {MAX_PARTS - 1} of at most {MAX_PARTS}",
            )
        if len(self.data) > MAX_PART_BYTES:
            raise InvalidInputError(
                f"message {self.message}, part {self.part}",
                found=f"{len(self.data)} bytes",
                expected=f"at most {MAX_PART_BYTES}",
            )


def cut(data: bytes) -> list[bytes]:
    """Return data in parts of at most MAX_PART_BYTES, at least one."""
    return [data[start : start + MAX_PART_BYTES] for start in range(0, max(len(data), 1), MAX_PART_BYTES)]
