"""The stacks of experts that are asked together, as long as all of their experts are in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarm.domain.ids import Digest
from swarm.domain.inference import ExpertForm
from swarm.domain.manifests import NetReference
from swarm.experts.grouped import MOST_EXPERTS, ExpertGroup

WANTED: Final = 4
"""A stack is made when it was missed so many times: making it takes about as long as one pass."""

Kind = tuple[NetReference, ExpertForm]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A group, and the manifests of its experts in its order."""

    members: tuple[Digest, ...]
    group: ExpertGroup


class ExpertGroups:
    """At most one stack of each kind. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._stacks: dict[Kind, Stack] = {}
        self._missed: Counter[Kind] = Counter()

    @property
    def size_bytes(self) -> int:
        return sum(stack.group.size_bytes for stack in self._stacks.values())

    def find(self, kind: Kind, digests: Sequence[Digest]) -> Stack | None:
        """Return the stack of a kind if it has all of these experts."""
        stack = self._stacks.get(kind)
        if stack is not None and set(digests) <= set(stack.members):
            return stack
        self._missed[kind] += 1
        return None

    def wanted(self, kind: Kind, digests: Sequence[Digest]) -> tuple[Digest, ...]:
        """Return whose weights to stack where a stack was missed; nobody's as long as it was not often."""
        if self._missed[kind] < WANTED:
            return ()
        self._missed[kind] = 0
        present = self._stacks.get(kind)
        found = dict.fromkeys((*digests, *(present.members if present is not None else ())))
        return tuple(found)[: max(MOST_EXPERTS, len(digests))]

    def put(self, kind: Kind, stack: Stack) -> None:
        """Keep a stack in the place of its kind's last one."""
        self._stacks[kind] = stack

    def forget(self, digest: Digest) -> None:
        """Drop the stacks that an expert is in."""
        self._stacks = {kind: s for kind, s in self._stacks.items() if digest not in s.members}

    def drop(self, kind: Kind) -> None:
        """Drop the stack of a kind."""
        self._stacks.pop(kind, None)

    def clear(self) -> None:
        """Drop all stacks."""
        self._stacks.clear()
