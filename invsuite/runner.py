"""From a plan to records: look in the store first, load once, fit once for all stages, invert, score, write.

A cell that cannot run becomes a record with its reason; the others go on.
"""

from __future__ import annotations

import io
import shutil
import traceback
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import torch
from PIL import Image

from invsuite.data.base import Sample, check_images, from_unit_range
from invsuite.data.canary import check_masks
from invsuite.errors import DataError, InvsuiteError, NotApplicable, Unavailable
from invsuite.extremes import extreme_rows, sheet
from invsuite.features import FeatureCache
from invsuite.files import write_atomically
from invsuite.flops import count_flops
from invsuite.grid import Cell, Opened, Plan, Refused
from invsuite.methods.base import Fitted, Problem, ReportingInverter, SeeingInverter, Snapshot, WatchedInverter
from invsuite.methods.canary import check_inverter, check_reconstructions
from invsuite.metrics.base import Metric, Scoring
from invsuite.metrics.golden import check_measures
from invsuite.models.base import Layout, Model, Representation
from invsuite.models.canary import check_chain, check_normalisation
from invsuite.provenance import collect, set_determinism
from invsuite.statistics import summarise
from invsuite.store import Record, Store
from invsuite.timing import Meter, clock_name

STRIP_IMAGES = 6  # reconstructions kept per cell for the strips of pictures
INVERT_BATCH = 64
CANARY_IMAGES = 2  # scored images on which a model's chain is held against its own forward pass
USUAL_PASSES = 10_000


