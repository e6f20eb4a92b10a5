"""The specification: what every member of a swarm agrees on, signed by the coordinator."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry

MAX_CLASS_NAME = 80
MAX_CLASSES = 1 << 15
MAX_NEW_CLASSES_PER_OWNER = 1000
"""Unless the founder says otherwise: every class costs everybody a column of every answer."""
MAX_ACTIVATION_BYTES = 256 << 20
"""What one forward pass of an expert may hold at a time, weights aside; rows at once are chosen by it."""
MAX_EXPERT_FLOPS = 50 * 10**9
"""What an expert may cost per query: others ask it about thousands of samples before it answers anybody."""
EXPERTS_PER_LEAF = 16
"""An owner may have so many experts in the registry for each leaf that the gate takes of it: what was split,
merged away or rolled back stays there for a while."""


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
    """Input, task, class names, trunk and limits. A class that comes or goes makes a new version.

    Raw inputs have `input_shape` and `input_dtype`; a network sees float32 `raw * scale + offset`. The first
    `founding_classes` of the class names are the founder's and stay (None: all of them, nothing has changed
    yet); others stay as long as somebody in the gate has samples of them. One owner may bring at most
    `max_new_classes_per_owner` names that are not the founder's.
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
    founding_classes: int | None = None
    max_new_classes_per_owner: int = MAX_NEW_CLASSES_PER_OWNER

    def __post_init__(self) -> None:
        if not self.input_shape or len(self.input_shape) > 4 or any(s < 1 for s in self.input_shape):
            raise InvalidInputError(
                "input shape", found=str(self.input_shape), expected="1 to 4 positive sizes"
            )
        check_class_names(self.class_names)
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise InvalidInputError("preprocessing", found=f"scale {self.scale}, offset {self.offset}")
        limits = (
            self.version,
            self.min_leaf_count,
            self.max_leaves_per_owner,
            self.max_prototypes_per_leaf,
            self.max_new_classes_per_owner,
        )
        if min(limits) < 1:
            raise InvalidInputError("specification", found=f"limits {limits}", expected="at least 1 each")
        if self.founding_classes is not None and not 0 <= self.founding_classes <= len(self.class_names):
            raise InvalidInputError(
                "specification",
                found=f"{self.founding_classes} founding classes of {len(self.class_names)}",
                expected=f"0 to {len(self.class_names)}",
            )

    @property
    def max_experts_per_owner(self) -> int:
        """How many experts of one owner the registry holds."""
        return EXPERTS_PER_LEAF * self.max_leaves_per_owner

    @property
    def founders_classes(self) -> tuple[str, ...]:
        """The names that the swarm was founded with."""
        return self.class_names[: self.founding_classes]

    def with_classes(self, names: Iterable[str]) -> "Specification":
        """Return this specification, or its next version where one owner's names hold a class that it lacks.

        Raises InvalidInputError as `check_owners_classes` does.
        """
        wanted = tuple(names)
        self.check_owners_classes(wanted)
        return self.of_classes((*self.class_names, *wanted))

    def of_classes(self, names: Iterable[str]) -> "Specification":
        """Return this specification, or its next version, with the founder's classes and names, no others.

        What stays keeps its order; what is new follows, sorted. Gates, experts and answers carry class names
        of their own, so that none of them changes its meaning.
        """
        wanted, founders = set(names), self.founders_classes
        kept = [name for name in self.class_names[len(founders) :] if name in wanted]
        new = sorted(wanted.difference(founders, kept))
        found = (*founders, *kept, *new)
        if found == self.class_names:
            return self
        return replace(self, version=self.version + 1, class_names=found, founding_classes=len(founders))

    def check_owners_classes(self, names: Iterable[str], subject: str = "class names") -> None:
        """Raise InvalidInputError where one owner's names hold classes that the swarm does not accept, or too
        many that its founder did not name."""
        wanted = set(names)
        unknown = sorted(wanted.difference(self.class_names))
        if unknown and not self.accept_new_classes:
            raise InvalidInputError(
                subject,
                found=f"unknown classes {', '.join(unknown[:5])}",
                expected=f"one of {', '.join(self.class_names[:20])}",
                remedy="rename your classes or ask the swarm's operator to accept new ones",
            )
        brought = sorted(wanted.difference(self.founders_classes))
        if len(brought) > self.max_new_classes_per_owner:
            raise InvalidInputError(
                subject,
                found=f"{len(brought)} that the swarm was not founded with ({', '.join(brought[:3])}, ..)",
                expected=f"at most {self.max_new_classes_per_owner} of one owner",
                remedy="leave classes out or merge them; a swarm's founder can name more: swarm init",
            )


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
