"""Optimisation inversion: one engine of descent, its parametrisations and priors, and presets of it."""
