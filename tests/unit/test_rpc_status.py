"""The table of errors: every class has a row, and crosses gRPC and HTTP without loss."""

import grpc
import pytest

from swarm.domain.errors import (
    ConflictError,
    SwarmError,
    UnauthenticatedError,
    VerificationError,
    error_classes,
)
from swarm.rpc import convert, status
from swarm.rpc.failures import error_of
from swarm.rpc.pb import types_pb2

ALL = sorted(error_classes().items())


@pytest.mark.parametrize(("code", "cls"), ALL)
def test_an_error_comes_back_as_what_it_was(code: str, cls: type[SwarmError]) -> None:
    error = status.error_from_parts(code, "plants@4", "parent 2", "parent 3", "pull the head")
    for back in (
        convert.problem_from_pb(convert.problem_to_pb(error)),
        status.error_from_json(status.problem_json(error), status.http_status(error), "host:7070"),
    ):
        assert type(back) is cls
        assert str(back) == "plants@4: found parent 2; expected parent 3; pull the head"
    assert grpc.StatusCode[status.status_of(error).grpc] is not grpc.StatusCode.OK
    assert 400 <= status.http_status(error) < 600 and 1 <= status.exit_code(error) <= 7


def test_exit_codes_are_those_that_the_command_promises() -> None:
    codes = {cls.__name__: status.status_of(cls).exit for cls in error_classes().values()}
    assert {name: codes[name] for name in ("UsageError", "UnreachableError", "DeadlineError")} == {
        "UsageError": 2,
        "UnreachableError": 3,
        "DeadlineError": 3,
    }
    assert (codes["UnauthenticatedError"], codes["NotAuthorisedError"], codes["NotReadyError"]) == (4, 4, 5)
    assert (codes["StaleParentError"], codes["VerificationError"]) == (6, 7)


def test_a_class_without_its_own_row_has_its_bases() -> None:
    class NewerConflictError(ConflictError):
        pass

    assert status.status_of(NewerConflictError("x")) == status.TABLE[ConflictError]


def test_an_unknown_code_becomes_a_plain_error_with_all_its_text() -> None:
    error = convert.problem_from_pb(types_pb2.Problem(code="of the future", subject="s", remedy="upgrade"))
    assert type(error) is SwarmError and str(error) == "s: upgrade"


@pytest.mark.parametrize("body", [None, [], "text", {"code": 3}, {"code": "usage"}])
def test_an_http_answer_without_a_reason_still_names_who_gave_it(body: object) -> None:
    error = status.error_from_json(body, 401, "host:7070")
    assert type(error) is UnauthenticatedError and "host:7070" in str(error)


@pytest.mark.parametrize(
    ("details", "cls", "text"),
    [
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", VerificationError, "another certificate"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", UnauthenticatedError, "our certificate was refused"),
        ("ipv4:1.2.3.4:5: connect: Connection refused (111)", SwarmError, "nobody listens there"),
        ("DNS resolution failed for nowhere:1", SwarmError, "no such host"),
        ("Socket closed", SwarmError, "swarm doctor"),
    ],
)
def test_a_failed_connection_says_why(details: str, cls: type[SwarmError], text: str) -> None:
    nothing = grpc.aio.Metadata()
    raw = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details, None)
    error = error_of(raw, "registry at h:7072")
    assert isinstance(error, cls) and text in str(error) and "registry at h:7072" in str(error)


@pytest.mark.parametrize(
    ("timeout_s", "text"), [(2.5, "within 2.5 s"), (-9e-6, "in time"), (None, "in time")]
)
def test_a_late_answer_says_how_long_was_waited_if_at_all(timeout_s: float | None, text: str) -> None:
    nothing = grpc.aio.Metadata()
    raw = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, "", None)
    assert f"no answer {text}" in str(error_of(raw, "registry at h:7072", timeout_s))
