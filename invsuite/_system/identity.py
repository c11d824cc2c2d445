"""Which fields of a suite decide what a cell's numbers are, and so are part of its identity."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

#: metadata of a dataclass field that changes no number: a name, the place where something lies, how fast it runs
NOT_IDENTITY = {"identity": False}


def identity_of(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are part of a cell's identity, by name: all but those `NOT_IDENTITY`."""
    return {spec.name: getattr(instance, spec.name) for spec in fields(instance) if spec.metadata.get("identity", True)}
