"""Serving measured: each module is one run of its own, `python -m benchmarks.serving.NAME`."""
