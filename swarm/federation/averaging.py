"""FedAvg: one net, trained on every node for some steps, averaged by samples, over and over.

The baseline of the reports, and a way to a shared trunk. Source: McMahan et al. 2017.

One node cannot blow the average up: its weight is bounded, its arrays must be like the net's, its update's
norm is clipped (`swarm.federation.updates`). That is no defence against many nodes together, against updates
of an ordinary norm in a wrong direction (poisoned labels, backdoors), or against reading data out of updates.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.shared_net import SharedNet
from swarm.experts.training import TrainSettings
from swarm.federation.messages import array_record, named_arrays
from swarm.federation.own_samples import OwnSamples, asked, labels_among, own_samples, words_of
from swarm.federation.packing import Array
from swarm.federation.progress import say, stage
from swarm.federation.rounds import (
    MOST_NUMBER,
    MOST_SAMPLES,
    Answer,
    RunLimits,
    check_enough,
    checked_count,
    checked_number,
    clipped_counts,
    connected_nodes,
    finish,
    listed,
    node_of,
    read_answer,
    specification_of,
)
from swarm.federation.updates import check_like, clipped_updates

ROUND_ACCURACIES = "round_accuracies"
"""The result's array beside the net's own: validation accuracy after each round that was judged."""
WEIGHT = "num-examples"
client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the weights on this node's training samples for the asked number of steps."""
    question, samples = asked(message), own_samples(context)
    names = words_of(question, "classes")
    settings = TrainSettings(
        steps=int(question["steps"]),
        seed=derived_seed(
            int(question["seed"]), f"federated {samples.node}", int(question.get("server-round", 1))
        ),
    )
    net = shared_net(str(question["net"]), samples, names)
    turn = net.trained(_arrays(message), net_samples(samples, names, validation=False), settings)
    metrics = MetricRecord(
        {
            WEIGHT: len(samples.training),
            "loss": turn.loss,
            "train-flops": float(turn.train_flops),
        }
    )
    return Message(RecordDict({"arrays": array_record(turn.arrays), "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the weights on this node's validation samples."""
    question, samples = asked(message), own_samples(context)
    names = words_of(question, "classes")
    validation = net_samples(samples, names, validation=True)
    net = shared_net(str(question["net"]), samples, names)
    correct, loss = net.scored(_arrays(message), validation)
    count = len(validation)
    metrics = MetricRecord({WEIGHT: count, "accuracy": correct / count, "loss": loss / count})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def shared_net(factory: str, samples: OwnSamples, names: tuple[str, ...]) -> SharedNet:
    """Return the net over the global class names, as this node builds it."""
    return SharedNet(
        factory=factory,
        input_shape=samples.specification.input_shape,
        classes=len(names),
        import_paths=samples.import_paths,
    )


def net_samples(samples: OwnSamples, names: tuple[str, ...], *, validation: bool) -> Samples:
    """Return a node's samples for a net over the global class names."""
    dataset = samples.validation if validation else samples.training
    specification = samples.specification
    return Samples(
        inputs=dataset.inputs,
        labels=labels_among(samples, dataset, names),
        scale=specification.scale,
        offset=specification.offset,
    )


class BoundedFedAvg(FedAvg):
    """FedAvg over every connected node; a round with too few answers ends the run. Waits are bounded.

    A node weighs by the samples that it names, but by no more than `clipped_counts` leaves of them, and moves
    the net by no more than `clipped_updates` leaves of its update. Numbers that cannot be, and arrays that
    are not like those of `net`, end the run by the node's name.
    """

    def __init__(self, grid: Grid, limits: RunLimits, rounds: int, net: Mapping[str, Array]) -> None:
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=1.0,
            min_train_nodes=0,
            min_evaluate_nodes=0,
            min_available_nodes=0,
        )
        self._grid, self._limits, self._rounds = grid, limits, rounds
        self._net, self._sent = net, net
        self.heard = 0
        self.train_flops = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        stage(f"round {server_round} of {self._rounds}", (server_round - 1) / self._rounds, 1 / self._rounds)
        fixed = _fixed(connected_nodes(grid, self._limits))
        self._sent = named_arrays(arrays)
        return super().configure_train(server_round, arrays, config, fixed)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        fixed = _fixed(connected_nodes(grid, self._limits))
        return super().configure_evaluate(server_round, arrays, config, fixed)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        ordered = _in_order(replies)
        answered = [reply for reply in ordered if not reply.has_error()]
        missing = {
            node_of(self._grid, reply): str(reply.error.reason) for reply in ordered if reply.has_error()
        }
        check_enough(len(answered), missing, self._limits)
        self.heard = len(answered)
        answers = [read_answer(self._grid, reply) for reply in answered]
        checked = checked_metrics(answers, {"loss": MOST_NUMBER, "train-flops": MOST_NUMBER})
        for reply, metrics, arrays in zip(answered, checked, self._bounded(answers), strict=True):
            reply.content = RecordDict({"arrays": array_record(arrays), "metrics": metrics})
        self.train_flops += sum(float(cast(float, metrics["train-flops"])) for metrics in checked)
        return super().aggregate_train(server_round, ordered)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        ordered = _in_order(replies)
        answered = [reply for reply in ordered if not reply.has_error()]
        answers = [read_answer(self._grid, reply) for reply in answered]
        checked = checked_metrics(answers, {"accuracy": 1.0, "loss": MOST_NUMBER})
        for reply, metrics in zip(answered, checked, strict=True):
            reply.content = RecordDict({"metrics": metrics})
        found = super().aggregate_evaluate(server_round, ordered)
        figures = {name: float(value) for name, value in (found or {}).items() if not isinstance(value, list)}
        say(f"{len(answered)} of {len(ordered)} nodes", 1.0, figures)
        return found

    def _bounded(self, answers: Sequence[Answer]) -> list[dict[str, Array]]:
        """Return each node's arrays, checked and with its update clipped; says whose was."""
        for answer in answers:
            check_like(f"weights of node {answer.node}", answer.arrays, self._net)
        arrays, touched = clipped_updates(self._sent, [answer.arrays for answer in answers])
        names = [answer.node for answer, clipped in zip(answers, touched, strict=True) if clipped]
        if names:
            say(f"clipped: {listed(names)}")
        return arrays


def checked_metrics(answers: Sequence[Answer], most: Mapping[str, float]) -> list[MetricRecord]:
    """Return only checked numbers of each answer: `num-examples`, clipped, and what `most` bounds; raises by
    the node's name."""
    counts = [checked_count(answer, WEIGHT, MOST_SAMPLES, least=1) for answer in answers]
    return [
        MetricRecord(
            {WEIGHT: count, **{name: checked_number(answer, name, limit) for name, limit in most.items()}}
        )
        for answer, count in zip(answers, clipped_counts(counts), strict=True)
    ]


@server_app.main()
def average(grid: Grid, context: Context) -> None:
    """Run FedAvg and leave the final weights and the validation accuracy of every round."""
    limits, specification = RunLimits.of(context), specification_of(context)
    settings: dict[str, Any] = dict(context.run_config)
    rounds, seed = int(settings["rounds"]), int(settings["seed"])
    names = specification.class_names
    if len(names) < 2:
        raise InvalidInputError("specification", found=f"{len(names)} classes", expected="two or more")
    net = SharedNet(factory=str(settings["net"]), input_shape=specification.input_shape, classes=len(names))
    config: dict[str, Any] = {
        "net": str(settings["net"]),
        "steps": int(settings["steps"]),
        "seed": seed,
        "classes": list(names),
    }
    initial = net.initial(seed)
    strategy = BoundedFedAvg(grid, limits, rounds, initial)
    result = strategy.start(
        grid=grid,
        initial_arrays=array_record(initial),
        num_rounds=rounds,
        timeout=limits.timeout_s,
        train_config=ConfigRecord(config),
        evaluate_config=ConfigRecord(config),
    )
    judged = [result.evaluate_metrics_clientapp.get(number) for number in range(1, rounds + 1)]
    accuracies = {
        f"validation_accuracy_round_{number}": float(cast(float, each["accuracy"]))
        for number, each in enumerate(judged, 1)
        if each is not None
    }
    if not accuracies:
        raise NotReadyError(
            "federated averaging", found="no node that could judge the net", expected="validation samples"
        )
    finish(
        context,
        {**named_arrays(result.arrays), ROUND_ACCURACIES: np.array(list(accuracies.values()))},
        {
            "nodes": strategy.heard,
            "rounds": rounds,
            "train_flops": strategy.train_flops,
            **accuracies,
            "validation_accuracy": list(accuracies.values())[-1],
        },
    )


def _fixed(nodes: list[int]) -> Grid:
    """Return what FedAvg draws nodes from: Flower waits without bound where one leaves meanwhile."""

    class Nodes:
        def get_node_ids(self) -> list[int]:
            return nodes

    return cast(Grid, Nodes())


def _arrays(message: Message) -> dict[str, Any]:
    return named_arrays(next(iter(message.content.array_records.values())))


def _in_order(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
