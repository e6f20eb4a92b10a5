"""Where the samples of a leaf came from, so that they can be found again when the leaf grows.

Raw samples are kept where their owner has them and nowhere else: a leaf keeps their places, and a digest by
which data that have changed since are noticed.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from swarm.data.dataset import Dataset, check_enough, check_form
from swarm.data.sources import load_training
from swarm.digests import blake3
from swarm.domain.errors import InvalidInputError, NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.specification import Specification

Place = tuple[str, tuple[str, ...], int]
"""A sample by its source, the folders that lead to its code, and its row."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardPart:
    """Some samples of one source: their places `rows` int64 [n] in the data set that `source` is loaded as.

    `digest` is that of these samples alone (`samples_digest`): a file that has grown since is still good.
    `told`: the gate is told of them; else they are of classes with too few samples, and in no sums.
    """

    source: str
    import_paths: tuple[str, ...]
    digest: Digest
    rows: NDArray[np.int64]
    told: bool = True

    @classmethod
    def of(
        cls, dataset: Dataset, rows: NDArray[np.int64], source: str, import_paths: Sequence[str] = ()
    ) -> Self:
        """Return the part that the samples at rows of a whole loaded source are."""
        rows = np.asarray(rows, dtype=np.int64)
        digest = samples_digest(dataset, rows)
        return cls(source=source, import_paths=tuple(import_paths), digest=digest, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardSource:
    """The samples of one leaf: those of its parts, in their order."""

    parts: tuple[ShardPart, ...]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    @property
    def told(self) -> NDArray[np.bool_]:
        """Which samples the gate is told of, bool [N]."""
        each = [np.full(len(part.rows), part.told) for part in self.parts]
        return np.concatenate([*each, np.zeros(0, dtype=np.bool_)])

    def untold(self) -> Self:
        """Return the same samples as ones that the gate is told nothing of."""
        return type(self)(parts=tuple(replace(part, told=False) for part in self.parts))

    def places(self) -> list[Place]:
        """Return where each sample is, in order."""
        return [(part.source, part.import_paths, row) for part in self.parts for row in part.rows.tolist()]

    def save(self, path: Path) -> None:
        """Write the places as .npz, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"parts": np.array(len(self.parts))}
        for number, part in enumerate(self.parts):
            arrays[f"{number}/source"] = np.array(part.source)
            arrays[f"{number}/import_paths"] = np.array(part.import_paths, dtype=np.str_)
            arrays[f"{number}/digest"] = np.array(str(part.digest))
            arrays[f"{number}/rows"] = part.rows
            arrays[f"{number}/told"] = np.array(part.told)
        save_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `save` wrote; NotFoundError where there is none, VerificationError if unreadable."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            return cls(parts=tuple(_part(arrays, number) for number in range(int(arrays["parts"]))))
        except FileNotFoundError:
            raise NotFoundError(
                str(path),
                found="no record of where the leaf's samples are",
                expected="one, which training leaves",
                remedy="train it once more: swarm train DATA",
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise VerificationError(
                str(path),
                found=f"an unreadable record ({error})",
                expected="a leaf's sources and rows",
                remedy="train the leaf once more: swarm train DATA",
            ) from error

    def subset(self, samples: Dataset, rows: NDArray[np.int64]) -> Self:
        """Return the source of the samples at rows, int64 [n] rising, of `samples`: what `load` returned."""
        parts, start = [], 0
        for part in self.parts:
            inside = rows[(rows >= start) & (rows < start + len(part.rows))]
            if len(inside):
                digest, kept = samples_digest(samples, inside), part.rows[inside - start]
                parts.append(replace(part, digest=digest, rows=kept))
            start += len(part.rows)
        return type(self)(parts=tuple(parts))

    def joined(self, other: "ShardSource") -> Self:
        """Return the samples of both."""
        return type(self)(parts=(*self.parts, *other.parts))

    def load(self, specification: Specification, subject: str) -> Dataset:
        """Return exactly these samples, in order, with the classes that they have.

        `subject` names whose they are, for errors: NotFoundError where a source is gone, VerificationError
        where its samples are not those that were trained on, InvalidInputError where they are too few.
        """
        sources: dict[tuple[str, tuple[str, ...]], Dataset] = {}
        found = []
        for part in self.parts:
            key = (part.source, part.import_paths)
            if key not in sources:
                sources[key] = _loaded(part, subject)
            found.append(_samples(sources[key], part, subject))
        if not found:
            raise NotFoundError(
                f"samples of {subject}", found="none", expected="some", remedy="swarm train DATA"
            )
        dataset = together(found, subject)
        check_form(dataset, specification)
        check_enough(len(dataset), specification, subject)
        return dataset


def samples_digest(dataset: Dataset, rows: NDArray[np.int64]) -> Digest:
    """Return the blake3 of the samples at rows: type and shape of an input, then the inputs' bytes, then the
    classes' names."""
    inputs = dataset.inputs
    hasher = blake3(f"{inputs.dtype.name} {list(inputs.shape[1:])}\n".encode())
    step = 4096
    for start in range(0, len(rows), step):
        hasher.update(np.ascontiguousarray(inputs[rows[start : start + step]]).tobytes())
    names = "\n".join(dataset.class_names[label] for label in dataset.labels[rows].tolist())
    hasher.update(names.encode())
    return Digest(hasher.hexdigest())


def _part(arrays: dict[str, NDArray[Any]], number: int) -> ShardPart:
    return ShardPart(
        source=str(arrays[f"{number}/source"]),
        import_paths=tuple(str(path) for path in arrays[f"{number}/import_paths"].tolist()),
        digest=Digest(str(arrays[f"{number}/digest"])),
        rows=arrays[f"{number}/rows"].astype(np.int64),
        told=bool(arrays.get(f"{number}/told", True)),
    )


def _loaded(part: ShardPart, subject: str) -> Dataset:
    try:
        return load_training(part.source, part.import_paths, min_classes=1)
    except SwarmError as error:
        raise NotFoundError(
            f"the data of {subject} at {part.source}",
            found=str(error),
            expected="the samples that it was trained on",
            remedy=f"bring them back, or train it on others: swarm train {part.source}",
        ) from error


def _samples(dataset: Dataset, part: ShardPart, subject: str) -> Dataset:
    rows = part.rows
    known = len(rows) and 0 <= int(rows.min()) <= int(rows.max()) < len(dataset)
    if known and samples_digest(dataset, rows) == part.digest:
        return dataset.subset(rows)
    raise VerificationError(
        f"the data of {subject} at {part.source}",
        found="other samples",
        expected="those that it was trained on",
        remedy=f"swarm train {part.source}",
    )


def together(parts: Sequence[Dataset], name: str) -> Dataset:
    """Return the samples of all parts, one after the other; classes are the same where their names are.
    `name` is whose they are: InvalidInputError where inputs differ in shape or type."""
    if len(parts) == 1:
        return parts[0]
    shapes = {(part.input_shape, part.inputs.dtype) for part in parts}
    if len(shapes) > 1:
        raise InvalidInputError(
            f"samples of {name}", found="inputs of several shapes or types", expected="one"
        )
    names = tuple(dict.fromkeys(each for part in parts for each in part.class_names))
    return Dataset(
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels_among(names) for part in parts]),
        class_names=names,
        name=parts[0].name,
        scale=parts[0].scale,
        offset=parts[0].offset,
    )
