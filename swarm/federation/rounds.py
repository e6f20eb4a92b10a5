"""What the server sides of all apps share: a question to every node, the answers in order, and the result."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.specification import Specification
from swarm.federation.messages import array_record, named_arrays
from swarm.federation.packing import Array
from swarm.federation.progress import say
from swarm.gating.ridge import UNBALANCED

RESULT, FIGURES = "result", "figures"
MOST_SAMPLES = 10**9
"""The most samples that a node's word is taken for."""
MOST_NUMBER = 1e100
"""The largest number that is taken from a node: sums of many such are finite still."""
_LOOK_AGAIN_S = 0.5


@runtime_checkable
class NamedNodes(Protocol):
    """A grid that knows its nodes by name (`swarm.federation.stream_grid`); others take the nodes' word."""

    def node_name(self, number: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One node's answer: arrays, numbers, and what else it says; `node` is its name."""

    node: str
    arrays: Mapping[str, Array]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How many nodes must answer a round, how long one may take, how long to wait for the nodes."""

    min_nodes: int
    timeout_s: float
    patience_s: float

    @classmethod
    def of(cls, context: Context) -> "RunLimits":
        """Return the limits in a run's configuration."""
        settings = context.run_config
        return cls(
            min_nodes=int(settings.get("min-nodes", 2)),
            timeout_s=float(settings.get("timeout-s", 600.0)),
            patience_s=float(settings.get("patience-s", 30.0)),
        )


def specification_of(context: Context) -> Specification:
    """Return the specification in a run's configuration; InvalidInputError where it is none."""
    try:
        return TypeAdapter(Specification).validate_json(str(context.run_config.get("specification", "")))
    except ValidationError as error:
        raise InvalidInputError(
            "run configuration, specification", found=str(error.errors()[0]["msg"]), expected="its JSON"
        ) from None


def connected_nodes(grid: Grid, limits: RunLimits) -> list[int]:
    """Return the nodes that are connected, rising; waits patience_s for min_nodes, then NotReadyError."""
    deadline = monotonic() + limits.patience_s
    while len(nodes := sorted(grid.get_node_ids())) < limits.min_nodes:
        if monotonic() >= deadline:
            raise NotReadyError(
                "federated run",
                found=f"{len(nodes)} connected nodes",
                expected=f"at least {limits.min_nodes} within {limits.patience_s:g} s",
                remedy="start more nodes, or ask for fewer: --min-nodes N",
            )
        say(f"{len(nodes)} of {limits.min_nodes} nodes connected")
        sleep(_LOOK_AGAIN_S)
    return nodes


def ask_nodes(
    grid: Grid, limits: RunLimits, kind: str, arrays: Mapping[str, Array], config: Mapping[str, Any]
) -> list[Answer]:
    """Ask every connected node a question ("query.sums"); return what came in time, by the nodes' names.

    Nodes that died, were late or had nothing to answer with are left out and named; NotReadyError where
    fewer than min_nodes answered.
    """
    content = RecordDict({"config": ConfigRecord({"kind": kind, **config})})
    if arrays:
        content["arrays"] = array_record(dict(arrays))
    messages = [
        Message(content=content, dst_node_id=node, message_type=kind)
        for node in connected_nodes(grid, limits)
    ]
    answers, missing = read_answers(grid, grid.send_and_receive(messages, timeout=limits.timeout_s))
    check_enough(len(answers), missing, limits)
    say(f"{len(answers)} of {len(messages)} nodes", done=1.0)
    return answers


def check_enough(heard: int, missing: Mapping[str, str], limits: RunLimits) -> None:
    """Raise NotReadyError where fewer than min_nodes answered, with each reason by node in `missing` once."""
    if heard < limits.min_nodes:
        nodes: dict[str, list[str]] = {}
        for node, reason in sorted(missing.items()):
            nodes.setdefault(reason.removeprefix(f"{node}: "), []).append(node)
        reasons = "; ".join(f"{listed(names)}: {reason}" for reason, names in nodes.items())
        connected = "see which nodes are connected and have trained: swarm status"
        raise NotReadyError(
            "federated round",
            found=f"{heard} answers" + (f" ({reasons[:1000]})" if reasons else ""),
            expected=f"at least {limits.min_nodes}",
            remedy=f"mend what they name, or {connected}" if missing else connected,
        )


def read_answers(grid: Grid, replies: Iterable[Message]) -> tuple[list[Answer], dict[str, str]]:
    """Return the answers by the nodes' names, and why others did not answer, by theirs."""
    answers, missing = [], {}
    for reply in replies:
        if reply.has_error():
            missing[node_of(grid, reply)] = str(reply.error.reason)
        else:
            answers.append(read_answer(grid, reply))
    names = [answer.node for answer in answers]
    if len(set(names)) != len(names):
        raise InvalidInputError("federated round", found="one node's name twice", expected="one answer each")
    return sorted(answers, key=lambda answer: answer.node), missing


def read_answer(grid: Grid, reply: Message) -> Answer:
    """Return a reply that is no error as an answer; InvalidInputError, naming the node, for arrays that are
    none."""
    node = node_of(grid, reply)
    arrays: dict[str, Array] = {}
    for record in reply.content.array_records.values():
        try:
            arrays |= named_arrays(record)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"reply of node {node}", found="arrays that cannot be read", expected="numpy arrays"
            ) from error
    return Answer(
        node=node,
        arrays=arrays,
        metrics=cast(Mapping[str, float], _merged(reply.content.metric_records.values())),
        config=_merged(reply.content.config_records.values()),
    )


