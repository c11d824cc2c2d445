"""Floors: what a method must beat to have learned anything from the representation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from invsuite._system.spill import Rows, RowsInFile, disk_room
from invsuite._system.timing import Stopwatch
from invsuite.data.split import Split
from invsuite.methods.base import FitCost, Fitted, Inverter, Method
from invsuite.methods.problem import Problem
from invsuite.methods.training.moments import Moments
from invsuite.models.base import Model, Representation
from invsuite.registry import register


@dataclass(frozen=True)
class MeanImage(Inverter):
    """Inverter that ignores the representation."""

    image: torch.Tensor

    def invert(self, representation: Representation) -> torch.Tensor:
        return self.image.expand(len(representation), -1, -1, -1)


@register.method
@dataclass(frozen=True)
class Mean(Method):
    """The mean of the fit images, whatever the representation: the floor of every stage."""

    name = "mean"
    family = "floor"
    source = "the constant predictor of least squared error"

    def fit(self, problem: Problem) -> Fitted:
        start = time.perf_counter()
        total = sum(images.double().sum(0) for images in problem.fit.batches(256))
        assert isinstance(total, torch.Tensor)
        image = (total / len(problem.fit)).float().to(problem.device)
        cost = FitCost(shared_seconds=time.perf_counter() - start)
        cost.image_passes = dict.fromkeys(problem.stages, len(problem.fit))
        cost.parameters = dict.fromkeys(problem.stages, image.numel())
        return Fitted(MeanImage(image[None]), cost)


FIT_BATCH = 32
KEEP_BYTES = 4 * 2**30  # of all stages' features; stages beyond it are computed again at each inversion


@dataclass(frozen=True)
class NearestInverter(Inverter):
    """Answers with the fit image whose standardised representation is nearest.

    Attributes:
        kept: every fit image's representation (N, ...), of the stages that fit in memory or on the disk.
        weight: one over each channel's deviation over fit images and places, as the layout broadcasts.
    """

    model: Model
    fit: Split
    kept: dict[str, Rows]
    weight: dict[str, torch.Tensor]

    def invert(self, representation: Representation) -> torch.Tensor:
        return self.fit.images(self.rows(representation).tolist()).to(representation.tensor.device)

    @torch.no_grad()
    def rows(self, representation: Representation) -> torch.Tensor:
        """For each representation the row of the nearest fit image (B,), the first of equals."""
        stage = representation.stage
        weight = self.weight[stage]
        wanted = (representation.tensor * weight).flatten(1)
        least = torch.full((len(wanted),), float("inf"), device=wanted.device)
        rows = torch.zeros(len(wanted), dtype=torch.long, device=wanted.device)
        start = 0
        for features in self._features(stage):
            distance = torch.cdist(wanted, (features.to(wanted.device) * weight).flatten(1))
            here, index = distance.min(1)
            rows = torch.where(here < least, index + start, rows)
            least = torch.minimum(here, least)
            start += len(features)
        return rows

    def _features(self, stage: str) -> Iterator[torch.Tensor]:
        if stage in self.kept:
            yield from self.kept[stage].split(FIT_BATCH)
            return
        for images in self.fit.batches(FIT_BATCH):
            yield self.model.represent(images.to(self.model.device), [stage])[stage].tensor


@register.method
@dataclass(frozen=True)
class Nearest(Method):
    """The fit image with the nearest representation, every channel standardised: a retrieval floor.

    One pass over the fit images; features are kept in memory up to 4 GiB in all, then in a temporary file where the
    disk has room for them, else they are computed again at each inversion.
    """

    name = "nearest"
    family = "floor"
    source = "nearest neighbour in feature space (Cover & Hart 1967, doi 10.1109/TIT.1967.1053964)"
    reads_fit = True

    def fit(self, problem: Problem) -> Fitted:
        model = problem.model
        watch = Stopwatch(problem.device)
        room, disk = KEEP_BYTES, disk_room()
        kept: dict[str, Rows] = {}
        for stage in problem.stages:
            shape = model.layout(stage).shape
            size = 4 * model.layout(stage).values * len(problem.fit)
            if size <= room:  # made whole at once: joined from parts they would be there twice
                room, kept[stage] = room - size, torch.empty(len(problem.fit), *shape)
            elif size <= disk:
                disk, kept[stage] = disk - size, RowsInFile(shape)
        sums = {s: Moments(model.layout(s)) for s in problem.stages}
        done = 0
        with watch:
            for images in problem.fit.batches(FIT_BATCH):
                for stage, found in model.represent(images.to(problem.device), problem.stages).items():
                    sums[stage].add(found.tensor)
                    place = kept.get(stage)
                    if isinstance(place, torch.Tensor):
                        place[done : done + len(images)] = found.tensor.cpu()
                    elif place is not None:
                        try:
                            place.append(found.tensor)
                        except OSError:  # another process took the room
                            del kept[stage]
                done += len(images)
                problem.context.progress(done, len(problem.fit), "images")
        cost = FitCost(shared_seconds=watch.seconds)
        cost.image_passes = dict.fromkeys(problem.stages, len(problem.fit))
        cost.parameters = {s: kept[s].numel() if s in kept else 0 for s in problem.stages}
        where = {s: "in memory" if isinstance(rows, torch.Tensor) else "on disk" for s, rows in kept.items()}
        notes = {s: {"features": where.get(s, "computed again"), "images": len(problem.fit)} for s in sums}
        weight = {s: 1 / found.std for s, found in sums.items()}
        return Fitted(NearestInverter(model, problem.fit, kept, weight), cost, dict(notes))
