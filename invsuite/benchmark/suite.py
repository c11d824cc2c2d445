"""Suites: which models, stages, methods, measures and images make the cells of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.validation import Natural, NotEmpty, Positive, build, key_path
from invsuite.benchmark.suite_file import ModelTable, SuiteFile, naming, read_suite, suite_path, suite_text
from invsuite.data.base import Source
from invsuite.data.sources import DataSpec
from invsuite.errors import UsageError, unknown_name
from invsuite.methods import make_method
from invsuite.methods.base import Method
from invsuite.methods.problem import Budget, Engine
from invsuite.models.base import means_stage
from invsuite.registry import METHODS, METRICS, SOURCES
from invsuite.results.published import PublishedValue
from invsuite.results.regime import AT, table_of

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
class RowKeys:
    """The keys of a method's table that say how its rows are run; all others are the method's parameters.

    Attributes:
        images: scored images of the row: the first ones of all; None for all.
        edits: images that measures with an edited object use, in place of the suite's number.
        image_passes: budget of the row in place of the suite's; of several, each makes a row of its own.
        models: names of the suite's models that the row is for; None for all.
    """

    images: Positive | None = None
    edits: Natural | None = None
    image_passes: Positive | Annotated[tuple[Positive, ...], NotEmpty()] | None = None
    models: Annotated[tuple[str, ...], NotEmpty()] | None = None


@dataclass(frozen=True)
class MethodSpec:
    """A method of the matrix under its row name.

    Attributes:
        name: of its row in tables; of several budgets NAME@PASSES.
        method: with its parameters.
        images: how many of the scored images it is scored on, the first ones; None for all.
        edits: on how many images measures that edit an object are computed; None for the suite's number.
        image_passes: its own budget in image passes; None for the suite's budget.
        models: names of the suite's models that it is for; None for all.
    """

    name: str = field(metadata=NOT_IDENTITY)
    method: Method
    images: int | None = None
    edits: int | None = field(default=None, metadata=NOT_IDENTITY)
    image_passes: int | None = None
    models: tuple[str, ...] | None = field(default=None, metadata=NOT_IDENTITY)

    @property
    def table(self) -> str:
        """Return the name of its table in the suite, which several budgets share."""
        return table_of(self.name)[0]

    def budget(self, common: Budget) -> Budget:
        """Return what its fit may spend where ``common`` is the suite's budget."""
        return common if self.image_passes is None else Budget(self.image_passes, common.batch)

    def scored(self, count: int) -> int:
        """Return on how many of ``count`` scored images it is scored."""
        return count if self.images is None else min(self.images, count)

    def edited(self, common: int) -> int:
        """Return on how many images measures that edit an object are computed; ``common`` is the suite's number."""
        return common if self.edits is None else self.edits


@dataclass(frozen=True)
class Suite:
    """A suite with its units.

    Attributes:
        name: of its tables and of the folder of its records.
        title: heading of its tables.
        seeds: of trained methods.
        metrics: names of measures.
        edits: how many images measures that edit an object use.
        budget: of every trained method whose row has none of its own.
        data: where images come from.
        models: in the order of tables.
        methods: in the order of tables.
        engine: how training runs.
        interlayer: whether the stages of each model are related, too.
        published: what papers state for the same protocol.
        text: of its file, "" where Python made it.
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
    published: tuple[PublishedValue, ...] = field(default=(), metadata=NOT_IDENTITY)  # nothing of it is run
    text: str = field(default="", metadata=NOT_IDENTITY, repr=False)  # of its file

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
        data = _data(_from_here(file.data, suite_path(name_or_path).parent), "data")
        models = tuple(_model(name, table, data) for name, table in file.models.items())
        rows = _Rows(file.methods)
        methods = tuple(spec for name in file.methods for spec in rows.of(name))
        _check_rows(methods, models, data)
        return Suite(
            name=file.name,
            title=file.title,
            seeds=tuple(dict.fromkeys(file.seeds)),
            metrics=file.metrics,
            edits=file.edits,
            budget=build(Budget, file.budget, "budget"),
            data=data,
            models=models,
            methods=methods,
            engine=build(Engine, file.engine, "engine"),
            interlayer=file.interlayer,
            published=tuple(_published(file)),
            text=suite_text(suite_path(name_or_path)),
        )


def _from_here(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return tables of data whose relative paths that lead nowhere are taken from the suite file's own ``folder``."""
    located: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            value = _from_here(value, folder)
        elif key == "path" and isinstance(value, str) and not Path(value).exists() and (folder / value).exists():
            value = str(folder / value)
        located[key] = value
    return located


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
    if kind not in SOURCES or (kind == "held-back" and part == "fit"):
        kinds = [known for known in SOURCES if part != "fit" or known != "held-back"]
        raise unknown_name(f"{where}.kind", str(kind), kinds)
    return build(SOURCES[kind], fields, where)


def _model(name: str, table: ModelTable, data: DataSpec) -> ModelSpec:
    if table.witness == table.source:
        raise UsageError(f"'models.{name}.witness' is the model itself ('{table.source}'): name a second model")
    if table.data and table.data not in data.others:
        raise unknown_name(f"models.{name}.data", table.data, data.others)
    return ModelSpec(name, **vars(table))


