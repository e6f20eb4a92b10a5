"""Dealing one source to the nodes of `swarm up`: each gets its own file with its own samples and no more.

One class is kept for the node that joins last, so that nobody else ever sees it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.cli.up.report import Scores, correct
from swarm.data.dataset import Dataset
from swarm.data.partition import partition
from swarm.data.sources import check_has_test, load_test, load_training, save_npz

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gwen", "hugo", "iris", "jack")
OLD_CLASSES_OF_NEWCOMER = 3
NEWCOMERS_SHARE = 1 / 3
LEAST_SAMPLES = 20
"""What `swarm init` asks of a leaf: a node with fewer samples may not join, so it is left out."""


@dataclass(frozen=True, kw_only=True)
class Deal:
    """Who got what. `new_class` is empty where no class was kept back.

    Test samples are opened when queries are first asked for: after training. `left_out` says which nodes got
    too few samples to take part. `conventions`: what a node calls a class of the queries, where that is not
    the query's own name for it. `examples`: labelled samples by which a node asks and does not train.
    """

    nodes: dict[str, Dataset]
    class_names: tuple[str, ...]
    """The classes that the swarm is founded on."""
    open_test: Callable[[], Dataset]
    newcomer_name: str = ""
    newcomer: Dataset | None = None
    new_class: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    conventions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    examples: Mapping[str, Dataset] = field(default_factory=dict)

    @cached_property
    def old_queries(self) -> Dataset:
        """The test samples of the founding classes."""
        test = self.open_test()
        return test.of_classes([name for name in test.class_names if name in self.class_names])

    @cached_property
    def new_queries(self) -> Dataset | None:
        """The test samples of the new class, where there are any."""
        test = self.open_test()
        return test.of_classes([self.new_class]) if self.new_class in test.class_names else None

    def truth_of(self, node: str) -> list[str]:
        """Return each old query's class name, as the node calls it."""
        called = self.conventions.get(node, {})
        return [called.get(name, name) for name in truths(self.old_queries)]

    def scores(self, probabilities: NDArray[np.float32], names: Sequence[str]) -> Scores:
        """Return the old queries' scores, float64 [B]: right for which share of the nodes."""
        named = {node: tuple(sorted(self.conventions.get(node, {}).items())) for node in self.nodes}
        asking = Counter(named.values())
        one_of = {convention: node for node, convention in named.items()}
        parts = [
            count / len(named) * correct(probabilities, names, self.truth_of(one_of[convention]))
            for convention, count in asking.items()
        ]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float64)

    def raw_bytes(self) -> int:
        """Return the bytes of the founding nodes' samples: what pooling would have to move."""
        return sum(part.inputs.nbytes + part.labels.nbytes for part in self.nodes.values())


def truths(data: Dataset) -> list[str]:
    """Return each sample's class name."""
    return [data.class_names[label] for label in data.labels]


def node_names(count: int) -> list[str]:
    """Return names for count nodes."""
    return [NAMES[index] if index < len(NAMES) else f"node-{index + 1}" for index in range(count)]


def large_enough(nodes: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Return the nodes that have enough samples to join, and for the others why they are left out."""
    left = {
        name: f"{len(data)} samples, {LEAST_SAMPLES} are the least that a leaf may stand for"
        for name, data in nodes.items()
        if len(data) < LEAST_SAMPLES
    }
    return {name: data for name, data in nodes.items() if name not in left}, left


def deal(
    source: str,
    scheme: str,
    count: int,
    seed: int,
    import_paths: Sequence[str] = (),
    *,
    newcomer: bool = True,
) -> Deal:
    """Return a source's samples dealt to count nodes, and to a newcomer. Deterministic by seed."""
    training = load_training(source, import_paths)
    check_has_test(source, import_paths)
    names = node_names(count + 1)
    held = _held_back(training.class_names, seed) if newcomer else ""
    old = [name for name in training.class_names if name != held]
    shared, last = training, None
    if held:
        shared = training.of_classes(old, training.name)
        rng = np.random.default_rng(seed)
        borrowed = rng.permutation(len(old))[: min(OLD_CLASSES_OF_NEWCOMER, len(old) - 1)]
        taken = _some_of(shared, [old[index] for index in borrowed], NEWCOMERS_SHARE, rng)
        own = [training.of_classes([held]), shared.subset(taken)]
        last = joined(own, f"{training.name} of {names[count]}")
        shared = shared.subset(np.setdiff1d(np.arange(len(shared)), taken))
    rows = partition(shared.labels, scheme, count, seed)
    nodes, left_out = large_enough(
        {
            name: shared.subset(part, f"{training.name} of {name}")
            for name, part in zip(names, rows, strict=False)
        }
    )
    return Deal(
        nodes=nodes,
        newcomer_name=names[count] if last is not None else "",
        newcomer=last,
        new_class=held,
        class_names=shared.class_names,
        open_test=cache(lambda: load_test(source, import_paths)),
        left_out=left_out,
    )


def _held_back(names: Sequence[str], seed: int) -> str:
    """Return the class that only the newcomer gets; none where there are too few to keep one back."""
    return names[-1 - seed % len(names)] if len(names) >= 3 else ""


def _some_of(
    data: Dataset, classes: Sequence[str], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    chosen = []
    for name in classes:
        rows = np.flatnonzero(data.labels == data.class_names.index(name))
        chosen.append(rng.permutation(rows)[: max(int(len(rows) * share), 1)])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def joined(parts: Sequence[Dataset], name: str) -> Dataset:
    """Return the samples of all parts as one data set, with the classes of all."""
    names = tuple(sorted({each for part in parts for each in part.class_names}))
    return Dataset(
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels_among(names) for part in parts]),
        class_names=names,
        name=name,
        scale=parts[0].scale,
        offset=parts[0].offset,
    )


def write_private(data: Dataset, folder: Path) -> Path:
    """Write a node's samples into its own folder (0700) and return the file."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "private.npz"
    save_npz(path, data)
    return path
