"""Learners of the literature, and this system's, over streams (ALMA); hard mixtures of experts."""
