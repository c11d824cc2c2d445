"""Which fields of a suite decide what a cell's numbers are, and so are part of its identity."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import Any

#: metadata of a dataclass field that changes no number: a name, the place where something lies, how fast it runs
NOT_IDENTITY = {"identity": False}
#: metadata of a parameter that came when numbers had been computed: at its default they are what they were without it
CAME_LATER = {"came_later": True}


def identity_of(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are part of a cell's identity, by name: all but those `NOT_IDENTITY`."""
    return {spec.name: getattr(instance, spec.name) for spec in fields(instance) if spec.metadata.get("identity", True)}


def params_of(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass and of those in it, by name; none at its default that `CAME_LATER`."""
    params = asdict(instance)
    for spec in fields(instance):
        value = getattr(instance, spec.name)
        if spec.metadata.get("came_later") and value == spec.default:
            del params[spec.name]
        elif is_dataclass(value):
            params[spec.name] = params_of(value)
    return params
