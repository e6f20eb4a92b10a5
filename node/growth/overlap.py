"""Which novel samples the node's leaves hold already, and which of them may move to a leaf of their own.

A mega-batch is learned by the leaves that there are, its novel samples too. A new leaf takes those over: they
are in one leaf's sums before and after. What is still on its way into leaves stays on its way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.durable import link_durably
from node.jobs import WAITING_FILE
from node.leaves import LeafBook
from node.shard_source import Place, ShardSource
from node.stream.gathered import Gathered
from node.stream.taking import TRAINING_FILE
from swarm.domain.errors import SwarmError
from swarm.domain.ids import LeafId
from swarm.gating.regions import MIN_CLASS_COUNT

NOBODY, STAYS = -1, -2
_HELD = "held-*.npz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """Who holds each of N novel samples: `holders` int64 [N] is a leaf's row, NOBODY or STAYS, `positions`
    int64 [N] its place among the leaf's samples."""

    holders: NDArray[np.int64]
    positions: NDArray[np.int64]


def overlap_of(novel: ShardSource, leaves: Sequence[ShardSource | None], held: Iterable[Place]) -> Overlap:
    """Return who holds the novel samples, by source and row.

    leaves: where the leaves' samples are (None: not known). Samples in `held`, and those that a leaf has
    without telling the gate of them, stay where they are; so does what is named twice.
    """
    where: dict[Place, tuple[int, int]] = dict.fromkeys(held, (STAYS, 0))
    for row, source in enumerate(leaves):
        if source is not None:
            told = source.told.tolist()
            for position, place in enumerate(source.places()):
                where[place] = (row if told[position] else STAYS, position)
    found = np.full((2, len(novel)), NOBODY, dtype=np.int64)
    for number, place in enumerate(novel.places()):
        found[:, number] = where.get(place, (NOBODY, 0))
        where[place] = (STAYS, 0)
    return Overlap(holders=found[0], positions=found[1])


def movable(
    overlap: Overlap,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    counts: Sequence[Mapping[str, int]],
) -> NDArray[np.bool_]:
    """Return which novel samples the new leaf gets, bool [N]: what leaves or nobody holds, class by class.

    labels int64 [N] are rows of class_names; counts: what the gate is told of each leaf. Of a leaf's class
    either none or at least MIN_CLASS_COUNT samples move, and none or as many are left: the difference of two
    contributions is told as well. As many of a class that nobody holds come in, or none.
    """
    found = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(class_names):
        of_class = labels == label
        for holder in (NOBODY, *range(len(counts))):
            own = of_class & (overlap.holders == holder)
            left = counts[holder].get(name, 0) - int(own.sum()) if holder >= 0 else 0
            found |= own & (own.sum() >= MIN_CLASS_COUNT and (left == 0 or left >= MIN_CLASS_COUNT))
    return found


def keep_held(state: Path, book: LeafBook, given: Iterable[LeafId], folder: Path) -> None:
    """Note in a folder which samples are on their way into leaves as of now: those that wait, those of
    mega-batches and of jobs that are not laid down yet, and those of leaves that no contribution has."""
    known = set(given)
    paths = [
        *(state / "stream").glob(WAITING_FILE),
        *(state / "stream" / "waiting").glob(f"*/{TRAINING_FILE}"),
        *(book.shard(leaf.leaf) for leaf in book.leaves() if leaf.leaf not in known),
    ]
    for job in (state / "jobs").glob("*"):
        if not (job / "queued.json").exists():
            paths += job.glob("leaf-*.shard.npz")
    for number, path in enumerate(sorted(path for path in paths if path.exists())):
        link_durably(path, folder / _HELD.replace("*", str(number)))


def held_files(folder: Path) -> tuple[str, ...]:
    """Return the files that `keep_held` left in a folder."""
    return tuple(str(path) for path in sorted(folder.glob(_HELD)))


def held_places(files: Iterable[str]) -> list[Place]:
    """Return where the samples are that `keep_held` noted."""
    found: list[Place] = []
    for file in files:
        path = Path(file)
        try:
            found += Gathered.places_in(path)
        except SwarmError:
            found += ShardSource.read(path).places()
    return found
