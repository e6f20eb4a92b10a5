"""Dealing one source to the nodes of `swarm up`: each gets its own file with its own samples and no more.

One class is kept for the node that joins last, so that nobody else ever sees it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.data.dataset import Dataset
from swarm.data.partition import partition
from swarm.data.sources import check_has_test, load_test, load_training, save_npz

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gwen", "hugo", "iris", "jack")
OLD_CLASSES_OF_NEWCOMER = 3
NEWCOMERS_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Deal:
    """Who got what. `new_class` is empty where the source has too few classes to keep one back.

    Test samples are opened when queries are first asked for: after training.
    """

    nodes: dict[str, Dataset]
    newcomer_name: str
    newcomer: Dataset | None
    new_class: str
    class_names: tuple[str, ...]
    """The classes that the swarm is founded on."""
    open_test: Callable[[], Dataset]

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

    def raw_bytes(self) -> int:
        """Return the bytes of the founding nodes' samples: what pooling would have to move."""
        return sum(part.inputs.nbytes + part.labels.nbytes for part in self.nodes.values())


def deal(source: str, scheme: str, count: int, seed: int, import_paths: Sequence[str] = ()) -> Deal:
    """Return a source's samples dealt to count nodes and a newcomer. Deterministic by seed."""
    training = load_training(source, import_paths)
    check_has_test(source, import_paths)
    every = training.class_names
    names = [NAMES[index] if index < len(NAMES) else f"node-{index + 1}" for index in range(count + 1)]
    held = every[-1 - seed % len(every)] if len(every) >= 3 else ""
    old = [name for name in every if name != held]
    shared = training.of_classes(old, training.name)
    rng = np.random.default_rng(seed)
    newcomer = None
    if held:
        borrowed = rng.permutation(len(old))[: min(OLD_CLASSES_OF_NEWCOMER, len(old) - 1)]
        taken = _some_of(shared, [old[index] for index in borrowed], NEWCOMERS_SHARE, rng)
        own = [training.of_classes([held]), shared.subset(taken)]
        newcomer = joined(own, f"{training.name} of {names[count]}")
        shared = shared.subset(np.setdiff1d(np.arange(len(shared)), taken))
    rows = partition(shared.labels, scheme, count, seed)
    return Deal(
        nodes={
            name: shared.subset(part, f"{training.name} of {name}")
            for name, part in zip(names, rows, strict=False)
        },
        newcomer_name=names[count],
        newcomer=newcomer,
        new_class=held,
        class_names=shared.class_names,
        open_test=cache(lambda: load_test(source, import_paths)),
    )


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
