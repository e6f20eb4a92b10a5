"""A gate's leaves as a tree: regions at the top, what a branch was split into below it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swarm.cli.output import table

if TYPE_CHECKING:
    from swarm.domain.gates import GateBranch, GateLeaf, GateStatement

_INDENT = "  "


def gate_tree(statement: "GateStatement") -> list[dict[str, Any]]:
    """Return the tree as JSON shows it: one object for each region, its children inside.

    `manifest` is the pinned version's, empty where the head answers. Nothing that the statement lists is left
    out: what names no branch of it as its parent stands at the top.
    """
    return [_object(item, children) for item, children in _forest(statement)]


def leaves_table(statement: "GateStatement") -> str:
    """Return the tree as a table by indentation; a pinned version is marked by its manifest."""
    header = ("leaf", "owner", "expert", "sums", "classes")
    return table(header, _rows(_forest(statement), ""))


_Node = tuple["GateLeaf | GateBranch", list[Any]]


def _forest(statement: "GateStatement") -> list[_Node]:
    from swarm.domain.gates import GateBranch
    from swarm.domain.ids import number_of

    branches = {branch.leaf for branch in statement.branches}
    items: list[GateLeaf | GateBranch] = [*statement.branches, *statement.leaves]
    below: dict[str, list[GateLeaf | GateBranch]] = {}
    for item in items:
        below.setdefault(item.parent if item.parent in branches else "", []).append(item)
    reached: set[str] = set()

    def grown(item: "GateLeaf | GateBranch") -> _Node:
        reached.add(item.leaf)
        children = below.get(item.leaf, []) if isinstance(item, GateBranch) else []
        fresh = [each for each in children if each.leaf not in reached]
        return item, [grown(each) for each in sorted(fresh, key=lambda each: number_of(each.leaf))]

    tops = sorted(below.get("", []), key=lambda each: (each.owner, number_of(each.leaf)))
    forest = [grown(item) for item in tops]
    # Branches that are each other's parents: no such gate is made, and none may be shown without its leaves.
    for item in items:
        if item.leaf not in reached:
            forest.append(grown(item))
    return forest


def _object(item: "GateLeaf | GateBranch", children: list[Any]) -> dict[str, Any]:
    from swarm.domain.gates import GateLeaf

    if isinstance(item, GateLeaf):
        facts = {"expert": item.expert, "manifest": item.manifest, "class_names": item.class_names}
        return {"leaf": item.leaf, "owner": item.owner, **facts}
    inner = [_object(*child) for child in children]
    return {"leaf": item.leaf, "owner": item.owner, "is_learned": item.is_learned, "children": inner}


def _rows(forest: list[_Node], indent: str) -> Iterator[tuple[str, ...]]:
    from swarm.domain.gates import GateLeaf

    for item, children in forest:
        name = f"{indent}{item.leaf}"
        if isinstance(item, GateLeaf):
            pinned = f" pinned to {item.manifest[:12]}" if item.manifest else ""
            sums = "yes" if item.has_columns else "no"
            yield name, item.owner, f"{item.expert}{pinned}", sums, ", ".join(item.class_names)
        else:
            shares = "a learned gate" if item.is_learned else "their scores"
            yield name, item.owner, "branch", "", f"shared by {shares}"
            yield from _rows(children, indent + _INDENT)
