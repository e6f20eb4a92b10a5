"""Which samples of a mega-batch are new to the whole swarm, and what is kept of them for a new expert.

A sample is novel if it lies farther from its nearest prototype, in units of the prototype's .99 radius, than
99 of 100 validation samples of what is known. Radii alone would not do: they are of the samples that
prototypes are means of, and of few samples to a prototype even known ones lie farther out. The newest
novel samples' places are kept in `state/novel.shard.npz`, and how many they are, of how many and of which
classes, in `state/fresh.json`; a survey tells those that a leaf can be made of. `state/added.json` names the
newest mega-batch whose novel samples a leaf was made of: of it and those before nothing is novel any more.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.durable import write_json
from node.shard_source import ShardPart, ShardSource
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.regions import MIN_CLASS_COUNT
from swarm.modules.packing import ReadBlob, unpack

NOVEL_FILE, FRESH_FILE, ADDED_FILE = "novel.shard.npz", "fresh.json", "added.json"
MOST_MEGA_BATCHES = 20
MOST_NOVEL = 20_000
EXPECTED = 0.01
"""The share of samples that count as novel where nothing is new."""
_ROWS = 4096

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """One mega-batch: its training samples, how many of them are novel, and of which classes those are (empty
    where an older release wrote it)."""

    number: int
    fresh: int
    novel: int
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What is known: prototypes float32 [K, R] with radii [K, 3], and `by`, whose they are."""

    prototypes: Floats
    radii: Floats
    by: str

    @classmethod
    def of_gate(cls, gate: GateStatement, read: ReadBlob) -> "Known":
        """Return all prototypes of a gate's leaves and branches."""
        entries = {entry.name: entry for entry in gate.arrays}
        names = [f"prototypes.{row}" for row in range(len(gate.leaves))]
        names += [f"branch.{row}" for row in range(len(gate.branches))]
        arrays = unpack([entries[name] for name in (*names, "radii")], read)
        return cls(
            prototypes=np.concatenate([arrays[name] for name in names]),
            radii=arrays["radii"],
            by=f"gate {gate.version}",
        )

    @classmethod
    def of_summaries(cls, summaries: Sequence[dict[str, NDArray[np.generic]]], by: str) -> "Known | None":
        """Return the prototypes of this node's own leaves, None without any."""
        if not summaries:
            return None
        return cls(
            prototypes=np.concatenate([one["prototypes"] for one in summaries]).astype(np.float32),
            radii=np.concatenate([one["radii"] for one in summaries]).astype(np.float32),
            by=by,
        )

    def distances(self, regions: Floats) -> tuple[Floats, int]:
        """Return how far out each of features in region columns [N, R] is, float32 [N]: the distance to the
        nearest prototype over its .99 radius; and the FLOPs."""
        count = len(self.prototypes)
        gate = PrototypeGate(
            prototypes=self.prototypes,
            leaf_rows=np.zeros(count, dtype=np.int32),
            log_prior=np.zeros(count, dtype=np.float32),
            radii=self.radii,
            leaves=1,
            temperature=1.0,
        )
        ratios = [gate.novelty(regions[at : at + _ROWS]) for at in range(0, len(regions), _ROWS)]
        flops = 2 * len(regions) * self.prototypes.size
        return np.concatenate([*ratios, np.zeros(0, np.float32)]), flops


def reach_of(distances: Floats) -> float:
    """Return how far out what is known reaches, from its validation samples' distances [N]: their .99
    quantile, at least 1."""
    return max(1.0, float(np.quantile(distances, 1 - EXPECTED))) if len(distances) else 1.0


def known_reach(state: Path, by: str) -> float | None:
    """Return the reach that was found under these prototypes before; samples that were new to them since are
    among the validation samples now, and must not widen it."""
    kept = _read(state)
    return float(kept["reach"]) if kept.get("by") == by and "reach" in kept else None


