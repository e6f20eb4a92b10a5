"""How a gate's leaves and the experts' answers become one answer."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from swarm.domain.errors import InvalidInputError
from swarm.domain.tensors import FORBID_UNKNOWN

CombinationName = Literal["prototypes", "root", "gate", "poe", "corrected"]
NAMES: tuple[CombinationName, ...] = get_args(CombinationName)
USES_EXPERTS: frozenset[CombinationName] = frozenset({"prototypes", "gate", "poe", "corrected"})
CALIBRATIONS = tuple(2.0 ** (step / 3) for step in range(-6, 10))
"""The temperatures at which nodes say how likely their validation labels are: 0.25 to 8, by one factor."""
USES_SUMS: frozenset[CombinationName] = frozenset({"root", "gate", "poe", "corrected"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One way to answer, with its parameters, all chosen on validation data.

    `prototypes`: experts' probabilities, weighted by distances to prototypes (temperature in squared
    distances). The others use the analytic gate, where leaf scores o and class scores a come from one solve:
    `root`: softmax(a / class_temperature), no expert is asked. `gate`: experts' probabilities weighted by
    the top_k of softmax(o / temperature). `poe`: log of `gate` plus strength times
    log softmax(a / class_temperature). `corrected`: a / class_temperature plus strength times the sum of
    g_l h_l, where h_l is what leaf l's expert adds to the class scores.

    `calibration` is the temperature of the whole answer (`swarm.gating.calibration`), chosen last; 0: none
    was, and probabilities are what the formulas above say.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    name: CombinationName
    temperature: float = 1.0
    top_k: int = 1
    strength: float = 1.0
    class_temperature: float = 0.1
    calibration: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.strength, self.class_temperature, self.calibration)
        positive = (
            self.temperature > 0 and self.class_temperature > 0 and min(self.strength, self.calibration) >= 0
        )
        if self.name not in NAMES or not (all(map(math.isfinite, numbers)) and positive) or self.top_k < 1:
            raise InvalidInputError(
                f"combination {str(self.name)[:20]!r}",
                found=f"temperatures {self.temperature}, {self.class_temperature}, strength {self.strength},"
                f" top_k {self.top_k}",
                expected=f"one of {', '.join(NAMES)}; positive temperatures, strength and calibration from 0,"
                " top_k from 1",
            )

    @property
    def answer_temperature(self) -> float:
        """The temperature of `root`'s class scores, calibrated as far as it is."""
        return self.class_temperature * (self.calibration or 1.0)

    @property
    def label(self) -> str:
        """A name for people: `root`, `gate top-2`."""
        return self.name if self.name == "root" else f"{self.name} top-{self.top_k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOption:
    """One combination under trial. `weights` names the candidate's array to score with: `weights`, or
    `root.<i>` (float [M, C], class columns only) while a ridge is being chosen. `against_root`: compared with
    the present gate's root instead of what that serves."""

    combination: Combination
    weights: str = "weights"
    against_root: bool = False
