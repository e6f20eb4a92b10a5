"""What one expert's head is, one call after the other: the rules of `docs/registry.md`, without any I/O.

The owner has this one expert, so that its leases belong to the expert's history.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Publish:
    """Commit version `version` (its parent is the one before) as manifest `digest`, under a fence."""

    version: int
    digest: str
    fence: int
    key: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Offer a head that the owner kept."""

    version: int
    digest: str
    fence: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Withdraw the expert for good."""

    fence: int
    key: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the owner a new lease."""


@dataclass(frozen=True, slots=True)
class ReadHead:
    """Which version is the head?"""


@dataclass(frozen=True, slots=True)
class ReadVersion:
    """Which manifest is this version?"""

    version: int


@dataclass(frozen=True, slots=True)
class HeadState:
    """`versions` are pairs (version, manifest); `head` 0: none; `keys`: idempotency keys that acted."""

    head: int = 0
    versions: tuple[tuple[int, str], ...] = ()
    is_withdrawn: bool = False
    fence: int = 0
    keys: frozenset[tuple[str, str]] = frozenset()

    def manifest(self, version: int) -> str:
        return dict(self.versions).get(version, "")


OK = ("ok",)
WITHDRAWN = ("withdrawn",)
NOTHING = ("nothing",)
Step = tuple[Hashable, HeadState]


def stale_fence(newest: int) -> Hashable:
    return ("stale fence", newest)


def stale_parent(head: int) -> Hashable:
    return ("stale parent", head)


class HeadModel:
    """Implements `checking.Model`; each call has exactly one outcome but Announce, which looks twice."""

    def __init__(self, initial: HeadState = HeadState()) -> None:
        self.initial = initial

    def outcomes(self, state: HeadState, call: Hashable) -> tuple[Step, ...]:
        match call:
            case Publish():
                return (_publish(state, call),)
            case Announce():
                return tuple(_announce(state, call))
            case Withdraw():
                return (_withdraw(state, call),)
            case Grant():
                return ((("granted", state.fence + 1), replace(state, fence=state.fence + 1)),)
            case ReadHead():
                return ((("head", state.head, state.manifest(state.head)), state),)
            case ReadVersion(version):
                return ((("manifest", state.manifest(version)), state),)
        raise TypeError(f"no call of a head: {call!r}")


def _publish(state: HeadState, call: Publish) -> Step:
    done = dict(state.keys).get(call.key)
    if done is not None:
        return (OK if done == call.digest else ("key reused",)), state
    if state.is_withdrawn:
        return WITHDRAWN, state
    acted = replace(state, keys=state.keys | {(call.key, call.digest)})
    if call.digest in dict(state.versions).values():
        return OK, acted
    if call.fence != state.fence:
        return stale_fence(state.fence), state
    if call.version - 1 != state.head:
        return stale_parent(state.head), state
    return OK, _moved(acted, call.version, call.digest)


def _announce(state: HeadState, call: Announce) -> Iterator[Step]:
    if state.head and state.manifest(state.head) == call.digest:
        yield NOTHING, state  # seen before its fence is looked at
    if state.is_withdrawn:
        yield WITHDRAWN, state
    elif call.fence != state.fence:
        yield stale_fence(state.fence), state
    elif call.version > state.head:
        yield ("restored",), _moved(state, call.version, call.digest)
    elif call.version == state.head and call.digest != state.manifest(state.head):
        yield ("another at that version", state.manifest(state.head)), state
    else:
        yield NOTHING, state


def _withdraw(state: HeadState, call: Withdraw) -> Step:
    if (call.key, "withdrawn") in state.keys:
        return OK, state
    if call.fence != state.fence:
        return stale_fence(state.fence), state
    keys = state.keys | {(call.key, "withdrawn")}
    return OK, replace(state, head=0, is_withdrawn=True, keys=keys)


def _moved(state: HeadState, version: int, digest: str) -> HeadState:
    versions = tuple(sorted({**dict(state.versions), version: digest}.items()))
    return replace(state, head=version, versions=versions)
