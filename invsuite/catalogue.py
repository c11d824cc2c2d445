"""What `invsuite list` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from invsuite.benchmark.suite import bundled_suites, load_suite
from invsuite.methods import METHODS
from invsuite.metrics import METRICS
from invsuite.models import ADAPTERS, ALIASES, load_model, split_source
from invsuite.models.bundled.loader import BUILDERS, card
from invsuite.models.timm import timm_origin

Row = dict[str, Any]


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ")


#: the stages of each adapter's models; `invsuite bench` lists those of one model if it is asked for one it has not
STAGES = {
    "timm": "embed, block01 ... or (pyramids) stage1 ..., head",
    "detr": "backbone, encoder, decoder, prediction",
}


def list_models() -> list[Row]:
    """Bundled models with their measured quality, aliases, and the adapters for any other model."""
    rows = []
    for name in BUILDERS:
        model, facts = load_model(name, f"bundled:{name}"), card(name)
        what = f"{facts['architecture']}; {facts['measured']['summary']}"
        rows.append(_model_row(name, f"bundled:{name}", ", ".join(model.stages), "bundled", model.origin.licence, what))
    for alias, source in ALIASES.items():
        adapter, name = split_source(source)
        origin, licence = timm_origin(name) if adapter == "timm" else (f"hub {name}", "see the hub page")
        rows.append(_model_row(alias, source, STAGES.get(adapter, ""), origin, licence, "alias"))
    for adapter, load in ADAPTERS.items():
        if adapter != "bundled":
            row = (f"{adapter}:NAME", f"{adapter}:...", STAGES.get(adapter, ""), "hub cache or file", "its own")
            rows.append(_model_row(*row, f"adapter: {_first_line(load.__doc__)}"))
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
