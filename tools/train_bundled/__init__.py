"""The trainer of the two bundled models."""