class Reporter(Protocol):
    """What the runner tells while it works."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def begin(self, cells: int, weight: float) -> None:
        """The run has ``cells`` cells to compute and this much work in all."""

    def work(self, label: str, weight: float) -> Callable[[int, int, str], None]:
        """A piece of work starts; the hook reports its progress."""

    def cell_done(self, cell: Cell, status: str) -> None:
        """A cell has its record."""


@dataclass
class Outcome:
    """Counts of one run."""

    computed: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0


def run(plan: Plan, store: Store, device: torch.device, report: Reporter) -> Outcome:
    """Compute every cell that has no successful record yet.

    Args:
        plan: the matrix.
        store: where records are looked up and written.
        device: where models and inverse networks run.
        report: told what happens.

    Raises:
        DataError: if a measure gives wrong values for pictures whose values are known.
    """
    outcome = Outcome()
    pending = [cell for cell in plan.cells if not store.finished(cell.id)]
    outcome.reused = len(plan.cells) - len(pending)
    if pending:
        check_measures(plan.metrics)
    report.begin(len(pending), sum(estimate(plan, cell) for cell in pending))
    waiting = {cell.id for cell in pending}
    for entry in plan.models:
        cells = [cell for cell in entry.cells if cell.id in waiting]
        if isinstance(entry, Refused):
            for cell in cells:
                _finish(plan, store, cell, problem_record(entry.error), device, report, outcome)
        elif cells:
            _run_model(plan, entry, cells, store, device, report, outcome)
    return outcome


def estimate(plan: Plan, cell: Cell) -> float:
    """Rough work of a cell in image passes: what the time left is judged by.

    A budget in seconds or operations is taken as `USUAL_PASSES`, for want of a measurement.
    """
    method, suite = cell.method.method, plan.suite
    scored = getattr(suite.data_of(cell.model).score, "count", 0) or 100
    images = scored + 2 * suite.edits
    passes = float(images)
    if method.uses_budget:
        passes += suite.budget.image_passes if suite.budget.image_passes is not None else USUAL_PASSES
    steps = getattr(method, "iterations", 0) * getattr(method, "restarts", 1) * getattr(method, "ensemble", 1)
    return passes + float(steps) * images


def _run_model(
    plan: Plan,
    entry: Opened,
    cells: list[Cell],
    store: Store,
    device: torch.device,
    report: Reporter,
    outcome: Outcome,
) -> None:
    model = entry.model.to(device)
    if isinstance(entry.witness, Model):
        entry.witness.to(device)
    weights = {"weights": asdict(model.origin)}
    of_model: dict[Hashable, Any] = {}
    try:
        before = model.fingerprint()
        samples = entry.splits.score.samples()
        images = torch.stack([sample.image for sample in samples]).to(device)
        check_masks(samples)
        check_normalisation(model)
        check_chain(model, images[:CANARY_IMAGES])
    except InvsuiteError as error:  # nothing of this model or its data can be trusted; the other models go on
        for cell in cells:
            _finish(plan, store, cell, problem_record(error) | weights, device, report, outcome)
        model.to("cpu")
        return
    write_atomically(store.strip_path(f"{entry.spec.name}-original"), _strip(images))
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method.name, cell.seed), []).append(cell)
    trained = sum(group[0].method.method.uses_budget for group in groups.values())
    features = FeatureCache(plan.suite.engine.cache, max(1, trained), log=report.note)
    for group in groups.values():
        method, seed = group[0].method.method, group[0].seed
        set_determinism(seed)
        label = f"{entry.spec.name} {group[0].method.name}"
        progress = report.work(label, sum(estimate(plan, cell) for cell in group))
        problem = Problem(
            model=model,
            stages=tuple(cell.stage for cell in group),
            cut=model.order(entry.spec.stages),
            fit=entry.splits.fit,
            select=entry.splits.select,
            budget=plan.suite.budget,
            seed=seed,
            progress=progress,
            engine=plan.suite.engine,
            features=features,
            checkpoints=store.fit_path(group[0].fit_id),
        )
        try:
            with Meter(device) as fit_meter:
                fitted = method.fit(problem)
            if model.fingerprint() != before:
                raise DataError(f"fitting '{method.name}' changed the weights of model '{model.name}'")
        except Exception as error:
            for cell in group:
                _finish(plan, store, cell, problem_record(error) | weights, device, report, outcome)
            continue
        for cell in group:
            try:
                body = _score(plan, entry, cell, fitted, samples, images, store, of_model)
                body["cost"]["fit_total_seconds"] = fit_meter.seconds
                body["cost"]["fit_peak_bytes"] = fit_meter.peak_bytes
                body["data"] = {
                    "fit": len(entry.splits.fit),
                    "select": len(entry.splits.select),
                    "score": len(entry.splits.score),
                    "unreadable": entry.splits.unreadable,
                    "converted": entry.splits.converted,
                    "resampling": asdict(entry.model.resampling),
                }
            except Exception as error:
                body = problem_record(error)
            _finish(plan, store, cell, body | weights, device, report, outcome)
        shutil.rmtree(store.fit_path(group[0].fit_id), ignore_errors=True)
    features.close()
    model.to("cpu")
    if isinstance(entry.witness, Model):
        entry.witness.to("cpu")


def _score(
    plan: Plan,
    entry: Opened,
    cell: Cell,
    fitted: Fitted,
    samples: list[Sample],
    images: torch.Tensor,
    store: Store,
    of_model: dict[Hashable, Any],
) -> dict[str, Any]:
    """Invert and measure one cell; returns the record's body.

    Args:
        of_model: what measures found for the model's other cells.

    Raises:
        NotApplicable: if the method refused the stage.
    """
    if cell.stage in fitted.refused:
        raise fitted.refused[cell.stage]

    model, inverter, curve = entry.model, fitted.inverter, Curve()
    made_by = f"reconstructions of '{cell.method.name}' at '{cell.stage}'"

    def reconstruct(shown: torch.Tensor, curve: Curve | None = None) -> torch.Tensor:
        parts = []
        for start in range(0, len(shown), INVERT_BATCH):
            true = shown[start : start + INVERT_BATCH]
            found = model.represent(true, [cell.stage])[cell.stage]
            if curve is not None and isinstance(inverter, WatchedInverter):
                parts.append(inverter.invert_watched(cell.stage, found, curve.beside(true)))
            else:
                parts.append(fitted.invert(cell.stage, found, true))
        made = torch.cat(parts).detach()
        if made.shape != shown.shape:
            raise DataError(f"{made_by} are {tuple(made.shape)}, made from {tuple(shown.shape)}")
        return check_images(made, made_by)

    check_inverter(inverter, f"'{cell.method.name}' at '{cell.stage}'")
    with Meter(model.device) as meter:
        made = reconstruct(images, curve)
    flags = check_reconstructions(made, images, made_by)
    # read before the measures reconstruct edited images: the notes speak of the scored images alone
    notes = fitted.notes.get(cell.stage, {})
    if isinstance(inverter, ReportingInverter):
        notes = notes | inverter.findings(cell.stage)
    if curve.points:
        notes = notes | {"inversion_curve": curve.notes()}
    flops = _flops_an_image(model, cell.stage, fitted, images)
    scoring = Scoring(
        samples,
        images,
        made,
        reconstruct,
        plan.suite.edits,
        model=model,
        stage=cell.stage,
        stages=model.order(entry.spec.stages),
        fit=entry.splits.fit,
        invert=lambda tensor: _invert(fitted, cell, model.layout(cell.stage), tensor),
        classes=entry.splits.score.dataset.classes,
        witness=entry.witness,
        of_model=of_model,
    )
    metrics = {metric.name: _measure(metric, scoring, model.device) for metric in plan.metrics}
    write_atomically(store.strip_path(cell.id), _strip(made))
    extremes = extreme_rows(metrics)
    if extremes:
        write_atomically(store.extremes_path(cell.id), sheet(images[extremes], made[extremes]))
    cost = fitted.cost
    return {
        "status": "ok",
        "reason": "",
        "metrics": metrics,
        "images": [sample.key for sample in samples],
        "extremes": extremes,
        "cost": {
            "clock": clock_name(model.device),
            "fit_seconds": cost.stage_seconds.get(cell.stage, 0.0),
            "fit_shared_seconds": cost.shared_seconds,
            "fit_image_passes": cost.image_passes.get(cell.stage, 0),
            "fit_flops": cost.fit_flops.get(cell.stage),
            "fit_frozen_flops": cost.frozen_flops.get(cell.stage),
            "parameters": cost.parameters.get(cell.stage, 0),
            "invert_seconds_per_image": meter.seconds / len(images),
            "invert_flops_per_image": flops,
            "invert_cpu_seconds_per_image": meter.cpu_seconds / len(images),
            "invert_peak_bytes": meter.peak_bytes,
        },
        "notes": notes,
        "flags": flags,
    }


def _invert(fitted: Fitted, cell: Cell, layout: Layout, tensor: torch.Tensor) -> torch.Tensor:
    """The cell's inverse applied to any tensor of its stage's layout.

    Raises:
        NotApplicable: for a floor that is shown the image itself, and so has no inverse.
    """
    if isinstance(fitted.inverter, SeeingInverter):
        raise NotApplicable(f"'{cell.method.name}' is shown the image: it inverts no representation")
    parts = [fitted.inverter.invert(cell.stage, Representation(part, layout)) for part in tensor.split(INVERT_BATCH)]
    return check_images(torch.cat(parts), f"reconstructions of '{cell.method.name}' at '{cell.stage}'")


def _flops_an_image(model: Model, stage: str, fitted: Fitted, images: torch.Tensor) -> int:
    """Operations of inverting the first image's representation, its own forward pass left out."""
    found = model.represent(images[:1], [stage])[stage]
    flops = count_flops(lambda: fitted.invert(stage, found, images[:1]))
    if isinstance(fitted.inverter, ReportingInverter):
        fitted.inverter.findings(stage)
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


