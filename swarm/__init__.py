"""Swarm: many machines with private data grow one modular model together."""

__version__ = "0.1.0"
__all__ = ["__version__"]
