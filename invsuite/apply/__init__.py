"""Fitted inverses, kept and applied to a person's own images."""
