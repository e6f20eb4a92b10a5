"""Flower's Grid within one process: nodes are ClientApps over samples that a test gives them."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from pydantic import TypeAdapter

from node.hold_out import hold_out
from swarm.data.dataset import Dataset, make_dataset
from swarm.domain.errors import SwarmError
from swarm.domain.specification import Specification
from swarm.experts.trunk import Trunk
from swarm.federation.messages import array_record, decode_message, encode_message, named_arrays
from swarm.federation.options import parse_options
from swarm.federation.own_samples import OwnSamples
from swarm.federation.rounds import FIGURES, RESULT
from swarm.federation.stream_grid import Arrived, StreamGrid, node_number
from swarm.federation.task_identity import take_task_identity
from swarm.modules.blobs import BlobFiles
from tests.support.learning import digits_like, make_specification

GIVEN: dict[str, OwnSamples] = {}


def load(configuration: Mapping[str, Any]) -> OwnSamples:
    """Return the samples that a test gave the configured node."""
    return GIVEN[str(configuration["key"])]


def own(node: str, specification: Specification, trunk: Trunk, dataset: Dataset) -> OwnSamples:
    """Return a node's samples, split as training splits them."""
    kept, held_out = hold_out(dataset.inputs, dataset.labels, 0.1)
    return OwnSamples(
        node=node,
        specification=specification,
        training=dataset.subset(kept),
        validation=dataset.subset(held_out),
        features=trunk.features,
    )


def three_nodes(
    folder: Path, *, count: int = 600, **changes: Any
) -> tuple[Specification, dict[str, OwnSamples]]:
    """Return a specification over 8 x 8 digits of six classes, and nodes with two classes each."""
    cache = BlobFiles(folder / "cache")
    specification = make_specification(
        cache, **({"class_names": tuple("012345"), "min_leaf_count": 5} | changes)
    )
    trunk = Trunk.load(specification.trunk, cache.open_verified, scale=1 / 16, offset=0.0)
    images, labels = digits_like(count, 6)
    nodes = {}
    for place, name in enumerate(("rose", "tulip", "aster")):
        rows = np.isin(labels, (2 * place, 2 * place + 1))
        dataset = make_dataset(images[rows], labels[rows], name=name)
        nodes[name] = own(name, specification, trunk, dataset)
    return specification, nodes


class LocalWire:
    """Nodes within this process. `answers` may hold a node's replies back, repeat or replace them."""

    def __init__(self, app: ClientApp, nodes: Mapping[str, OwnSamples]) -> None:
        self.app, self.samples = app, dict(nodes)
        self.contexts: dict[str, Context] = {}
        self.waiting: list[Arrived] = []
        self.forgotten: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.answers: Callable[[Arrived, int], Sequence[Arrived]] = lambda reply, turn: [reply]
        self._turns: dict[str, itertools.count[int]] = {}

    def nodes(self) -> Sequence[str]:
        return list(self.samples)

    def send(self, message: str, node: str, data: bytes, timeout_s: float) -> None:
        request = decode_message(data, "request")
        self.asked.append((node, request.metadata.message_type))
        turn = next(self._turns.setdefault(node, itertools.count(1)))
        GIVEN[f"{id(self)}-{node}"] = self.samples[node]
        context = self.contexts.setdefault(
            node,
            Context(
                run_id=1,
                node_id=node_number(node),
                node_config={"samples": "tests.support.federation:load", "key": f"{id(self)}-{node}"},
                state=RecordDict(),
                run_config={},
            ),
        )
        try:
            reply = self.app(request, context)
        except SwarmError as error:
            reply = Message(Error(2, str(error)), reply_to=request)
        arrived = Arrived(message=message, node=node, data=encode_message(reply, f"r{message}"))
        self.waiting += self.answers(arrived, turn)

    def arrival(self, timeout_s: float) -> Arrived | None:
        return self.waiting.pop(0) if self.waiting else None

    def forget(self, messages: Sequence[str]) -> None:
        self.forgotten += messages


def run_app(
    server: ServerApp, grid: Grid, specification: Specification, app: str, **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Run a server app; return its result's arrays and figures."""
    take_task_identity(1)
    settings = parse_options(app, {name.replace("_", "-"): str(value) for name, value in options.items()})
    text = TypeAdapter(Specification).dump_json(specification).decode()
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={**settings, "specification": text},
    )
    server(grid, context)
    return named_arrays(context.state[RESULT]), dict(context.state[FIGURES])


def local_run(
    apps: Any, nodes: Mapping[str, OwnSamples], app: str, **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, float], StreamGrid]:
    """Run an app over nodes of this process."""
    wire = LocalWire(apps.client_app, nodes)
    grid = StreamGrid(wire, "run", float(options.get("timeout_s", 60.0)))
    specification = next(iter(nodes.values())).specification
    arrays, figures = run_app(apps.server_app, grid, specification, app, **options)
    return arrays, figures, grid


def dishonest_run(
    apps: Any,
    nodes: Mapping[str, OwnSamples],
    app: str,
    change: Callable[[Message], None],
    *,
    turns: Sequence[int] | range = range(1, 1000),
    **options: Any,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Run an app over nodes of this process, where rose's answers in these turns are changed on their way."""
    wire = LocalWire(apps.client_app, nodes)

    def answers(reply: Arrived, turn: int) -> Sequence[Arrived]:
        message = decode_message(reply.data, "reply")
        if reply.node == "rose" and turn in turns and not message.has_error():
            change(message)
        return [replace(reply, data=encode_message(message))]

    wire.answers = answers
    grid = StreamGrid(wire, "run", float(options.get("timeout_s", 60.0)))
    return run_app(apps.server_app, grid, nodes["rose"].specification, app, **options)


def change_arrays(message: Message, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a reply's arrays by name."""
    arrays = {name: array.copy() for name, array in named_arrays(message.content["arrays"]).items()}
    change(arrays)
    message.content["arrays"] = array_record(arrays)


def pooled(nodes: Iterable[OwnSamples]) -> tuple[np.ndarray, np.ndarray]:
    """Return all training features, and the class name of each row."""
    features = [each.features(each.training.inputs) for each in nodes]
    names = [np.array(each.training.class_names)[each.training.labels] for each in nodes]
    return np.concatenate(features), np.concatenate(names)
