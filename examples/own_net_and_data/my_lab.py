"""A laboratory's own data and net: one second of a vibrating machine, and what is wrong with it.

`north` and `south` are two sites that have seen different faults; `dataset` has them all, for founding the
swarm and for tests. A node names the function of its own site and never sees the other's samples.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

SAMPLES = 64
FAULTS = ("healthy", "imbalance", "loose", "worn")
Data = tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]


def dataset(split: str = "train") -> Data:
    """Return inputs float32 [N, 64], labels int64 [N] and the class names that the labels index."""
    return _measure(FAULTS, split, seed=0)


def north(split: str = "train") -> Data:
    """The northern site runs healthy and imbalanced machines."""
    return _measure(("healthy", "imbalance"), split, seed=1)


def south(split: str = "train") -> Data:
    """The southern site runs healthy, loose and worn machines."""
    return _measure(("healthy", "loose", "worn"), split, seed=2)


def factory(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net from float32 [B, 64] to logits [B, classes]."""
    (samples,) = input_shape
    return nn.Sequential(
        nn.Unflatten(1, (1, samples)),
        nn.Conv1d(1, 8, kernel_size=9, stride=2, padding=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(16),
        nn.Flatten(),
        nn.Linear(8 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


def _measure(faults: tuple[str, ...], split: str, seed: int) -> Data:
    """Simulate 100 measurements (40 for tests) of each fault: a turning shaft and what a fault adds to it."""
    rng = np.random.default_rng([seed, split == "train"])
    count = 100 if split == "train" else 40
    turn = np.linspace(0, 2 * np.pi, SAMPLES, endpoint=False)
    added = {
        "healthy": np.zeros(SAMPLES),
        "imbalance": 1.5 * np.sin(turn),
        "loose": np.sign(np.sin(8 * turn)),
        "worn": np.where(np.arange(SAMPLES) % 16 < 3, 2.0, 0.0),
    }
    inputs, labels = [], []
    for label, fault in enumerate(faults):
        size = rng.uniform(0.7, 1.3, (count, 1))
        noise = rng.normal(0, 0.3, (count, SAMPLES))
        inputs.append(size * (0.5 * np.sin(2 * turn) + added[fault]) + noise)
        labels.append(np.full(count, label))
    return np.concatenate(inputs).astype(np.float32), np.concatenate(labels), faults
