"""Frozen vision models as chains of components."""
