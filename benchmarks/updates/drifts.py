"""The drifts: what arrives at one expert, stage after stage, drawn by a seed.

Every stage has training and validation samples (what an update sees), further samples to choose settings by,
and test samples, which only figures are made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.data.sources import load_test, load_training
from swarm.experts.samples import Samples

TRAINING, VALIDATION, CHOOSING = 2000, 200, 1000
NOISE = 64
SCALE = 1 / 255

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What arrives at one time. `classes`: how many digits the expert knows from now on, 0 to classes - 1."""

    classes: int
    train: Samples
    validation: Samples
    choosing: Samples
    test: Samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Digits:
    """A source's images [N, 28, 28] and labels, for training and for tests."""

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]


def load_digits(folder: Path) -> dict[str, Digits]:
    """Return MNIST and USPS, both with digits of about 20 x 20 pixels in the middle of 28 x 28."""
    found = {}
    for name, source in (("mnist", folder / "mnist"), ("usps", folder / "usps.npz")):
        parts = []
        for data in (load_training(str(source)), load_test(str(source))):
            images = data.inputs if name == "mnist" else _enlarged(data.inputs)
            parts.append((images, data.labels_among([str(digit) for digit in range(10)])))
        found[name] = Digits(train=parts[0], test=parts[1])
    return found


def drift_stages(name: str, digits: dict[str, Digits], seed: int) -> list[Stage]:
    """Return the stages of one of DRIFTS; no sample comes twice."""
    return DRIFTS[name](_Deck(digits, seed))


class _Deck:
    """Deals samples of each source in a seeded order."""

    def __init__(self, digits: dict[str, Digits], seed: int) -> None:
        self.digits, self.rng = digits, np.random.default_rng(seed)
        self.left = {name: self.rng.permutation(len(source.train[1])) for name, source in digits.items()}

    def stage(
        self,
        source: str,
        digits: Sequence[int] = range(10),
        *,
        known: int = 10,
        change: Callable[[Images, np.random.Generator], Images] = lambda images, rng: images,
    ) -> Stage:
        """Return a stage of these digits, its images changed, after which `known` digits are known."""
        images, labels = self.digits[source].train
        wanted = self.left[source][np.isin(labels[self.left[source]], digits)]
        wanted = wanted[: TRAINING + VALIDATION + CHOOSING]
        self.left[source] = self.left[source][~np.isin(self.left[source], wanted)]
        parts = np.split(wanted, [TRAINING, TRAINING + VALIDATION])
        test_images, test_labels = self.digits[source].test
        tested = np.flatnonzero(np.isin(test_labels, digits))
        train, validation, choosing = (self._samples(images, labels, rows, change) for rows in parts)
        test = self._samples(test_images, test_labels, tested, change)
        return Stage(classes=known, train=train, validation=validation, choosing=choosing, test=test)

    def _samples(
        self,
        images: Images,
        labels: Labels,
        rows: NDArray[np.int64],
        change: Callable[[Images, np.random.Generator], Images],
    ) -> Samples:
        return Samples(
            inputs=np.ascontiguousarray(change(images[rows], self.rng)), labels=labels[rows], scale=SCALE
        )


def _noisy(images: Images, rng: np.random.Generator) -> Images:
    return np.clip(images + rng.normal(0, NOISE, images.shape), 0, 255).astype(np.uint8)


def _turned(images: Images, rng: np.random.Generator) -> Images:
    return np.rot90(images, axes=(1, 2))


def _inverted(images: Images, rng: np.random.Generator) -> Images:
    return 255 - images


def _enlarged(images: NDArray[np.generic]) -> Images:
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(images.astype(np.float32))[:, None], size=(20, 20), mode="bilinear"
    )
    return np.pad(larger[:, 0].round().numpy().astype(np.uint8), ((0, 0), (4, 4), (4, 4)))


DRIFTS: dict[str, Callable[[_Deck], list[Stage]]] = {
    "pairs": lambda deck: [
        deck.stage("mnist", (first, first + 1), known=first + 2) for first in range(0, 10, 2)
    ],
    "halves": lambda deck: [
        deck.stage("mnist", range(5), known=5),
        deck.stage("mnist", range(5, 10), known=10),
    ],
    "inputs": lambda deck: [
        deck.stage("mnist"),
        deck.stage("mnist", change=_noisy),
        deck.stage("mnist", change=_turned),
        deck.stage("mnist", change=_inverted),
    ],
    "usps": lambda deck: [deck.stage("mnist"), deck.stage("usps")],
    "same": lambda deck: [deck.stage("mnist") for _ in range(3)],
}
"""New classes two at a time; five more classes; other inputs, three times; another source; no drift."""
