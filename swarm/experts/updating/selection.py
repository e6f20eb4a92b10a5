"""Which samples are worth remembering: by chance, by gradients, or by class means. Numpy, no net."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

_RIDGE = 1e-6
_EXACT = 1e-9

Rows = NDArray[np.int64]


class Weighed(NamedTuple):
    """Chosen rows int64 [k], the most useful first, and what each stands for, float64 [k]."""

    rows: Rows
    weights: NDArray[np.float64]


def herding(features: NDArray[np.floating], weights: NDArray[np.floating], count: int) -> Rows:
    """Return count rows of unit features [n, D] whose running means stay nearest to the weighted mean.

    Source: Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4 (herding of Welling 2009). Ties: the lower row.
    """
    mean = np.average(features, axis=0, weights=weights)
    total, chosen = np.zeros_like(mean), list[int]()
    left = np.ones(len(features), dtype=bool)
    for k in range(1, min(count, len(features)) + 1):
        distance = ((mean - (total + features) / k) ** 2).sum(axis=1)
        row = int(np.where(left, distance, np.inf).argmin())
        chosen.append(row)
        left[row] = False
        total = total + features[row]
    return np.array(chosen, dtype=np.int64)


def matching_pursuit(kernel: NDArray[np.floating], weights: NDArray[np.floating], count: int) -> Weighed:
    """Return at most count rows with weights above 0 so that sum_j w_j g_j is nearest to sum_i weights_i g_i.

    kernel [n, n] holds the gradients' inner products <g_i, g_j>. Orthogonal matching pursuit: take the row
    that points most along what is missing, fit all weights anew (at least 0), until nothing is missing.
    Source: Balles, Zappella, Archambeau, "Gradient-matching coresets for rehearsal-based continual
    learning", 2022; weights at least 0 as in Killamsetty et al., "GRAD-MATCH", 2021.
    """
    inner: NDArray[np.float64] = kernel.astype(np.float64)
    target: NDArray[np.float64] = inner @ weights.astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(inner), 1e-30))
    enough = _EXACT * float(weights @ target)
    chosen: list[int] = []
    fitted = np.zeros(0)
    for _ in range(min(count, len(inner))):
        missing = target - inner[:, chosen] @ fitted
        along = missing / lengths
        along[chosen] = -np.inf
        row = int(along.argmax())
        if along[row] <= 0 or along[row] ** 2 <= enough:
            break
        chosen.append(row)
        fitted = _fit(inner[np.ix_(chosen, chosen)], target[chosen])
    used = fitted > _EXACT * fitted.max(initial=0.0)
    return Weighed(np.array(chosen, dtype=np.int64)[used], fitted[used])


def gradient_kernel(
    features: NDArray[np.floating], labels: Rows, classes: int, heads: int, seed: int
) -> NDArray[np.float64]:
    """Return inner products [n, n] of the last layer's cross entropy gradients, averaged over random heads.

    At a head with probabilities p the gradient of (features f, label y) is (p - onehot(y)) x [f, 1], so an
    inner product is <p_i - y_i, p_j - y_j> (<f_i, f_j> + 1). Heads are drawn as fresh layers are, because a
    trained one has next to no gradient on what it fits (Balles et al. 2022 match across initialisations).
    """
    rng = np.random.default_rng(seed)
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    products = np.zeros((len(inputs), len(inputs)))
    for _ in range(heads):
        head = rng.uniform(-1, 1, (inputs.shape[1], classes)) / np.sqrt(features.shape[1])
        logits = inputs @ head
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(p)), labels] -= 1
        products += p @ p.T / heads
    return products * (inputs @ inputs.T)


def quotas(counts: Sequence[int], capacity: int) -> list[int]:
    """Return how many samples each class may keep of its counts: alike, and what one lacks goes to others."""
    given = [0] * len(counts)
    left = capacity
    while left and any(have < count for have, count in zip(given, counts, strict=True)):
        short = [row for row, count in enumerate(counts) if given[row] < count]
        each = max(1, left // len(short))
        for row in short:
            more = min(each, counts[row] - given[row], left)
            given[row] += more
            left -= more
    return given


def _fit(kernel: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of at least 0 that bring sum_j w_j g_j nearest, from inner products alone."""
    ridge = _RIDGE * float(np.trace(kernel)) / len(kernel)
    root = np.linalg.cholesky(kernel + ridge * np.eye(len(kernel)))
    fitted, _ = nnls(root.T, np.linalg.solve(root, target))
    return np.asarray(fitted, dtype=np.float64)
