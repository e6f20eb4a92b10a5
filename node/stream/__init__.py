"""Mega-batches as they arrive: each taken once, gathered, learned every so many, accounted for."""