def fresh_counts(state: Path) -> tuple[int, int]:
    """Return how many of the newest training samples there are, and how many of them are novel and can be a
    leaf's: of two classes or more, as many of each as may be told."""
    kept = _read_fresh(state)
    fresh, novel = sum(each.fresh for each in kept), sum(each.novel for each in kept)
    if any(each.novel and not each.classes for each in kept):
        return fresh, novel
    counts: Counter[str] = Counter()
    for each in kept:
        counts.update(each.classes)
    enough = [count for count in counts.values() if count >= MIN_CLASS_COUNT]
    return fresh, sum(enough) if len(enough) > 1 else 0


def keep_novel(
    state: Path,
    target: Path,
    number: int,
    novel: ShardSource,
    fresh: int,
    by: str = "",
    reach: float = 1.0,
    classes: Mapping[str, int] | None = None,
) -> None:
    """Write into the folder target what the state's two files are once mega-batch `number` was taken: novel
    names its novel samples (one part, or none), `classes` counts them, fresh counts its training samples. The
    oldest give way. `by` are whose prototypes told, `reach` how far out those reach."""
    counts = [each for each in _read_fresh(state) if each.number != number]
    parts = list(_read_parts(state))
    if len(parts) != sum(each.novel > 0 for each in counts):
        counts, parts = [], []
    counts.append(_Taken(number=number, fresh=fresh, novel=len(novel), classes=classes or {}))
    parts += novel.parts
    while len(counts) > 1 and (
        len(counts) > MOST_MEGA_BATCHES or sum(each.novel for each in counts) > MOST_NOVEL
    ):
        parts = parts[1:] if counts[0].novel else parts
        counts = counts[1:]
    _write(target, counts, parts, by, reach)


def novel_count(path: Path) -> int:
    """Return how many novel samples a file names; NotFoundError where there is none, VerificationError for
    one that cannot be read."""
    return len(ShardSource.read(path))


def forget_novel(state: Path, taken: Path) -> None:
    """Forget the novel samples that the folder `taken` has the state's files of: a leaf has been made of
    them. What came since stays."""
    last = max((each.number for each in _read_fresh(taken)), default=0)
    write_json(state / ADDED_FILE, {"mega_batch": max(last, _last_added(state))})
    drop_added(state)


def drop_added(state: Path) -> None:
    """Take out of the state's two files the mega-batches that a leaf was made of meanwhile: an intake writes
    what it found when it began, and more."""
    last, counts, parts = _last_added(state), _read_fresh(state), list(_read_parts(state))
    if not any(each.number <= last for each in counts):
        return
    novel = [each.number for each in counts if each.novel]
    kept = _read(state)
    _write(
        state,
        [each for each in counts if each.number > last],
        [part for number, part in zip(novel, parts, strict=False) if number > last],
        str(kept.get("by", "")),
        float(kept.get("reach", 1.0)),
    )


def _write(folder: Path, counts: Sequence[_Taken], parts: Sequence[ShardPart], by: str, reach: float) -> None:
    ShardSource(parts=tuple(parts)).save(folder / NOVEL_FILE)
    write_json(
        folder / FRESH_FILE,
        {
            "mega_batches": [[each.number, each.fresh, each.novel, dict(each.classes)] for each in counts],
            "by": by,
            "reach": reach,
        },
    )


def _last_added(state: Path) -> int:
    try:
        return int(json.loads((state / ADDED_FILE).read_bytes())["mega_batch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _read_fresh(state: Path) -> list[_Taken]:
    kept = _read(state).get("mega_batches", [])
    return [
        _Taken(number=int(number), fresh=int(fresh), novel=int(novel), classes=dict(*classes))
        for number, fresh, novel, *classes in kept
    ]


def _read(state: Path) -> dict[str, Any]:
    try:
        kept = json.loads((state / FRESH_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _read_parts(state: Path) -> tuple[ShardPart, ...]:
    try:
        return ShardSource.read(state / NOVEL_FILE).parts
    except (NotFoundError, VerificationError):
        return ()
