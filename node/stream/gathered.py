"""Samples with their places in the sources that they came from, as a private file of the node's state."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from node.shard_source import Place, ShardPart, ShardSource
from swarm.data.dataset import Dataset
from swarm.domain.errors import ShapeMismatchError, VerificationError

_SCHEMA = "swarm.gathered/1"

Places = tuple[str, tuple[str, ...]]
"""A source, and the folders that lead to its code."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """Samples, and where each is: row `rows` int64 [N] of the data set that `sources[parts]` is loaded as,
    parts int64 [N]."""

    samples: Dataset
    sources: tuple[Places, ...]
    parts: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(
        cls, dataset: Dataset, rows: NDArray[np.int64], source: str, import_paths: Sequence[str] = ()
    ) -> Self:
        """Return the samples at rows of a whole loaded source."""
        return cls(
            samples=dataset.subset(rows),
            sources=((source, tuple(import_paths)),),
            parts=np.zeros(len(rows), dtype=np.int64),
            rows=np.asarray(rows, dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Gathered"]) -> Self:
        """Return the samples of all parts in their order; classes are the same where their names are."""
        first = parts[0].samples
        for part in parts[1:]:
            if (
                part.samples.inputs.dtype != first.inputs.dtype
                or part.samples.input_shape != first.input_shape
            ):
                raise ShapeMismatchError(
                    "gathered samples",
                    found=f"{part.samples.inputs.dtype} {list(part.samples.input_shape)}",
                    expected=f"{first.inputs.dtype} {list(first.input_shape)}, as the others",
                )
        names = tuple(dict.fromkeys(name for part in parts for name in part.samples.class_names))
        starts = np.cumsum([0, *(len(part.sources) for part in parts)])
        return cls(
            samples=Dataset(
                inputs=np.concatenate([part.samples.inputs for part in parts]),
                labels=np.concatenate([part.samples.labels_among(names) for part in parts]),
                class_names=names,
                name=first.name,
                scale=first.scale,
                offset=first.offset,
            ),
            sources=tuple(source for part in parts for source in part.sources),
            parts=np.concatenate([part.parts + start for part, start in zip(parts, starts, strict=False)]),
            rows=np.concatenate([part.rows for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, rows: NDArray[np.int64]) -> "Gathered":
        """Return the samples at rows [n] of these."""
        return Gathered(
            samples=self.samples.subset(rows),
            sources=self.sources,
            parts=self.parts[rows],
            rows=self.rows[rows],
        )

    def source(self, rows: NDArray[np.int64]) -> ShardSource:
        """Return the places of the samples at rows [n] of these, source by source."""
        found = []
        for number, (source, import_paths) in enumerate(self.sources):
            own = rows[self.parts[rows] == number]
            if len(own):
                part = ShardPart.of(self.samples, own, source, import_paths)
                found.append(
                    ShardPart(
                        source=source,
                        import_paths=import_paths,
                        digest=part.digest,
                        rows=self.rows[own],
                    )
                )
        return ShardSource(parts=tuple(found))

    def save(self, path: Path) -> None:
        """Write the samples as .npz, whole or not at all."""
        names = np.array(self.samples.class_names, dtype=np.str_)
        save_arrays(
            path,
            {
                "schema": np.array(_SCHEMA),
                "inputs": self.samples.inputs,
                "labels": self.samples.labels,
                "class_names": names,
                "name": np.array(self.samples.name),
                "sources": np.array(json.dumps(self.sources)),
                "parts": self.parts,
                "rows": self.rows,
            },
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `save` wrote; VerificationError where it cannot be read."""
        arrays = _read(path)
        try:
            return cls(
                samples=Dataset(
                    inputs=arrays["inputs"],
                    labels=arrays["labels"],
                    class_names=tuple(arrays["class_names"].tolist()),
                    name=str(arrays["name"]),
                ),
                sources=_sources(arrays),
                parts=arrays["parts"],
                rows=arrays["rows"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error

    @staticmethod
    def places_in(path: Path) -> list[Place]:
        """Return the places of the samples that `save` wrote; VerificationError where it did not."""
        arrays = _read(path, ("schema", "sources", "parts", "rows"))
        sources = _sources(arrays)
        pairs = zip(arrays["parts"].tolist(), arrays["rows"].tolist(), strict=True)
        return [(*sources[part], row) for part, row in pairs]


def _read(path: Path, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file, all of them or those that are named."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names or file.files}
        if str(arrays["schema"]) != _SCHEMA:
            raise ValueError(f"schema {arrays['schema']}")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return arrays


def _sources(arrays: dict[str, NDArray[Any]]) -> tuple[Places, ...]:
    kept = json.loads(str(arrays["sources"]))
    return tuple((str(source), tuple(map(str, paths))) for source, paths in kept)


def _unreadable(path: Path, error: Exception) -> VerificationError:
    return VerificationError(
        str(path),
        found=f"no readable samples ({error})",
        expected=_SCHEMA,
        remedy="end the stream and begin it again: swarm train --stop",
    )
