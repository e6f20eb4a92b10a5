"""The owners of four domains: who has which samples, and their features under one trunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.hold_out import VALIDATION_FRACTION, hold_out
from swarm.cli.bench.cases import deal_domains
from swarm.experts.samples import Samples
from swarm.experts.trunk import Trunk, make_trunk

SCALE = 1 / 255

Floats = NDArray[np.float32]

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is learned: less than `swarm bench domains` does, so that all of it takes minutes."""

    net: str = "cnn:16x32"
    trunk: str = "randconv-sqrt:200"
    steps: int = 200
    correction_steps: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """shared: class "3" is one class wherever it comes from. evenly: a domain's samples are dealt to its
    owners in turn, so that each knows all its classes; else each owner has classes of its own."""

    title: str
    shared: bool
    evenly: bool


CASES: Mapping[str, Case] = {
    "shared": Case(title="own classes, names shared between domains", shared=True, evenly=False),
    "distinct": Case(title="own classes, distinct names", shared=False, evenly=False),
    "even": Case(title="all classes of the domain, names shared between domains", shared=True, evenly=True),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Samples of all domains, labels under distinct names, with features float32 [N, D] and owners int64 [N]
    (of test samples: nobody, -1)."""

    samples: Samples
    features: Floats
    owners: Rows

    def of(self, owner: int) -> Rows:
        return np.flatnonzero(self.owners == owner)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """One seed's samples. domains: of each class and of each owner, as rows of all domains."""

    seed: int
    settings: Settings
    class_names: tuple[str, ...]
    class_domains: Rows
    owner_domains: Rows
    training: Pool
    validation: Pool
    test: Pool
    trunk: Trunk


def load_world(folder: Path, seed: int, settings: Settings) -> World:
    """Deal the domains; every owner holds validation samples back before anything else."""
    dealt = deal_domains(False, folder, seed)
    names = dealt.class_names
    domain_of = list(dict.fromkeys(name.partition(" ")[0] for name in names))
    reference, blobs = make_trunk(settings.trunk, (28, 28), scale=SCALE, offset=0.0, seed=0)
    trunk = Trunk.load(reference, lambda digest: memoryview(blobs[digest]), scale=SCALE, offset=0.0)

    def pool(inputs: Sequence[NDArray[np.generic]], labels: Sequence[Rows], owners: Sequence[int]) -> Pool:
        whole = np.concatenate(inputs)
        return Pool(
            samples=Samples(inputs=whole, labels=np.concatenate(labels), scale=SCALE),
            features=trunk.features(whole),
            owners=np.repeat(np.array(owners, dtype=np.int64), [len(part) for part in labels]),
        )

    nodes = list(dealt.nodes.values())
    halves = [hold_out(data.inputs, data.labels, VALIDATION_FRACTION) for data in nodes]
    training, validation = (
        pool(
            [data.inputs[half[part]] for data, half in zip(nodes, halves, strict=True)],
            [data.labels_among(names)[half[part]] for data, half in zip(nodes, halves, strict=True)],
            range(len(nodes)),
        )
        for part in (0, 1)
    )
    test = dealt.open_test()
    return World(
        seed=seed,
        settings=settings,
        class_names=names,
        class_domains=np.array([domain_of.index(name.partition(" ")[0]) for name in names]),
        owner_domains=np.array([domain_of.index(name.rpartition("-")[0]) for name in dealt.nodes]),
        training=training,
        validation=validation,
        test=pool([test.inputs], [test.labels_among(names)], [-1]),
        trunk=trunk,
    )


def dealt_evenly(world: World, pool: Pool) -> Pool:
    """Return the pool with each domain's samples dealt to its owners in turn."""
    rng, owners = np.random.default_rng(world.seed), np.empty_like(pool.owners)
    for domain in np.unique(world.owner_domains):
        rows = rng.permutation(np.flatnonzero(world.class_domains[pool.samples.labels] == domain))
        owners[rows] = np.resize(np.flatnonzero(world.owner_domains == domain), len(rows))
    return Pool(samples=pool.samples, features=pool.features, owners=owners)
