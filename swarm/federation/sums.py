"""The gate's sums in one round: each node's F't and F'F over its training samples, one ridge solve over all.

The result is the pooled ridge classifier, exactly: features are integers in fixed point, so their sums do
not depend on the order. A second round judges every ridge on the nodes' validation samples. Source: AFL (He
et al. 2024).

The app runs on any Flower grid: `serverapp = "swarm.federation.sums:server_app"`,
`clientapp = "swarm.federation.sums:client_app"`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.domain.specification import Specification
from swarm.federation.messages import array_record, named_arrays
from swarm.federation.own_samples import (
    OwnSamples,
    asked,
    introduced,
    labels_among,
    own_features,
    own_samples,
    words_of,
)
from swarm.federation.packing import Array
from swarm.federation.progress import say, stage
from swarm.federation.rounds import (
    Answer,
    RunLimits,
    ask_nodes,
    checked_array,
    checked_count,
    finish,
    most_samples,
    node_weights,
    specification_of,
    told_clipped,
)
from swarm.gating.ridge import RIDGES, OwnerSums, check_sums, solve
from swarm.gating.sums import (
    MAX_SAMPLES,
    CompactSums,
    compact_sums,
    exact_gram,
    pack_triangle,
    quantised,
    target_columns,
    triangle_length,
)

client_app = ClientApp()
server_app = ServerApp()
_ROWS = 4096


@client_app.query("sums")
def give_sums(message: Message, context: Context) -> Message:
    """Answer with this node's sums: `columns` int64 [M, C_own], and F'F exact or compact.

    Classes with fewer training samples than the specification's minimum count are left out altogether.
    """
    question, samples = asked(message), own_samples(context)
    specification = samples.specification
    training = samples.training
    counts = training.class_counts()
    names = [name for name, count in counts.items() if count >= specification.min_leaf_count]
    if not names:
        raise InvalidInputError(
            f"data of node {samples.node}",
            found=f"at most {max(counts.values())} training samples of a class",
            expected=f"a class with at least {specification.min_leaf_count}, the least that may be summed",
        )
    labels = training.labels_among(names)
    kept = labels >= 0
    trunk = specification.trunk
    q = quantised(own_features(samples)[kept], trunk.fixed_point, trunk.has_constant)
    arrays: dict[str, Array] = {
        "columns": target_columns(q, labels[kept], len(names)),
        "counts": np.array([counts[name] for name in names], dtype=np.int64),
    }
    if question.get("form") == "compact":
        arrays |= compact_sums(q, int(question.get("rank", 150)), seed=0).arrays()
    else:
        arrays["triangle"] = pack_triangle(exact_gram(q))
    content = RecordDict(
        {
            "arrays": array_record(arrays),
            "config": introduced(samples, classes=names, trunk=trunk.digest),
        }
    )
    return Message(content, reply_to=message)


@client_app.query("score_ridges")
def score_ridges(message: Message, context: Context) -> Message:
    """Answer how many of this node's validation samples each weight matrix float64 [M, C] gets right."""
    question, samples = asked(message), own_samples(context)
    names = words_of(question, "classes")
    given = {
        name: array
        for record in message.content.array_records.values()
        for name, array in named_arrays(record).items()
    }
    correct = ridge_scores(samples, given, names)
    metrics = MetricRecord({"samples": len(samples.validation), **correct})
    return Message(RecordDict({"metrics": metrics, "config": introduced(samples)}), reply_to=message)


def ridge_scores(samples: OwnSamples, weights: dict[str, Array], names: tuple[str, ...]) -> dict[str, int]:
    """Return how many validation samples each of the weights [M, C] gets right."""
    trunk = samples.specification.trunk
    q = quantised(own_features(samples, validation=True), trunk.fixed_point, trunk.has_constant)
    labels = labels_among(samples, samples.validation, names)
    for name, matrix in weights.items():
        if matrix.shape != (trunk.sum_size, len(names)):
            raise InvalidInputError(
                f"weights {name}",
                found=str(list(matrix.shape)),
                expected=str([trunk.sum_size, len(names)]),
            )
    correct = dict.fromkeys(weights, 0)
    for start in range(0, len(q), _ROWS):
        part, right = q[start : start + _ROWS].astype(np.float64), labels[start : start + _ROWS]
        for name, matrix in weights.items():
            correct[name] += int(((part @ matrix.astype(np.float64)).argmax(axis=1) == right).sum())
    return correct


