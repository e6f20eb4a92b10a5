"""The specification: what every member of a swarm agrees on, signed by the coordinator."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry

MAX_CLASS_NAME = 80
MAX_CLASSES = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkReference:
    """The frozen feature extractor: how to build it, its weights, and a probe that proves sameness.

    `factory` is a built-in name (`randconv-sqrt:64`, `identity`) or `package.module:factory`;
    `probe` holds two tensors, `input` [n, *input_shape] and `features` [n, feature_size];
    a joiner must reproduce the features within `tolerance` (largest absolute difference).
    Sums over features are made in fixed point: round(fixed_point * feature), clamped to int16; where the last
    feature is not the constant 1 (`has_constant`), one is appended. `digest` names the whole: blake3 of
    factory, feature size, weights, probe, tolerance and fixed point.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    factory: str
    feature_size: int
    weights: ModuleEntry
    probe: ModuleEntry
    tolerance: float
    fixed_point: float
    has_constant: bool
    digest: Digest

    @property
    def sum_size(self) -> int:
        """M, the number of features in sums and in the analytic gate."""
        return self.feature_size + (not self.has_constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """Input, task, class names, trunk and limits. A new class makes a new version.

    Raw inputs have `input_shape` and `input_dtype`; a network sees float32 `raw * scale + offset`.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    version: int
    input_shape: tuple[int, ...]
    input_dtype: Literal["uint8", "float32"]
    scale: float
    offset: float
    task: Literal["classification"]
    class_names: tuple[str, ...]
    accept_new_classes: bool
    trunk: TrunkReference
    min_leaf_count: int
    max_leaves_per_owner: int
    max_prototypes_per_leaf: int

    def __post_init__(self) -> None:
        if not self.input_shape or len(self.input_shape) > 4 or any(s < 1 for s in self.input_shape):
            raise InvalidInputError(
                "input shape", found=str(self.input_shape), expected="1 to 4 positive sizes"
            )
        check_class_names(self.class_names)
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise InvalidInputError("preprocessing", found=f"scale {self.scale}, offset {self.offset}")
        limits = (self.version, self.min_leaf_count, self.max_leaves_per_owner, self.max_prototypes_per_leaf)
        if min(limits) < 1:
            raise InvalidInputError("specification", found=f"limits {limits}", expected="at least 1 each")

    def with_classes(self, names: tuple[str, ...]) -> "Specification":
        """Return this specification, or its next version where names hold a class that it lacks."""
        new = tuple(sorted(set(names) - set(self.class_names)))
        if not new:
            return self
        if not self.accept_new_classes:
            raise InvalidInputError(
                "class names",
                found=f"unknown classes {', '.join(new[:5])}",
                expected=f"one of {', '.join(self.class_names[:20])}",
                remedy="rename your classes or ask the swarm's operator to accept new ones",
            )
        return replace(self, version=self.version + 1, class_names=(*self.class_names, *new))


def check_class_names(names: tuple[str, ...]) -> None:
    """Raise InvalidInputError unless names are distinct, printable, of at most 80 characters, and few."""
    if len(names) > MAX_CLASSES:
        raise InvalidInputError(
            "class names", found=f"{len(names)} of them", expected=f"at most {MAX_CLASSES}"
        )
    bad = [n for n in names if not n or len(n) > MAX_CLASS_NAME or not n.isprintable() or n != n.strip()]
    if bad or len(set(names)) != len(names):
        raise InvalidInputError(
            "class names",
            found=repr(bad[0][:90]) if bad else "a name twice",
            expected=f"distinct printable names of 1 to {MAX_CLASS_NAME} characters",
        )
