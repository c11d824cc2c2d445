"""From a plan to records: look in the store first, load once, fit once for all stages, invert, score, write.

A cell that cannot run becomes a record with its reason; the others go on.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import torch
from PIL import Image

from invsuite._system.files import write_atomically
from invsuite._system.flops import count_flops
from invsuite._system.memory import free_memory, halving, is_out_of_memory
from invsuite._system.provenance import provenance_of, set_determinism
from invsuite._system.signals import time_limit
from invsuite._system.spill import TensorLike, collect
from invsuite._system.timing import Meter, clock_name
from invsuite.benchmark.cells import Cell, Opened, Plan, Refused
from invsuite.data.base import check_images, from_unit_range
from invsuite.data.checks import check_masks
from invsuite.data.split import sample_batches
from invsuite.errors import DataError, DiskError, InvsuiteError, NotApplicable, OutOfMemoryError, Unavailable
from invsuite.methods.base import Fitted, Inverter, Snapshot
from invsuite.methods.checks import check_inverter, check_reconstructions
from invsuite.methods.problem import Context, Problem
from invsuite.methods.training.features import FeatureCache
from invsuite.metrics.base import Metric, Scoring, Subject
from invsuite.metrics.checks import check_measures
from invsuite.models.base import Layout, Model, Representation
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.results.pictures import extreme_rows, sheet
from invsuite.results.record import CellCost, CellName, DataCounts, Measurement, Provenance, Record, Weights
from invsuite.results.statistics import summarise
from invsuite.results.store import Store

STRIP_IMAGES = 6  # reconstructions kept per cell for the strips of pictures
INVERT_BATCH = 64
CANARY_IMAGES = 2  # scored images on which a model's chain is held against its own forward pass
USUAL_PASSES, USUAL_IMAGES = 10_000, 1_000  # where the suite does not say how many
MEASURE = 0.3  # image passes that a measure of an image takes: from 0.1 of a ViT-B's to 1 of a tiny model's


class Reporter(Protocol):
    """What the runner tells while it works; ``worker`` names who does it where several work at the same time."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def begin(self, cells: int, weight: float) -> None:
        """The run has ``cells`` cells to compute and this much work in all."""

    def work(self, label: str, weight: float, worker: str = "") -> Callable[[int, int, str], None]:
        """A piece of work starts; the hook reports its progress."""

    def cell_done(self, cell: Cell, status: str, worker: str = "") -> None:
        """A cell has its record."""

    def rest(self, worker: str, finished: bool) -> None:
        """The worker works no more; what it did last is ``finished``, or lost."""


Redo = Literal["unfinished", "missing", "failed", "all"]


@dataclass(frozen=True)
class RunOptions:
    """How to run a plan.

    Attributes:
        redo: the cells to compute: those that are not ``unfinished`` have a success, or a stage their method does not
            apply to; ``missing`` have no record at all; ``failed`` have one without numbers; or ``all``.
        cell_seconds: wall time that inverting and scoring a cell may take, and fitting as often as there are cells to
            fit together; None is no limit.
    """

    redo: Redo = "unfinished"
    cell_seconds: float | None = None

    def wants(self, store: Store, cell: Cell) -> bool:
        """Whether the cell is to be computed."""
        if self.redo == "all":
            return True
        if self.redo == "missing":
            return store.read(cell.id) is None
        return not store.finished(cell.id) and (self.redo == "unfinished" or store.read(cell.id) is not None)


