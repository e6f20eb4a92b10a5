"""This system as a learner of streams, in one process: a root solved from exact sums, and its correction.

Sums over mega-batches add up, so that every solution is that of all data so far, whatever the waiting time,
and no sample is seen twice. Source: `swarm.gating.ridge`; a correction is an expert trained on top of the
root, as `corrected` in `swarm.gating.combinations`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.streams import Flops
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.streams.fitting import FitSettings, fit
from swarm.experts.streams.fixed import mean_logits, stack_of_mlps
from swarm.experts.streams.mlps import MlpStack, parameter_count
from swarm.experts.trunk import Trunk, make_trunk
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import Int16s, exact_gram, pack_triangle, quantised, target_columns

Floats = NDArray[np.float32]
TEMPERATURE = 0.2
"""What class scores are divided by before a softmax."""
BETAS = (0.25, 0.5, 1.0, 2.0)
EVIDENCE = 1.0
"""A correction answers where on validation samples (n10 - n01) / sqrt(n10 + n01) is more than this."""


class AnalyticLearner:
    """`root`: ridge regression on random features. `swarm`: with `width`, corrected where that is better.

    The ridge is chosen on the stage's validation samples, and so is beta, the correction's weight. The
    correction is an MLP of two hidden layers, trained each stage from a zeroed output layer on the stage's
    samples. `parameters` counts what answers (filters, W, correction); learning keeps M (M + 1) / 2 sums
    besides.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        settings: FitSettings,
        *,
        seed: int,
        trunk: str,
        scale: float,
        offset: float,
        width: int = 0,
    ) -> None:
        reference, blobs = make_trunk(trunk, input_shape, scale=scale, offset=offset, seed=seed)
        self._trunk = Trunk.load(
            reference, lambda digest: memoryview(blobs[digest]), scale=scale, offset=offset
        )
        self._reference, self._shape, self._classes = reference, tuple(input_shape), classes
        self._settings, self._seed, self._width = settings, seed, width
        size = reference.sum_size
        self._columns = np.zeros((size, classes), dtype=np.int64)
        self._triangle = np.zeros(size * (size + 1) // 2, dtype=np.int64)
        self._samples = self._stage = 0
        self._weights: Floats | None = None
        self._correction: MlpStack | None = None
        self._beta = 0.0
        self._seen: tuple[NDArray[np.generic], Int16s] | None = None
        self._scale, self._offset = scale, offset
        self._filters = sum(math.prod(tensor.shape) for tensor in reference.weights.tensors)

    @property
    def parameters(self) -> int:
        if self._weights is None:
            return 0
        corrected = 0 if self._correction is None else parameter_count(self._correction)
        return self._filters + self._weights.size + corrected

    def learn(self, train: Samples, validation: Samples) -> Flops:
        """As `StreamLearner`, but samples are to be given once: their sums stay."""
        self._stage += 1
        q, held = self._features(train.inputs), self._features(validation.inputs)
        self._columns += target_columns(q, train.labels, self._classes)
        self._triangle += pack_triangle(exact_gram(q))
        self._samples += len(train)
        owner = OwnerSums(owner="stream", samples=self._samples, columns=self._columns, exact=self._triangle)
        candidates = solve([owner], RIDGES, self._reference.fixed_point).astype(np.float32)
        accuracies = [_accuracy(held @ weights, validation.labels) for weights in candidates]
        self._weights = candidates[int(np.argmax(accuracies))]
        forward, total = self._solving_flops(len(train), len(validation))
        if self._width:
            spent = self._correct(train, q, validation, held)
            forward, total = forward + spent.forward, total + spent.total
        return Flops(forward=forward, total=total)

    def probabilities(self, inputs: NDArray[np.generic]) -> Floats:
        if self._seen is None or self._seen[0] is not inputs:
            self._seen = (inputs, self._features(inputs))
        logits = self._base(self._seen[1])
        if self._correction is not None:
            logits += self._beta * mean_logits(self._correction, inputs, self._scale, self._offset)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Floats = shares / shares.sum(axis=1, keepdims=True)
        return found

    def _features(self, inputs: NDArray[np.generic]) -> Int16s:
        reference = self._reference
        return quantised(self._trunk.features(inputs), reference.fixed_point, reference.has_constant)

    def _base(self, q: Int16s) -> Floats:
        assert self._weights is not None
        scores: Floats = q.astype(np.float32) @ self._weights
        return scores / np.float32(TEMPERATURE)

    def _correct(self, train: Samples, q: Int16s, validation: Samples, held: Int16s) -> Flops:
        """Train a correction of the present root and take it where validation samples speak for it."""
        seed = derived_seed(self._seed, "correction", self._stage)
        net = stack_of_mlps(self._shape, self._width, self._classes, members=1, seed=seed)
        net.zero_output()
        base = self._base(held)
        spent = fit(
            net,
            replace(train, base_logits=self._base(q)),
            replace(validation, base_logits=base),
            self._settings,
            seed=seed,
        )
        added = mean_logits(net, validation.inputs, self._scale, self._offset)
        plain = base.argmax(axis=1) == validation.labels
        corrected = [(base + beta * added).argmax(axis=1) == validation.labels for beta in BETAS]
        best = max(range(len(BETAS)), key=lambda row: int(corrected[row].sum()))
        won, lost = int((corrected[best] & ~plain).sum()), int((plain & ~corrected[best]).sum())
        accepted = won > lost and (won - lost) / math.sqrt(won + lost) > EVIDENCE
        self._correction, self._beta = (net, BETAS[best]) if accepted else (None, 0.0)
        return spent

    def _solving_flops(self, train: int, held: int) -> tuple[int, int]:
        """Return FLOPs in forward passes (features of all, and their scores) and altogether: the sums
        (2 n M^2 + n M), and for each ridge a Cholesky factorisation (M^3 / 3) and its solves (2 M^2 C)."""
        size, classes, ridges = self._reference.sum_size, self._classes, len(RIDGES)
        features = (train + held) * (self._trunk.flops_per_query + 2 * size)
        scores = ridges * 2 * held * size * classes
        sums = 2 * train * size**2 + train * size
        solving = ridges * (size**3 // 3 + 2 * size**2 * classes)
        return features + scores, features + scores + sums + solving


def _accuracy(scores: Floats, labels: NDArray[np.int64]) -> float:
    return float(np.mean(scores.argmax(axis=1) == labels))
