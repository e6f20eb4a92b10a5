"""What an S3-compatible store said, as errors with a remedy. Of its answers only known words are repeated."""

import re
from typing import Final

from swarm.domain.errors import NotAuthorisedError, NotFoundError, SwarmError, UnreachableError

CREDENTIALS: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3}[ \w]{0,40})")
_DENIED: Final = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_NO_CREDENTIALS: Final = ("/latest/api/token", "/latest/meta-data", "MissingCredentials")
_NETWORK: Final = (
    "dns error",
    "tcp connect error",
    "certificate",
    "timed out",
    "TimedOut",
    "connection closed",
    "error sending request",
)


def explained(error: Exception, subject: str) -> SwarmError:
    """Return what a failed request means: no such bucket, no right to it, or nobody who answers.

    NotFoundError is said of a bucket only; an object that is not there is the caller's to know.
    """
    said = str(error)
    code = found.group(1) if (found := _CODE.search(said)) else ""
    if code == "NoSuchBucket":
        return NotFoundError(
            subject,
            found="no such bucket",
            expected="a bucket that exists",
            remedy="create it, or correct --blobs or SWARM_REGISTRY_BLOBS",
        )
    if any(words in said for words in _NO_CREDENTIALS):
        return _denied(subject, "no credentials in the environment")
    if code in _DENIED or type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}:
        return _denied(subject, code or "access denied")
    reason = code or (status.group(1) if (status := _STATUS.search(said)) else "")
    reason = reason or next((words for words in _NETWORK if words in said), type(error).__name__)
    return UnreachableError(
        subject,
        found=reason,
        expected="an answer",
        remedy="see that the store answers at AWS_ENDPOINT_URL from the registry's machine; what was not "
        "acknowledged can be sent again",
    )


def _denied(subject: str, found: str) -> NotAuthorisedError:
    return NotAuthorisedError(
        subject,
        found=found,
        expected="the right to read, write, list and delete there",
        remedy=f"set {CREDENTIALS} where the registry runs",
    )
