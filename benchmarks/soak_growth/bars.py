"""The bars that a never-ending day has to clear, read off its figures."""

from collections.abc import Mapping
from dataclasses import dataclass

MOST_FORGOTTEN = 1.0
"""Points of accuracy that a domain may lose once it is no longer fed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What was asked of the day, and what it came to."""

    asked: str
    found: str
    is_met: bool

    def __str__(self) -> str:
        return f"{'met' if self.is_met else 'MISSED'}: {self.asked}: {self.found}"


def bars_of(figures: Mapping[str, float]) -> list[Bar]:
    """Return the bars of a day with these figures (`results.figures_of`)."""
    asked, unanswered = figures["queries_asked"], figures["queries_unanswered"]
    forgotten = figures["forgetting_max"]
    return [
        Bar(
            asked="every query is answered",
            found=f"{unanswered:.0f} of {asked:.0f} were not",
            is_met=asked > 0 and unanswered == 0,
        ),
        Bar(
            asked=f"what is no longer fed loses at most {MOST_FORGOTTEN:g} point",
            found=f"{forgotten:.2f} points",
            is_met=forgotten <= MOST_FORGOTTEN,
        ),
        *(
            Bar(
                asked=f"{what} grows more slowly than the samples",
                found=f"as their power {figures[name]:.2f}",
                is_met=figures[name] < 1,
            )
            for what, name in (
                ("the gate", "growth_gate_bytes"),
                ("what a query costs", "growth_flops_per_query"),
            )
        ),
    ]
