"""What a rollback changed: whose leaves went, whose came back, and whose stay away though they were there."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.domain.gates import GateLeaf, GateStatement


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDifference:
    """`goes` were in the gate of before and are not now, `comes_back` the other way round; `left_out` were in
    the version that was gone back to, but left or were withdrawn since."""

    goes: tuple["GateLeaf", ...]
    comes_back: tuple["GateLeaf", ...]
    left_out: tuple["GateLeaf", ...]


def gate_difference(before: "GateStatement", wanted: "GateStatement", now: "GateStatement") -> GateDifference:
    """Return what a rollback from `before` to `wanted` came to in the version `now`."""
    return GateDifference(
        goes=_without(before, now), comes_back=_without(now, before), left_out=_without(wanted, now)
    )


def describe_difference(difference: GateDifference) -> str:
    """Return the difference for people, one line for each owner and each way."""
    lines = [
        *_lines("goes", difference.goes),
        *_lines("comes back", difference.comes_back),
        *_lines("left out, for it left or was withdrawn since", difference.left_out),
    ]
    return "\n".join(lines or ["the same leaves as before"])


def _without(gate: "GateStatement", other: "GateStatement") -> tuple["GateLeaf", ...]:
    there = {leaf.leaf for leaf in other.leaves}
    return tuple(leaf for leaf in gate.leaves if leaf.leaf not in there)


def _lines(what: str, leaves: Iterable["GateLeaf"]) -> list[str]:
    by_owner = groupby(sorted(leaves, key=lambda leaf: leaf.owner), key=lambda leaf: leaf.owner)
    return [
        f"{what}: {', '.join(f'{leaf.leaf} ({leaf.expert})' for leaf in own)} of {owner}"
        for owner, own in by_owner
    ]
