"""What each app takes from the operator, checked before anything starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from swarm.domain.errors import UsageError
from swarm.domain.federation import APP_NAMES
from swarm.domain.ids import NodeId

Option = bool | int | float | str


@dataclass(frozen=True, slots=True)
class _Takes:
    """An option's type, default and bounds; for text the words that are allowed, none for any."""

    default: Option
    least: float = 0.0
    most: float = 0.0
    words: tuple[str, ...] = ()
    long: bool = False


_COMMON = {
    "min-nodes": _Takes(2, 1, 100_000),
    "timeout-s": _Takes(600.0, 1, 86_400),
    "patience-s": _Takes(30.0, 0, 3_600),
    "seed": _Takes(0, 0, 2**31 - 1),
}
_TAKEN: Mapping[str, Mapping[str, _Takes]] = {
    "sums": {
        "form": _Takes("exact", words=("exact", "compact")),
        "rank": _Takes(150, 1, 4_096),
    },
    "kmeans": {
        "k": _Takes(8, 0, 4_096),
        "rounds": _Takes(10, 1, 1_000),
        "select": _Takes("all", words=("all", "novel")),
        "nodes": _Takes("", long=True),
    },
    "average": {
        "net": _Takes("mlp:128x2"),
        "rounds": _Takes(20, 1, 10_000),
        "steps": _Takes(100, 1, 1_000_000),
    },
    "evaluate": {"net": _Takes("mlp:128x2"), "arrays": _Takes("", long=True)},
}


def novel_regions(
    nodes: Sequence[NodeId], *, k: int = 0, least: int = 0, timeout_s: float = 600.0
) -> dict[str, str]:
    """Return options of `kmeans` for what these nodes found new, of which `least` (0: all) must answer."""
    return {
        "select": "novel",
        "nodes": ",".join(nodes),
        "k": str(k),
        "min-nodes": str(least or len(nodes)),
        "timeout-s": str(timeout_s),
        "patience-s": "0",
    }


def parse_options(app: str, options: Mapping[str, str]) -> dict[str, Option]:
    """Return every option of an app with its value or default; UsageError names what is wrong.

    Common to all: `min-nodes` (how many must answer each round), `timeout-s` (a round's limit), `patience-s`
    (how long to wait for min-nodes to be connected), `seed`. Of `kmeans`, `k` 0 means as many as the samples
    allow, `nodes` the only ones to ask, with commas between them (empty: all).
    """
    if app not in APP_NAMES:
        raise UsageError("federated app", found=repr(app[:40]), expected=", ".join(APP_NAMES))
    takes = {**_COMMON, **_TAKEN[app]}
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise UsageError(f"option {unknown[0]} of {app}", found="unknown", expected=", ".join(takes))
    return {name: _value(f"option {name} of {app}", rule, options.get(name)) for name, rule in takes.items()}


def _value(subject: str, rule: _Takes, text: str | None) -> Option:
    if text is None:
        return rule.default
    if isinstance(rule.default, str):
        if rule.words and text not in rule.words:
            raise UsageError(subject, found=repr(text[:40]), expected=" or ".join(rule.words))
        if not rule.long and len(text) > 200:
            raise UsageError(subject, found=f"{len(text)} characters", expected="at most 200")
        return text
    parse: Callable[[str], int | float] = int if isinstance(rule.default, int) else float
    try:
        value = parse(text)
    except ValueError:
        value = rule.least - 1
    if not rule.least <= value <= rule.most:
        raise UsageError(
            subject, found=repr(text[:40]), expected=f"a number from {rule.least:g} to {rule.most:g}"
        )
    return value
