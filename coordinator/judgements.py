"""What judges found last: it counts while they are away, as long as they are in the gate.

A swarm whose nodes come and go would else answer by what pleases those that happen to be there: where the
experts of one domain are worth much to it alone, its owner's going would turn them off (docs/adr/0013).
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import structlog
from pydantic import TypeAdapter, ValidationError

from coordinator.envelope_files import EnvelopeFiles
from coordinator.trials import is_sound
from swarm.domain.combination import CALIBRATIONS, TrialOption
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial

Question = Literal["ridge", "combination"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What judges said in one round: `trials` have one entry per option."""

    question: Question
    options: tuple[TrialOption, ...]
    trials: Mapping[NodeId, GateTrial]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One judge's last word on one question."""

    options: tuple[TrialOption, ...]
    trial: GateTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    judgements: dict[Question, Judgement] = field(default_factory=dict)


_FILE = TypeAdapter(_Record)


class Judgements:
    """`<node>.json` per judge. Losing one costs a vote until the judge is here again, nothing else."""

    def __init__(self, files: EnvelopeFiles) -> None:
        """Read what is there; what is damaged is named in the log and left out. Reads files."""
        self._files = files
        self._known: dict[NodeId, _Record] = {}
        for name in files.names():
            try:
                found = _FILE.validate_json(files.get(name) or b"")
                for judgement in found.judgements.values():
                    _check(judgement)
            except (ValidationError, InvalidInputError, OSError) as error:
                log.error("judgement.damaged", node=name, reason=str(error)[:200])
            else:
                self._known[NodeId(name)] = found

    def of_absent(
        self,
        question: Question,
        options: Sequence[TrialOption],
        concerned: Collection[NodeId],
    ) -> dict[NodeId, GateTrial]:
        """Return what those concerned found last, as far as it answers these options."""
        found: dict[NodeId, GateTrial] = {}
        for node, record in sorted(self._known.items()):
            last = record.judgements.get(question)
            if node not in concerned or last is None:
                continue
            trial = read_for(options, last)
            if trial is not None:
                found[node] = trial
        return found

    async def remember(self, findings: Sequence[Finding], owners: Collection[NodeId]) -> None:
        """Keep what owners in the gate said of it, now that it counts."""
        changed: dict[NodeId, _Record] = {}
        for finding in findings:
            for node, trial in finding.trials.items():
                if node not in owners:
                    continue
                judgement = Judgement(options=finding.options, trial=trial)
                before = changed.get(node) or self._known.get(node) or _Record()
                changed[node] = _Record(judgements={**before.judgements, finding.question: judgement})
        self._known |= changed
        try:
            await asyncio.to_thread(self._write, changed)
        except OSError as error:
            log.error("judgement.not_kept", reason=str(error))

    async def forget(self, owner: NodeId) -> None:
        """Forget what an owner found that left."""
        if self._known.pop(owner, None) is not None:
            await asyncio.to_thread(self._files.remove, owner)

    def _write(self, records: Mapping[NodeId, _Record]) -> None:
        for node, record in records.items():
            self._files.put(node, _FILE.dump_json(record))


def _check(judgement: Judgement) -> None:
    options = judgement.options
    if len(set(options)) != len(options) or not is_sound(judgement.trial, options):
        raise InvalidInputError(
            "judgement", found="figures that cannot be true", expected="one for each option"
        )


def read_for(options: Sequence[TrialOption], last: Judgement) -> GateTrial | None:
    """Return a judgement as a trial of other options; None where it says nothing of some.

    What is compared with the present gate is not in it: 0. Temperatures of `prototypes` are the gate's own,
    so the n-th is taken for the n-th. Where nothing was `corrected` then, corrections count as the root.
    """
    places = {option: place for place, option in enumerate(last.options)}
    columns: list[tuple[float, int, int, int]] = []
    losses: list[float] = []
    width = len(CALIBRATIONS) if last.trial.nll_by_calibration else 0
    for option, rank in zip(options, _ranks(options), strict=True):
        if option.against_root:
            columns.append((0.0, 0, 0, 0))
            losses += [0.0] * width
            continue
        place = _place_of(option, rank, places, last.options)
        if place is None:
            return None
        trial = last.trial
        losses += trial.nll_by_calibration[place * width : (place + 1) * width]
        columns.append(
            (
                trial.nll_sum[place],
                trial.correct[place],
                trial.gained_on_root[place],
                trial.lost_on_root[place],
            )
        )
    none = (0,) * len(options)
    return GateTrial(
        samples=last.trial.samples,
        nll_sum=tuple(column[0] for column in columns),
        correct=tuple(column[1] for column in columns),
        gained=none,
        lost=none,
        gained_among_own=none,
        lost_among_own=none,
        taken=none,
        gained_on_root=tuple(column[2] for column in columns),
        lost_on_root=tuple(column[3] for column in columns),
        nll_by_calibration=tuple(losses),
    )


def _place_of(
    option: TrialOption, rank: int, places: Mapping[TrialOption, int], known: Sequence[TrialOption]
) -> int | None:
    wanted = option.combination
    if wanted.name == "prototypes":
        return next(
            (
                place
                for place, (each, at) in enumerate(zip(known, _ranks(known), strict=True))
                if (each.combination.name, each.combination.top_k, at) == (wanted.name, wanted.top_k, rank)
            ),
            None,
        )
    if option in places:
        return places[option]
    if wanted.name == "corrected" and not any(each.combination.name == "corrected" for each in known):
        roots = [
            place
            for each, place in places.items()
            if each.combination.name == "root"
            and each.combination.class_temperature == wanted.class_temperature
            and each.weights == option.weights
            and not each.against_root
        ]
        return roots[0] if roots else None
    return None


def _ranks(options: Sequence[TrialOption]) -> list[int]:
    """Return each option's number among those of its kind and top_k."""
    seen: dict[tuple[str, int], int] = {}
    ranks = []
    for option in options:
        kind = option.combination.name, option.combination.top_k
        ranks.append(seen.get(kind, 0))
        seen[kind] = ranks[-1] + 1
    return ranks
