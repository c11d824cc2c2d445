"""Suites: which models, stages, methods, measures and images make the cells of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.validation import build, key_path
from invsuite.benchmark.suite_file import ModelTable, naming, read_suite, suite_path
from invsuite.data.base import Source
from invsuite.data.sources import DataSpec
from invsuite.errors import UsageError, unknown_name
from invsuite.methods import make_method
from invsuite.methods.base import Method
from invsuite.methods.problem import Budget, Engine
from invsuite.registry import METRICS, SOURCES

PARTS = ("fit", "select", "score")


@dataclass(frozen=True)
class ModelSpec:
    """A model of the matrix.

    Attributes:
        name: of its rows in tables.
        source: where the model comes from (`invsuite.models.load.load_model`).
        stages: where its chain is cut: words that the loaded model understands; none for a model that no suite names,
            until it is loaded.
        witness: source of a second model that judges the reconstructions, "" for none.
        random_weights: whether random weights replace its own.
        data: name of the table of the suite's data that it sees, "" for the suite's own.
    """

    name: str = field(metadata=NOT_IDENTITY)
    source: str
    stages: tuple[str, ...]
    witness: str = field(default="", metadata=NOT_IDENTITY)  # of the measures that ask it
    random_weights: bool = False
    data: str = ""


@dataclass(frozen=True)
class MethodSpec:
    """A method of the matrix under its row name."""

    name: str = field(metadata=NOT_IDENTITY)
    method: Method


@dataclass(frozen=True)
class Suite:
    """A suite with its units.

    Attributes:
        name: of its tables and of the folder of its records.
        title: heading of its tables.
        seeds: of trained methods.
        metrics: names of measures.
        edits: how many images measures that edit an object use.
        budget: of every trained method.
        data: where images come from.
        models: in the order of tables.
        methods: in the order of tables.
        engine: how training runs.
        interlayer: whether the stages of each model are related, too.
    """

    name: str = field(metadata=NOT_IDENTITY)
    title: str = field(metadata=NOT_IDENTITY)
    seeds: tuple[int, ...]
    metrics: tuple[str, ...] = field(metadata=NOT_IDENTITY)  # each has an identity of its own,
    edits: int = field(metadata=NOT_IDENTITY)  # to which this belongs where images are edited
    budget: Budget
    data: DataSpec
    models: tuple[ModelSpec, ...]
    methods: tuple[MethodSpec, ...] = field(metadata=NOT_IDENTITY)  # each has cells of its own
    engine: Engine
    interlayer: bool = field(default=False, metadata=NOT_IDENTITY)  # has records of its own

    def data_of(self, model: ModelSpec) -> DataSpec:
        """Return the data that ``model`` sees."""
        return self.data.others[model.data] if model.data else self.data


def load_suite(name_or_path: str) -> Suite:
    """Load a suite by path or by the name of a bundled one.

    Raises:
        UsageError: for an unknown suite, a key that is missing, unknown or of the wrong type, or a unit that is not
            registered.

    Examples:
        >>> import invsuite
        >>> suite = invsuite.load_suite("quick")
        >>> [model.name for model in suite.models], suite.budget.kind
        (['vit', 'detr'], 'passes')
    """
    file = read_suite(name_or_path)
    with naming(suite_path(name_or_path)):
        for metric in file.metrics:
            METRICS[metric]
        data = _data(file.data, "data")
        return Suite(
            name=file.name,
            title=file.title,
            seeds=file.seeds,
            metrics=file.metrics,
            edits=file.edits,
            budget=build(Budget, file.budget, "budget"),
            data=data,
            models=tuple(_model(name, table, data) for name, table in file.models.items()),
            methods=tuple(_method(name, table) for name, table in file.methods.items()),
            engine=build(Engine, file.engine, "engine"),
            interlayer=file.interlayer,
        )


def _data(tree: dict[str, dict[str, Any]], where: str) -> DataSpec:
    """Return the three parts, and the tables of three parts beside them that models name."""
    others = {name: table for name, table in tree.items() if name not in PARTS}
    for name, table in others.items():
        if where != "data" or not all(isinstance(table.get(part), dict) for part in PARTS):
            raise unknown_name("key", key_path(where, name), [key_path(where, part) for part in PARTS])
    for part in PARTS:
        if part not in tree:
            raise UsageError(f"'{key_path(where, part)}' is missing")
    fit, select, score = (_source(tree[part], key_path(where, part), part) for part in PARTS)
    return DataSpec(fit, select, score, {name: _data(table, key_path(where, name)) for name, table in others.items()})


def _source(table: dict[str, Any], where: str, part: str) -> Source:
    fields = dict(table)
    kind = fields.pop("kind", None)
    if kind is None:
        raise UsageError(f"'{where}.kind' is missing")
    if kind not in SOURCES or (kind == "held-back" and part != "select"):
        kinds = [known for known in SOURCES if part == "select" or known != "held-back"]
        raise unknown_name(f"{where}.kind", str(kind), kinds)
    return build(SOURCES[kind], fields, where)


def _model(name: str, table: ModelTable, data: DataSpec) -> ModelSpec:
    if table.witness == table.source:
        raise UsageError(f"'models.{name}.witness' is the model itself ('{table.source}'): name a second model")
    if table.data and table.data not in data.others:
        raise unknown_name(f"models.{name}.data", table.data, data.others)
    return ModelSpec(name, **vars(table))


def _method(name: str, table: dict[str, Any]) -> MethodSpec:
    parameters = dict(table)
    return MethodSpec(name, make_method(parameters.pop("kind", name), parameters, f"methods.{name}"))
