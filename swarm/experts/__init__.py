"""Nets, trunk, expert, training, cost: where torch lives. Importing this package alone does not load it."""
