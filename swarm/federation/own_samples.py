"""A node's own samples as a ClientApp sees them: brought by what the node's OWN configuration names.

`samples` in a node's configuration is `package.module:function`; called with that configuration it returns
OwnSamples. So a ClientApp is the same on a node of the swarm and on a SuperNode of a stock deployment.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from numpy.typing import NDArray

from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.specification import Specification

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnSamples:
    """What a node's newest training order reads, split as that training splits it; features [N, D] by the
    swarm's trunk. `novel` returns the newest training samples that are new to the swarm (None: there are
    none). None of it leaves the node."""

    node: str
    specification: Specification
    training: Dataset
    validation: Dataset
    features: Callable[[NDArray[np.generic]], Floats]
    import_paths: tuple[str, ...] = ()
    novel: Callable[[], Dataset | None] = lambda: None


_held: dict[str, OwnSamples] = {}
_features: dict[tuple[int, str], Floats] = {}


def own_samples(context: Context) -> OwnSamples:
    """Return this node's samples, read once per process. NotReadyError where there are none yet."""
    reference = str(context.node_config.get("samples", ""))
    key = repr(sorted(context.node_config.items()))
    if key not in _held:
        _held.clear()
        _features.clear()
        _held[key] = _loader(reference)(context.node_config)
    return _held[key]


def own_features(samples: OwnSamples, *, validation: bool = False) -> Floats:
    """Return the features of the training (or validation) samples, computed once per process."""
    part = "validation" if validation else "training"
    return _computed(samples, part, samples.validation if validation else samples.training)


def novel_features(samples: OwnSamples) -> Floats:
    """Return the features of the novel samples, computed once per process; [0, D] where there are none."""
    if (id(samples), "novel") in _features:
        return _features[id(samples), "novel"]
    found = samples.novel()
    none = np.zeros((0, samples.specification.trunk.feature_size), dtype=np.float32)
    if found is None:
        return none
    return _computed(samples, "novel", found)


def _computed(samples: OwnSamples, part: str, dataset: Dataset) -> Floats:
    key = (id(samples), part)
    if key not in _features:
        _features[key] = samples.features(dataset.inputs)
    return _features[key]


def asked(message: Message) -> Mapping[str, Any]:
    """Return what a question says besides its arrays."""
    return {
        name: value for record in message.content.config_records.values() for name, value in record.items()
    }


def words_of(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a list of words in a question; InvalidInputError where it is none."""
    found = config.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(word, str) for word in found):
        raise InvalidInputError(f"question, {name}", found=repr(found)[:80], expected="a list of words")
    return tuple(found)


def introduced(samples: OwnSamples, **more: Any) -> ConfigRecord:
    """Return the record by which an answer says whose it is."""
    return ConfigRecord({"node": samples.node, **more})


def labels_among(samples: OwnSamples, dataset: Dataset, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return labels as indices into class_names; InvalidInputError where a class is not among them."""
    labels = dataset.labels_among(class_names)
    if len(labels) and labels.min() < 0:
        unknown = sorted(set(dataset.class_names) - set(class_names))
        raise InvalidInputError(
            f"data of node {samples.node}",
            found=f"class {unknown[0]!r}, which the question does not know",
            expected=f"classes of {', '.join(class_names[:20])}",
        )
    return labels


def _loader(reference: str) -> Callable[[Mapping[str, Any]], OwnSamples]:
    module, _, function = reference.partition(":")
    if not module or not function:
        raise NotReadyError(
            "node configuration",
            found="no samples",
            expected="samples = package.module:function",
            remedy="say in the node's configuration where its samples come from",
        )
    found: Callable[[Mapping[str, Any]], OwnSamples] = getattr(importlib.import_module(module), function)
    return found
