"""A contribution taken apart into arrays, and laid down again as one blob."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.array_files import write_blob
from node.growth.changes import Place
from node.jobs import CONTRIBUTION_FILE, ContributionDraft
from node.sums import GramSums
from swarm.digests import verify_digest
from swarm.domain.contributions import BranchContribution, Contribution, FeatureSums, LeafContribution
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import LeafId, expert_of, number_of
from swarm.domain.tensors import TensorEntry
from swarm.gating.sums import CompactSums
from swarm.modules.packing import unpack

Arrays = dict[str, NDArray[Any]]
SUMMARY = ("prototypes", "prototype_counts", "radii")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaidLeaf:
    """One leaf: `arrays` are `prototypes`, `prototype_counts`, `radii` and, with sums, `columns`."""

    leaf: LeafId
    class_counts: Mapping[str, int]
    arrays: Arrays
    parent: str = ""

    @property
    def samples(self) -> int:
        return sum(self.class_counts.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaidBranch:
    """One branch: `arrays` are those of the leaf that it was and, with a learned gate, `split`."""

    leaf: LeafId
    arrays: Arrays
    parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laid:
    """A contribution's arrays. `sums` are F'F over all leaves' samples, None without sums."""

    leaves: tuple[LaidLeaf, ...]
    branches: tuple[LaidBranch, ...] = ()
    sums: GramSums | None = None

    @classmethod
    def read(cls, contribution: Contribution, arrays: Path) -> Self:
        """Return a contribution's arrays: views into its file, whose digest is checked."""
        with arrays.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        verify_digest(view, contribution.leaves[0].prototypes.blob, "arrays of the last contribution")

        def array(entry: TensorEntry) -> NDArray[Any]:
            return unpack([entry], lambda _: view)[entry.name]

        def summary(one: LeafContribution | BranchContribution) -> Arrays:
            return {
                "prototypes": array(one.prototypes),
                "prototype_counts": array(one.prototype_counts),
                "radii": array(one.radii),
            }

        return cls(
            leaves=tuple(
                LaidLeaf(
                    leaf=leaf.leaf,
                    class_counts=leaf.class_counts,
                    arrays=summary(leaf) | ({} if leaf.columns is None else {"columns": array(leaf.columns)}),
                    parent=leaf.parent,
                )
                for leaf in contribution.leaves
            ),
            branches=tuple(
                LaidBranch(
                    leaf=branch.leaf,
                    arrays=summary(branch) | ({} if branch.split is None else {"split": array(branch.split)}),
                    parent=branch.parent,
                )
                for branch in contribution.branches
            ),
            sums=_sums(contribution.sums, array),
        )

    def leaf(self, leaf: LeafId) -> LaidLeaf:
        """Return one leaf; InvalidInputError where the contribution has none of that id."""
        found = next((one for one in self.leaves if one.leaf == leaf), None)
        if found is None:
            raise InvalidInputError(
                f"leaf {leaf}",
                found="none in the last contribution",
                expected=", ".join(one.leaf for one in self.leaves),
            )
        return found

    def without(self, leaves: Sequence[LeafId]) -> "Laid":
        """Return all but these leaves and branches; F'F stays."""
        return replace(
            self,
            leaves=tuple(one for one in self.leaves if one.leaf not in leaves),
            branches=tuple(one for one in self.branches if one.leaf not in leaves),
        )

    def places(self) -> dict[LeafId, Place]:
        """Return where its leaves and branches are."""
        return {one.leaf: Place(parent=one.parent) for one in self.leaves} | {
            one.leaf: Place(standing="branch", parent=one.parent) for one in self.branches
        }

    def placed(self, places: Mapping[LeafId, Place]) -> "Laid":
        """Return it with leaves and branches where these places have them; F'F stays."""
        gone = [leaf for leaf, place in places.items() if place.standing == "retired"]
        left = self.without(gone)
        return replace(
            left,
            leaves=tuple(_moved(one, places) for one in left.leaves),
            branches=tuple(_moved(one, places) for one in left.branches),
        )

    def lay_down(self, folder: Path) -> ContributionDraft:
        """Write everything into the folder as a contribution's one blob and describe it."""
        leaves = sorted(self.leaves, key=lambda one: number_of(one.leaf))
        branches = sorted(self.branches, key=lambda one: number_of(one.leaf))
        sums = self.sums.arrays() if self.sums is not None else {}
        entries, size_bytes = write_blob(
            folder / CONTRIBUTION_FILE, {**dict(_named([*leaves, *branches])), **sums}
        )
        return ContributionDraft(
            leaves=tuple(
                LeafContribution(
                    leaf=one.leaf,
                    expert=expert_of(one.leaf),
                    class_counts=dict(one.class_counts),
                    prototypes=entries[f"{one.leaf}/prototypes"],
                    prototype_counts=entries[f"{one.leaf}/prototype_counts"],
                    radii=entries[f"{one.leaf}/radii"],
                    columns=entries.get(f"{one.leaf}/columns"),
                    parent=one.parent,
                )
                for one in leaves
            ),
            branches=tuple(
                BranchContribution(
                    leaf=one.leaf,
                    prototypes=entries[f"{one.leaf}/prototypes"],
                    prototype_counts=entries[f"{one.leaf}/prototype_counts"],
                    radii=entries[f"{one.leaf}/radii"],
                    parent=one.parent,
                    split=entries.get(f"{one.leaf}/split"),
                )
                for one in branches
            ),
            sums=None
            if self.sums is None
            else FeatureSums(
                form="compact" if self.sums.rank else "exact",
                samples=self.sums.samples,
                tensors=tuple(entries[name] for name in sums),
            ),
            size_bytes=size_bytes,
        )


_Placed = TypeVar("_Placed", LaidLeaf, LaidBranch)


def _moved(one: _Placed, places: Mapping[LeafId, Place]) -> _Placed:
    return replace(one, parent=places[one.leaf].parent) if one.leaf in places else one


def narrowed(columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return columns as int32 where all fit, as contributions have them."""
    narrow = np.abs(columns).max(initial=0) <= np.iinfo(np.int32).max
    return columns.astype(np.int32) if narrow else columns


def _named(parts: Sequence[LaidLeaf | LaidBranch]) -> Iterator[tuple[str, NDArray[Any]]]:
    for one in parts:
        for name, array in one.arrays.items():
            yield f"{one.leaf}/{name}", array


def _sums(sums: FeatureSums | None, array: Any) -> GramSums | None:
    if sums is None:
        return None
    arrays = {entry.name: array(entry) for entry in sums.tensors}
    if sums.form == "compact":
        return GramSums(samples=sums.samples, compact=CompactSums.from_arrays(arrays))
    return GramSums(samples=sums.samples, gram=arrays["gram"])
