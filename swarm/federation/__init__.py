"""Rounds in which numbers must be pooled: ordinary Flower apps, and the grid that carries their messages.

`options`, `packing`, `frames` and `child` load no Flower: the coordinator and the node's agent use them.
"""
