"""What is kept of a leaf before and after samples of it moved to another one, so that it can be undone, and
done again, also once the leaf has learned more.

A leaf's files are a set: `<leaf>.<set>.npz` its summary, `.sums.npz` its sums, `.shard.npz` where its samples
are, `.json` its class counts, written last; the set without a name is what training leaves. A set never
changes, the book says which one counts.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from node.accumulating import columns_together
from node.array_files import save_arrays
from node.durable import link_durably, write_json
from node.shard_source import ShardSource
from node.shards import read_summary, summary_arrays, told_counts
from node.sums import GramSums, LeafSums, joined, narrowed
from swarm.domain.ids import LeafId
from swarm.gating.distances import squared_distances
from swarm.gating.joined_summaries import joined_summary
from swarm.gating.regions import MIN_CLASS_COUNT, LeafSummary

Part = Literal["summary", "sums", "shard", "counts"]
SUFFIXES: Mapping[Part, str] = {
    "summary": ".npz",
    "sums": ".sums.npz",
    "shard": ".shard.npz",
    "counts": ".json",
}


class LeafSets:
    """The sets in the folder of the leaves' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, leaf: LeafId, name: str, part: Part) -> Path:
        """Return where a part of a set lies, if it is there."""
        return self._folder / f"{leaf}{f'.{name}' if name else ''}{SUFFIXES[part]}"

    def keep(self, leaf: LeafId, name: str, files: Mapping[Part, Path], counts: Mapping[str, int]) -> None:
        """Keep a set of files that are there; one that is kept already stays."""
        if self.has(leaf, name):
            return
        for part, path in files.items():
            if path.exists():
                link_durably(path, self.path(leaf, name, part))
        write_json(self.path(leaf, name, "counts"), dict(counts))

    def has(self, leaf: LeafId, name: str) -> bool:
        return self.path(leaf, name, "counts").exists()

    def counts(self, leaf: LeafId, name: str) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.path(leaf, name, "counts").read_bytes())
        return found

    def is_of_the_same(self, leaf: LeafId, one: str, other: str) -> bool:
        """Tell whether two sets are of the same samples."""
        return is_same_file(self.path(leaf, one, "shard"), self.path(leaf, other, "shard"))

    def forget(self, proposal: str, used: Collection[tuple[LeafId, str]]) -> None:
        """Remove a proposal's sets, but for those in use."""
        kept = {self.path(leaf, name, part) for leaf, name in used for part in SUFFIXES}
        for path in self._folder.glob(f"*.{proposal}-*"):
            if path not in kept:
                path.unlink()

    def carry_over(
        self,
        leaf: LeafId,
        present: tuple[str, Mapping[str, int]],
        proposal: str,
        name: str,
        *,
        back: bool,
    ) -> dict[str, int] | None:
        """Make the set `name` of what a leaf would stand for by now had its samples not moved (`back`) or had
        they moved before, and return its class counts; `present` is the set that counts, with its counts.

        Exact sums are exact; compact ones are joined, or left out where there is something to take away.
        None where the present set is not of the samples of before the move, or after it, and more.
        """
        old, new = (f"{proposal}-{each}" for each in (("after", "before") if back else ("before", "after")))
        shards = [ShardSource.read(self.path(leaf, each, "shard")) for each in (present[0], old, new)]
        now, was, wanted = (shard.parts for shard in shards)
        if [part.digest for part in now[: len(was)]] != [part.digest for part in was]:
            return None
        summary = self._summary(leaf, present[0])
        moved = self._summary(leaf, f"{proposal}-moved")
        if summary is None or moved is None:
            return None
        told, taken = told_counts(present[1]), self.counts(leaf, f"{proposal}-moved")
        sign = 1 if back else -1
        counts = {each: told.get(each, 0) + sign * taken.get(each, 0) for each in sorted({*told, *taken})}
        if min(counts.values()) < 0:
            return None
        counts = {each: count for each, count in counts.items() if count}
        whole = (
            joined_summary(summary, moved, prototypes=max(len(summary.prototypes), len(moved.prototypes)))
            if back
            else _without(summary, moved)
        )
        save_arrays(self.path(leaf, name, "summary"), summary_arrays(whole))
        ShardSource(parts=(*wanted, *now[len(was) :])).save(self.path(leaf, name, "shard"))
        sums = self._sums(leaf, present, proposal, sorted(counts), sign)
        if sums is not None:
            sums.save(self.path(leaf, name, "sums"))
        else:
            self.path(leaf, name, "sums").unlink(missing_ok=True)
        write_json(self.path(leaf, name, "counts"), counts)
        return counts

    def _sums(
        self,
        leaf: LeafId,
        present: tuple[str, Mapping[str, int]],
        proposal: str,
        names: list[str],
        sign: int,
    ) -> LeafSums | None:
        found = _read_sums(self.path(leaf, present[0], "sums"))
        moved = _read_sums(self.path(leaf, f"{proposal}-moved", "sums"))
        if found is None or moved is None:
            return None
        taken = sorted(self.counts(leaf, f"{proposal}-moved"))
        columns = columns_together(
            found.columns, sorted(told_counts(present[1])), sign * moved.columns, taken
        )
        kept = sorted({*told_counts(present[1]), *taken})
        columns = columns[:, [kept.index(each) for each in names]]
        if found.f.gram is not None and moved.f.gram is not None:
            gram = found.f.gram.astype(np.int64) + sign * moved.f.gram.astype(np.int64)
            samples = found.f.samples + sign * moved.f.samples
            return LeafSums(columns=columns, f=GramSums(samples=samples, gram=narrowed(gram)))
        if sign < 0:
            return None
        f, _ = joined([found, moved], max(found.f.rank, moved.f.rank), 0)
        return LeafSums(columns=columns, f=f)

    def _summary(self, leaf: LeafId, name: str) -> LeafSummary | None:
        arrays = read_summary(str(self.path(leaf, name, "summary")))
        if arrays is None:
            return None
        return LeafSummary(
            prototypes=arrays["prototypes"], counts=arrays["prototype_counts"], radii=arrays["radii"]
        )


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two files are there and have the same bytes."""
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()


def sets_of_job(folder: Path, number: int, name: str) -> dict[Part, Path]:
    """Return the files of one set of a leaf in a job's folder: `before`, `leaf` (as it is after) or
    `moved`."""
    return {part: folder / f"{name}-{number}{SUFFIXES[part]}" for part in ("summary", "sums", "shard")}


def _without(summary: LeafSummary, moved: LeafSummary) -> LeafSummary:
    """Return a summary with as many samples fewer as `moved` has, taken from the prototypes nearest to its;
    what would be left of fewer than MIN_CLASS_COUNT samples counts with the nearest other one."""
    counts = summary.counts.astype(np.int64).copy()
    places = summary.prototypes.astype(np.float64)
    for prototype, count in zip(moved.prototypes, moved.counts.tolist(), strict=True):
        left = count
        for row in np.argsort(squared_distances(prototype[None], places)[0], kind="stable").tolist():
            taken = min(left, int(counts[row]))
            counts[row] -= taken
            left -= taken
    between: NDArray[Any] = squared_distances(summary.prototypes, places)
    while len(small := np.flatnonzero((counts > 0) & (counts < MIN_CLASS_COUNT))):
        others = np.flatnonzero(counts)
        others = others[others != small[0]]
        if not len(others):
            break
        counts[others[between[small[0], others].argmin()]] += counts[small[0]]
        counts[small[0]] = 0
    kept = np.flatnonzero(counts)
    return LeafSummary(prototypes=summary.prototypes[kept], counts=counts[kept], radii=summary.radii[kept])


def _read_sums(path: Path) -> LeafSums | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            size = len(file["columns"])
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return LeafSums.read(path, size)
