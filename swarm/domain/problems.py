"""An error on its way from a child process to its parent, as JSON says it."""

from dataclasses import dataclass
from typing import Self

from swarm.domain.errors import SwarmError, error_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an error says. `code` is its class's; a code that is unknown here makes a plain SwarmError."""

    code: str
    subject: str
    found: str = ""
    expected: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: SwarmError) -> Self:
        return cls(
            code=error.code,
            subject=error.subject,
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        )

    def as_error(self) -> SwarmError:
        """Return the domain error that this problem says."""
        cls = error_classes().get(self.code, SwarmError)
        return cls(self.subject, found=self.found, expected=self.expected, remedy=self.remedy)