def node_of(grid: Grid, reply: Message) -> str:
    """Return the name of the node that a reply is from."""
    number = reply.metadata.src_node_id
    if isinstance(grid, NamedNodes):
        return grid.node_name(number)
    config = {} if reply.has_error() else _merged(reply.content.config_records.values())
    return str(config.get("node", ""))[:64] or f"node-{number}"


def most_samples(counts: Sequence[int]) -> int:
    """Return how many samples a node counts by at most: UNBALANCED times the lower median of the nodes'.

    That caps what one node's word can do; of two nodes one alone can not set the median. The same rule as
    for owners' sums (`swarm.gating.ridge.owner_weights`).
    """
    return int(UNBALANCED * sorted(counts)[(len(counts) - 1) // 2]) if counts else 0


def clipped_counts(counts: Sequence[int]) -> list[int]:
    """Return the samples that each node weighs by: those that it names, at most `most_samples` of all."""
    most = most_samples(counts)
    return [min(count, most) for count in counts]


def node_weights(counts: Sequence[int], most: int) -> list[float]:
    """Return what each node's sums over its samples are multiplied by: 1, less where they are over most."""
    return [min(1.0, most / count) if count else 1.0 for count in counts]


def told_clipped(answers: Sequence[Answer], weights: Sequence[float]) -> str:
    """Return "7 nodes", and who of them counts for less than it says."""
    less = [answer.node for answer, weight in zip(answers, weights, strict=True) if weight < 1]
    return f"{len(answers)} nodes" + (f"; clipped: {listed(less)}" if less else "")


def finish(context: Context, arrays: Mapping[str, Array], figures: Mapping[str, float]) -> None:
    """Leave the result in the run's state; also in the .npz file that the configuration's `out` names."""
    context.state[RESULT] = array_record(dict(arrays))
    context.state[FIGURES] = MetricRecord({name: float(value) for name, value in figures.items()})
    out = str(context.run_config.get("out", ""))
    if out:
        beside = Path(out).with_name(f".{Path(out).name}.tmp.npz")
        np.savez(beside, **dict(arrays))  # type: ignore[arg-type]
        beside.replace(out)
    say("done", done=1.0, figures=figures)


def listed(nodes: Sequence[str]) -> str:
    """Return at most five names, and how many more there are."""
    more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return ", ".join(nodes[:5]) + more


def checked_array(answer: Answer, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return an answer's array; InvalidInputError naming the node unless dtype and shape are right and its
    numbers finite.

    -1 in shape stands for any size.
    """
    array = answer.arrays.get(name)
    fits = (
        array is not None
        and array.dtype == np.dtype(dtype)
        and array.ndim == len(shape)
        and all(want in (-1, has) for want, has in zip(shape, array.shape, strict=True))
    )
    if array is None or not fits:
        raise InvalidInputError(
            f"{name} of node {answer.node}",
            found="none" if array is None else f"{array.dtype} {list(array.shape)}",
            expected=f"{dtype} {list(shape)}",
        )
    if array.dtype.kind == "f":
        check_within(answer, name, array, np.inf)
    return array


def check_within(answer: Answer, name: str, values: Array, most: NDArray[np.float64] | float) -> None:
    """Raise InvalidInputError, naming the node, unless values are finite and within +-most, which may be an
    array that broadcasts to theirs."""
    wrong = ~(np.isfinite(values) & (np.abs(values) <= most))
    if wrong.any():
        limit = float(np.broadcast_to(most, values.shape)[wrong][0])
        raise InvalidInputError(
            f"{name} of node {answer.node}",
            found=f"{float(values[wrong][0]):g}",
            expected="finite numbers" if limit == np.inf else f"numbers within +-{limit:g}",
        )


def checked_count(answer: Answer, name: str, most: int, *, least: int = 0) -> int:
    """Return a count that an answer states; InvalidInputError naming the node unless it is least..most."""
    found: Any = answer.metrics.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise _refused(answer, name, found, f"a whole number from {least} to {most}")
    return found


def checked_number(answer: Answer, name: str, most: float = MOST_NUMBER) -> float:
    """Return a number that an answer states; InvalidInputError naming the node unless it is 0..most."""
    found: Any = answer.metrics.get(name)
    known = isinstance(found, int | float) and not isinstance(found, bool)
    if not known or not 0 <= found <= most:
        raise _refused(answer, name, found, f"a number from 0 to {most:g}")
    return float(found)


def check_counts(answer: Answer, name: str, counts: Array, least: int, *, or_none: bool = False) -> None:
    """Raise InvalidInputError, naming the node, unless counts are least..MOST_SAMPLES (or_none: or 0), and
    so is their sum."""
    wrong = (counts < least) | (counts > MOST_SAMPLES)
    if or_none:
        wrong &= counts != 0
    if wrong.any() or int(counts.sum(dtype=np.float64)) > MOST_SAMPLES:
        raise InvalidInputError(
            f"{name} of node {answer.node}",
            found=f"{counts[wrong][0]}" if wrong.any() else "counts of too many samples together",
            expected=f"{'0, or ' if or_none else ''}{least} and more, at most {MOST_SAMPLES} together",
        )


def _refused(answer: Answer, name: str, found: Any, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} of node {answer.node}",
        found="none" if found is None else repr(found)[:80],
        expected=expected,
    )


def _merged(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for record in records for name, value in record.items()}