def _published(file: SuiteFile) -> Iterator[PublishedValue]:
    """Yield what a suite's file states as published, every name checked."""
    for number, table in enumerate(file.published):
        for position, line in enumerate(table.rows):
            where = f"published[{number}].rows[{position}]"
            if line.model not in file.models:
                raise unknown_name(key_path(where, "model"), line.model, file.models)
            stages = file.models[line.model].stages
            if not any(means_stage(word, line.stage) for word in stages):
                raise unknown_name(key_path(where, "stage"), line.stage, stages)
            for measure, value in line.values.items():
                if measure not in METRICS:
                    raise unknown_name(key_path(where, "values"), measure, METRICS)
                metric = METRICS[measure]
                facts = (metric.label, metric.unit, metric.direction, metric.digits)
                named = (line.model, line.stage, line.method, measure)
                yield PublishedValue(*named, *facts, value, table.source, table.n, table.budget)


class _Rows:
    """The rows of tables of methods, any of which may build on the row of another.

    Args:
        tables: of the suite file, by name.
    """

    def __init__(self, tables: Mapping[str, dict[str, Any]]) -> None:
        self._tables = tables
        self._specs: dict[str, tuple[MethodSpec, ...]] = {}
        self._begun: list[str] = []  # tables that wait for the one they build on

    def of(self, name: str) -> tuple[MethodSpec, ...]:
        """Return the rows of a table.

        Raises:
            UsageError: for a key or value that is not accepted, or a method that builds on itself.
        """
        if name not in self._specs:
            self._begun.append(name)
            self._specs[name] = tuple(self._made(name, dict(self._tables[name])))
            self._begun.pop()
        return self._specs[name]

    def _made(self, name: str, table: dict[str, Any]) -> Iterator[MethodSpec]:
        """Yield the rows of a table whose row parameters become methods; these rows give its budgets by default."""
        where = f"methods.{name}"
        kind = METHODS[table.get("kind", name)]
        for key in kind.row_parameters:
            if isinstance(table.get(key), str):
                rows = self._named(table[key], key_path(where, key))
                table[key] = rows[0].method
                passes = [row.image_passes for row in rows if row.image_passes is not None]
                if passes:
                    table.setdefault("image_passes", passes if len(passes) > 1 else passes[0])
        return _methods(name, table)

    def _named(self, word: str, where: str) -> tuple[MethodSpec, ...]:
        """Return the rows that ``word``, the value of the key ``where``, names: a table's, or the one of a budget."""
        table, budget = table_of(word)
        if table not in self._tables:
            raise unknown_name(where, word, [name for name in self._tables if name not in self._begun])
        if table in self._begun:
            path = " -> ".join([*self._begun[self._begun.index(table) :], table])
            raise UsageError(f"'{where}' is '{word}': a method cannot build on itself ({path})")
        rows = tuple(row for row in self.of(table) if not budget or row.name == word)
        if not rows:
            raise unknown_name(where, word, [row.name for row in self.of(table)])
        return rows


def _methods(name: str, table: dict[str, Any]) -> Iterator[MethodSpec]:
    """Yield the rows of a method's table: one, or one for each of its budgets."""
    where = f"methods.{name}"
    reserved = {spec.name for spec in fields(RowKeys)}
    keys = build(RowKeys, {key: value for key, value in table.items() if key in reserved}, where)
    parameters = {key: value for key, value in table.items() if key not in reserved}
    method = make_method(parameters.pop("kind", name), parameters, where)
    passes = keys.image_passes
    if passes is not None and not method.uses_budget:
        raise UsageError(f"'{where}.image_passes' is {passes}, but method '{method.name}' uses no budget")
    if not isinstance(passes, tuple):
        yield MethodSpec(name, method, keys.images, keys.edits, passes, keys.models)
        return
    for budget, count in Counter(passes).items():
        if count > 1:
            raise UsageError(f"'{where}.image_passes' names the budget {budget} {count} times")
        yield MethodSpec(f"{name}{AT}{budget}", method, keys.images, keys.edits, budget, keys.models)


def _check_rows(methods: tuple[MethodSpec, ...], models: tuple[ModelSpec, ...], data: DataSpec) -> None:
    """Raise `UsageError` for a row of an unknown model, or of more images than a model's data has to be scored on."""
    names = [model.name for model in models]
    for spec in methods:
        for name in spec.models or ():
            if name not in names:
                raise unknown_name(key_path(f"methods.{spec.table}", "models"), name, names)
    for table in dict.fromkeys(model.data for model in models):
        count = (data.others[table] if table else data).score.count
        if count:
            check_images(methods, count, key_path(f"data.{table}" if table else "data", "score"))


def check_images(methods: Iterable[MethodSpec], count: int, where: str) -> None:
    """Raise `UsageError` for a method that is to be scored on more than the ``count`` images of ``where``."""
    for spec in methods:
        if (spec.images or 0) > count:
            raise UsageError(
                f"'methods.{spec.table}.images' is {spec.images}, more than the {count} scored images of '{where}'"
            )
