"""Answers of a net whose weights came from elsewhere as arrays: what federated averaging ends with."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.experts.flops import forward_flops
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import load_tensors, state_tensors

__all__ = ["answers_with"]

_BATCH = 1024


def answers_with(
    arrays: Mapping[str, NDArray[np.generic]],
    queries: NDArray[np.generic],
    *,
    net: str,
    classes: int,
    scale: float,
    offset: float,
    import_paths: Sequence[str] = (),
) -> tuple[NDArray[np.float32], int]:
    """Return the probabilities float32 [Q, classes] for raw queries [Q, *shape], and the FLOPs of a query.

    arrays are the net's weights by the names of its state (averages of whole numbers become whole numbers
    again); others are left out. Raises ShapeMismatchError where they do not fit.
    """
    reference = net_reference(net, queries.shape[1:], classes, import_paths)
    module = build_net(reference, import_paths)
    own = state_tensors(module)
    weights = {name: arrays[name] for name in own if name in arrays}
    load_tensors(module, {name: torch.tensor(each, dtype=own[name].dtype) for name, each in weights.items()})
    module.eval()
    found = np.empty((len(queries), classes), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(queries), _BATCH):
            raw = as_tensor(queries[start : start + _BATCH])
            outputs = module(preprocessed(raw, scale, offset))
            found[start : start + len(raw)] = torch.softmax(outputs.float(), dim=1).numpy()
    return found, forward_flops(module, queries.shape[1:])
