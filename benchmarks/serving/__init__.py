"""Routed inference measured: `make bench-serving`."""
