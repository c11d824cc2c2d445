"""From a plan to records: look in the store first, load once, fit once for all stages, invert, measure, write.

A cell that cannot run becomes a record with its reason; the others go on. A cell whose record only lacks a measure is
neither fitted nor inverted again: the measure is computed on the reconstructions that are kept.
"""

from __future__ import annotations

import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, Protocol

import torch

from invsuite._system.files import write_atomically
from invsuite._system.memory import free_memory, is_out_of_memory
from invsuite._system.provenance import provenance_of, set_determinism, versions
from invsuite._system.ranks import ALONE, Ranks
from invsuite._system.signals import time_limit
from invsuite._system.spill import TensorLike, collect
from invsuite._system.timing import Meter, clock_name
from invsuite.benchmark.cells import IDENTITY_OF_INPUTS, Cell, LoadedModel, Plan, UnavailableModel, make_cells
from invsuite.benchmark.estimate import cell_passes, measure_passes
from invsuite.benchmark.fitting import SharedFit, fit_method
from invsuite.benchmark.scoring import INVERT_BATCH, CellInverter, Curve, flops_per_image, measure_all
from invsuite.data.base import from_unit_range
from invsuite.data.checks import check_masks
from invsuite.data.split import sample_batches
from invsuite.errors import (
    DiskError,
    InvsuiteError,
    NotApplicable,
    OutOfMemoryError,
    OutsideError,
    PartedError,
    Unavailable,
    one_line,
)
from invsuite.methods.base import Fitted, Method
from invsuite.methods.checks import check_inverter, check_reconstructions
from invsuite.methods.problem import Problem
from invsuite.methods.training.features import FeatureCache
from invsuite.metrics.base import Metric, Scoring, Subject
from invsuite.metrics.checks import check_measures
from invsuite.models.base import Model
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.models.stage_words import ordinary
from invsuite.results.kept import LIMIT, KeptTensors
from invsuite.results.outcome import RunOutcome
from invsuite.results.pictures import EDITED, FIRST, Pixels, best_and_worst, first_sheet, paired_sheet
from invsuite.results.record import CellCost, CellName, DataCounts, Measurement, Provenance, Record, Weights
from invsuite.results.store import Store

NAMED_ANNOTATIONS = 100  # that were left out: a record names no more of them
CHECKED_IMAGES = 2  # scored images on which a model's chain is held against its own forward pass


class Reporter(Protocol):
    """What the runner tells while it works; ``worker`` names who does it where several work at the same time."""

    def note(self, text: str) -> None:
        """Show a line worth reading."""

    def begin(self, cells: int, weight: float) -> None:
        """Announce ``cells`` cells to compute and this much work in all."""

    def work(self, label: str, weight: float, worker: str = "") -> Callable[[int, int, str], None]:
        """Start a piece of work; the hook reports its progress."""

    def cell_done(self, cell: Cell, status: str, worker: str = "") -> None:
        """Show that a cell has its record."""

    def rest(self, worker: str, finished: bool) -> None:
        """Show that the worker works no more; what it did last is ``finished``, or lost."""


class Silent:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def begin(self, cells: int, weight: float) -> None:
        """Show nothing."""

    def work(self, label: str, weight: float, worker: str = "") -> Callable[[int, int, str], None]:
        """Show nothing."""
        return lambda done, total, unit: None

    def cell_done(self, cell: Cell, status: str, worker: str = "") -> None:
        """Show nothing."""

    def rest(self, worker: str, finished: bool) -> None:
        """Show nothing."""


Redo = Literal["unfinished", "missing", "failed", "all"]


@dataclass(frozen=True)
class RunOptions:
    """How to run a plan.

    Attributes:
        redo: the cells to compute: those that are ``unfinished`` have no success, nor a stage their method does not
            apply to, or lack measures; ``missing`` have no record at all; ``failed`` have a record that lacks numbers;
            or ``all``.
        cell_seconds: wall time that inverting and scoring a cell may take, and fitting as often as there are cells to
            fit together; None is no limit.
        keep_bytes: what reconstructions and inverters that are kept for measures added later may take on disk.
        command: the command line, for records.

    Examples:
        >>> import invsuite
        >>> options = invsuite.RunOptions(redo="failed", cell_seconds=600)
        >>> invsuite.run("quick", options=options)  # doctest: +SKIP
    """

    redo: Redo = "unfinished"
    cell_seconds: float | None = None
    keep_bytes: int = LIMIT
    command: str = ""


