"""A node: one agent, its training process and its expert server. Raw data never leaves it."""