@dataclass
class Outcome:
    """Counts of one run."""

    computed: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Run:
    """What every step of one run needs; ``stamps`` tell whether another process wrote a cell's record meanwhile."""

    plan: Plan
    store: Store
    device: torch.device
    report: Reporter
    options: RunOptions
    stamps: dict[str, int | None]
    outcome: Outcome = field(default_factory=Outcome)

    def finish(self, cell: Cell, body: dict[str, Any]) -> None:
        """Write the cell's record, whose results, or the reason why it has none, are in ``body``."""
        record = Record(self.name(cell), cell.identity, provenance=origin(self.device, cell.seed), **body)
        self.store.write(record)
        self.outcome.computed += 1
        self.outcome.failed += record.status == "failed"
        self.outcome.skipped += record.status == "skipped"
        self.report.cell_done(cell, record.status)

    def name(self, cell: Cell) -> CellName:
        """Return what a record says of its cell."""
        suite, method = self.plan.suite, cell.method.method
        models, methods = ([spec.name for spec in specs] for specs in (suite.models, suite.methods))
        return CellName(
            cell.id,
            suite.name,
            cell.model.name,
            cell.stage,
            cell.model.stages.index(cell.stage),
            cell.method.name,
            method.name,
            method.family,
            cell.seed,
            method.uses_image,
            suite.title,
            models.index(cell.model.name) if cell.model.name in models else len(models),
            methods.index(cell.method.name),
        )

    def still_to_do(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that no other process has written since this run began."""
        left = [cell for cell in cells if self.store.stamp(cell.id) == self.stamps[cell.id]]
        for cell in cells:
            if cell not in left:
                self.outcome.reused += 1
                self.report.cell_done(cell, "ok" if self.store.finished(cell.id) else "failed elsewhere")
        return left

    def fits(self) -> Iterator[tuple[Opened, dict[str, list[Cell]]]]:
        """Every model with cells to compute, and those by the fit they share."""
        for entry in self.plan.models:
            fits: dict[str, list[Cell]] = {}
            for cell in entry.cells:
                if cell.id in self.stamps:
                    fits.setdefault(cell.fit_id, []).append(cell)
            if isinstance(entry, Opened) and fits:
                yield entry, fits


def begin(plan: Plan, store: Store, device: torch.device, report: Reporter, options: RunOptions) -> Run:
    """A run of a plan with nothing computed yet but the records of models that cannot be had.

    Raises:
        DataError: if a measure gives wrong values for pictures whose values are known.
        DiskError: if a record cannot be written.
    """
    pending = [cell for cell in plan.cells if options.wants(store, cell)]
    stamps = {cell.id: store.stamp(cell.id) for cell in pending}
    this = Run(plan, store, device, report, options, stamps, Outcome(reused=len(plan.cells) - len(pending)))
    if pending:
        check_measures(plan.metrics)
    report.begin(len(pending), sum(work(plan, cell) for cell in pending))
    for entry in plan.models:
        if isinstance(entry, Refused):
            for cell in this.still_to_do([cell for cell in entry.cells if cell.id in stamps]):
                this.finish(cell, problem_record(entry.error))
    return this


def run(plan: Plan, store: Store, device: torch.device, report: Reporter, options: RunOptions | None = None) -> Outcome:
    """Compute every cell that has no successful record yet, or those that ``options`` name, one after the other.

    Other processes may run the same plan on the same store: each fit is computed by one of them.

    Args:
        plan: the matrix.
        store: where records are looked up and written.
        device: where models and inverse networks run.
        report: told what happens.
        options: which cells, and how long they may take.

    Raises:
        DataError: if a measure gives wrong values for pictures whose values are known.
        DiskError: if a record cannot be written; those that were are kept.
    """
    this = begin(plan, store, device, report, options or RunOptions())
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
    """How many of the fits are trained, and so share kept representations."""
    return sum(cells[0].method.method.uses_budget for cells in fits.values())


def estimate(plan: Plan, cell: Cell) -> float:
    """Image passes of a cell, roughly: its share of a fit, and the images it reconstructs.

    A budget in seconds or operations is taken as `USUAL_PASSES`, for want of a measurement.
    """
    method, suite = cell.method.method, plan.suite
    images = _reconstructed(plan, cell)
    passes = float(images)
    if method.reads_fit:
        passes += (getattr(suite.data_of(cell.model).fit, "count", 0) or USUAL_IMAGES) / len(cell.model.stages)
    if method.uses_budget:
        passes += suite.budget.image_passes if suite.budget.image_passes is not None else USUAL_PASSES
    steps = getattr(method, "iterations", 0) * getattr(method, "restarts", 1) * getattr(method, "ensemble", 1)
    return passes + float(steps) * images


def work(plan: Plan, cell: Cell) -> float:
    """What the time left is judged by: the cell's image passes, and what its measures are worth in such."""
    return estimate(plan, cell) + MEASURE * len(plan.metrics) * _reconstructed(plan, cell)


def _reconstructed(plan: Plan, cell: Cell) -> int:
    """Images that inverting and scoring the cell reconstruct, roughly."""
    return (getattr(plan.suite.data_of(cell.model).score, "count", 0) or 100) + 2 * plan.suite.edits


@dataclass(frozen=True)
class Scored:
    """What all fits of a model share: its fingerprint, what measures are given of it, and kept representations."""

    fingerprint: str
    subject: Subject
    features: FeatureCache


class Session:
    """A model of a run on its device, checked, with what its fits share.

    Args:
        run: where records go.
        entry: the model.
        trained: how many fits of the run are trained on it: what keeping representations is weighed by.

    Raises:
        DiskError: if the disk refuses.
    """

    def __init__(self, run: Run, entry: Opened, trained: int) -> None:
        self.run, self.entry = run, entry
        self.problem: dict[str, Any] | None = None
        model, device = entry.model, run.device
        self._features = FeatureCache(run.plan.suite.engine.cache, max(1, trained), log=run.report.note)
        try:
            model.to(device)
            if isinstance(entry.witness, Model):
                entry.witness.to(device)
            before = model.fingerprint()
            samples = entry.splits.score.samples()
            parts = sample_batches(samples, INVERT_BATCH)
            images = collect((torch.stack([s.image for s in part]).to(device) for part in parts), len(samples))
            check_masks(samples)
            check_normalisation(model)
            check_chain(model, images[:CANARY_IMAGES])
            subject = Subject(
                model,
                model.order(entry.spec.stages),
                samples,
                images,
                entry.splits.fit,
                run.plan.suite.edits,
                entry.splits.score.dataset.classes,
                entry.witness,
            )
            self._scored = Scored(before, subject, self._features)
        except DiskError:
            raise
        except Exception as error:  # nothing of this model or its data can be trusted; the other models go on
            self.problem = problem_record(error) | {"weights": weights_of(model)}
            return
        write_atomically(run.store.strip_path(f"{entry.spec.name}-original"), _strip(images[:STRIP_IMAGES]))

    def fit(self, fit_id: str, cells: Sequence[Cell], wait: bool) -> bool:
        """Compute the cells of one fit that are still to do; False if another process has it and ``wait`` is not asked.

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
            elif left:
                _run_fit(self.run, self.entry, fit_id, left, self._scored)
        return True

    def close(self) -> None:
        """Give the device's memory back."""
        self._features.close()
        self.entry.model.to("cpu")
        if isinstance(self.entry.witness, Model):
            self.entry.witness.to("cpu")


def _run_fit(run: Run, entry: Opened, fit_id: str, group: list[Cell], scored: Scored) -> None:
    """Fit once, then invert, score and write each cell of the group."""
    model, suite, limit = entry.model, run.plan.suite, run.options.cell_seconds
    method, seed = group[0].method.method, group[0].seed
    weights = {"weights": weights_of(model)}
    set_determinism(seed)
    checkpoints = run.store.fit_path(fit_id)
    # a fit that was killed while its cells were scored is whole on disk, for all its stages
    together = [cell for cell in entry.cells if cell.fit_id == fit_id] if checkpoints.is_dir() else group
    problem = Problem(
        model=model,
        stages=tuple(cell.stage for cell in together),
        cut=model.order(entry.spec.stages),
        fit=entry.splits.fit,
        select=entry.splits.select,
        budget=suite.budget,
        seed=seed,
        context=Context(
            progress=run.report.work(
                f"{entry.spec.name} {group[0].method.name}", sum(work(run.plan, cell) for cell in group)
            ),
            engine=suite.engine,
            features=scored.features,
            checkpoints=checkpoints,
        ),
    )
    try:
        with Meter(run.device) as fit_meter, time_limit(limit and limit * len(group), f"fitting '{method.name}'"):
            fitted = method.fit(problem)
        if model.fingerprint() != scored.fingerprint:
            raise DataError(f"fitting '{method.name}' changed the weights of model '{model.name}'")
    except DiskError:
        raise
    except Exception as error:
        for cell in group:
            run.finish(cell, problem_record(error, "fitting") | weights)
        return
    for cell in group:
        try:
            with time_limit(limit, f"inverting and scoring '{cell.key}'"):
                body = _score(run.plan, entry, cell, fitted, scored, run.store)
            body["cost"].fit_total_seconds = fit_meter.seconds
            body["cost"].fit_peak_bytes = fit_meter.peak_bytes
            body["data"] = DataCounts(
                len(entry.splits.fit),
                len(entry.splits.select),
                len(entry.splits.score),
                entry.splits.unreadable,
                entry.splits.converted,
                asdict(entry.model.resampling),
            )
        except DiskError:
            raise
        except Exception as error:
            body = problem_record(error, "inverting and scoring")
        run.finish(cell, body | weights)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _score(plan: Plan, entry: Opened, cell: Cell, fitted: Fitted, scored: Scored, store: Store) -> dict[str, Any]:
    """Invert and measure one cell; returns the record's body.

    Raises:
        NotApplicable: if the method refused the stage.
        OutOfMemoryError: if not even one image at a time can be inverted.
    """
    if cell.stage in fitted.refused:
        raise fitted.refused[cell.stage]

    model, inverter, curve = entry.model, fitted.inverter, Curve()
    images = scored.subject.images
    made_by = f"reconstructions of '{cell.method.name}' at '{cell.stage}'"

    def reconstruct(shown: TensorLike, curve: Curve | None = None) -> TensorLike:
        work = f"inverting '{cell.key}'"
        return halving(lambda batch: collect(in_batches(shown, batch, curve), len(shown)), INVERT_BATCH, work)

    def in_batches(shown: TensorLike, batch: int, curve: Curve | None) -> Iterator[torch.Tensor]:
        if curve is not None:
            curve.points.clear()  # of an attempt that memory did not suffice for
        for true in shown.split(batch):
            found = model.represent(true, [cell.stage])[cell.stage]
            if curve is not None and not inverter.uses_image:
                made = inverter.invert_watched(found, curve.beside(true))
            else:
                made = fitted.invert(found, true)
            if made.shape != true.shape:
                raise DataError(f"{made_by} are {tuple(made.shape)}, made from {tuple(true.shape)}")
            yield check_images(made.detach(), made_by)

    def again(shown: torch.Tensor) -> torch.Tensor:
        return reconstruct(shown)[:]

    check_inverter(inverter, f"'{cell.method.name}' at '{cell.stage}'")
    with Meter(model.device) as meter:
        made = reconstruct(images, curve)
    flags = check_reconstructions(made, images, made_by)
    # read before the measures reconstruct edited images: the notes speak of the scored images alone
    notes = fitted.notes.get(cell.stage, {}) | inverter.findings(cell.stage)
    if curve.points:
        notes = notes | {"inversion_curve": curve.notes()}
    flops = _flops_an_image(model, cell.stage, fitted, images[:1])
    layout = model.layout(cell.stage)
    scoring = Scoring(scored.subject, cell.stage, made, again, lambda tensor: _invert(fitted, cell, layout, tensor))
    measurements = {metric.name: _measure(metric, scoring, model.device) for metric in plan.metrics}
    write_atomically(store.strip_path(cell.id), _strip(made[:STRIP_IMAGES]))
    extremes = extreme_rows(measurements)
    if extremes:
        write_atomically(store.extremes_path(cell.id), sheet(images[extremes], made[extremes]))
    cost = fitted.cost
    return {
        "status": "ok",
        "measurements": measurements,
        "images": [sample.key for sample in scored.subject.samples],
        "extremes": extremes,
        "cost": CellCost(
            clock_name(model.device),
            fit_seconds=cost.stage_seconds.get(cell.stage, 0.0),
            fit_shared_seconds=cost.shared_seconds,
            fit_image_passes=cost.image_passes.get(cell.stage, 0),
            fit_flops=cost.fit_flops.get(cell.stage),
            fit_frozen_flops=cost.frozen_flops.get(cell.stage),
            parameters=cost.parameters.get(cell.stage, 0),
            invert_seconds_per_image=meter.seconds / len(images),
            invert_flops_per_image=flops,
            invert_cpu_seconds_per_image=meter.cpu_seconds / len(images),
            invert_peak_bytes=meter.peak_bytes,
        ),
        "notes": notes,
        "flags": flags,
    }


def _invert(fitted: Fitted, cell: Cell, layout: Layout, tensor: torch.Tensor) -> torch.Tensor:
    """The cell's inverse applied to any tensor of its stage's layout.

    Raises:
        NotApplicable: for a floor that is shown the image itself, and so has no inverse.
    """

    def in_batches(batch: int) -> torch.Tensor:
        parts = (Representation(part, layout, cell.stage) for part in tensor.split(batch))
        return torch.cat([fitted.inverter.invert(part) for part in parts])

    made = halving(in_batches, INVERT_BATCH, f"inverting '{cell.key}'")
    return check_images(made, f"reconstructions of '{cell.method.name}' at '{cell.stage}'")


def _flops_an_image(model: Model, stage: str, fitted: Fitted, image: torch.Tensor) -> int:
    """Operations of inverting an image's (1, 3, H, W) representation, its own forward pass left out. Counting is slow:
    of an inverter that repeats one step, a first and a second one are counted."""
    found = model.represent(image, [stage])[stage]

    def count(inverter: Inverter) -> int:
        return count_flops(lambda: replace(fitted, inverter=inverter).invert(found, image))

    inverter = fitted.inverter
    if inverter.iterations:
        one, two = (count(inverter.shortened(iterations)) for iterations in (1, 2))
        return one + (inverter.iterations - 1) * (two - one)
    flops = count(inverter)
    inverter.findings(stage)  # those of this image are not for the record
    return flops


class Curve:
    """Quality against iterations of the scored images: what iterative inverters are watched with.

    The method is told nothing; the true images meet its snapshots here.
    """

    def __init__(self) -> None:
        self.points: dict[int, list[tuple[int, float, float, float]]] = {}

    def beside(self, images: torch.Tensor) -> Callable[[Snapshot], None]:
        """A watch for the inversion of ``images`` (B, 3, H, W), whose batches come in order."""
        seen: dict[int, int] = {}

        def watch(snapshot: Snapshot) -> None:
            start = seen.get(snapshot.iteration, 0)
            count = len(snapshot.images)
            seen[snapshot.iteration] = start + count
            error = (snapshot.images - images[start : start + count]).square().mean((1, 2, 3))
            psnr = -10 * error.clamp(min=1e-12).log10()
            point = (count, snapshot.seconds, float(snapshot.loss.sum()), float(psnr.sum()))
            self.points.setdefault(snapshot.iteration, []).append(point)

        return watch

    def notes(self) -> list[dict[str, float]]:
        """Per iteration, means over images: seconds an image, feature loss, and PSNR in dB."""
        rows = []
        for iteration, parts in sorted(self.points.items()):
            count, seconds, loss, psnr = (sum(values) for values in zip(*parts, strict=True))
            rows.append(
                {
                    "iteration": iteration,
                    "seconds_per_image": round(seconds / count, 4),
                    "feature_loss": loss / count,
                    "psnr": psnr / count,
                }
            )
        return rows


def _measure(metric: Metric, scoring: Scoring, device: torch.device) -> Measurement:
    """Return what a measure gives for one cell: values and summary, or why there are none."""
    identity = json.dumps([metric.name, metric.version, metric.params()], sort_keys=True)
    result = Measurement(
        metric.name,
        hashlib.sha256(identity.encode()).hexdigest()[:12],
        metric.label,
        metric.unit,
        metric.direction,
        metric.group,
        metric.digits,
        metric.tolerance,
        metric.headline,
        metric.description(),
        metric.version,
        metric.pooled,
        "ok",
    )
    try:
        facts: dict[str, Any] = metric.prepare(device)
        found = metric.compute(scoring)
    except Unavailable as error:
        return replace(result, status="skipped", reason=str(error))
    except NotApplicable as error:
        return replace(result, status="undefined", reason=str(error))
    summary = summarise(found.per_image)
    if metric.pooled:
        summary = replace(summary, low=None, high=None)
    if found.interval is not None:
        summary = replace(summary, low=found.interval[0], high=found.interval[1])
    result = replace(result, reason=found.undefined, facts=facts | found.facts)
    if summary.n == 0:
        return replace(result, status="undefined")
    return replace(
        result,
        n=summary.n,
        mean=summary.mean,
        low=summary.low,
        high=summary.high,
        ceiling=found.ceiling,
        floor=found.floor,
        values=found.per_image,
    )


def weights_of(model: Model) -> Weights:
    """Return what a record says of a model's weights."""
    return Weights(**asdict(model.origin))


def origin(device: torch.device, seed: int) -> Provenance:
    """Return where numbers that are computed now come from."""
    return Provenance(**provenance_of(device, seed), written=datetime.now(UTC).isoformat(timespec="seconds"))


def problem_record(error: Exception, doing: str = "") -> dict[str, Any]:
    """The body of a cell without numbers: ``skipped`` where nothing broke (weights that cannot be had, a stage a
    method does not apply to), else ``failed`` with the traceback; ``fault`` names the kind.

    Args:
        error: what kept the cell from its numbers.
        doing: what needed too much memory, if that was it.
    """
    status = "skipped" if isinstance(error, (Unavailable, NotApplicable)) else "failed"
    fault, text = "error", f"{type(error).__name__}: {error}"
    if isinstance(error, InvsuiteError):
        fault, text = error.fault, str(error)
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


def _strip(images: torch.Tensor) -> bytes:
    """Images side by side as PNG bytes."""
    row = from_unit_range(torch.cat(list(images.cpu()), dim=2)).permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(row.numpy()).save(buffer, "PNG", compress_level=1)  # a fifth of the time for a fifth more bytes
    return buffer.getvalue()