@dataclass(frozen=True)
class Todo:
    """What of a cell is to be computed: its inversion and every measure, or only these measures.

    Attributes:
        inversion: whether it is fitted and inverted.
        lacking: the measures that its record lacks; empty where it is inverted anyway.
    """

    inversion: bool
    lacking: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Run:
    """What every step of one run needs.

    Attributes:
        plan: the matrix.
        store: where records are.
        device: where models and inverse networks run.
        report: where progress is shown.
        options: which cells, and how.
        stamps: of the records of the cells to compute, when the run began: they tell whether another process wrote one.
        outcome: counts so far.
        ranks: the processes that do a fit together; this is the first.
    """

    plan: Plan
    store: Store
    device: torch.device
    report: Reporter
    options: RunOptions
    stamps: dict[str, int | None]
    outcome: RunOutcome = field(default_factory=RunOutcome)
    ranks: Ranks = ALONE
    _unavailable: dict[str, bool] = field(default_factory=dict)

    def todo(self, entry: LoadedModel | UnavailableModel, cell: Cell) -> Todo | None:
        """Return what of a cell is to be computed; None if nothing is."""
        record, redo = self.store.read(cell.id), self.options.redo
        if redo == "all" or (record is None and redo != "failed"):
            return Todo(inversion=True)
        if record is None or redo == "missing":
            return None
        if not record.finished:
            return Todo(inversion=True)
        if not record.ok or isinstance(entry, UnavailableModel):
            return None
        lacking = tuple(m for m in self.plan.metrics if self._lacks(record, m, self._identity(entry, cell, m)))
        return Todo(inversion=False, lacking=lacking) if lacking else None

    def _lacks(self, record: Record, metric: Metric, identity: str) -> bool:
        known = record.measurements.get(metric.name)
        if known is None or known.identity != identity:
            known = record.find(metric.name, identity)
        if known is None or known.status == "failed":
            return True
        return known.status == "skipped" and not self._is_unavailable(metric)

    def _is_unavailable(self, metric: Metric) -> bool:
        """Tell whether what a measure needs cannot be had, so that asking again would change nothing."""
        if metric.name not in self._unavailable:
            try:
                metric.prepare(self.device)
                self._unavailable[metric.name] = False
            except Unavailable:
                self._unavailable[metric.name] = True
            except Exception:  # whatever it is, the measurement will say it
                self._unavailable[metric.name] = False
        return self._unavailable[metric.name]

    def _identity(self, entry: LoadedModel, cell: Cell, metric: Metric) -> str:
        return entry.identity_of(metric, cell.method.edited(self.plan.suite.edits))

    def identities(self, entry: LoadedModel, cell: Cell, metrics: Sequence[Metric]) -> list[str]:
        """Return the identity of each of ``metrics`` on ``cell`` of this model."""
        return [self._identity(entry, cell, metric) for metric in metrics]

    def reuse(self, entry: LoadedModel | UnavailableModel, cell: Cell) -> str:
        """Let the record of a finished cell show what it has, and return which versions have changed since, in words.

        That is "" where none has, or where there are no numbers.
        """
        record = self.store.read(cell.id)
        if record is None or not record.ok:
            return ""
        if isinstance(entry, LoadedModel):
            self._bring_forward(entry, cell, record)
        return ", ".join(record.provenance.changes_to(versions()))

    def _bring_forward(self, entry: LoadedModel, cell: Cell, record: Record) -> None:
        """Let a record show the measurements under the present settings, which it has."""
        pairs = zip(self.plan.metrics, self.identities(entry, cell, self.plan.metrics), strict=True)
        hidden = [
            earlier
            for metric, identity in pairs
            if (earlier := record.find(metric.name, identity)) is not None
            and record.measurements[metric.name].identity != identity
        ]
        if hidden:
            self.store.add(cell.id, hidden, record.provenance, self.plan.suite.metrics)

    def finish(self, cell: Cell, body: dict[str, Any]) -> None:
        """Write the cell's record, whose results, or the reason why it has none, are in ``body``."""
        record = Record(self.name(cell), cell.identity, provenance=self._origin(cell), **body)
        try:
            self.store.write(record, self.plan.suite.metrics)
        except (TypeError, ValueError) as error:  # of what a method or a model of the user's left in it
            wrong = OutsideError(f"what '{cell.key}' notes of itself is no JSON: {one_line(error)}")
            record = Record(record.cell, cell.identity, provenance=record.provenance, **problem_record(wrong))
            self.store.write(record, self.plan.suite.metrics)
        self.outcome.computed += 1
        self.outcome.failed += record.status == "failed"
        self.outcome.skipped += record.status == "skipped"
        self.report.cell_done(cell, record.status)

    def add(self, cell: Cell, measurements: Sequence[Measurement]) -> None:
        """Write measurements into the record of a cell that has reconstructions already."""
        self.store.add(cell.id, measurements, self._origin(cell), self.plan.suite.metrics)
        self.outcome.added += 1
        self.outcome.reused += 1
        self.report.cell_done(cell, "ok")

    def _origin(self, cell: Cell) -> Provenance:
        return origin(self.device, cell.seed, self.plan.suite.text, self.options.command)

    def name(self, cell: Cell) -> CellName:
        """Return what a record says of its cell."""
        suite, method = self.plan.suite, cell.method.method
        models, methods = ([spec.name for spec in specs] for specs in (suite.models, suite.methods))
        return CellName(
            id=cell.id,
            suite=suite.name,
            model=cell.model.name,
            stage=cell.stage,
            position=cell.model.stages.index(cell.stage),
            method=cell.method.name,
            kind=method.name,
            family=method.family,
            seed=cell.seed,
            uses_image=method.uses_image,
            title=suite.title,
            model_position=models.index(cell.model.name) if cell.model.name in models else len(models),
            method_position=methods.index(cell.method.name),
            own_budget=cell.method.image_passes is not None,
        )

    def still_to_do(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that no other process has written since this run began."""
        left = [cell for cell in cells if self.store.stamp(cell.id) == self.stamps[cell.id]]
        for cell in cells:
            if cell not in left:
                self.outcome.reused += 1
                self.report.cell_done(cell, "ok" if self.store.finished(cell.id) else "failed elsewhere")
        return left

    def fits(self) -> Iterator[tuple[LoadedModel, dict[str, list[Cell]]]]:
        """Yield every model with cells to compute, and those by their fit; what others build on comes first."""
        for entry in self.plan.models:
            fits: dict[str, list[Cell]] = {}
            for cell in entry.cells:
                if cell.id in self.stamps:
                    fits.setdefault(cell.fit_id, []).append(cell)
            if isinstance(entry, LoadedModel) and fits:
                ordered = sorted(fits.items(), key=lambda fit: _depth(fit[1][0].method.method))
                yield entry, dict(ordered)


def _depth(method: Method) -> int:
    """Return how many methods stand below ``method``, each built on the next."""
    return max((1 + _depth(other) for other in method.builds_on()), default=0)


def begin(
    plan: Plan, store: Store, device: torch.device, report: Reporter, options: RunOptions, ranks: Ranks = ALONE
) -> Run:
    """Begin a run of a plan: nothing is computed yet but the records of models that cannot be had.

    Raises:
        DataError: if a measure gives wrong values for pictures whose values are known.
        DiskError: if a record cannot be written.
    """
    run = Run(plan, store, device, report, options, {}, ranks=ranks)
    weight = 0.0
    changed: Counter[str] = Counter()
    for entry in plan.models:
        for cell in entry.cells:
            todo = run.todo(entry, cell)
            if todo is not None:
                run.stamps[cell.id] = store.stamp(cell.id)
                weight += work(plan, cell, todo)
            elif versions_since := run.reuse(entry, cell):
                changed[versions_since] += 1
    run.outcome.reused = len(plan.cells) - len(run.stamps)
    for changes, count in changed.items():
        report.note(f"{count} reused cells were computed by other versions: {changes} (now)")
    if run.stamps:
        check_measures(plan.metrics)
    report.begin(len(run.stamps), weight)
    for entry in plan.models:
        if isinstance(entry, UnavailableModel):
            for cell in run.still_to_do([cell for cell in entry.cells if cell.id in run.stamps]):
                run.finish(cell, problem_record(entry.error))
    return run


def work_left(run: Run) -> dict[str, float]:
    """Return the image passes, roughly, of what a run that has not begun will compute, by model."""
    return {
        entry.spec.name: sum(
            (work(run.plan, cell, todo) for cell in entry.cells if (todo := run.todo(entry, cell)) is not None), 0.0
        )
        for entry in run.plan.models
        if isinstance(entry, LoadedModel)
    }


def run(
    plan: Plan,
    store: Store,
    device: torch.device,
    report: Reporter,
    options: RunOptions | None = None,
    ranks: Ranks = ALONE,
) -> RunOutcome:
    """Compute what every cell lacks, or the cells that ``options`` name, one after the other.

    Other processes may run the same plan on the same store: each fit is computed by one of them.

    Args:
        plan: the matrix.
        store: where records are looked up and written.
        device: where models and inverse networks run.
        report: where progress is shown.
        options: which cells, and how long they may take.
        ranks: the processes that do a fit together; this is the first.

    Raises:
        DataError: if a measure gives wrong values for pictures whose values are known.
        DiskError: if a record cannot be written; those that were are kept.
        PartedError: if the processes of a fit are out of step.
    """
    this = begin(plan, store, device, report, options or RunOptions(), ranks)
    for entry, fits in this.fits():
        session = Session(this, entry, trained_fits(fits))
        waiting = fits
        for wait in (False, True):  # those that no other process has first
            waiting = {name: cells for name, cells in waiting.items() if not session.fit(name, cells, wait)}
            if waiting:
                report.note(f"{len(waiting)} fits of '{entry.spec.name}' are computed by another process; waiting")
        session.close()
    return this.outcome


def trained_fits(fits: dict[str, list[Cell]]) -> int:
    """Return how many of the fits are trained, and so share kept representations."""
    return sum(cells[0].method.method.uses_budget for cells in fits.values())


def work(plan: Plan, cell: Cell, todo: Todo) -> float:
    """Return what the time left is judged by: a cell's image passes, and what its measures are worth in such."""
    if not todo.inversion:
        return measure_passes(plan, cell) * len(todo.lacking)
    return cell_passes(plan, cell) + measure_passes(plan, cell) * len(plan.metrics)


@dataclass(frozen=True)
class Scored:
    """What all fits of a model share.

    Attributes:
        fingerprint: of the model's weights before anything was fitted.
        whole: what measures are given of the model and its scored images.
        features: representations of fit images, kept between fits.
        kept: reconstructions and inverters, kept for measures that are added later.
        data: what records say of the images.
    """

    fingerprint: str
    whole: Subject
    features: FeatureCache
    kept: KeptTensors
    data: DataCounts
    _parts: dict[tuple[int, int], Subject] = field(default_factory=dict)

    def subject(self, cell: Cell) -> Subject:
        """Return what measures are given for ``cell``: the model and those of the scored images it is scored on."""
        part = cell.method.scored(len(self.whole.images)), cell.method.edited(self.whole.edit_limit)
        if part == (len(self.whole.images), self.whole.edit_limit):
            return self.whole
        if part not in self._parts:
            self._parts[part] = self.whole.first(*part)
        return self._parts[part]


class Session:
    """A model of a run on its device, checked, with what its fits share.

    Args:
        run: where records go.
        entry: the model.
        trained: how many fits of the run are trained on it: what keeping representations is weighed by.

    Raises:
        DiskError: if the disk refuses.
    """

    def __init__(self, run: Run, entry: LoadedModel, trained: int) -> None:
        self.run, self.entry = run, entry
        self.problem: dict[str, Any] | None = None
        # fits of this session that others build on, by their names
        self._fitted: dict[str, Fitted] = {}
        self._built_on = [other for row in run.plan.suite.methods for other in row.method.builds_on()]
        model, device = entry.model, run.device
        self._features = FeatureCache(run.plan.suite.engine.cache, max(1, trained), log=run.report.note)
        try:
            model.to(device)
            if isinstance(entry.witness, Model):
                entry.witness.to(device)
            fingerprint = model.fingerprint()
            samples = entry.splits.score.samples()
            parts = sample_batches(samples, INVERT_BATCH)
            images = collect((torch.stack([s.image for s in part]).to(device) for part in parts), len(samples))
            check_masks(samples)
            check_normalisation(model)
            check_chain(model, images[:CHECKED_IMAGES])
            subject = Subject(
                model,
                stages=model.order(ordinary(entry.spec.stages)),
                samples=samples,
                images=images,
                fit=entry.splits.fit,
                edit_limit=run.plan.suite.edits,
                classes=entry.splits.score.dataset.classes,
                witness=entry.witness,
            )
            kept = run.store.kept(run.options.keep_bytes, run.report.note)
            self._scored = Scored(fingerprint, subject, self._features, kept, self._data())
        except DiskError:
            raise
        except Exception as error:  # nothing of this model or its data can be trusted; the other models go on
            self.problem = problem_record(error) | {"weights": weights_of(model)}
            return
        write_atomically(run.store.originals_path(entry.spec.name), first_sheet(_pixels(images[:FIRST])))

    def fit(self, fit_id: str, cells: Sequence[Cell], wait: bool) -> bool:
        """Compute the cells of one fit that are still to do; False if another process has it and ``wait`` is not set.

        Raises:
            DiskError: if a record cannot be written.
        """
        with self.run.store.claim(fit_id, wait) as mine:
            if not mine:
                return False
            left = self.run.still_to_do(cells)
            if self.problem is not None:
                for cell in left:
                    self.run.finish(cell, self.problem)
            else:
                self._compute(fit_id, left)
        return True

    def close(self) -> None:
        """Give the device's memory back."""
        self._features.close()
        self.entry.model.to("cpu")
        if isinstance(self.entry.witness, Model):
            self.entry.witness.to("cpu")

    def _compute(self, fit_id: str, cells: Sequence[Cell]) -> None:
        """Invert and score what has no reconstructions yet, and add what the other cells lack."""
        todo = [(cell, what) for cell in cells if (what := self.run.todo(self.entry, cell)) is not None]
        inverted = [cell for cell, what in todo if what.inversion]
        if inverted:
            self.invert(self.shared_fit(fit_id, inverted), inverted)
        measured = [(cell, what.lacking) for cell, what in todo if not what.inversion]
        if measured:
            fit = self.shared_fit(fit_id, [cell for cell, _ in measured])
            for cell, lacking in measured:
                self._add(fit, cell, lacking)

    def shared_fit(self, fit_id: str, cells: Sequence[Cell], fitted: Fitted | None = None) -> SharedFit:
        """Return the fit that ``cells`` share, not computed yet unless it is ``fitted``."""
        run, entry, scored = self.run, self.entry, self._scored
        label = f"{entry.spec.name} {cells[0].method.name}"
        weight = sum(work(run.plan, cell, Todo(inversion=True)) for cell in cells)
        return SharedFit(
            run.plan.suite,
            entry,
            fit_id,
            cells,
            fingerprint=scored.fingerprint,
            features=scored.features,
            kept=scored.kept,
            checkpoints=run.store.fit_path(fit_id),
            progress=lambda: run.report.work(label, weight),
            other=self._other_fit,
            fitted=fitted or self._fitted_before(fit_id, [cell.stage for cell in cells]),
            ranks=run.ranks,
        )

    def _other_fit(self, method: Method, problem: Problem) -> Fitted:
        """Return the fit of another row's method, for a method that builds on it: fitted once, with its real cost.

        What this session has fitted is taken first, then what is kept of an earlier fit, or of one in another process.
        Otherwise it is fitted now, for the cells of its row that are still to do too. A method of no row is fitted for
        this problem alone.
        """
        run, known = self.run, self.entry.cells[0].identity
        rows = [row for row in run.plan.suite.methods if row.method == method]
        rows = [r for r in rows if not method.uses_budget or r.budget(run.plan.suite.budget) == problem.budget]
        if not rows:
            return fit_method(method, problem, self._scored.fingerprint)
        inputs = {part: known[part] for part in IDENTITY_OF_INPUTS if part in known}
        cells = make_cells(run.plan.suite, self.entry.spec, problem.stages, rows[:1], [problem.seed], inputs)
        fit_id = cells[0].fit_id
        with run.store.claim(fit_id, wait=True):
            before = self._fitted_before(fit_id, problem.stages)
            if before is not None:
                return before
            waiting = [c for c in self.entry.cells if c.fit_id == fit_id and c.id in run.stamps and c not in cells]
            by_stage = {cell.stage: cell for cell in (*waiting, *cells)}
            fit = self.shared_fit(fit_id, [by_stage[s] for s in self.entry.model.order(list(by_stage))])
            fitted = fit.get_with_cost()
            if fitted.method is not None:  # fitted now
                self._fitted[fit_id] = fitted
                shutil.rmtree(fit.checkpoints, ignore_errors=True)
        return fitted

    def _fitted_before(self, fit_id: str, stages: Sequence[str]) -> Fitted | None:
        """Return what this session fitted for all of ``stages``, if it did."""
        fitted = self._fitted.get(fit_id)
        known = () if fitted is None or fitted.problem is None else fitted.problem.stages
        return fitted if set(stages) <= set(known) else None

    def invert(self, fit: SharedFit, cells: Sequence[Cell]) -> None:
        """Fit once, then invert, score and write each of ``cells``."""
        run, weights, limit = self.run, weights_of(self.entry.model), self.run.options.cell_seconds
        try:
            with time_limit(limit and limit * len(cells), f"fitting '{fit.method.name}'"):
                fitted = fit.fit()
            if fit.method in self._built_on:
                self._fitted[fit.fit_id] = fitted
        except (DiskError, PartedError):
            raise
        except Exception as error:
            for cell in cells:
                run.finish(cell, problem_record(error, "fitting") | {"weights": weights})
            return
        for cell in cells:
            try:
                with time_limit(limit, f"inverting and scoring '{cell.key}'"):
                    body = self._score(fit, cell)
            except (DiskError, PartedError):
                raise
            except Exception as error:
                body = problem_record(error, "inverting and scoring")
            run.finish(cell, body | {"weights": weights})
        shutil.rmtree(fit.checkpoints, ignore_errors=True)

    def _score(self, fit: SharedFit, cell: Cell) -> dict[str, Any]:
        """Invert and measure one cell; returns the record's body.

        Raises:
            NotApplicable: if the method refused the stage.
            OutOfMemoryError: if not even one image at a time can be inverted.
        """
        run, model, store = self.run, self.entry.model, self.run.store
        scored, fitted, curve = self._scored, fit.get(), Curve()
        subject = scored.subject(cell)
        what = f"reconstructions of '{cell.method.name}' at '{cell.stage}'"
        inverter = CellInverter(model, cell, fit.get, scored.kept)
        check_inverter(fitted.inverter, f"'{cell.method.name}' at '{cell.stage}'")
        with Meter(model.device) as meter:
            reconstructions = inverter.scored(subject.images, curve)
        inverter.keep(reconstructions)
        flags = check_reconstructions(reconstructions, subject.images, what)
        # read before the measures reconstruct edited images: the notes speak of the scored images alone
        notes = fitted.notes.get(cell.stage, {}) | fitted.inverter.findings(cell.stage)
        if curve.batches:
            notes = notes | {"inversion_curve": curve.notes()}
        share = notes["iterations"] / notes["ceiling"] if "ceiling" in notes else 1.0
        flops = flops_per_image(model, cell.stage, fitted.inverter, subject.images[:1], share)
        measurements = self._measure(inverter, reconstructions, run.plan.metrics)
        write_atomically(store.first_path(cell.id), first_sheet(_pixels(reconstructions[:FIRST])))
        pictured = best_and_worst({measurement.name: measurement for measurement in measurements})
        if pictured:
            sheet = paired_sheet(_pixels(subject.images[pictured]), _pixels(reconstructions[pictured]))
            write_atomically(store.best_and_worst_path(cell.id), sheet)
        cost, count = fitted.cost, len(subject.images)
        return {
            "status": "ok",
            "measurements": {measurement.name: measurement for measurement in measurements},
            "images": [sample.key for sample in subject.samples],
            "best_and_worst": pictured,
            "cost": CellCost(
                clock_name(model.device),
                fit_seconds=cost.stage_seconds.get(cell.stage, 0.0),
                fit_shared_seconds=cost.shared_seconds,
                fit_image_passes=cost.image_passes.get(cell.stage, 0),
                fit_flops=cost.fit_flops.get(cell.stage),
                fit_frozen_flops=cost.frozen_flops.get(cell.stage),
                fit_total_seconds=cost.total_seconds,
                fit_peak_bytes=cost.peak_bytes,
                parameters=cost.parameters.get(cell.stage, 0),
                invert_seconds_per_image=meter.seconds / count,
                invert_flops_per_image=flops,
                invert_cpu_seconds_per_image=meter.cpu_seconds / count,
                invert_peak_bytes=meter.peak_bytes,
                fit_busy=cost.busy,
                invert_busy=meter.busy,
            ),
            "notes": notes,
            "flags": flags,
            "data": replace(self._scored.data, score=count),
        }

    def _data(self) -> DataCounts:
        """Return what records say of the images, whose names and digests are written beside them.

        Raises:
            DiskError: if the disk refuses.
        """
        splits, store = self.entry.splits, self.run.store
        return DataCounts(
            len(splits.fit),
            len(splits.select),
            len(splits.score),
            unreadable=splits.unreadable,
            converted=splits.converted,
            resampling=asdict(self.entry.model.resampling),
            parts={
                name: split.facts() | {"listing": store.write_listing(split.listing())}
                for name, split in splits.parts.items()
            },
            copies=len(splits.copies),
            passed_over=splits.passed_over,
            left_out=dict(islice(splits.left_out.items(), NAMED_ANNOTATIONS)),
            left_out_count=len(splits.left_out),
        )

    def _add(self, fit: SharedFit, cell: Cell, metrics: Sequence[Metric]) -> None:
        """Compute the ``metrics`` that the record of ``cell`` lacks, on its kept reconstructions.

        Where they are not kept, the cell is inverted again for them.
        """
        run, scored = self.run, self._scored
        inverter = CellInverter(self.entry.model, cell, fit.get, scored.kept)
        set_determinism(cell.seed)
        try:
            with time_limit(run.options.cell_seconds, f"measuring '{cell.key}'"):
                reconstructions = inverter.kept()
                if reconstructions is None:
                    run.report.note(f"'{cell.key}' is inverted again: its reconstructions are not kept")
                    reconstructions = inverter.scored(scored.subject(cell).images)
                    inverter.keep(reconstructions)
                measurements = self._measure(inverter, reconstructions, metrics)
        except (DiskError, PartedError):
            raise
        except Exception as error:  # the record stays as it is
            problem = problem_record(error, "measuring")
            named = ", ".join(metric.name for metric in metrics)
            run.report.note(f"'{cell.key}' still lacks {named}: {problem['reason']}")
            run.outcome.reused += 1
            run.outcome.failed += 1
            run.report.cell_done(cell, "failed")
            return
        run.add(cell, measurements)

    def _measure(
        self, inverter: CellInverter, reconstructions: TensorLike, metrics: Sequence[Metric]
    ) -> list[Measurement]:
        subject, stage = self._scored.subject(inverter.cell), inverter.cell.stage
        scoring = Scoring(subject, stage, reconstructions, inverter.reconstruct, inverter.invert)
        identities = self.run.identities(self.entry, inverter.cell, metrics)
        measurements = measure_all(metrics, identities, scoring, self.run.device)
        for edit, edits in scoring.edited().items():
            pictured = [row for row in edits.rows if row < FIRST][:EDITED]  # they come in order
            if pictured:
                pictures = (_pixels(images[: len(pictured)]) for images in (edits.edited, edits.after))
                self.run.store.write_edit(inverter.cell.id, edit, pictured, *pictures)
        return measurements


def weights_of(model: Model) -> Weights:
    """Return what a record says of a model's weights."""
    return Weights(**asdict(model.origin))


def origin(device: torch.device, seed: int, suite: str, command: str) -> Provenance:
    """Return where numbers that are computed now come from, with the suite's text and the command line."""
    written = datetime.now(UTC).isoformat(timespec="seconds")
    return Provenance(**provenance_of(device, seed), written=written, suite=suite, command=command)


def problem_record(error: Exception, doing: str = "") -> dict[str, Any]:
    """Return the body of a record without numbers.

    It is ``skipped`` where nothing broke (weights that cannot be had, a stage a method does not apply to), else
    ``failed`` with the traceback; ``fault`` names the kind.

    Args:
        error: what kept the cell from its numbers.
        doing: what needed too much memory, if that was it.
    """
    status = "skipped" if isinstance(error, (Unavailable, NotApplicable)) else "failed"
    fault, text = "error", one_line(error)
    if isinstance(error, InvsuiteError):
        fault = error.fault
    elif is_out_of_memory(error):
        first = str(error).partition("\n")[0]
        fault, text = OutOfMemoryError.fault, f"{doing} ran out of memory; a smaller batch or width needs less: {first}"
        free_memory()
    body: dict[str, Any] = {"status": status, "fault": fault, "reason": text}
    if isinstance(error, NotApplicable):
        body["settled"] = True  # the cell's identity decides it: nothing to fetch or to try again
    if status == "failed":
        body["traceback"] = "".join(traceback.format_exception(error))
    return body


def _pixels(images: torch.Tensor) -> Pixels:
    """Return images (N, 3, H, W) in [0, 1] as pixels (N, H, W, 3)."""
    return from_unit_range(images.cpu()).permute(0, 2, 3, 1).numpy()
