"""Sample data for the containers: scikit-learn's digits, and who of the four nodes has which of them.

`ada`, `ben`, `cleo` and `dan` are the nodes' own data; `everything` is for founding the swarm and for tests.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Data = tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]
TEST_SHARE = 5
"""Every fifth image is a test image."""


def everything(split: str = "train") -> Data:
    """Return digits 0 to 8, float32 [N, 8, 8] in 0..1: 9 is new with the node that joins last."""
    return _of(tuple(range(9)), split)


def ada(split: str = "train") -> Data:
    return _of((0, 1, 2, 3), split, part=0)


def ben(split: str = "train") -> Data:
    return _of((2, 3, 4, 5, 6), split, part=1)


def cleo(split: str = "train") -> Data:
    return _of((5, 6, 7, 8, 0), split, part=2)


def dan(split: str = "train") -> Data:
    return _of((8, 9), split, part=3)


def _of(digits: tuple[int, ...], split: str, part: int | None = None) -> Data:
    """Return the digits' images; a part is every image whose number leaves that remainder by 4."""
    found = load_digits()
    number = np.arange(len(found.target))
    is_test = number % TEST_SHARE == 0
    kept = np.isin(found.target, digits) & (is_test if split == "test" else ~is_test)
    if part is not None and split != "test":
        kept &= number % 4 == part
    names = tuple(map(str, digits))
    labels = np.searchsorted(np.array(digits), found.target[kept]) if list(digits) == sorted(digits) else None
    if labels is None:
        labels = np.array([digits.index(int(each)) for each in found.target[kept]])
    return (found.images[kept] / 16).astype(np.float32), labels.astype(np.int64), names
