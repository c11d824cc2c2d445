"""From a suite to cells: model x stage x method x seed, each with an identity that covers what changes its result."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from invsuite._system.files import file_name
from invsuite.benchmark.suite import MethodSpec, ModelSpec, Suite, check_images
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import Splits
from invsuite.errors import (
    InvsuiteError,
    NotApplicable,
    OutsideError,
    Unavailable,
    UsageError,
    boundary,
    unknown_name,
)
from invsuite.methods import make_method
from invsuite.methods.base import Method
from invsuite.methods.training.recipe import RECIPE_VERSION
from invsuite.metrics import make_metric
from invsuite.metrics.base import Metric
from invsuite.models.base import Model, means_stage
from invsuite.models.load import ALIASES, load_model, name_of
from invsuite.models.stage_words import chain_in, is_joined, ordinary
from invsuite.registry import ADAPTERS, METHODS, METRICS, SOURCES
from invsuite.results.regime import AT

#: the parts of a cell's identity that all methods share
IDENTITY_OF_INPUTS = ("weights", "image_size", "data", "plugins")
#: JSON with sorted keys.
as_json = json.JSONEncoder(sort_keys=True).encode
#: the same of parameters that a plug-in may have declared, whatever they are
_as_any_json = json.JSONEncoder(sort_keys=True, default=repr).encode


@dataclass(frozen=True)
class Selection:
    """What of a suite to run: names or shell patterns; None takes everything.

    ``models`` may also hold sources (``timm:NAME``) and aliases, which run on the suite's data with its methods;
    ``stages`` are then where their chains are cut, and words as `invsuite.models.base.means_stage` understands them.
    ``methods`` and ``metrics`` may also hold registered names that the suite lacks, which are then as by default; the
    name of a method's table means its rows of all budgets.
    ``random_weights`` gives every model random weights.
    """

    models: Sequence[str] | None = None
    stages: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    random_weights: bool = False


@dataclass(frozen=True)
class Cell:
    """One model, stage, method and seed of the matrix: what gives one record.

    Attributes:
        model: with its cut.
        stage: whose representation is inverted.
        method: with its row name.
        seed: of the fit.
        identity: all that changes the fit and the reconstructions; JSON types.
        texts: the JSON of those parts of the identity that many cells share, written once.
    """

    model: ModelSpec
    stage: str
    method: MethodSpec
    seed: int
    identity: dict[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def id(self) -> str:
        """Return the name of the record: readable, with 12 digits of the identity's SHA-256."""
        parts = f"{self.model.name}-{self.stage}-{self.method.name}-s{self.seed}"
        return f"{file_name(parts)}-{self._digest(self.identity)}"

    @cached_property
    def fit_id(self) -> str:
        """Return the name of the fit that this cell shares with others: its identity without what only a cell has."""
        shared = [part for part in self.identity if part not in ("stage", "cut", "images")]
        return f"{file_name(f'{self.model.name}-{self.method.name}-s{self.seed}')}-{self._digest(shared)}"

    def _digest(self, parts: Iterable[str]) -> str:
        """Return 12 digits of the SHA-256 of these parts of the identity."""
        texts = [f'"{part}": {self.texts.get(part) or as_json(self.identity[part])}' for part in sorted(parts)]
        return hashlib.sha256(f"{{{', '.join(texts)}}}".encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Return MODEL/STAGE/METHOD/sSEED, by which a baseline finds the cell in other versions."""
        return f"{self.model.name}/{self.stage}/{self.method.name}/s{self.seed}"


@dataclass(frozen=True)
class LoadedModel:
    """A model of the matrix, loaded, with its splits, the cells that run on it, and its witness or why it has none."""

    spec: ModelSpec
    model: Model
    splits: Splits
    cells: tuple[Cell, ...]
    witness: Model | InvsuiteError

    def identity_of(self, metric: Metric, edits: int) -> str:
        """Return 12 digits over all that changes a measure's values for given reconstructions of this model.

        Args:
            metric: the measure, with its parameters.
            edits: how many images are edited for the row.
        """
        parts: dict[str, Any] = {"name": metric.name, "version": metric.version, "parameters": metric.params()}
        parts |= _plugins({metric.name: METRICS.edition(metric.name)})
        if metric.uses_edits:
            parts["edits"] = edits
        if metric.uses_witness:  # one that could not be had is another: its measures are computed once it is there
            unavailable = f"unavailable: {self.spec.witness}"
            parts["witness"] = self.witness.origin.sha256 if isinstance(self.witness, Model) else unavailable
        return hashlib.sha256(_as_any_json(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class UnavailableModel:
    """A model of the matrix that cannot be had, and its cells, which become skipped or failed records."""

    spec: ModelSpec
    error: InvsuiteError
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """The matrix to run."""

    suite: Suite
    metrics: tuple[Metric, ...]
    models: tuple[LoadedModel | UnavailableModel, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return all cells, model by model."""
        return tuple(cell for entry in self.models for cell in entry.cells)


def choose(kind: str, names: Sequence[str], patterns: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ``names`` that match any of the shell ``patterns``, in their own order.

    Raises:
        UsageError: for a pattern that matches nothing, with the nearest names and the list.
    """
    if patterns is None:
        return tuple(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name(kind, pattern, names)
    return tuple(n for n in names if any(fnmatchcase(n, p) for p in patterns))


def choose_models(suite: Suite, selection: Selection) -> list[ModelSpec]:
    """Return the suite's models and those named by source, in that order.

    Raises:
        UsageError: for a name that is neither, or one row name for two models.
    """
    words = selection.models
    named = [m.name for m in suite.models]
    outside = [w for w in words or () if w not in named and (":" in w or w in ALIASES)]
    inside = None if words is None else [w for w in words if w not in outside]
    chosen = () if inside == [] else choose("model", named, inside)
    specs = [m for m in suite.models if m.name in chosen]
    specs += [ModelSpec(file_name(name_of(source)), source, ()) for source in dict.fromkeys(outside)]
    if selection.random_weights:
        specs = [replace(spec, name=f"{spec.name}-random", random_weights=True) for spec in specs]
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise UsageError(f"{count} models would be called '{name}' in the tables: run them one at a time")
    return specs


def cut_of(spec: ModelSpec, model: Model, words: Sequence[str] | None) -> ModelSpec:
    """Return ``spec`` with the stages of ``model`` where its chain is cut.

    They are the suite's and several of ``words`` that are read together, which cut nothing; else those that ``words``
    mean, else some that are spread evenly.

    Raises:
        UsageError: listing the model's stages, if a word of the suite, or all of ``words``, mean none.
    """
    if spec.stages:
        together = [word for word in words or () if is_joined(word) and model.has_stage(word)]
        return replace(spec, stages=model.find_stages([*spec.stages, *together]))
    if words is None:
        return replace(spec, stages=model.usual_stages())
    known = [word for word in words if model.has_stage(word)]
    return replace(spec, stages=model.find_stages(known or words))


def make_plan(suite: Suite, selection: Selection, note: Callable[[str], None]) -> Plan:
    """Open the selected models and their data and lay out the cells.

    A model that cannot be had does not stop the others: it is `UnavailableModel` with its reason.

    Raises:
        UsageError: for names that match nothing; no data has been opened by then, and no model either, but those whose
            stages no suite names.
    """
    suite = with_own_units(suite, selection)
    specs = choose_models(suite, selection)
    rows = _choose_methods(suite, selection)  # refuses names that match nothing before anything is opened
    metrics = make_metrics(suite, selection)
    words = selection.stages
    together = [word for word in words or () if is_joined(word)]  # what they mean, a model must say
    if all(spec.stages for spec in specs) and not together:
        _check_stages(words, [stage for spec in specs for stage in spec.stages])
    specs = [spec for spec in specs if not spec.stages or together or _may_mean(words, spec.stages)]
    specs = _with_rows(specs, rows, suite)
    loaded = [_load(spec, words, note) for spec in specs]
    _check_stages(
        words, [s for spec, (cut, model) in zip(specs, loaded, strict=True) for s in _stages_of(spec, cut, model)]
    )
    entries = [_lay_out(suite, selection, metrics, spec, model, note) for spec, model in loaded]
    return Plan(suite, metrics, tuple(entry for entry in entries if entry is not None))


def with_own_units(suite: Suite, selection: Selection) -> Suite:
    """Return ``suite`` with the selected methods and measures that it lacks and that are registered."""
    rows = {name for method in suite.methods for name in (method.name, method.table)}
    methods = [name for name in selection.methods or () if name not in rows and name in METHODS]
    metrics = [name for name in selection.metrics or () if name not in suite.metrics and name in METRICS]
    return replace(
        suite,
        methods=(*suite.methods, *(MethodSpec(name, make_method(name, {})) for name in methods)),
        metrics=(*suite.metrics, *metrics),
    )


def make_metrics(suite: Suite, selection: Selection) -> tuple[Metric, ...]:
    """Return the suite's measures that are selected."""
    return tuple(make_metric(name) for name in choose("metric", suite.metrics, selection.metrics))


def open_model(
    suite: Suite, selection: Selection, metrics: Sequence[Metric], spec: ModelSpec, note: Callable[[str], None]
) -> LoadedModel | UnavailableModel:
    """Load one model of a plan again, in another process, and open its data: ``spec`` is the plan's, with its cut."""
    entry = _lay_out(suite, selection, metrics, *_load(spec, selection.stages, note), note)
    assert entry is not None, "the plan has a stage of this model"
    return entry


def _choose_methods(suite: Suite, selection: Selection) -> list[MethodSpec]:
    tables = {m.table for m in suite.methods if m.table != m.name}
    words = selection.methods
    patterns = None if words is None else [f"{word}{AT}*" if word in tables else word for word in words]
    names = choose("method", [m.name for m in suite.methods], patterns)
    return [m for m in suite.methods if m.name in names]


def _with_rows(specs: Sequence[ModelSpec], rows: Sequence[MethodSpec], suite: Suite) -> list[ModelSpec]:
    """Return the models for which the suite has any of ``rows``.

    Raises:
        UsageError: if there are models, but the suite has no such row for any.
    """
    meant = [spec for spec in specs if any(_is_for(row, spec, suite) for row in rows)]
    if specs and not meant:
        names = ", ".join(dict.fromkeys(row.table for row in rows))
        models = ", ".join(dict.fromkeys(name for row in rows for name in row.models or ()))
        raise UsageError(f"the suite has {names} for {models} alone, not for {', '.join(spec.name for spec in specs)}")
    return meant


def _is_for(method: MethodSpec, spec: ModelSpec, suite: Suite) -> bool:
    """Tell whether the suite has the row for this model; it has every row for a model that it does not name."""
    return method.models is None or spec.name in method.models or all(spec.name != own.name for own in suite.models)


def _lay_out(
    suite: Suite,
    selection: Selection,
    metrics: Sequence[Metric],
    spec: ModelSpec,
    model: Model | InvsuiteError,
    note: Callable[[str], None],
) -> LoadedModel | UnavailableModel | None:
    """Open the data of a loaded model and lay out its cells; None if no stage of it is selected."""
    words = selection.stages
    stages = [s for s in spec.stages if words is None or any(means_stage(word, s) for word in words)]
    seeds = tuple(dict.fromkeys(selection.seeds or suite.seeds))
    methods = [method for method in _choose_methods(suite, selection) if _is_for(method, spec, suite)]
    try:
        if isinstance(model, InvsuiteError):
            raise model
        if not stages:
            return None
        witness = find_witness(spec, model, any(m.uses_witness for m in metrics), note)
        with boundary(f"the data of model '{spec.name}' cannot be opened"):
            splits = _open_data(suite, spec, model, note)
            check_images(methods, len(splits.score), "data.score")
            inputs = identity_of_inputs(model, splits) | _plugins(_editions(suite.data_of(spec), spec))
    except InvsuiteError as error:
        return UnavailableModel(spec, error, make_cells(suite, spec, stages, methods, seeds, {"refused": spec.source}))
    return LoadedModel(spec, model, splits, make_cells(suite, spec, stages, methods, seeds, inputs), witness)


def identity_of_inputs(model: Model, splits: Splits) -> dict[str, Any]:
    """Return the part of a cell's identity that all methods share: weights, image size and the three sets of images."""
    digests = {part: getattr(splits, part).digest() for part in ("fit", "select", "score")}
    return {"weights": model.origin.sha256, "image_size": model.image_size, "data": digests}


def _plugins(editions: Mapping[str, str]) -> dict[str, Any]:
    """Return a part of an identity: the editions of plug-ins, none where all is the suite's own."""
    own = {name: edition for name, edition in editions.items() if edition}
    return {"plugins": own} if own else {}


def _editions(data: DataSpec, spec: ModelSpec) -> dict[str, str]:
    """Return the editions of what loads a model and opens its data, by their names."""
    adapters = [word for word in spec.source.split(":")[:-1] if word in ADAPTERS.owners()]
    kinds = [name for source in data.sources if (name := SOURCES.name_of(type(source)))]
    return {name: ADAPTERS.edition(name) for name in adapters} | {name: SOURCES.edition(name) for name in kinds}


def _method_editions(method: Method) -> dict[str, str]:
    """Return the editions of a method and of those that it builds on, by their names."""
    editions = {method.name: METHODS.edition(method.name)}
    for other in method.builds_on():
        editions |= _method_editions(other)
    return editions


def make_cells(
    suite: Suite,
    spec: ModelSpec,
    stages: Sequence[str],
    methods: Sequence[MethodSpec],
    seeds: Sequence[int],
    inputs: dict[str, Any],
) -> tuple[Cell, ...]:
    """Return the cells of a model: seed by seed, stage by stage; methods that depend on no seed have one seed's.

    Args:
        suite: with the budget and the engine.
        spec: the model, with its cut.
        stages: to invert.
        methods: with their row names.
        seeds: of trained methods.
        inputs: the part of the identity that all methods share (`identity_of_inputs`).
    """
    texts = {part: as_json(value) for part, value in inputs.items()}
    params = {}
    for method in methods:
        with boundary(f"the parameters of method '{method.name}' are no JSON"):
            params[method.name] = method.method.params()
            as_json(params[method.name])
    return tuple(
        Cell(
            spec,
            stage,
            method,
            seed,
            _identity(suite, method, params[method.name], stage, spec.stages, seed, inputs),
            texts,
        )
        for seed in seeds
        for stage in stages
        for method in methods
        if method.method.seeded or seed == seeds[0]
    )


def find_witness(spec: ModelSpec, model: Model, needed: bool, note: Callable[[str], None]) -> Model | InvsuiteError:
    """Return the second model, or why there is none; it is loaded only for measures that ask it.

    Raises:
        UsageError: if it has the weights of the model itself.
        WeightsError: if its weights are damaged.
    """
    if not spec.witness or not needed:
        return NotApplicable(f"the suite names no witness for model '{spec.name}'")
    note(f"loading the witness of '{spec.name}' ({spec.witness})")
    try:
        with boundary(f"the witness of '{spec.name}' ({spec.witness}) cannot be loaded"):
            witness = load_model(spec.witness, f"witness of {spec.name}")
    except (Unavailable, OutsideError) as error:
        return error
    if witness.origin.sha256 == model.origin.sha256:
        raise UsageError(f"the witness of model '{spec.name}' has its very weights: name a second model")
    return witness


def _may_mean(words: Sequence[str] | None, stages: Sequence[str]) -> bool:
    """Tell whether any of ``words`` may mean one of a suite's ``stages``, or one of these, a pattern, such a word."""
    return words is None or any(means_stage(word, s) or means_stage(s, word) for word in words for s in stages)


def _check_stages(words: Sequence[str] | None, stages: Sequence[str]) -> None:
    """Raise `UsageError` for the first of ``words`` that means none of ``stages``."""
    for word in words or ():
        if not _may_mean([word], stages):
            raise unknown_name("stage", word, set(stages))


def _stages_of(spec: ModelSpec, cut: ModelSpec, model: Model | InvsuiteError) -> tuple[str, ...]:
    """Return the stages that a user can mean: those of the suite's cut, or all of a model that no suite cuts."""
    return cut.stages if spec.stages or isinstance(model, InvsuiteError) else (*model.stages, *cut.stages)


def _load(
    spec: ModelSpec, words: Sequence[str] | None, note: Callable[[str], None]
) -> tuple[ModelSpec, Model | InvsuiteError]:
    """Return the model with its cut, or why it cannot be had, with the stages as the user wrote them."""
    note(f"loading model '{spec.name}' ({spec.source}{', random weights' if spec.random_weights else ''})")
    try:
        with boundary(f"model '{spec.name}' ({spec.source}) cannot be loaded"):
            model = load_model(spec.source, spec.name, spec.random_weights)
            for remark in model.remarks:
                note(remark)
            if model.uncut:
                note(f"model '{spec.name}' does not come apart into components that run alone: {model.uncut}")
            return cut_of(spec, model, words), model
    except InvsuiteError as error:
        return replace(spec, stages=spec.stages or tuple(words or ("unknown",))), error


def _open_data(suite: Suite, spec: ModelSpec, model: Model, note: Callable[[str], None]) -> Splits:
    """Open the three sets of images at the model's image size."""
    note(f"opening data for '{spec.name}'")
    splits = open_splits(suite.data_of(spec), model.image_size, model.resampling, note)
    if len(splits.fit) < suite.budget.batch:
        raise UsageError(f"{len(splits.fit)} fit images are fewer than one batch of {suite.budget.batch}")
    for remark in splits.remarks():
        note(remark)
    return splits


def _identity(
    suite: Suite,
    spec: MethodSpec,
    params: dict[str, Any],
    stage: str,
    cut: tuple[str, ...],
    seed: int,
    shared: dict[str, Any],
) -> dict[str, Any]:
    method = spec.method
    identity = {
        "stage": stage,
        "method": {"name": method.name, "version": method.version} | params | _plugins(_method_editions(method)),
        **shared,
    }
    if method.uses_cut or method.uses_whole_cut:
        identity["cut"] = ordinary(cut) if method.uses_whole_cut else chain_in(cut, stage)
    if method.seeded:
        identity["seed"] = seed
    if spec.images is not None:
        identity["images"] = spec.images
    if method.uses_budget:
        identity["budget"] = spec.budget(suite.budget).identity()
        identity["engine"] = {"version": RECIPE_VERSION} | suite.engine.identity()
    return identity
