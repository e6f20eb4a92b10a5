"""What a store says when it refuses: the same words from every adapter."""

from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StaleFenceError,
    StaleParentError,
    UnauthenticatedError,
)
from swarm.domain.ids import owner_of

TOKEN_REFUSALS = {
    "unknown": "an id that this swarm never gave out",
    "wrong": "a wrong secret",
    "revoked": "a revoked token",
    "expired": "an expired token",
    "used": "a token that was used already",
}


def stale_parent(expert: str, version: int, parent: int, head: int) -> StaleParentError:
    return StaleParentError(
        f"{expert}@{version}",
        found=f"parent {parent}",
        expected=f"the head, {head}" if head else "parent 0: this expert has no head",
        remedy="pull the head and train again",
    )


def stale_fence(node: str, fence: int, newest: int) -> StaleFenceError:
    return StaleFenceError(
        f"lease of {node}",
        found=f"fence {fence}",
        expected=f"fence {newest}" if newest else "a granted lease",
        remedy="another process took this node's place, or the stream was opened anew; connect and try again",
    )


def withdrawn(expert: str, version: int, target: str) -> ConflictError:
    return ConflictError(
        f"{expert}@{version}",
        found=f"a tombstone for {target}",
        expected="an expert that was not withdrawn",
        remedy="withdrawn experts do not come back; train a new one",
    )


def other_at_version(expert: str, version: int, digest: str, held: str) -> ConflictError:
    return ConflictError(
        f"{expert}@{version}",
        found=f"manifest {digest[:12]}",
        expected=f"manifest {held[:12]}, which has this version",
        remedy="publish your work as the next version",
    )


def key_reused(key: str) -> ConflictError:
    return ConflictError(
        f"idempotency key {key[:40]}",
        found="another request under the same key",
        expected="one key for each request",
        remedy="send the request with a new key",
    )


def not_next(what: str, version: int, newest: int) -> ConflictError:
    return ConflictError(
        f"{what} {version}",
        found=f"{what} {newest} as the newest",
        expected=f"{what} {newest + 1} next",
        remedy=f"read the newest {what} and try again",
    )


def bad_token(token_id: str, reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"join token {token_id[:40]}",
        found=TOKEN_REFUSALS[reason],
        expected="a token that is valid now",
        remedy="ask the operator for a new one: swarm token create (for a client: --role client)",
    )


def no_token(token_id: str) -> NotFoundError:
    return NotFoundError(
        f"join token {token_id[:40]}",
        found="no token of that id",
        expected="the id of a token that was made here",
        remedy="list them: swarm token list",
    )


def not_empty(found: str) -> ConflictError:
    return ConflictError(
        "restore of the metadata", found=found, expected="an empty store", remedy="restore into a new home"
    )


def owner_of_target(target: str) -> str:
    """Return the node that a withdrawal's target, an expert or a node, belongs to."""
    return owner_of(target) if "." in target else target  # type: ignore[arg-type]


def event_id(text: str) -> tuple[int, int]:
    """Return an event's id as numbers that sort, (0, 0) for empty; InvalidInputError for anything else."""
    milliseconds, dash, number = text.partition("-")
    if not text:
        return 0, 0
    plain = text.isascii() and len(milliseconds) <= 18 and len(number) <= 18
    if not (plain and milliseconds.isdecimal() and (number.isdecimal() if dash else not number)):
        raise InvalidInputError("event id", found=text[:40], expected="<milliseconds>-<number>")
    return int(milliseconds), int(number or 0)
