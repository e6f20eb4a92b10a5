"""Who is fed with what, and who comes and goes: a function of the data folder, the length and the seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.cli.bench.collections import Collection, grey_28, idx_collection, npz_collection
from swarm.data.dataset import Dataset, make_dataset

Happening = Literal["joins", "dies", "returns", "stops"]
NODES = ("ada", "bob", "cy", "dora", "eve")
FOUNDERS = ("ada", "bob", "cy")
SAMPLES = 200
"""In one mega-batch; characters come ten at a time, all 15 training drawings of each."""
TEST_SAMPLES = 3000
"""Of each domain at most."""
CHARACTERS, CHARACTERS_AT_ONCE, DRAWINGS = 240, 10, 15
NOISE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One kind of data: what trains, and what it is judged by. Classes of one name are one class."""

    name: str
    training: Dataset
    test: Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeding:
    """A mega-batch: which node gets it, of which domain, as rows of the domain's training samples."""

    number: int
    node: str
    domain: str
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A node comes or goes before mega-batch `number`."""

    number: int
    node: str
    happening: Happening


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The whole day. `last_fed` is the number of each domain's last mega-batch."""

    domains: Mapping[str, Domain]
    feedings: tuple[Feeding, ...]
    moves: tuple[Move, ...]

    @property
    def last_fed(self) -> dict[str, int]:
        return {feeding.domain: feeding.number for feeding in self.feedings}

    @property
    def founding_classes(self) -> tuple[str, ...]:
        """The classes of what the founders are fed with first."""
        first = {feeding.domain for feeding in self.feedings if feeding.node in FOUNDERS}
        names = {name for domain in first for name in self.domains[domain].training.class_names}
        return tuple(sorted(names))


# Of the day: who is fed with which domain from when to when, and how often compared with the others.
_DIET: Sequence[tuple[str, str, float, float, float]] = (
    ("ada", "mnist", 0.0, 0.4, 1.5),
    ("bob", "usps", 0.0, 0.5, 1.8),
    ("cy", "fashion", 0.0, 0.6, 1.5),
    ("dora", "characters", 0.2, 0.65, 1.2),
    ("eve", "fashion-inverted", 0.4, 0.8, 1.0),
    ("ada", "mnist-noisy", 0.5, 1.0, 1.0),
    ("bob", "mnist-inverted", 0.6, 1.0, 1.0),
)
_COURSE: Sequence[tuple[float, str, Happening]] = (
    (0.2, "dora", "joins"),
    (0.3, "bob", "dies"),
    (0.35, "bob", "returns"),
    (0.4, "eve", "joins"),
    (0.65, "cy", "stops"),
    (0.75, "dora", "dies"),
    (0.9, "dora", "returns"),
)


def tell_story(folder: Path, length: int, seed: int) -> Story:
    """Return a day of `length` mega-batches. NotFoundError says which collection is missing."""
    rng = np.random.default_rng(seed)
    domains = {domain.name: domain for domain in _domains(folder, rng)}
    feedings, left = [], {name: _order(domain, rng) for name, domain in domains.items()}
    for number in range(length):
        at = number / length
        open_now = [diet for diet in _DIET if diet[2] <= at < diet[3] and not _is_away(diet[0], at)]
        open_now = [diet for diet in open_now if len(left[diet[1]])]
        weights = np.array([diet[4] for diet in open_now])
        node, domain, *_ = open_now[int(rng.choice(len(open_now), p=weights / weights.sum()))]
        size = _size(domains[domain])
        rows, left[domain] = np.sort(left[domain][:size]), left[domain][size:]
        feedings.append(Feeding(number=number, node=node, domain=domain, rows=rows))
    moves = [Move(number=round(at * length), node=node, happening=what) for at, node, what in _COURSE]
    return Story(domains=domains, feedings=tuple(feedings), moves=tuple(moves))


def _is_away(node: str, at: float) -> bool:
    here = node in FOUNDERS
    for when, who, what in _COURSE:
        if who == node and when <= at:
            here = what in ("joins", "returns")
    return not here


def _size(domain: Domain) -> int:
    return CHARACTERS_AT_ONCE * DRAWINGS if domain.name == "characters" else SAMPLES


def _order(domain: Domain, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the training rows in the order in which they are fed: new characters a few at a time."""
    if domain.name != "characters":
        return rng.permutation(len(domain.training)).astype(np.int64)
    order = rng.permutation(len(domain.training.class_names))
    return np.concatenate([np.flatnonzero(domain.training.labels == label) for label in order])


def _domains(folder: Path, rng: np.random.Generator) -> list[Domain]:
    mnist, fashion = idx_collection(folder, "mnist"), idx_collection(folder, "fashion-mnist")
    usps = grey_28(npz_collection(folder, "usps.npz"))
    drawn = npz_collection(folder, "omniglot_small.npz", "y")
    return [
        _domain("mnist", mnist, "", rng),
        _domain("usps", usps, "", rng),
        _domain("fashion", fashion, "fashion ", rng),
        _domain("characters", _few_classes(drawn, CHARACTERS), "character ", rng),
        _domain("mnist-noisy", _changed(mnist, lambda images: _noisy(images, rng)), "", rng),
        _domain("mnist-inverted", _changed(mnist, _inverted), "", rng),
        _domain("fashion-inverted", _changed(fashion, _inverted), "fashion ", rng),
    ]


def _domain(name: str, found: Collection, prefix: str, rng: np.random.Generator) -> Domain:
    picked = np.sort(rng.permutation(len(found.test_labels))[:TEST_SAMPLES])
    return Domain(
        name=name,
        training=_named(found.inputs, found.labels, prefix, name),
        test=_named(found.test_inputs[picked], found.test_labels[picked], prefix, name),
    )


def _named(inputs: NDArray[np.uint8], labels: NDArray[np.int64], prefix: str, name: str) -> Dataset:
    return make_dataset(inputs, np.array([f"{prefix}{label}" for label in labels]), name=name)


def _few_classes(found: Collection, count: int) -> Collection:
    few, test = found.labels < count, found.test_labels < count
    return Collection(
        name=found.name,
        inputs=found.inputs[few],
        labels=found.labels[few],
        test_inputs=found.test_inputs[test],
        test_labels=found.test_labels[test],
    )


def _changed(found: Collection, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Collection:
    return Collection(
        name=found.name,
        inputs=change(found.inputs[:20_000]),
        labels=found.labels[:20_000],
        test_inputs=change(found.test_inputs),
        test_labels=found.test_labels,
    )


def _noisy(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    noise = rng.normal(scale=NOISE, size=images.shape).astype(np.float32)
    noisy: NDArray[np.uint8] = np.clip(images + noise, 0, 255).astype(np.uint8)
    return noisy


def _inverted(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inverted: NDArray[np.uint8] = 255 - images
    return inverted
