"""The benchmarks' cases: who gets what, with which net, and which rows their figures are.

Every deal is a function of the data folder and the seed. Test samples are opened after training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.hold_out import VALIDATION_FRACTION, hold_out
from swarm.cli.bench.collections import Collection, grey_28, idx_collection, npz_collection
from swarm.cli.up.deal import Deal, joined, large_enough, node_names
from swarm.data.dataset import Dataset
from swarm.data.partition import partition
from swarm.domain.errors import UsageError

NODES = 10
FIGURES: Mapping[str, str] = {
    "swarm": "swarm",
    "root": "root",
    "corrected": "corrected",
    "top2": "swarm_top2",
    "fedavg": "fedavg",
    "pooled": "pooled_total_budget",
}
"""Which row a figure `<case>_<name>` is of."""
DOMAIN_COLLECTIONS = ("mnist", "fashion-mnist", "usps.npz", "omniglot_small.npz")
DOMAIN_OWNERS = (3, 3, 2, 2)
DOMAIN_SAMPLES = 6000
FEW_TRAINING, FEW_VALIDATION = 20, 10
CONFLICT_SAMPLES, CONFLICT_EXAMPLES, CONFLICT_QUERIES = 750, 50, 5000
ROTATED = 5

Rows = NDArray[np.int64]
Dealing = Callable[[Path, int], Deal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of a table, dealt from `collections`. `sums` and `sums_mb` are `swarm train`'s."""

    name: str
    title: str
    deal: Dealing
    collections: tuple[str, ...]
    net: str = "mlp:128x2"
    steps: int = 1000
    sums: str = "auto"
    sums_mb: float = 4.0
    figures: Mapping[str, str] = field(default_factory=lambda: dict(FIGURES))


def deal_partition(name: str, scheme: str, folder: Path, seed: int) -> Deal:
    """Deal an IDX collection by a scheme of `swarm up --partition`."""
    found = idx_collection(folder, name)
    return _dealt(_whole(found), partition(found.labels, scheme, NODES, seed), lambda: _test(found))


def deal_cifar(folder: Path, seed: int) -> Deal:
    """Deal the CIFAR subset, two classes a node; nets see values around zero."""
    found = npz_collection(folder, "cifar10_jpeg_subset.npz")
    whole = _whole(found, offset=-0.45)
    rows = partition(found.labels, "classes:2", NODES, seed)
    return _dealt(whole, rows, lambda: _test(found, offset=-0.45))


def deal_few(folder: Path, seed: int) -> Deal:
    """Deal Fashion, two classes a node, of which each keeps 20 samples to train on and 10 to validate on."""
    found = idx_collection(folder, "fashion-mnist")
    rng = np.random.default_rng(seed)
    kept = []
    for part in partition(found.labels, "classes:2", NODES, seed):
        drawn = rng.permutation(part)[:2000]
        training, validation = hold_out(found.inputs[drawn], found.labels[drawn], VALIDATION_FRACTION)
        chosen = (
            _balanced(drawn[rows], found.labels, count)
            for rows, count in ((training, FEW_TRAINING), (validation, FEW_VALIDATION))
        )
        kept.append(np.sort(np.concatenate([*chosen])))
    return _dealt(_whole(found), kept, lambda: _test(found))


