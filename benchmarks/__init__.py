"""Benchmarks, each with its last result in `results/`."""
