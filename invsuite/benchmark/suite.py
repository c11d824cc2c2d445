"""A suite file (TOML) as frozen dataclasses. Every error names the file and the key.

name = "quick"                       # also the name of the tables
title = "..."                        # heading of the tables
seeds = [0]
metrics = ["psnr", "ssim"]
edits = 8                            # images that measures with an edited object use
interlayer = false                   # may be left out: relate the stages of each model, CKA and ridge R2

[budget]                             # the same for every trained method
image_passes = 6000                  # or seconds = 60 of own training a stage, or flops = 1e12 of it
batch = 32

[engine]                             # may be left out: how training runs
precision = "auto"                   # auto (bfloat16 on a GPU) | float32 | bfloat16
cache = "auto"                       # auto (decided from measured rates) | memory | disk | off
compile = "auto"                     # auto (on a GPU) | on | off

[data.fit]                           # fit, select and score must be disjoint
kind = "scenes"                      # scenes | folder | coco | held-back (select only)
...
[models.vit]
source = "bundled:vit"
stages = ["embed", "block03"]        # also where modular inverses are cut; ["every"] for all
witness = "bundled:detr"             # may be left out: a second model, for measures that ask one no method has seen
data = "coco"                        # may be left out: [data.coco.fit], ... instead of [data.fit], ...

[methods.ridge]                      # parameters of the method; kind = "..." to name a row otherwise
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from invsuite._system.identity import NOT_IDENTITY
from invsuite.data.base import Source
from invsuite.data.geometry import FIT_MODES
from invsuite.data.sources import DataSpec
from invsuite.errors import UsageError, unknown_name
from invsuite.methods import make_method
from invsuite.methods.base import Budget, Engine, Method
from invsuite.metrics import make_metric
from invsuite.registry import SOURCES


@dataclass(frozen=True)
class ModelSpec:
    """A model of the matrix: its row name, source, the stages at which the chain is cut (words that the loaded model
    understands; none for a model that no suite names, until it is loaded), and the source of a second model that
    judges the reconstructions ("" for none). ``random_weights`` puts random ones in the place of its own; ``data``
    names the table of the suite's data it sees, "" for the suite's own."""

    name: str = field(metadata=NOT_IDENTITY)
    source: str
    stages: tuple[str, ...]
    witness: str = ""
    random_weights: bool = False
    data: str = ""


@dataclass(frozen=True)
class MethodSpec:
    """A method of the matrix under its row name."""

    name: str = field(metadata=NOT_IDENTITY)
    method: Method


@dataclass(frozen=True)
class Suite:
    """A whole suite file."""

    name: str = field(metadata=NOT_IDENTITY)  # the folder of the records
    title: str = field(metadata=NOT_IDENTITY)
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    edits: int
    budget: Budget
    data: DataSpec
    models: tuple[ModelSpec, ...]
    methods: tuple[MethodSpec, ...] = field(metadata=NOT_IDENTITY)  # each has cells of its own
    engine: Engine
    interlayer: bool = field(default=False, metadata=NOT_IDENTITY)  # has records of its own

    def data_of(self, model: ModelSpec) -> DataSpec:
        """The data a model sees."""
        return self.data.others[model.data] if model.data else self.data


def bundled_suites() -> dict[str, Path]:
    """The suite files that travel with the package, by name; in a checkout, those of ``benchmarks/``."""
    inside = Path(str(files("invsuite"))) / "suites"
    folder = inside if inside.is_dir() else Path(str(files("invsuite"))).parent / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(name_or_path: str) -> Suite:
    """Read a suite by path or by the name of a bundled one.

    Raises:
        UsageError: for an unknown suite, or a key that is missing, unknown or of the wrong type.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = bundled_suites()
        if name_or_path not in known:
            raise unknown_name("suite", name_or_path, known)
        path = known[name_or_path]
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"suite file '{path}' cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"suite file '{path}' is not TOML: {error}") from error
    try:
        return _suite(tree)
    except UsageError as error:
        raise UsageError(f"suite file '{path}': {error}") from error


def _suite(tree: dict[str, Any]) -> Suite:
    _check_keys(tree, {f.name for f in fields(Suite)}, "")
    data = _data(_table(tree, "data"), "data.")
    models = _table(tree, "models")
    methods = _table(tree, "methods")
    if not models or not methods:
        raise UsageError("a suite needs at least one [models.NAME] and one [methods.NAME]")
    metrics = tuple(_list(tree, "metrics", str))
    for metric in metrics:
        make_metric(metric)
    return Suite(
        name=_get(tree, "name", str),
        title=_get(tree, "title", str),
        seeds=tuple(_list(tree, "seeds", int)),
        metrics=metrics,
        edits=_get(tree, "edits", int),
        budget=_fill(Budget, _table(tree, "budget"), "budget."),
        data=data,
        models=tuple(_model(name, _table(models, name), data) for name in models),
        methods=tuple(_method(name, _table(methods, name)) for name in methods),
        engine=_fill(Engine, _table(tree, "engine") if "engine" in tree else {}, "engine."),
        interlayer="interlayer" in tree and _get(tree, "interlayer", bool),
    )


