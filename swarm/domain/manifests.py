"""Signed statements about experts: one manifest for each version, with its lineage, cost and correction.

Each signed statement (of this file, `contributions`, `gates` and `members`) travels as the predicate of an
in-toto statement in a DSSE envelope (`swarm.trust.statements`). Its digest is the blake3 of the statement's
bytes, so the same statement has one name whoever signs it. Times are seconds since the epoch (UTC).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId, expert_of, owner_of
from swarm.domain.specification import check_class_names
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry

Share = Literal["serve-only", "borrow", "public"]
MAX_VERSION = 10**9
MAX_TRAIN_FLOPS = 10**27
MAX_INFERENCE_FLOPS = 10**14
LATEST_S = 253_402_300_799.0
"""The last second of the year 9999: what comes later is no date."""

Computation = tuple[object, ...]
ParentKind = Literal["trained-from", "borrowed-from", "split-from", "merged-from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetReference:
    """How to build an expert's network.

    `factory` is a built-in name (`mlp:128x2`, `cnn:16x32`) or `package.module:factory`, called with
    `input_shape` and `classes`. `code_digest` is the blake3 of the user's source file, empty for built-ins.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    factory: str
    input_shape: tuple[int, ...]
    classes: int
    code_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One edge of the lineage: how this version came from another, by that manifest's digest."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    kind: ParentKind
    manifest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an expert cost to train (FLOPs, samples seen, seconds) and costs per query (FLOPs)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    train_flops: int
    inference_flops: int
    samples_seen: int
    duration_s: float

    def __post_init__(self) -> None:
        # Others add these up and send them on: what cannot be true must not stop them.
        for name, largest in (
            ("train_flops", MAX_TRAIN_FLOPS),
            ("inference_flops", MAX_INFERENCE_FLOPS),
            ("samples_seen", MAX_TRAIN_FLOPS),
            ("duration_s", float(MAX_TRAIN_FLOPS)),
        ):
            value = getattr(self, name)
            if not 0 <= value <= largest:
                raise InvalidInputError(
                    f"cost {name}", found=str(value)[:40], expected=f"0 to {float(largest):g}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What an expert adds to the root's class scores: a second set of weights for the expert's own net.

    Trained from a zeroed output layer on CE(a(x) / class_temperature + h(x)) over the expert's own classes,
    where a are the class scores of gate `base` (its statement's digest). `metrics` and `cost` are its own.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    modules: tuple[ModuleEntry, ...]
    base: Digest
    class_temperature: float
    metrics: Mapping[str, float]
    cost: Cost

    def __post_init__(self) -> None:
        if not self.modules or not (0 < self.class_temperature < math.inf):
            raise InvalidInputError(
                "correction",
                found=f"{len(self.modules)} modules, class temperature {self.class_temperature}",
                expected="at least one module and a positive temperature",
            )
        if not all(map(math.isfinite, self.metrics.values())):
            raise InvalidInputError("correction", found="a metric that is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of one expert. `parent_version` is the head that it replaces, 0 for a first version."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    expert: ExpertId
    version: int
    parent_version: int
    leaf: LeafId
    owner: NodeId
    net: NetReference
    class_names: tuple[str, ...]
    modules: tuple[ModuleEntry, ...]
    parents: tuple[Parent, ...]
    trunk: Digest
    gate_version_seen: int
    share: Share
    metrics: Mapping[str, float]
    cost: Cost
    created_at: float
    correction: Correction | None = None

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        if owner_of(self.expert) != self.owner or expert_of(self.leaf) != self.expert:
            raise InvalidInputError(
                f"manifest of {self.expert}", found=f"leaf {self.leaf} of {self.owner}", expected="one owner"
            )
        if self.version != self.parent_version + 1 or not 1 <= self.version <= MAX_VERSION:
            raise InvalidInputError(
                f"{self.expert}@{str(self.version)[:20]}",
                found=f"parent version {str(self.parent_version)[:20]}",
                expected=f"the version before it, of 1 to {MAX_VERSION}",
            )
        if len(self.class_names) != self.net.classes or not self.modules:
            raise InvalidInputError(
                f"{self.expert}@{self.version}",
                found=f"{len(self.class_names)} class names, {len(self.modules)} modules",
                expected=f"{self.net.classes} class names and at least one module",
            )
        if not all(map(math.isfinite, self.metrics.values())):
            raise InvalidInputError(f"{self.expert}@{self.version}", found="a metric that is not finite")
        if not 0 <= self.created_at <= LATEST_S:
            raise InvalidInputError(
                f"{self.expert}@{self.version}: created_at",
                found=f"{self.created_at:g}",
                expected="seconds since 1970, before the year 10000",
            )

    @property
    def computes(self) -> Computation:
        """What the expert computes: manifests with the same one answer every input alike.

        Net, classes and weights, its correction's too; not its id, owner, version, metrics or times. So the
        exact copies of an expert that was split are one expert, until they are trained.
        """
        net, correction = self.net, self.correction
        return (
            (net.factory, net.code_digest, net.input_shape, self.class_names),
            tuple((module.name, module.digest) for module in self.modules),
            ()
            if correction is None
            else (
                correction.class_temperature,
                tuple((module.name, module.digest) for module in correction.modules),
            ),
        )

    def blobs(self) -> tuple[Digest, ...]:
        """Return the distinct blobs that this version needs, in order of first use."""
        return tuple(dict.fromkeys(t.blob for module in self._all_modules() for t in module.tensors))

    def weight_bytes(self) -> int:
        """Return the bytes of its tensors, those of its correction included."""
        return sum(module.size_bytes for module in self._all_modules())

    def _all_modules(self) -> tuple[ModuleEntry, ...]:
        return (*self.modules, *(self.correction.modules if self.correction is not None else ()))
