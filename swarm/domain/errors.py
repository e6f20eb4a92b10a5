"""What can go wrong, said once: subject, found, expected, remedy.

Each class is one row of the table in `swarm.rpc.status`, which maps it to gRPC status, HTTP status and
exit code. A message reads `subject: found X; expected Y; remedy`.
"""

from functools import cache


class SwarmError(Exception):
    """The base of every error that a user may meet. `code` is stable and travels on the wire."""

    code = "internal"

    def __init__(self, subject: str, *, found: str = "", expected: str = "", remedy: str = "") -> None:
        self.subject, self.found, self.expected, self.remedy = subject, found, expected, remedy
        super().__init__(subject, found, expected, remedy)

    def __str__(self) -> str:
        facts = [f"found {self.found}"] if self.found else []
        facts += [f"expected {self.expected}"] if self.expected else []
        facts += [self.remedy] if self.remedy else []
        return f"{self.subject}: {'; '.join(facts)}" if facts else self.subject


class InvalidInputError(SwarmError):
    """The caller sent something that can never be accepted."""

    code = "invalid_input"


class ShapeMismatchError(InvalidInputError):
    """An array has another shape or dtype than the one promised."""

    code = "shape_mismatch"


class UsageError(SwarmError):
    """The command line or the configuration is wrong."""

    code = "usage"


class NotFoundError(SwarmError):
    """The named thing does not exist here."""

    code = "not_found"


class NotServedError(NotFoundError):
    """Whoever was called does not know the call, whatever it was about."""


class UnknownMemberError(NotFoundError):
    """A statement's signer is not known here yet: fetch its CA-signed record and try again."""

    code = "unknown_member"

    @property
    def member(self) -> str:
        """The member's id; the subject reads `member <id>`."""
        return self.subject.removeprefix("member ")


class ConflictError(SwarmError):
    """The world moved on: somebody else was first, or the target is gone. The work is kept."""

    code = "conflict"


class StaleParentError(ConflictError):
    """A manifest's parent is not the head any more."""

    code = "stale_parent"


class StaleFenceError(ConflictError):
    """The writer's lease was superseded by a newer one."""

    code = "stale_fence"


class UnauthenticatedError(SwarmError):
    """Who is calling is not proven: a wrong, used, expired or revoked credential."""

    code = "unauthenticated"


class NotAuthorisedError(SwarmError):
    """The caller is known and may not do this."""

    code = "not_authorised"


class NotReadyError(SwarmError):
    """Right request, too early: no gate yet, no live owner yet, an agent that is not running."""

    code = "not_ready"


class UnreachableError(SwarmError):
    """A process or machine does not answer."""

    code = "unreachable"


class DeadlineError(UnreachableError):
    """An answer did not come in time."""

    code = "deadline"


class VerificationError(SwarmError):
    """Bytes, a signature or a digest are not what was signed. Never used, always named."""

    code = "verification"


class WrongPeerError(VerificationError):
    """Whoever answers at an address is not the member that was meant, or its certificate has expired."""

    code = "wrong_peer"


class TrunkMismatchError(SwarmError):
    """Features of one trunk met a gate or an expert of another."""

    code = "trunk_mismatch"


class HarmfulContributionError(SwarmError):
    """A contribution or candidate gate would degrade what others have."""

    code = "harmful_contribution"


class ExhaustedError(SwarmError):
    """A limit is reached: a quota, a queue, a disk.

    `retry_after_s`: when asking again may do, in seconds; 0 where nobody knows, or waiting does not help.
    """

    code = "exhausted"
    retry_after_s = 0.0

    def __init__(
        self, subject: str, *, found: str = "", expected: str = "", remedy: str = "", retry_after_s: float = 0
    ) -> None:
        super().__init__(subject, found=found, expected=expected, remedy=remedy)
        self.retry_after_s = retry_after_s


class TooManyExpertsError(ExhaustedError):
    """An owner has as many experts in the registry as it may; waiting does not help, withdrawing does."""

    code = "too_many_experts"


def _subclasses(cls: type[SwarmError]) -> list[type[SwarmError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


@cache
def error_classes() -> dict[str, type[SwarmError]]:
    """Return every error class of this module by its wire code; a class without a code does not travel."""
    return {cls.code: cls for cls in _subclasses(SwarmError) if "code" in vars(cls)}