def _data(tree: dict[str, Any], prefix: str) -> DataSpec:
    """The three parts, and beside them tables of three parts each for models that name them."""
    names = {"fit", "select", "score"}
    fit, select, score = (_source(_table(tree, part), f"{prefix}{part}.", part) for part in ("fit", "select", "score"))
    others = {name: _table(tree, name) for name in tree if name not in names}
    if prefix != "data.":
        _check_keys(tree, names, prefix)
    for name, other in others.items():
        if "fit" not in other:
            raise unknown_name("key", f"{prefix}{name}", (f"{prefix}{k}" for k in names))
    return DataSpec(fit, select, score, {name: _data(other, f"{prefix}{name}.") for name, other in others.items()})


def _model(name: str, tree: dict[str, Any], data: DataSpec) -> ModelSpec:
    prefix = f"models.{name}."
    _check_keys(tree, {"source", "stages", "witness", "data"}, prefix)
    source, stages = _get(tree, "source", str, prefix), tuple(_list(tree, "stages", str, prefix))
    witness = _get(tree, "witness", str, prefix) if "witness" in tree else ""
    if witness == source:
        raise UsageError(f"'{prefix}witness' is the model itself ('{source}'): name a second model")
    named = _get(tree, "data", str, prefix) if "data" in tree else ""
    if named and named not in data.others:
        raise unknown_name(f"{prefix}data", named, data.others)
    return ModelSpec(name, source, stages, witness, data=named)


def _method(name: str, tree: dict[str, Any]) -> MethodSpec:
    params = dict(tree)
    return MethodSpec(name, make_method(params.pop("kind", name), params))


def _source(tree: dict[str, Any], prefix: str, part: str) -> Source:
    kind = _get(tree, "kind", str, prefix)
    if kind not in SOURCES or (kind == "held-back" and part != "select"):
        raise unknown_name(f"{prefix}kind", kind, [k for k in SOURCES if part == "select" or k != "held-back"])
    found = _fill(SOURCES[kind], {k: v for k, v in tree.items() if k != "kind"}, prefix)
    mode = getattr(found, "geometry", "crop")
    if mode not in FIT_MODES:
        raise unknown_name(f"{prefix}geometry", mode, FIT_MODES)
    return found  # type: ignore[no-any-return]


def _fill(cls: type[Any], tree: dict[str, Any], prefix: str) -> Any:
    kinds: Mapping[str, type] = {"int": int, "str": str, "float": float, "FitMode": str}
    kinds = {**kinds, **{f"{name} | None": kind for name, kind in kinds.items()}}
    # a plug-in's class may have types instead of their names, and fields that are no keys
    types = {f.name: getattr(f.type, "__name__", str(f.type)) for f in fields(cls)}
    known = {f.name: f for f in fields(cls) if types[f.name] in kinds}
    _check_keys(tree, set(known), prefix)
    for name in known:
        if name in tree:
            _get(tree, name, kinds[types[name]], prefix)
    try:
        return cls(**tree)
    except TypeError:
        missing = sorted(n for n in known if n not in tree and known[n].default is MISSING)
        raise UsageError(f"'{prefix}{missing[0] if missing else '?'}' is missing") from None


def _check_keys(tree: dict[str, Any], known: set[str], prefix: str) -> None:
    for key in tree:
        if key not in known:
            raise unknown_name("key", f"{prefix}{key}", (f"{prefix}{k}" for k in known))


def _get(tree: dict[str, Any], key: str, kind: type, prefix: str = "") -> Any:
    if key not in tree:
        raise UsageError(f"'{prefix}{key}' is missing")
    value = tree[key]
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (kind in (int, float) and isinstance(value, bool)):
        raise UsageError(f"'{prefix}{key}' is {value!r}, expected {kind.__name__}")
    if isinstance(value, int | float) and value < 0:
        raise UsageError(f"'{prefix}{key}' is {value}, expected 0 or more")
    return value


def _list(tree: dict[str, Any], key: str, kind: type, prefix: str = "") -> list[Any]:
    values = _get(tree, key, list, prefix)
    if not values or not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
        raise UsageError(f"'{prefix}{key}' is {values!r}, expected a list of {kind.__name__}, not empty")
    return list(values)


def _table(tree: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = _get(tree, key, dict)
    return found