def _measure(metric: Metric, scoring: Scoring, device: torch.device) -> dict[str, Any]:
    """One measure of one cell: values and summary, or ``skipped`` with the reason."""
    facts: dict[str, Any] = {"unit": metric.unit, "direction": metric.direction, "version": metric.version}
    try:
        facts |= metric.prepare(device)
        found = metric.compute(scoring)
    except Unavailable as error:
        return facts | {"status": "skipped", "reason": str(error)}
    except NotApplicable as error:
        return facts | {"status": "undefined", "reason": str(error), "n": 0}
    facts |= found.facts
    summary = summarise(found.per_image)
    if metric.pooled:
        summary = replace(summary, low=None, high=None)
    if found.interval is not None:
        summary = replace(summary, low=found.interval[0], high=found.interval[1])
    if summary.n == 0:
        return facts | {"status": "undefined", "reason": found.undefined, "n": 0}
    return facts | {
        "status": "ok",
        "reason": found.undefined,
        "n": summary.n,
        "mean": summary.mean,
        "low": summary.low,
        "high": summary.high,
        "ceiling": found.ceiling,
        "floor": found.floor,
        "values": found.per_image,
    }


def problem_record(error: Exception) -> dict[str, Any]:
    """The body of a cell without numbers: ``skipped`` where nothing broke (weights that cannot be had, a stage a
    method does not apply to), else ``failed`` with the traceback."""
    status = "skipped" if isinstance(error, (Unavailable, NotApplicable)) else "failed"
    text = str(error) if isinstance(error, InvsuiteError) else f"{type(error).__name__}: {error}"
    body: dict[str, Any] = {"status": status, "reason": text}
    if isinstance(error, NotApplicable):
        body["settled"] = True  # the cell's identity decides it: nothing to fetch or to try again
    if status == "failed":
        body["traceback"] = "".join(traceback.format_exception(error))
    return body


def _finish(
    plan: Plan, store: Store, cell: Cell, body: dict[str, Any], device: torch.device, report: Reporter, outcome: Outcome
) -> None:
    record: Record = {
        "cell": {
            "id": cell.id,
            "suite": plan.suite.name,
            "model": cell.model.name,
            "stage": cell.stage,
            "position": cell.model.stages.index(cell.stage),
            "method": cell.method.name,
            "family": cell.method.method.family,
            "seed": cell.seed,
        },
        "identity": cell.identity,
        **body,
        "provenance": collect(device, cell.seed) | {"written": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    store.write(record)
    outcome.computed += 1
    outcome.failed += body["status"] == "failed"
    outcome.skipped += body["status"] == "skipped"
    report.cell_done(cell, body["status"])


def _strip(images: torch.Tensor) -> bytes:
    """The first images side by side as PNG bytes."""
    row = from_unit_range(torch.cat(list(images[:STRIP_IMAGES].cpu()), dim=2)).permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(row.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