def deal_domains(shared: bool, folder: Path, seed: int) -> Deal:
    """Deal four collections to 3, 3, 2 and 2 owners, each with a part of its collection's classes.

    shared: class "3" is one class wherever it comes from; else each collection has its own classes.
    As many queries of each collection.
    """
    rng = np.random.default_rng(seed)
    collections = [
        idx_collection(folder, "mnist"),
        idx_collection(folder, "fashion-mnist"),
        grey_28(npz_collection(folder, "usps.npz")),
        npz_collection(folder, "omniglot_small.npz", "a"),
    ]
    nodes: dict[str, Dataset] = {}
    for found, owners in zip(collections, DOMAIN_OWNERS, strict=True):
        rows = rng.permutation(len(found.labels))[:DOMAIN_SAMPLES]
        groups = np.array_split(rng.permutation(np.unique(found.labels)), owners)
        for number, group in enumerate(groups, start=1):
            own = np.sort(rows[np.isin(found.labels[rows], group)])
            name = f"{_short(found)}-{number}"
            nodes[name] = _named(found, own, _prefix(found, shared), name)
    fewest = min(len(found.test_labels) for found in collections)
    picked = [rng.permutation(len(found.test_labels))[:fewest] for found in collections]

    def open_test() -> Dataset:
        tests = [
            _named(_as_training(found), rows, _prefix(found, shared), "test")
            for found, rows in zip(collections, picked, strict=True)
        ]
        return joined(tests, "test")

    names = tuple(dict.fromkeys(each for data in nodes.values() for each in data.class_names))
    return Deal(nodes=nodes, class_names=names, open_test=open_test)


def deal_conflict(folder: Path, seed: int) -> Deal:
    """Deal Fashion evenly to ten nodes, of which the last five call classes 0 to 4 by the next one's number.

    Each asks by 50 labelled examples of its own, which it does not train on.
    """
    found = idx_collection(folder, "fashion-mnist")
    rng = np.random.default_rng(seed)
    each = CONFLICT_SAMPLES + CONFLICT_EXAMPLES
    rows = rng.permutation(len(found.labels))[: NODES * each].reshape(NODES, each)
    turned = {str(label): str((label + 1) % ROTATED) for label in range(ROTATED)}
    nodes, examples, conventions = {}, {}, {}
    for place, name in enumerate(node_names(NODES)):
        called = turned if place >= NODES // 2 else {}
        conventions[name] = called
        own = _renamed(_named(found, np.sort(rows[place, CONFLICT_EXAMPLES:]), "", name), called)
        asked = _renamed(_named(found, np.sort(rows[place, :CONFLICT_EXAMPLES]), "", name), called)
        nodes[name], examples[name] = own, asked
    queries = np.sort(rng.permutation(len(found.test_labels))[:CONFLICT_QUERIES])
    return Deal(
        nodes=nodes,
        class_names=tuple(map(str, np.unique(found.labels))),
        open_test=lambda: _named(_as_training(found), queries, "", "test"),
        conventions=conventions,
        examples=examples,
    )


def _dealt(whole: Dataset, rows: Sequence[Rows], open_test: Callable[[], Dataset]) -> Deal:
    names = node_names(len(rows))
    parts = {
        name: whole.subset(part, f"{whole.name} of {name}") for name, part in zip(names, rows, strict=True)
    }
    nodes, left_out = large_enough(parts)
    return Deal(nodes=nodes, class_names=whole.class_names, open_test=open_test, left_out=left_out)


def _whole(found: Collection, offset: float = 0.0) -> Dataset:
    return replace(_named(found, np.arange(len(found.labels)), "", found.name), offset=offset)


def _test(found: Collection, offset: float = 0.0) -> Dataset:
    tests = _as_training(found)
    return replace(_named(tests, np.arange(len(tests.labels)), "", "test"), offset=offset)


def _as_training(found: Collection) -> Collection:
    """Return a collection whose training samples are the other's test samples."""
    return replace(found, inputs=found.test_inputs, labels=found.test_labels)


def _named(found: Collection, rows: Rows, prefix: str, name: str) -> Dataset:
    """Return the training samples at rows; a class is called by prefix and number."""
    present, labels = np.unique(found.labels[rows], return_inverse=True)
    return Dataset(
        inputs=found.inputs[rows],
        labels=labels.astype(np.int64),
        class_names=tuple(f"{prefix}{label}" for label in present),
        name=name,
        scale=1 / 255,
    )


def _renamed(data: Dataset, called: Mapping[str, str]) -> Dataset:
    return replace(data, class_names=tuple(called.get(name, name) for name in data.class_names))


