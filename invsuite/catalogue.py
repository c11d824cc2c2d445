"""Lists of everything that can be named: models, methods, measures, suites.

Each function imports what it lists and no more: a list of suites needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args

from invsuite._system.validation import describe, field_types
from invsuite.benchmark.suite_file import bundled_suites, read_suite
from invsuite.models.load import ALIASES, load_model, split_source
from invsuite.registry import ADAPTERS, METHODS, METRICS

Row = dict[str, Any]


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ")


def list_models() -> list[Row]:
    """Return the bundled models with their measured quality, the aliases, and the adapters of any other model.

    Examples:
        >>> import invsuite
        >>> [row["model"] for row in invsuite.list_models() if row["weights"] == "bundled"]
        ['vit', 'detr', 'swin', 'convnext']
    """
    from invsuite.models.adapters.bundled import BUILDERS, card

    rows = []
    for name in BUILDERS:
        model, facts = load_model(f"bundled:{name}"), card(name)
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
    """Return every method with its family, its source, and its parameters: default, and what they accept.

    Examples:
        >>> import invsuite
        >>> {row["method"]: row["family"] for row in invsuite.list_methods()}["ridge"]
        'closed form'
    """
    return [
        {"method": name, "family": cls.family, "source": cls.source, "parameters": ", ".join(_parameters(cls))}
        for name, cls in METHODS.items()
    ]


def _parameters(cls: type[Any]) -> list[str]:
    """Return NAME=DEFAULT of every parameter, and the words that limit its values, if any."""
    types = field_types(cls)
    limits = {name: _limits(describe(annotation)) for name, annotation in types.items()}
    return [
        f"{spec.name}={spec.default}" + (f" ({limits[spec.name]})" if limits[spec.name] else "")
        for spec in fields(cls)
        if spec.default is not MISSING
    ]


def _limits(words: str) -> str:
    """Return a description without the type, which the default shows."""
    kinds = [describe(kind) for kind in (bool, int, float, str)]
    return next((words.removeprefix(kind).removeprefix(", ") for kind in kinds if words.startswith(kind)), words)


def list_metrics() -> list[Row]:
    """Return every measure with its direction and unit, those of one table together.

    Examples:
        >>> import invsuite
        >>> {row["metric"]: row["better"] for row in invsuite.list_metrics()}["lpips"]
        'lower'
    """
    from invsuite.metrics.base import Group

    groups = get_args(Group)
    return [
        {"metric": name, "better": cls.direction, "unit": cls.unit, "what": cls.description()}
        for name, cls in sorted(METRICS.items(), key=lambda item: (groups.index(item[1].group), item[0]))
    ]


def list_suites() -> list[Row]:
    """Return the suites that travel with the package."""
    rows = []
    for name in bundled_suites():
        suite = read_suite(name)
        stages = {model: len(table.stages) for model, table in suite.models.items()}
        cells = 0
        for table in suite.methods.values():
            passes, models = table.get("image_passes"), table.get("models", stages)
            cells += sum(stages.get(model, 0) for model in models) * (len(passes) if isinstance(passes, list) else 1)
        rows.append({"suite": name, "title": suite.title, "models": len(suite.models), "cells": cells})
    return rows


CATALOGUE: dict[str, Callable[[], list[Row]]] = {
    "models": list_models,
    "methods": list_methods,
    "metrics": list_metrics,
    "suites": list_suites,
}
