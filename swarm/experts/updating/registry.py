"""The strategies by name, and the one that an expert uses unless its owner says otherwise."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from swarm.domain.errors import InvalidInputError
from swarm.experts.updating.distillation import LearningWithoutForgetting
from swarm.experts.updating.penalties import Ewc, SynapticIntelligence
from swarm.experts.updating.plain import FineTune
from swarm.experts.updating.port import UpdateStrategy
from swarm.experts.updating.replay import Replay

DEFAULT_UPDATE = "replay"
"""Chosen by measurement: docs/updates.md, `make bench-updates`."""

STRATEGIES: Mapping[str, Callable[[], UpdateStrategy]] = MappingProxyType(
    {
        FineTune.name: FineTune,
        Replay.name: Replay,
        Ewc.name: Ewc,
        SynapticIntelligence.name: SynapticIntelligence,
        LearningWithoutForgetting.name: LearningWithoutForgetting,
    }
)


def strategy_named(name: str = DEFAULT_UPDATE) -> UpdateStrategy:
    """Return a strategy with its own settings; InvalidInputError for a name that is not registered."""
    if name not in STRATEGIES:
        raise InvalidInputError(
            "update strategy",
            found=repr(name[:80]),
            expected=" or ".join(STRATEGIES),
            remedy=f"for example {DEFAULT_UPDATE}",
        )
    return STRATEGIES[name]()