def _prefix(found: Collection, shared: bool) -> str:
    return "" if shared else f"{_short(found)} "


def _short(found: Collection) -> str:
    return found.name.partition("-")[0].partition("_")[0]


def _balanced(rows: Rows, labels: Rows, count: int) -> Rows:
    """Return the first rows of each class, as many of each, count in all."""
    classes = np.unique(labels[rows])
    return np.concatenate([rows[labels[rows] == label][: count // len(classes)] for label in classes])


def _fashion(
    name: str, title: str, scheme: str = "classes:2", sums: str = "auto", sums_mb: float = 4.0
) -> Case:
    dealing = partial(deal_partition, "fashion-mnist", scheme)
    return Case(
        name=name, title=title, deal=dealing, collections=("fashion-mnist",), sums=sums, sums_mb=sums_mb
    )


SKEW = (
    Case(
        name="mnist_classes2",
        title="MNIST, 2 classes a node",
        deal=partial(deal_partition, "mnist", "classes:2"),
        collections=("mnist",),
    ),
    _fashion("fashion_classes2", "Fashion, 2 classes a node"),
    _fashion("fashion_dirichlet01", "Fashion, Dirichlet 0.1", "dirichlet:0.1"),
    _fashion("fashion_classes2_2mb", "Fashion, 2 classes a node, at most 2 MB", sums_mb=2.0),
    _fashion("fashion_classes2_exact", "Fashion, 2 classes a node, exact sums", sums="exact"),
)
DOMAINS = (
    Case(
        name="cifar_classes2",
        title="CIFAR subset, 2 classes a node, small CNN",
        deal=deal_cifar,
        collections=("cifar10_jpeg_subset.npz",),
        net="cnn:16x32",
        steps=400,
    ),
    Case(
        name="domains_shared",
        title="Four domains, shared class names, small CNN",
        deal=partial(deal_domains, True),
        collections=DOMAIN_COLLECTIONS,
        net="cnn:16x32",
    ),
    Case(
        name="domains_distinct",
        title="Four domains, distinct class names, small CNN",
        deal=partial(deal_domains, False),
        collections=DOMAIN_COLLECTIONS,
        net="cnn:16x32",
    ),
    Case(
        name="fewshot20",
        title="Fashion, 20 samples a node",
        deal=deal_few,
        collections=("fashion-mnist",),
        steps=300,
    ),
    Case(
        name="conflict",
        title="Fashion, two label conventions",
        deal=deal_conflict,
        collections=("fashion-mnist",),
        steps=500,
        figures={**FIGURES, "swarm": "asker", "without_examples": "swarm"},
    ),
)
TABLES: Mapping[str, Sequence[Case]] = {"skew": SKEW, "domains": DOMAINS}


def chosen_cases(table: str, only: Sequence[str]) -> tuple[Case, ...]:
    """Return a table's cases, or those of them that are named; UsageError for a name that it has not."""
    cases = {case.name: case for case in TABLES[table]}
    unknown = [name for name in only if name not in cases]
    if unknown:
        raise UsageError("--only", found=unknown[0], expected=", ".join(cases))
    return tuple(case for name, case in cases.items() if not only or name in only)


def reduced(dealt: Deal, samples: int, queries: int, seed: int) -> Deal:
    """Return a deal with at most so many samples a node and so many queries: to try a benchmark out."""
    rng = np.random.default_rng(seed)

    def fewer(data: Dataset, count: int) -> Dataset:
        return data.subset(np.sort(rng.permutation(len(data))[:count]))

    test = fewer(dealt.open_test(), queries)
    return Deal(
        nodes={name: fewer(data, samples) for name, data in dealt.nodes.items()},
        class_names=dealt.class_names,
        open_test=lambda: test,
        left_out=dealt.left_out,
        conventions=dealt.conventions,
        examples=dealt.examples,
    )
