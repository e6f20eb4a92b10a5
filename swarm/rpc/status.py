"""One table: error class to gRPC status, HTTP status and exit code; and a problem as JSON for HTTP.

A class that is not in the table is mapped as its nearest base that is. grpc itself is not imported here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from swarm.domain import errors
from swarm.domain.errors import SwarmError


class Status(NamedTuple):
    """How one class of error looks from outside. `grpc` is the name of a `grpc.StatusCode`."""

    grpc: str
    http: int
    exit: int


TABLE: Mapping[type[SwarmError], Status] = {
    errors.SwarmError: Status("INTERNAL", 500, 1),
    errors.InvalidInputError: Status("INVALID_ARGUMENT", 400, 2),
    errors.UsageError: Status("INVALID_ARGUMENT", 400, 2),
    errors.NotFoundError: Status("NOT_FOUND", 404, 2),
    errors.UnreachableError: Status("UNAVAILABLE", 503, 3),
    errors.DeadlineError: Status("DEADLINE_EXCEEDED", 504, 3),
    errors.UnauthenticatedError: Status("UNAUTHENTICATED", 401, 4),
    errors.NotAuthorisedError: Status("PERMISSION_DENIED", 403, 4),
    errors.NotReadyError: Status("UNAVAILABLE", 503, 5),
    errors.ExhaustedError: Status("RESOURCE_EXHAUSTED", 429, 5),
    errors.ConflictError: Status("ABORTED", 409, 6),
    errors.VerificationError: Status("DATA_LOSS", 422, 7),
    errors.TrunkMismatchError: Status("FAILED_PRECONDITION", 412, 7),
    errors.HarmfulContributionError: Status("FAILED_PRECONDITION", 422, 7),
}
_PARTS = ("subject", "found", "expected", "remedy")


def status_of(error: SwarmError | type[SwarmError]) -> Status:
    """Return the row of error's class, or of its nearest base in the table."""
    cls = error if isinstance(error, type) else type(error)
    return next(TABLE[base] for base in cls.__mro__ if base in TABLE)


def exit_code(error: SwarmError) -> int:
    """Return the command's exit code for error."""
    return status_of(error).exit


def http_status(error: SwarmError) -> int:
    """Return the HTTP status for error."""
    return status_of(error).http


def problem_json(error: SwarmError) -> dict[str, str]:
    """Return error as the body of an HTTP answer: code, subject, found, expected, remedy."""
    return {"code": error.code, **{part: getattr(error, part) for part in _PARTS}}


def error_from_parts(code: str, subject: str, found: str, expected: str, remedy: str) -> SwarmError:
    """Return the error that the parts describe; a code that this version lacks gives a plain SwarmError."""
    cls = errors.error_classes().get(code, SwarmError)
    error = cls.__new__(cls)  # a subclass may demand more of its constructor than the wire carries
    SwarmError.__init__(error, subject, found=found, expected=expected, remedy=remedy)
    return error


def error_from_json(body: object, http: int, address: str) -> SwarmError:
    """Return the error in an HTTP answer's body, or one made from its status where the body has none."""
    if isinstance(body, Mapping) and isinstance(body.get("code"), str) and body.get("subject"):
        parts = [str(body.get(part) or "") for part in _PARTS]
        return error_from_parts(str(body["code"]), *parts)
    cls = next((cls for cls, row in TABLE.items() if row.http == http), SwarmError)
    return cls(address, found=f"HTTP status {http} without a reason", remedy="run `swarm doctor`")
