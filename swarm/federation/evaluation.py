"""Federated evaluation: given weights, judged by every node on its own validation samples; sums come back.

The weights are a net's arrays (`net` names its factory), or, with net `ridge-root`, matrices [M, C] over the
trunk's features in fixed point and the specification's classes.
"""

import base64
import binascii
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from swarm.domain.errors import InvalidInputError
from swarm.federation.averaging import net_samples, shared_net
from swarm.federation.messages import named_arrays
from swarm.federation.own_samples import asked, introduced, own_samples, words_of
from swarm.federation.packing import unpack_named
from swarm.federation.progress import stage
from swarm.federation.rounds import (
    MOST_SAMPLES,
    Answer,
    RunLimits,
    ask_nodes,
    checked_count,
    checked_number,
    finish,
    specification_of,
)
from swarm.federation.sums import ridge_scores

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
    """Send the weights to every node once; sum what comes back."""
    limits, specification = RunLimits.of(context), specification_of(context)
    try:
        data = base64.b64decode(str(context.run_config.get("arrays", "")), validate=True)
    except binascii.Error as error:
        raise InvalidInputError("option arrays", found="no base64", expected="packed arrays") from error
    arrays = unpack_named(data, "option arrays")
    stage("evaluation", 0.0, 1.0)
    question = {"net": str(context.run_config["net"]), "classes": list(specification.class_names)}
    answers = ask_nodes(grid, limits, "query.score", arrays, question)
    weights = tuple(arrays) if question["net"] == RIDGE_ROOT else ()
    totals: dict[str, float] = {}
    for answer in answers:
        for name, value in checked_scores(answer, weights).items():
            totals[name] = totals.get(name, 0.0) + value
    accuracy = totals["correct"] / totals["samples"] if totals else 0.0
    finish(context, {}, {**totals, "nodes": len(answers), "validation_accuracy": accuracy})


def checked_scores(answer: Answer, weights: tuple[str, ...]) -> dict[str, float]:
    """Return what an answer counts, for each of the ridge weights by name, or for a net where there are none;
    raises by the node's name."""
    samples = checked_count(answer, "samples", MOST_SAMPLES, least=1)
    counted = ["correct", *(f"correct.{name}" for name in weights)]
    scores: dict[str, float] = {name: checked_count(answer, name, samples) for name in counted}
    if not weights:
        scores["nll_sum"] = checked_number(answer, "nll_sum")
    return {"samples": samples, **scores}
