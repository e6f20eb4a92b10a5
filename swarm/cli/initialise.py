"""What `swarm init` was asked for, completed from data where it was given, and done."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from swarm.cli.settings import Settings
from swarm.config import SwarmHome
from swarm.domain.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The flags of `swarm init`; None or empty means not given."""

    name: str
    data: str
    input_shape: tuple[int, ...]
    input_dtype: str
    scale: float | None
    offset: float | None
    class_names: tuple[str, ...]
    accept_new_classes: bool
    trunk: str
    min_leaf_count: int
    max_leaves: int
    max_prototypes: int
    max_new_classes: int
    host: str
    registry_host: str
    seed: int
    import_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputKind:
    """What one input is and which classes there are."""

    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    scale: float
    offset: float
    class_names: tuple[str, ...]


def found(home: Path, settings: Settings, wanted: Wanted) -> tuple[str, InputKind]:
    """Found the swarm in home; return the join line and the inputs it takes.

    Raises UsageError without data or shape and classes, ConflictError where home has a swarm.
    """
    from coordinator.founding import found_swarm

    kind = input_kind(wanted)
    line = found_swarm(
        SwarmHome(home),
        swarm=wanted.name,
        input_shape=kind.shape,
        input_dtype=kind.dtype,
        scale=kind.scale,
        offset=kind.offset,
        class_names=kind.class_names,
        trunk=wanted.trunk,
        accept_new_classes=wanted.accept_new_classes,
        min_leaf_count=wanted.min_leaf_count,
        max_leaves_per_owner=wanted.max_leaves,
        max_prototypes_per_leaf=wanted.max_prototypes,
        max_new_classes_per_owner=wanted.max_new_classes,
        host=wanted.host or settings.advertise,
        registry_host=wanted.registry_host,
        join_port=settings.join_port,
        port=settings.coordinator_port,
        registry_port=settings.registry_port,
        seed=wanted.seed,
        import_paths=wanted.import_paths,
        now=datetime.now(UTC),
    )
    return line, kind


def input_kind(wanted: Wanted) -> InputKind:
    """Return the input's kind from the data source, each flag that was given going before it."""
    if wanted.data:
        from swarm.data.sources import load_training

        data = load_training(wanted.data, wanted.import_paths)
        return InputKind(
            shape=wanted.input_shape or data.input_shape,
            dtype="uint8" if str(data.inputs.dtype) == "uint8" else "float32",
            scale=data.scale if wanted.scale is None else wanted.scale,
            offset=data.offset if wanted.offset is None else wanted.offset,
            class_names=wanted.class_names or data.class_names,
        )
    if not wanted.input_shape or len(wanted.class_names) < 1:
        raise UsageError(
            "swarm init",
            found="neither --data nor both --input-shape and --classes",
            expected="what one input is and which classes there are",
            remedy="swarm init NAME --data digits, or --input-shape 28,28 --classes a,b,c",
        )
    if wanted.input_dtype not in ("uint8", "float32"):
        raise UsageError("--input-dtype", found=wanted.input_dtype, expected="uint8 or float32")
    by_dtype = 1 / 255 if wanted.input_dtype == "uint8" else 1.0
    return InputKind(
        shape=wanted.input_shape,
        dtype="uint8" if wanted.input_dtype == "uint8" else "float32",
        scale=by_dtype if wanted.scale is None else wanted.scale,
        offset=wanted.offset or 0.0,
        class_names=wanted.class_names,
    )
