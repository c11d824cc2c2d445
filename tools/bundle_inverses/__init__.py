"""Puts inverses of the bundled models into the package."""
