"""The trainer of the bundled models."""
