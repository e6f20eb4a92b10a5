"""Mutated messages and tensor headers against the real services: only client errors may come back."""
