"""From a fitted method to the reconstructions of one cell, what they cost, and what every measure says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from invsuite._system.flops import count_flops
from invsuite._system.memory import halving
from invsuite._system.spill import TensorLike, collect
from invsuite.benchmark.cells import Cell
from invsuite.data.base import check_images
from invsuite.errors import DataError, DiskError, NotApplicable, TimeLimitError, Unavailable, one_line
from invsuite.methods.base import Fitted, Inverter, Snapshot
from invsuite.metrics.base import Metric, Scoring, Values
from invsuite.models.base import Model, Representation
from invsuite.results.kept import KeptTensors, content_name
from invsuite.results.record import Measurement
from invsuite.results.statistics import summarise

INVERT_BATCH = 64
RECONSTRUCTIONS = "reconstructions"


class CellInverter:
    """Reconstructs images as one cell does: by its model, stage and fitted method. What it made once is kept.

    Args:
        model: the frozen model.
        cell: the cell.
        fitted: returns the fitted method; called when something must be inverted that is not kept.
        kept: where reconstructions are kept.
    """

    def __init__(self, model: Model, cell: Cell, fitted: Callable[[], Fitted], kept: KeptTensors) -> None:
        self.model, self.cell, self._fitted, self._kept = model, cell, fitted, kept
        self._made_by = f"reconstructions of '{cell.method.name}' at '{cell.stage}'"

    def scored(self, images: TensorLike, curve: Curve | None = None) -> TensorLike:
        """Return the reconstructions of the scored ``images`` (N, 3, H, W), inverted now.

        Raises:
            OutOfMemoryError: if not even one image at a time can be inverted.
            DataError: if they are not images of the same shape in [0, 1].
        """
        return self._reconstruct(images, curve)

    def keep(self, reconstructions: TensorLike) -> None:
        """Keep the reconstructions of the scored images for measures that are added later."""
        self._kept.keep_rows(self.cell.id, RECONSTRUCTIONS, reconstructions)

    def kept(self) -> TensorLike | None:
        """Return the reconstructions of the scored images that an earlier run kept; None if there are none."""
        return self._kept.rows(self.cell.id, RECONSTRUCTIONS, self.model.device)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Return reconstructions of any other ``images`` (B, 3, H, W), from an earlier run where they are kept."""
        return self._once("images", images, lambda: self._reconstruct(images)[:])

    def invert(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the cell's inverse applied to any ``tensor`` (B, ...) of its stage's layout.

        Raises:
            NotApplicable: for a floor that is shown the image itself, and so has no inverse.
        """
        if self.cell.method.method.uses_image:
            raise NotApplicable(f"'{self.cell.method.name}' is shown the image: it inverts no representation")
        layout, stage = self.model.layout(self.cell.stage), self.cell.stage
        inverter = self._fitted().inverter

        def in_batches(batch: int) -> torch.Tensor:
            parts = [inverter.invert(Representation(part, layout, stage)) for part in tensor.split(batch)]
            return check_images(torch.cat(parts), self._made_by)

        work = f"inverting '{self.cell.key}'"
        return self._once("inverse", tensor, lambda: halving(in_batches, INVERT_BATCH, work))

    def _once(self, kind: str, tensor: torch.Tensor, invert: Callable[[], torch.Tensor]) -> torch.Tensor:
        name = content_name(kind, tensor)
        kept = self._kept.rows(self.cell.id, name, self.model.device)
        if kept is not None:
            return kept[:]
        images = invert()
        self._kept.keep_rows(self.cell.id, name, images)
        return images

    def _reconstruct(self, images: TensorLike, curve: Curve | None = None) -> TensorLike:
        fitted = self._fitted()
        if self.cell.stage in fitted.refused:
            raise fitted.refused[self.cell.stage]
        work = f"inverting '{self.cell.key}'"
        return halving(
            lambda batch: collect(self._batches(fitted.inverter, images, batch, curve), len(images)), INVERT_BATCH, work
        )

    def _batches(
        self, inverter: Inverter, images: TensorLike, batch: int, curve: Curve | None
    ) -> Iterator[torch.Tensor]:
        if curve is not None:
            curve.clear()  # of an attempt that memory did not suffice for
        inverter.findings(self.cell.stage)
        for true in images.split(batch):
            reconstructions = invert_batch(self.model, self.cell.stage, inverter, true, curve)
            if reconstructions.shape != true.shape:
                raise DataError(f"{self._made_by} are {tuple(reconstructions.shape)}, made from {tuple(true.shape)}")
            yield check_images(reconstructions.detach(), self._made_by)


def invert_batch(
    model: Model, stage: str, inverter: Inverter, images: torch.Tensor, curve: Curve | None = None
) -> torch.Tensor:
    """Return what ``inverter`` makes of the model's representations of ``images`` (B, 3, H, W) at ``stage``."""
    representation = model.represent(images, [stage])[stage]
    if inverter.uses_image:
        return inverter.invert_with_image(representation, images)
    if curve is not None:
        return inverter.invert_watched(representation, curve.beside(images))
    return inverter.invert(representation)


def flops_per_image(model: Model, stage: str, inverter: Inverter, image: torch.Tensor, share: float = 1.0) -> int:
    """Return the operations of inverting an image's (1, 3, H, W) representation, its own forward pass left out.

    Counting is slow: of an inverter that repeats one step, a first and a second one are counted.

    Args:
        model: the frozen model.
        stage: to invert.
        inverter: of a fitted method.
        image: any one.
        share: of its most repetitions that the inverter has made on average.
    """
    representation = model.represent(image, [stage])[stage]

    def count(inverter: Inverter) -> int:
        if inverter.uses_image:
            return count_flops(lambda: inverter.invert_with_image(representation, image))
        return count_flops(lambda: inverter.invert(representation))

    if inverter.iterations:
        one, two = (count(inverter.shortened(iterations)) for iterations in (1, 2))
        return one + round((inverter.iterations * share - 1) * (two - one))
    flops = count(inverter)
    inverter.findings(stage)  # those of the counted image are no part of the record
    return flops


@dataclass
class BatchCurve:
    """The curve of one batch: its images' number, and sums over them by iteration (seconds: of the batch)."""

    count: int
    points: dict[int, tuple[float, float, float]] = field(default_factory=dict)


class Curve:
    """Quality against iterations of the scored images: what iterative inverters are watched with.

    The method is told nothing; the true images meet its snapshots here.
    """

    def __init__(self) -> None:
        self.batches: list[BatchCurve] = []

    def clear(self) -> None:
        """Forget all batches."""
        self.batches.clear()

    def beside(self, images: torch.Tensor) -> Callable[[Snapshot], None]:
        """Return a watch for the inversion of ``images`` (B, 3, H, W), whose batches come in order, each from 0 on."""
        start = 0

        def watch(snapshot: Snapshot) -> None:
            nonlocal start
            count = len(snapshot.images)
            if snapshot.iteration == 0:
                self.batches.append(BatchCurve(count))
                start += count
            error = (snapshot.images - images[start - count : start]).square().mean((1, 2, 3))
            psnr = -10 * error.clamp(min=1e-12).log10()
            point = (snapshot.seconds, float(snapshot.loss.sum()), float(psnr.sum()))
            self.batches[-1].points[snapshot.iteration] = point

        return watch

    def notes(self) -> list[dict[str, float]]:
        """Return, per iteration, means over images: seconds per image, feature loss, and PSNR in dB.

        A batch that has ended counts as it ended.
        """
        count = sum(batch.count for batch in self.batches)
        rows = []
        for iteration in sorted({iteration for batch in self.batches for iteration in batch.points}):
            reached = [batch.points[max(i for i in batch.points if i <= iteration)] for batch in self.batches]
            seconds, loss, psnr = (sum(values) / count for values in zip(*reached, strict=True))
            rows.append(
                {
                    "iteration": iteration,
                    "seconds_per_image": round(seconds, 4),
                    "feature_loss": loss,
                    "psnr": psnr,
                }
            )
        return rows


def measure_all(
    metrics: Sequence[Metric], identities: Sequence[str], scoring: Scoring, device: torch.device
) -> list[Measurement]:
    """Return what every measure says of one cell; one that raises becomes a measurement without values.

    Raises:
        DiskError, TimeLimitError: what no single measure is to blame for.
    """
    return [measure(*pair, scoring, device) for pair in zip(metrics, identities, strict=True)]


def measure(metric: Metric, identity: str, scoring: Scoring, device: torch.device) -> Measurement:
    """Return what one measure says of one cell: its values and their summary, or why there are none."""
    blank = facts_of(metric, identity)
    try:
        blank.facts = dict(metric.prepare(device))
        values = metric.compute(scoring)
        if not isinstance(values, Values):
            raise DataError(f"it gave {type(values).__name__}, not Values")
        json.dumps([blank.facts, values.facts], allow_nan=False)
        if len(values.per_image) != len(scoring.samples):
            raise DataError(f"it gave {len(values.per_image)} values for {len(scoring.samples)} images")
    except Unavailable as error:
        return replace(blank, status="skipped", reason=str(error))
    except NotApplicable as error:
        return replace(blank, status="undefined", reason=str(error))
    except (DiskError, TimeLimitError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # this measure's alone: the others keep their values, and the fit
        return replace(blank, status="failed", facts={}, reason=f"measure '{metric.name}' failed: {one_line(error)}")
    facts = blank.facts | values.facts
    summary = summarise(values.per_image)
    if summary.n == 0:
        return replace(blank, status="undefined", reason=values.undefined, facts=facts)
    low, high = (None, None) if metric.pooled else (summary.low, summary.high)
    if values.interval is not None:
        low, high = values.interval
    return replace(
        blank,
        status="ok",
        reason=values.undefined,
        n=summary.n,
        mean=summary.mean,
        low=low,
        high=high,
        ceiling=values.ceiling,
        floor=values.floor,
        values=values.per_image,
        facts=facts,
    )


def facts_of(metric: Metric, identity: str) -> Measurement:
    """Return a measurement without values: what a record must know of the measure."""
    return Measurement(
        name=metric.name,
        identity=identity,
        label=metric.label,
        unit=metric.unit,
        direction=metric.direction,
        group=metric.group,
        digits=metric.digits,
        tolerance=metric.tolerance,
        headline=metric.headline,
        description=metric.description(),
        version=metric.version,
        pooled=metric.pooled,
        status="undefined",
    )
