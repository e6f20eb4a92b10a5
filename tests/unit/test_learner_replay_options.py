"""What replay remembers, and the head that it leaves, are the owner's choice; the served expert has both."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from node.jobs import LearningJob, LearningResult
from node.learning import learn
from node.preparing import update_strategy
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import LeafId
from swarm.experts.expert import LoadedExpert
from swarm.experts.nets import build_net
from swarm.experts.updating import Replay
from swarm.experts.updating.last_layer import features_of, last_linear
from swarm.experts.updating.memory import Memory, read_memory
from swarm.experts.updating.nearest_mean import class_means, normalised
from swarm.experts.updating.replay import Selection
from swarm.experts.weights import warm_start
from swarm.modules.blobs import BlobFiles
from tests.support.growing import Plot, two_kinds
from tests.support.learning import digits_like, make_job, make_specification

REPLAY = {"update": "replay", "steps": 60, "net": "mlp:16x1"}


def remembered(plot: Plot) -> Memory:
    found = read_memory(plot.book.memory(LeafId("rose.l1")))
    assert found is not None and found.samples is not None
    return found


def nearest_means(plot: Plot, inputs: np.ndarray) -> np.ndarray:
    """Return the class whose remembered samples' mean feature is nearest, by the served expert's features."""
    manifest, memory = plot.head("rose.l1"), remembered(plot)
    net = build_net(manifest.net)
    warm_start(net, manifest.modules, plot.cache.open_verified, manifest.class_names, manifest.class_names)
    classes, samples = len(manifest.class_names), memory.samples
    assert samples is not None
    scaled = replace(samples, scale=plot.specification.scale, offset=plot.specification.offset)
    means = class_means(features_of(net, scaled, classes), scaled, classes)
    asked = replace(scaled, inputs=inputs, labels=np.zeros(len(inputs), np.int64), weights=None)
    features = normalised(features_of(net, asked, classes))
    return ((features[:, None, :] - means) ** 2).sum(axis=2).argmin(axis=1)


def served(plot: Plot) -> LoadedExpert:
    return LoadedExpert.load(
        plot.head("rose.l1"), plot.cache.open_verified, plot.specification, (), device=torch.device("cpu")
    )


def test_the_served_expert_answers_by_the_nearest_mean_where_that_was_chosen(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    data = two_kinds(tmp_path / "data.npz")
    plot.learn(data, **REPLAY, head="nearest-mean")
    asked = digits_like(200, 4, seed=9, noise=4.0)[0]
    answered = served(plot).probabilities(asked).argmax(axis=1)
    np.testing.assert_array_equal(answered, nearest_means(plot, asked))
    plot.learn(data, **REPLAY, head="nearest-mean")
    answered = served(plot).probabilities(asked).argmax(axis=1)
    np.testing.assert_array_equal(answered, nearest_means(plot, asked))
    manifest = plot.head("rose.l1")
    assert manifest.version == 2
    net = build_net(manifest.net)
    warm_start(net, manifest.modules, plot.cache.open_verified, manifest.class_names, manifest.class_names)
    last = last_linear(net, len(manifest.class_names))
    assert last is not None and not last.layer.bias.any()
    lengths = torch.linalg.vector_norm(last.layer.weight.detach(), dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, float(lengths[0])))


def test_the_nets_own_head_is_served_unless_told(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    result = plot.learn(two_kinds(tmp_path / "data.npz"), **REPLAY)
    manifest = plot.head("rose.l1")
    net = build_net(manifest.net)
    warm_start(net, manifest.modules, plot.cache.open_verified, manifest.class_names, manifest.class_names)
    last = last_linear(net, len(manifest.class_names))
    assert last is not None and last.layer.bias.any() and not any("head" in note for note in result.notes)


def test_a_class_of_which_nothing_is_remembered_keeps_the_own_head_and_says_so(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    result = plot.learn(two_kinds(tmp_path / "data.npz"), **REPLAY, head="nearest-mean", memory=3)
    assert any(
        note.startswith("rose.l1 keeps its own head: nothing is remembered of") for note in result.notes
    )


@pytest.mark.parametrize("how", get_args(Selection))
def test_replay_remembers_as_it_is_told(tmp_path: Path, how: str) -> None:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"), **REPLAY, memory=40, remember=how)
    found = remembered(plot)
    assert found.samples is not None and 0 < len(found.samples) <= 32
    others = [each for each in get_args(Selection) if each != how]
    assert all(chosen(tmp_path / other, other, 40) != chosen(tmp_path / how, how, 40) for other in others)


def chosen(folder: Path, how: str, memory: int) -> bytes:
    """Return what is remembered of the same data by one way to choose."""
    if not folder.exists():
        plot = Plot(folder)
        plot.learn(two_kinds(folder / "data.npz"), **REPLAY, memory=memory, remember=how)
    found = read_memory(folder / "home" / "state" / "leaves" / "rose.l1.memory")
    assert found is not None and found.samples is not None
    return np.ascontiguousarray(found.samples.inputs).tobytes()


class Stopped(Exception):
    pass


def test_training_that_a_crash_interrupted_goes_on_with_the_options_of_its_job(tmp_path: Path) -> None:
    order = TrainOrder(
        data=two_kinds(tmp_path / "data.npz"), net="mlp:16x1", steps=200, update="replay", memory=60,
        remember="reservoir", head="nearest-mean",
    )  # fmt: skip
    specification = make_specification(BlobFiles(tmp_path / "cache"), max_leaves_per_owner=8)
    torch.set_num_threads(1)

    def run(folder: Path, report: Any) -> LearningResult:
        ticks = itertools.count(0, 1000)  # so much time goes by that every checkpoint is kept
        return learn(LearningJob.read(folder), folder, report, clock=lambda: float(next(ticks)))

    for name in ("whole", "cut"):
        make_job(tmp_path / name, order, specification=specification)
    whole = run(tmp_path / "whole", lambda *said: None)
    trained = itertools.count(1)

    def stops(stage: str, message: str, fraction: float) -> None:
        if ", step " in message and next(trained) == 4:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "cut", stops)
    said: list[str] = []
    again = run(tmp_path / "cut", lambda stage, message, fraction: said.append(message))
    assert any("resumed" in message for message in said)
    assert [leaf.modules for leaf in again.leaves] == [leaf.modules for leaf in whole.leaves]
    first, second = (read_memory(tmp_path / name / "leaf-1.memory") for name in ("whole", "cut"))
    assert first is not None and second is not None and first.digest() == second.digest()


@pytest.mark.parametrize("told", [{"remember": "coreset"}, {"head": "nearest-mean"}, {"memory": 7}])
@pytest.mark.parametrize("update", ["", "fine-tune", "ewc", "si", "lwf"])
def test_what_remembers_no_samples_takes_no_options_of_replay(update: str, told: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="only replay remembers samples"):
        update_strategy(TrainOrder(data="digits", update=update, **told))


def test_a_stream_replays_as_it_is_told() -> None:
    order = TrainOrder(
        data="in", gathered=("a",), accumulate=True, memory=60, remember="coreset", head="nearest-mean"
    )
    assert update_strategy(order) == Replay(capacity=60, select="coreset", head="nearest-mean")
    for wrong in ({"remember": "all"}, {"head": "two"}):
        with pytest.raises(InvalidInputError, match="replay"):
            update_strategy(replace(order, **wrong))
