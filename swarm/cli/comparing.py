"""Whether an answer that was computed again is the one that was saved: bit for bit, and else what differs."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from swarm.cli.answer_files import SavedAnswer
from swarm.cli.output import printable
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import ROOT_LEAF
from swarm.domain.inference import Answer, Source

Verdict = Literal["same", "close", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`differences` are sentences, none where all is the same. `largest` is the largest difference of a
    probability. `elsewhere`: what else the answer was computed on than what computed it here."""

    rows: int
    differences: tuple[str, ...]
    largest: float
    elsewhere: tuple[str, ...]
    here: str
    tolerance: float
    other_device: bool
    other_labels: bool

    @property
    def is_same(self) -> bool:
        return not self.differences

    @property
    def verdict(self) -> Verdict:
        """`close` only where another type of device explains it: within the tolerance, and no other label."""
        if self.is_same:
            return "same"
        near = self.other_device and self.largest <= self.tolerance and not self.other_labels
        return "close" if near else "different"

    def facts(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "rows": self.rows,
            "differences": list(self.differences),
            "largest_difference": self.largest,
            "tolerance": self.tolerance if self.other_device else 0.0,
            "computed_on": self.here,
            "answered_on": list(self.elsewhere) or [self.here],
        }

    def text(self) -> str:
        rows = f"{self.rows} {'row' if self.rows == 1 else 'rows'}"
        lines = [f"the same to the bit: {rows}, computed on {self.here}"] if self.is_same else []
        lines += map(printable, self.differences)
        lines += [f"answered on {printable(each)}" for each in self.elsewhere]
        if self.elsewhere:
            lines.append(f"computed here on {self.here}")
        if not self.is_same:
            compared = f"within {self.tolerance:g}, as may be on another type of device"
            lines.append(
                f"close, not the same: probabilities {compared}"
                if self.verdict == "close"
                else (
                    f"different: probabilities by at most {self.largest:.3g}" if self.largest else "different"
                )
                + (f", more than {self.tolerance:g} or with other labels" if self.other_device else "")
            )
        return "\n".join(lines)


def _other_sources(before: list[list[dict[str, Any]]], again: Answer, tolerance: float) -> list[str]:
    """Return in which rows others are named than who answered. Answers that explain nothing name nobody."""
    if not before:
        return []
    if len(before) != len(again.sources):
        return [f"sources: of {len(before)} rows"]
    rows = [
        row
        for row, (then, now) in enumerate(zip(before, again.sources, strict=True))
        if len(then) != len(now)
        or not all(any(_is_source(each, source, tolerance) for each in then) for source in now)
    ]
    return [f"sources: others in rows {', '.join(map(str, rows[:10]))}"] if rows else []


def _is_source(said: dict[str, Any], source: Source, tolerance: float) -> bool:
    """Not looked at: on whose sums the root rests, and which version of its expert there was by then."""
    names = ["leaf", "expert", "owner", "served_by"]
    if source.leaf != ROOT_LEAF:
        names += ["version", "manifest"]
        if said.get("module_digests") != list(source.module_digests):
            return False
    same = all(said.get(name) == getattr(source, name) for name in names)
    return same and abs(float(said["weight"]) - source.weight) <= tolerance


def compared(saved: SavedAnswer, again: Answer, here: str, tolerance: float) -> Comparison:
    """Return how an answer computed again on `here` compares with the saved one.

    Raises InvalidInputError where the saved figures are no answer to these rows.
    """
    before, differences = saved.answer, []
    largest = 0.0
    figures = {
        "probabilities": again.probabilities,
        "confidence": again.confidence,
        "out_of_distribution": again.out_of_distribution,
    }
    for name, now in figures.items():
        then = (
            None if before.get(name) is None else np.array(before[name], dtype=np.float64).astype(np.float32)
        )
        if then is None or now is None:
            if (then is None) != (now is None):
                differences.append(f"{name}: {'none' if then is None else 'some'} before, not so now")
            continue
        if then.shape != now.shape:
            raise InvalidInputError(
                f"saved {name}", found=str(list(then.shape)), expected=str(list(now.shape))
            )
        apart = np.abs(then.astype(np.float64) - now).reshape(len(now), -1).max(axis=1)
        changed = (then.view(np.int32) != now.view(np.int32)).reshape(len(now), -1).any(axis=1)
        if name == "probabilities":
            largest = float(apart.max())
        if changed.any():
            worst = int(apart.argmax())
            differences.append(
                f"{name}: {int(changed.sum())} of {len(now)} rows differ, by at most {apart[worst]:.3g}"
                f" (row {worst})"
            )
    exact = {"labels": again.labels, "degraded": again.degraded, "unknown": again.unknown}
    for name, values in exact.items():
        rows = [row for row, pair in enumerate(zip(before[name], values, strict=True)) if pair[0] != pair[1]]
        if rows:
            differences.append(f"{name}: other in rows {', '.join(map(str, rows[:10]))}")
    for name, value in (
        ("class_names", list(again.class_names)),
        ("gate_version", again.gate_version),
        ("combination", again.combination),
        ("calibration", again.calibration),
    ):
        if before[name] != value:
            differences.append(f"{name}: other than the gate's")
    differences += _other_sources(before["sources"], again, tolerance)
    differences += [f"{each}: other than the answer that the response has" for each in saved.beside]
    recorded = dict.fromkeys([saved.record.computed_on, *(each.computed_on for each in saved.record.said)])
    elsewhere = tuple(each for each in recorded if each != here)
    return Comparison(
        rows=len(again.probabilities),
        differences=tuple(differences),
        largest=largest,
        elsewhere=elsewhere,
        here=here,
        tolerance=tolerance,
        other_device=any(each.partition(" | ")[0] != here.partition(" | ")[0] for each in elsewhere),
        other_labels=tuple(before["labels"]) != again.labels,
    )