@server_app.main()
def pool_sums(grid: Grid, context: Context) -> None:
    """Ask for the sums, check them, solve for every ridge, let the nodes judge, keep the best."""
    limits, specification = RunLimits.of(context), specification_of(context)
    stage("sums", 0.0, 0.6)
    form = str(context.run_config.get("form", "exact"))
    question = {"form": form, "rank": int(context.run_config.get("rank", 150))}
    answers = ask_nodes(grid, limits, "query.sums", {}, question)
    names = specification.class_names
    classes = [_own_classes(answer, specification) for answer in answers]
    owners = [
        _owner_sums(answer, own, question, specification)
        for answer, own in zip(answers, classes, strict=True)
    ]
    stage("solve", 0.6, 0.2)
    solved = solve(owners, RIDGES, specification.trunk.fixed_point)
    class_rows = np.array([names.index(name) for own in classes for name in own], dtype=np.int64)
    root = np.zeros((len(RIDGES), solved.shape[1], len(names)))
    for row in range(len(class_rows)):
        root[:, :, class_rows[row]] += solved[:, :, row]
    stage("validation", 0.8, 0.2)
    offered = {f"root.{row}": root[row] for row in range(len(RIDGES))}
    judged = ask_nodes(grid, limits, "query.score_ridges", offered, {"classes": list(names)})
    # A node's sums count at most MAX_SAMPLES; what it judges on is a tenth of what it trains on.
    own = [checked_count(answer, "samples", MAX_SAMPLES, least=1) for answer in judged]
    weights = node_weights(own, most_samples(own))
    said = list(zip(judged, own, weights, strict=True))
    correct = [
        sum(weight * checked_count(answer, name, most) for answer, most, weight in said) for name in offered
    ]
    validated = sum(weight * count for _, count, weight in said)
    say(told_clipped(judged, weights), 1.0)
    best = int(np.argmax(correct))
    finish(
        context,
        {
            "weights": solved,
            "root": root[best],
            "ridges": np.array(RIDGES),
            "class_names": _as_bytes(names),
            "class_rows": class_rows,
            "owner_rows": np.array(
                [row for row, owner in enumerate(owners) for _ in range(owner.columns.shape[1])],
                dtype=np.int64,
            ),
            "owners": _as_bytes([owner.owner for owner in owners]),
        },
        {
            "nodes": len(answers),
            "samples": sum(owner.samples for owner in owners),
            "ridge": RIDGES[best],
            "validation_samples": validated,
            "validation_accuracy": correct[best] / validated,
        },
    )


def _owner_sums(
    answer: Answer, classes: Sequence[str], question: Mapping[str, Any], specification: Specification
) -> OwnerSums:
    """Return an answer as checked sums in the form that was asked for; raises by the node's name."""
    trunk, size = specification.trunk, specification.trunk.sum_size
    if answer.config.get("trunk") != trunk.digest:
        raise InvalidInputError(
            f"sums of node {answer.node}",
            found=f"features of trunk {str(answer.config.get('trunk'))[:12]}",
            expected=f"trunk {trunk.digest[:12]}",
        )
    counts = checked_array(answer, "counts", "int64", (len(classes),))
    compact, exact = None, None
    if question["form"] == "compact":
        factors = {"factors": checked_array(answer, "factors", "int16", (size, -1))}
        if "minor_factors" in answer.arrays:
            factors["minor_factors"] = checked_array(answer, "minor_factors", "int8", (size, -1))
        rank = sum(each.shape[1] for each in factors.values())
        if rank > question["rank"]:
            raise InvalidInputError(
                f"factors of node {answer.node}", found=f"{rank}", expected=f"at most {question['rank']}"
            )
        scales = checked_array(answer, "factor_scales", "float32", (rank,))
        diagonal = checked_array(answer, "diagonal", "float32", (size,))
        compact = CompactSums.from_arrays({**factors, "factor_scales": scales, "diagonal": diagonal})
    else:
        dtype = "int64" if answer.arrays.get("triangle", counts).dtype == np.int64 else "int32"
        exact = checked_array(answer, "triangle", dtype, (triangle_length(size),))
    owner = OwnerSums(
        owner=answer.node,
        samples=int(counts.sum()),
        columns=checked_array(answer, "columns", "int64", (size, len(classes))),
        exact=exact,
        compact=compact,
    )
    check_sums(owner, counts, trunk.fixed_point)
    return owner


def _own_classes(answer: Answer, specification: Specification) -> tuple[str, ...]:
    """Return the classes that an answer has sums of; InvalidInputError, naming the node, unless they are
    distinct ones of the specification."""
    subject, found = f"classes of node {answer.node}", answer.config.get("classes")
    if not isinstance(found, list) or not found or len(set(map(str, found))) != len(found):
        raise InvalidInputError(subject, found=repr(found)[:80], expected="a list of distinct words")
    unknown = [name for name in found if name not in specification.class_names]
    if unknown:
        raise InvalidInputError(
            subject,
            found=f"class {unknown[0]!r}"[:90],
            expected=f"classes of specification {specification.version}",
        )
    return tuple(found)


def _as_bytes(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return names as the bytes of their lines, uint8 [n]: arrays of text do not travel."""
    return np.frombuffer("\n".join(names).encode(), dtype=np.uint8).copy()
