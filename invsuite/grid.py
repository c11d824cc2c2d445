"""From a suite to cells: model x stage x method x seed, each with an identity that covers what changes its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from invsuite.data.sources import open_splits
from invsuite.data.split import Splits
from invsuite.errors import InvsuiteError, UsageError, unknown_name
from invsuite.metrics import make_metric
from invsuite.metrics.base import Metric
from invsuite.models import load_model
from invsuite.models.base import Model
from invsuite.suite import MethodSpec, ModelSpec, Suite
from invsuite.training import RECIPE_VERSION


@dataclass(frozen=True)
class Selection:
    """What of a suite to run: names or shell patterns; None takes everything."""

    models: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Cell:
    """One number-giving unit of the matrix. ``id`` names its record; ``identity`` is what the id hashes."""

    model: ModelSpec
    stage: str
    method: MethodSpec
    seed: int
    identity: dict[str, Any]

    @property
    def id(self) -> str:
        """Readable name and 12 digits of the identity's SHA-256."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.model.name}-{self.stage}-{self.method.name}-s{self.seed}-{digest}"

    @property
    def fit_id(self) -> str:
        """Name of the fit that this cell shares with the other stages: its identity but for the stage's own parts."""
        shared = {k: v for k, v in self.identity.items() if k not in ("stage", "cut", "metrics", "edits")}
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.model.name}-{self.method.name}-s{self.seed}-{digest}"

    @property
    def key(self) -> str:
        """Name without the identity: what a baseline compares across versions."""
        return f"{self.model.name}/{self.stage}/{self.method.name}/s{self.seed}"


@dataclass(frozen=True)
class Opened:
    """A model of the matrix, loaded, with its splits and the cells that run on it."""

    spec: ModelSpec
    model: Model
    splits: Splits
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Refused:
    """A model of the matrix that cannot be had, and its cells, which become skipped or failed records."""

    spec: ModelSpec
    error: InvsuiteError
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """The matrix to run."""

    suite: Suite
    metrics: tuple[Metric, ...]
    models: tuple[Opened | Refused, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, model by model."""
        return tuple(cell for entry in self.models for cell in entry.cells)


def choose(kind: str, names: Sequence[str], patterns: Sequence[str] | None) -> tuple[str, ...]:
    """The ``names`` that match any of the shell ``patterns``, in their own order.

    Raises:
        UsageError: for a pattern that matches nothing, with the nearest names and the list.
    """
    if patterns is None:
        return tuple(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name(kind, pattern, names)
    return tuple(n for n in names if any(fnmatchcase(n, p) for p in patterns))


def make_plan(suite: Suite, selection: Selection, note: Callable[[str], None]) -> Plan:
    """Open the selected models and their data and lay out the cells.

    A model that cannot be had does not stop the others: it is `Refused` with its reason.

    Raises:
        UsageError: for names that match nothing; nothing has been loaded by then.
    """
    model_names = choose("model", [m.name for m in suite.models], selection.models)
    method_names = choose("method", [m.name for m in suite.methods], selection.methods)
    metric_names = choose("metric", suite.metrics, selection.metrics)
    seeds = selection.seeds or suite.seeds
    specs = [m for m in suite.models if m.name in model_names]
    every_stage = list(dict.fromkeys(stage for spec in specs for stage in spec.stages))
    stages = choose("stage", every_stage, selection.stages)
    methods = [m for m in suite.methods if m.name in method_names]
    metrics = tuple(make_metric(name) for name in metric_names)
    shared = {
        "metrics": {m.name: {"version": m.version} | m.params() for m in metrics},
        "edits": suite.edits,
    }
    entries: list[Opened | Refused] = []
    for spec in specs:
        wanted = [s for s in spec.stages if s in stages]
        if not wanted:
            continue

        def cells(facts: dict[str, Any], cut: tuple[str, ...], spec: ModelSpec = spec) -> tuple[Cell, ...]:
            return tuple(
                Cell(spec, stage, method, seed, _identity(suite, method, stage, cut, seed, shared | facts))
                for seed in seeds
                for stage in cut
                if stage in wanted  # noqa: B023
                for method in methods
                if method.method.seeded or seed == seeds[0]
            )

        try:
            note(f"loading model '{spec.name}' ({spec.source})")
            model = load_model(spec.name, spec.source)
            cut = model.order(spec.stages)
            note(f"opening data for '{spec.name}'")
            splits = open_splits(suite.data_of(spec), model.image_size, model.resampling)
            if len(splits.fit) < suite.budget.batch:
                raise UsageError(f"{len(splits.fit)} fit images are fewer than one batch of {suite.budget.batch}")
            for path, reason in list(splits.unreadable.items())[:3]:
                note(f"unreadable photo left out: {reason or path}")
            if splits.unreadable:
                note(f"{len(splits.unreadable)} unreadable photos left out in all")
        except InvsuiteError as error:
            entries.append(Refused(spec, error, cells({"refused": spec.source}, spec.stages)))
            continue
        digests = {part: getattr(splits, part).digest() for part in ("fit", "select", "score")}
        facts = {"weights": model.origin.sha256, "image_size": model.image_size, "data": digests}
        entries.append(Opened(spec, model, splits, cells(facts, cut)))
    return Plan(suite, metrics, tuple(entries))


def _identity(
    suite: Suite, spec: MethodSpec, stage: str, cut: tuple[str, ...], seed: int, shared: dict[str, Any]
) -> dict[str, Any]:
    method = spec.method
    identity = {
        "stage": stage,
        "method": {"name": method.name, "version": method.version} | method.params(),
        **shared,
    }
    if method.uses_cut or method.uses_whole_cut:
        identity["cut"] = cut if method.uses_whole_cut else cut[: cut.index(stage) + 1]
    if method.seeded:
        identity["seed"] = seed
    if method.uses_budget:
        identity["budget"] = suite.budget.identity()
        identity["engine"] = {"version": RECIPE_VERSION} | suite.engine.identity()
    return identity
