"""Federated evaluation: given weights, judged by every node on its own validation samples; sums come back.

The weights are a net's arrays (`net` names its factory), or, with net `ridge-root`, matrices [M, C] over the
trunk's features in fixed point and the specification's classes.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.specification import Specification
from swarm.experts.shared_net import SharedNet
from swarm.federation.averaging import net_samples, shared_net
from swarm.federation.messages import named_arrays
from swarm.federation.own_samples import asked, introduced, own_samples, words_of
from swarm.federation.packing import Array, unpack_named
from swarm.federation.progress import say, stage
from swarm.federation.rounds import (
    MOST_SAMPLES,
    Answer,
    RunLimits,
    ask_nodes,
    checked_count,
    checked_number,
    finish,
    most_samples,
    node_weights,
    specification_of,
    told_clipped,
)
from swarm.federation.sums import ridge_scores
from swarm.federation.updates import check_like

RIDGE_ROOT = "ridge-root"
client_app = ClientApp()
server_app = ServerApp()


@client_app.query("score")
def score(message: Message, context: Context) -> Message:
    """Answer how many validation samples the given weights get right, of how many, and the summed loss."""
    question, samples = asked(message), own_samples(context)
    names, factory = words_of(question, "classes"), str(question["net"])
    given = named_arrays(next(iter(message.content.array_records.values())))
    counts: dict[str, Any] = {"samples": len(samples.validation)}
    if factory == RIDGE_ROOT:
        scores = ridge_scores(samples, given, names)
        counts["correct"] = max(scores.values()) if len(scores) == 1 else 0
        counts |= {f"correct.{name}": correct for name, correct in scores.items()}
    else:
        net = shared_net(factory, samples, names)
        counts["correct"], counts["nll_sum"] = net.scored(given, net_samples(samples, names, validation=True))
    content = RecordDict({"metrics": MetricRecord(counts), "config": introduced(samples)})
    return Message(content, reply_to=message)


@server_app.main()
def evaluate_arrays(grid: Grid, context: Context) -> None:
    """Send the weights to every node once; sum what comes back, of a node at most `most_samples`' worth."""
    limits, specification = RunLimits.of(context), specification_of(context)
    try:
        data = base64.b64decode(str(context.run_config.get("arrays", "")), validate=True)
    except binascii.Error as error:
        raise InvalidInputError("option arrays", found="no base64", expected="packed arrays") from error
    arrays = unpack_named(data, "option arrays")
    check_weights(arrays, str(context.run_config["net"]), specification)
    stage("evaluation", 0.0, 1.0)
    question = {"net": str(context.run_config["net"]), "classes": list(specification.class_names)}
    answers = ask_nodes(grid, limits, "query.score", arrays, question)
    weights = tuple(arrays) if question["net"] == RIDGE_ROOT else ()
    scores = [checked_scores(answer, weights) for answer in answers]
    samples = [int(each["samples"]) for each in scores]
    shares = node_weights(samples, most_samples(samples))
    say(told_clipped(answers, shares), 1.0)
    totals = {
        name: sum(share * each[name] for each, share in zip(scores, shares, strict=True))
        for name in scores[0]
    }
    accuracy = totals["correct"] / totals["samples"]
    finish(context, {}, {**totals, "nodes": len(answers), "validation_accuracy": accuracy})


def check_weights(arrays: Mapping[str, Array], net: str, specification: Specification) -> None:
    """Raise ShapeMismatchError, with what to do, unless arrays are those of the net, or of ridge roots.

    A net of somebody's own that cannot be built here is left to the nodes that have it.
    """
    classes = len(specification.class_names)
    if net == RIDGE_ROOT:
        shape = (specification.trunk.sum_size, classes)
        like = np.broadcast_to(np.zeros(()), shape)
        remedy = "give a file of this swarm's own: swarm federate sums --out FILE"
        check_like(
            "weights to be judged",
            arrays,
            dict.fromkeys(arrays, like) or {"root": like},
            remedy=remedy,
            dtypes=False,
        )
        return
    try:
        own = SharedNet(factory=net, input_shape=specification.input_shape, classes=classes).initial(0)
    except NotFoundError:
        return
    remedy = "name the net that the file is of: --net NAME"
    check_like(f"weights for net {net}", arrays, own, remedy=remedy, dtypes=False)


def checked_scores(answer: Answer, weights: tuple[str, ...]) -> dict[str, float]:
    """Return what an answer counts, for each of the ridge weights by name, or for a net where there are none;
    raises by the node's name."""
    samples = checked_count(answer, "samples", MOST_SAMPLES, least=1)
    counted = ["correct", *(f"correct.{name}" for name in weights)]
    scores: dict[str, float] = {name: checked_count(answer, name, samples) for name in counted}
    if not weights:
        scores["nll_sum"] = checked_number(answer, "nll_sum")
    return {"samples": samples, **scores}
