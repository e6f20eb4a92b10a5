"""Whose version that answers has changed, in order: what was made of the versions is kept, not made anew."""

from typing import Final

MOST: Final = 4096
"""So many changes are told one by one, at least; who has not looked for longer starts anew."""


class HeadChanges:
    """The names of experts whose version, or of owners all of whose versions, may be others than before."""

    def __init__(self) -> None:
        self._before, self._names = 0, list[str]()

    @property
    def mark(self) -> int:
        """How many changes there were so far."""
        return self._before + len(self._names)

    def note(self, *names: str) -> None:
        """Call this after, or in the same step of the event loop as, the change itself."""
        self._names += names
        if len(self._names) > 2 * MOST:
            self._before += len(self._names) - MOST
            self._names = self._names[-MOST:]

    def since(self, mark: int) -> frozenset[str] | None:
        """Return what changed after a mark; None where nobody knows any more."""
        return None if mark < self._before else frozenset(self._names[mark - self._before :])
