"""How far a run is: an app says it, whoever runs the app hears it. On a stock deployment it is logged."""

import logging
from collections.abc import Callable, Mapping

Heard = Callable[[str, str, float, Mapping[str, float]], None]
"""Called with stage ("round 3 of 20"), message ("7 of 10 nodes"), fraction 0..1 and figures."""


def _log(stage: str, message: str, fraction: float, figures: Mapping[str, float]) -> None:
    told = "".join(f", {name} {value:.6g}" for name, value in figures.items())
    logging.getLogger("flwr").info("%s: %s%s", stage, message, told)


class _Progress:
    """The present stage, and who hears of it. One per process, as a run is."""

    def __init__(self) -> None:
        self.heard: Heard = _log
        self.name = "start"
        self.fraction = 0.0
        self.share = 1.0


_now = _Progress()


def heard_by(hear: Heard) -> None:
    """Let hear be called instead of the log."""
    _now.heard = hear


def stage(name: str, fraction: float, share: float) -> None:
    """A stage begins, at a fraction of the run; it is a share of it."""
    _now.name, _now.fraction, _now.share = name, fraction, share
    _now.heard(name, "", fraction, {})


def say(message: str, done: float = 0.0, figures: Mapping[str, float] | None = None) -> None:
    """Say something within the present stage, of which `done` (0..1) is behind us."""
    _now.heard(_now.name, message, min(1.0, _now.fraction + done * _now.share), figures or {})
