"""What an expert does when its shard drifts: named strategies behind one port, and what they remember."""

from swarm.experts.updating.distillation import LearningWithoutForgetting
from swarm.experts.updating.memory import Memory, read_memory, write_memory
from swarm.experts.updating.penalties import Ewc, SynapticIntelligence
from swarm.experts.updating.plain import FineTune
from swarm.experts.updating.port import Update, UpdateStrategy
from swarm.experts.updating.registry import DEFAULT_UPDATE, STRATEGIES, strategy_named
from swarm.experts.updating.replay import Replay

__all__ = [
    "DEFAULT_UPDATE",
    "STRATEGIES",
    "Ewc",
    "FineTune",
    "LearningWithoutForgetting",
    "Memory",
    "Replay",
    "SynapticIntelligence",
    "Update",
    "UpdateStrategy",
    "read_memory",
    "strategy_named",
    "write_memory",
]
