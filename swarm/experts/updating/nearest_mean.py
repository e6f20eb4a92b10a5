"""iCaRL's classifier as an ordinary last layer: each class is the mean of its remembered features.

With unit means m_c and any feature vector f, ||f/|f| - m_c||^2 = 2 - 2 <m_c, f>/|f|, so the nearest mean is
the largest <m_c, f>: rows s m_c, no bias. The scale s > 0 changes no answer, only how sure it sounds, and is
chosen on validation. Source: Rebuffi et al., "iCaRL: incremental classifier and representation learning",
CVPR 2017 (all features and means of unit length).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Samples
from swarm.experts.updating.last_layer import features_of, last_linear

SCALES = np.geomspace(1 / 16, 256, 49)


def put_nearest_mean_head(net: nn.Module, exemplars: Samples, held_out: Samples, classes: int) -> float:
    """Replace net's last layer by the nearest-mean classifier of exemplars and return its scale.

    The scale is the one of SCALES with the lowest mean loss on held_out, or, without it, on exemplars.
    Raises InvalidInputError where net does not end in an nn.Linear, or a class has no exemplar.
    """
    means = class_means(features_of(net, exemplars, classes), exemplars, classes)
    judged = held_out if len(held_out) else exemplars
    scale = calibrated_scale(features_of(net, judged, classes) @ means.T, judged)
    last = last_linear(net, classes)
    if last is None:
        raise InvalidInputError("net", found="no last linear layer")  # features_of has refused it
    with torch.no_grad():
        last.layer.weight.copy_(torch.from_numpy(scale * means))
        if last.layer.bias is not None:
            last.layer.bias.zero_()
    return scale


def class_means(features: NDArray[np.float32], exemplars: Samples, classes: int) -> NDArray[np.float32]:
    """Return unit means of unit features, by exemplars' weights: float32 [classes, D]."""
    unit = normalised(features)
    weights = np.ones(len(unit), np.float32) if exemplars.weights is None else exemplars.weights
    sums = np.zeros((classes, unit.shape[1]), dtype=np.float64)
    np.add.at(sums, exemplars.labels, weights[:, None] * unit)
    missing = np.setdiff1d(np.arange(classes), exemplars.labels)
    if len(missing):
        raise InvalidInputError(
            "nearest-mean head",
            found=f"no exemplar of class {int(missing[0])} ({len(missing)} of {classes} classes have none)",
            expected="at least one of each class",
            remedy="remember more samples, or keep the net's own head",
        )
    return normalised(sums)


def normalised(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return vectors [n, D] at unit length, float32; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def calibrated_scale(logits: NDArray[np.float32], samples: Samples) -> float:
    """Return the one of SCALES by which logits [N, C] have the lowest (weighted) mean cross entropy."""
    scores = torch.from_numpy(np.ascontiguousarray(logits))
    labels = torch.from_numpy(samples.labels)
    weights = torch.ones(len(labels)) if samples.weights is None else torch.from_numpy(samples.weights)
    losses = [
        float((nn.functional.cross_entropy(scale * scores, labels, reduction="none") * weights).sum())
        for scale in SCALES.tolist()
    ]
    return float(SCALES[int(np.argmin(losses))])
