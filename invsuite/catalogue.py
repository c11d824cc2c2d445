"""What `invsuite list` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from invsuite.methods import METHODS
from invsuite.metrics import METRICS
from invsuite.models import ADAPTERS
from invsuite.models.bundled import BUILDERS, card
from invsuite.suite import bundled_suites, load_suite

Row = dict[str, Any]


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ")


def list_models() -> list[Row]:
    """Bundled models with their measured quality, then the adapters for others."""
    rows = [
        {"model": name, "source": f"bundled:{name}", "what": f"{facts['architecture']}; {facts['measured']['summary']}"}
        for name in BUILDERS
        for facts in [card(name)]
    ]
    return rows + [
        {"model": f"{name}:NAME", "source": f"{name}:...", "what": _first_line(load.__doc__)}
        for name, load in ADAPTERS.items()
        if name != "bundled"
    ]


def list_methods() -> list[Row]:
    """Methods, their family, source and parameters with defaults."""
    return [
        {
            "method": name,
            "family": cls.family,
            "source": cls.source,
            "parameters": ", ".join(f"{f.name}={f.default}" for f in fields(cls) if f.default is not MISSING),
        }
        for name, cls in METHODS.items()
    ]


def list_metrics() -> list[Row]:
    """Measures, direction and unit."""
    return [
        {"metric": name, "better": cls.direction, "unit": cls.unit, "what": _first_line(cls.__doc__)}
        for name, cls in METRICS.items()
    ]


def list_suites() -> list[Row]:
    """Suites that travel with the package."""
    rows = []
    for name in bundled_suites():
        suite = load_suite(name)
        cells = sum(len(m.stages) for m in suite.models) * len(suite.methods)
        rows.append({"suite": name, "title": suite.title, "models": len(suite.models), "cells": cells})
    return rows


CATALOGUE: dict[str, Callable[[], list[Row]]] = {
    "models": list_models,
    "methods": list_methods,
    "metrics": list_metrics,
    "suites": list_suites,
}
