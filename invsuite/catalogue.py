"""What `invsuite list` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args

from invsuite.benchmark.suite_file import bundled_suites, read_suite
from invsuite.metrics.base import Group
from invsuite.models.adapters.bundled import BUILDERS, card
from invsuite.models.load import ALIASES, load_model, split_source
from invsuite.registry import ADAPTERS, METHODS, METRICS

Row = dict[str, Any]


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ")


def list_models() -> list[Row]:
    """Bundled models with their measured quality, aliases, and the adapters for any other model."""
    rows = []
    for name in BUILDERS:
        model, facts = load_model(name, f"bundled:{name}"), card(name)
        what = f"{facts['architecture']}; {facts['measured']['summary']}"
        rows.append(_model_row(name, f"bundled:{name}", ", ".join(model.stages), "bundled", model.origin.licence, what))
    for alias, source in ALIASES.items():
        adapter, name = split_source(source)
        hub = adapter.hub(name)
        origin, licence = (f"hub {hub.repository}", hub.licence) if hub else ("none", "none")
        rows.append(_model_row(alias, source, adapter.stages, origin, licence, "alias"))
    for word, adapter in ADAPTERS.items():
        if word != "bundled":
            row = (f"{word}:NAME", f"{word}:...", adapter.stages, "hub cache or file", "its own")
            rows.append(_model_row(*row, f"adapter: {_first_line(adapter.load.__doc__)}"))
    return rows


def _model_row(model: str, source: str, stages: str, weights: str, licence: str, what: str) -> Row:
    return {"model": model, "source": source, "stages": stages, "weights": weights, "licence": licence, "what": what}


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
    """Return every measure with its direction and unit, those of one table together."""
    groups = get_args(Group)
    return [
        {"metric": name, "better": cls.direction, "unit": cls.unit, "what": cls.description()}
        for name, cls in sorted(METRICS.items(), key=lambda item: (groups.index(item[1].group), item[0]))
    ]


def list_suites() -> list[Row]:
    """Suites that travel with the package."""
    rows = []
    for name in bundled_suites():
        suite = read_suite(name)
        cells = sum(len(model.stages) for model in suite.models.values()) * len(suite.methods)
        rows.append({"suite": name, "title": suite.title, "models": len(suite.models), "cells": cells})
    return rows


CATALOGUE: dict[str, Callable[[], list[Row]]] = {
    "models": list_models,
    "methods": list_methods,
    "metrics": list_metrics,
    "suites": list_suites,
}
