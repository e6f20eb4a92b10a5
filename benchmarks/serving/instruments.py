"""Very many leaves of real images: classes of several collections, each seen by many instruments.

There are fewer classes than many leaves need. An instrument turns, mirrors and moves the 4 x 4 places that a
feature of the trunk is pooled from, and has a gain of its own for each filter: its leaves differ from
another's as pictures of one thing by different devices do. Without a folder the digits of scikit-learn are
used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from swarm.cli.bench.collections import grey_28, idx_collection, npz_collection
from swarm.experts.trunk import Trunk, make_trunk

TRUNK, PLACES, SAMPLES, HELD = "randconv-sqrt:64", 16, 150, 8
_SEED = 7
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instrument:
    """Which of the features [M] comes where, and times what; the last one is the constant."""

    order: Rows
    gain: Floats

    @classmethod
    def numbered(cls, number: int, size: int) -> "Instrument":
        """Return one by chance, always the same for a number; number 0 changes nothing."""
        rng, filters = np.random.default_rng((_SEED, number)), size // PLACES
        places, gain = np.arange(PLACES).reshape(4, 4), np.ones(filters)
        if number:
            places = np.rot90(places, int(rng.integers(4)))
            places = places.T if rng.random() < 0.5 else places
            places = np.roll(places, tuple(int(each) for each in rng.integers(0, 4, 2)), axis=(0, 1))
            gain = rng.uniform(0.7, 1.3, filters)
        order = (np.arange(filters)[:, None] * PLACES + places.ravel()).ravel()
        gains = np.append(np.repeat(gain, PLACES), 1.0).astype(np.float32)
        return cls(order=np.append(order, size - 1), gain=gains)

    def seen(self, features: Floats) -> Floats:
        """Return features [N, M] as the instrument gives them."""
        found: Floats = features[:, self.order] * self.gain
        return found


class ManyLeaves:
    """Leaf l is of kind l mod K, of the K classes of all collections, seen by instrument l div K."""

    def __init__(self, folder: Path | None) -> None:
        kinds = _kinds(folder)
        side = kinds[0].shape[1]
        reference, blobs = make_trunk(TRUNK, (side, side), scale=1 / 255, offset=0.0, seed=0)
        trunk = Trunk.load(reference, lambda digest: memoryview(blobs[digest]), scale=1 / 255, offset=0.0)
        features = [trunk.features(images) for images in kinds]
        self._training = [each[:-HELD] for each in features]
        self._held = [each[-HELD:] for each in features]
        self._means = np.stack([part.mean(axis=0) for part in self._training])
        self._instruments: dict[int, Instrument] = {}
        self.kinds, self.size = self._means.shape

    def means(self, first: int, last: int) -> Floats:
        """Return the means of leaves' training features, float32 [n, M]."""
        found = np.empty((last - first, self.size), dtype=np.float32)
        for leaf in range(first, last):
            found[leaf - first] = self._instrument(leaf).seen(self._means[leaf % self.kinds][None])[0]
        return found

    def gram(self, leaves: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return F'F of a sample [M, M]: its mean over samples of so many leaves."""
        found = np.zeros((self.size, self.size))
        taken = rng.permutation(-(-leaves // self.kinds))[:24]
        for number in taken.tolist():
            some = [self._training[int(kind)][:20] for kind in rng.integers(0, self.kinds, 60)]
            seen = self._instrument(number * self.kinds).seen(np.concatenate(some)).astype(np.float64)
            found += seen.T @ seen / len(seen)
        return found / len(taken)

    def queries(self, leaves: int, count: int, seed: int) -> tuple[Floats, Rows]:
        """Return samples that no leaf was made of, [count, M], and the leaves that they are of."""
        rng = np.random.default_rng((_SEED, leaves, seed))
        own = rng.integers(0, leaves, count)
        found = []
        for leaf in own.tolist():
            held = self._held[leaf % self.kinds]
            found.append(self._instrument(leaf).seen(held[int(rng.integers(len(held)))][None]))
        return np.concatenate(found), own

    def _instrument(self, leaf: int) -> Instrument:
        number = leaf // self.kinds
        if number not in self._instruments:
            self._instruments[number] = Instrument.numbered(number, self.size)
        return self._instruments[number]


def _kinds(folder: Path | None) -> Sequence[NDArray[np.uint8]]:
    """Return up to SAMPLES images of each class and HELD more, uint8 [n, S, S]."""
    if folder is None:
        digits = load_digits()
        images = (digits.images * (255 / 16)).astype(np.uint8)
        return _by_class(images, digits.target)
    collections = [
        idx_collection(folder, "mnist"),
        idx_collection(folder, "fashion-mnist"),
        grey_28(npz_collection(folder, "usps.npz")),
        npz_collection(folder, "omniglot_small.npz", "a"),
    ]
    return [kind for each in collections for kind in _by_class(each.inputs, each.labels)]


def _by_class(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
    found = [images[labels == name][: SAMPLES + HELD] for name in np.unique(labels)]
    return [kind for kind in found if len(kind) >= 2 * HELD]
