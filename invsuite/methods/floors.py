"""Floors: what a method must beat to have learned anything from the representation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from invsuite._system.spill import TensorLike, allocate
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


@dataclass(frozen=True)
class NearestInverter(Inverter):
    """Answers with the fit image whose standardised representation is nearest.

    Attributes:
        kept: every fit image's representation (N, ...), of the stages for which memory or the disk has room.
        weight: one over each channel's deviation over fit images and places, as the layout broadcasts.
    """

    model: Model
    fit: Split
    kept: dict[str, TensorLike]
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

    One pass over the fit images; their features are kept in memory or in a file (`invsuite._system.spill.allocate`),
    and computed again at each inversion where neither has room.
    """

    name = "nearest"
    family = "floor"
    source = "nearest neighbour in feature space (Cover & Hart 1967, doi 10.1109/TIT.1967.1053964)"
    reads_fit = True

    def fit(self, problem: Problem) -> Fitted:
        model = problem.model
        watch = Stopwatch(problem.device)
        kept: dict[str, TensorLike | None] = {}
        sums = {s: Moments(model.layout(s)) for s in problem.stages}
        done = 0
        with watch:
            for images in problem.fit.batches(FIT_BATCH):
                for stage, representation in model.represent(images.to(problem.device), problem.stages).items():
                    sums[stage].add(representation.tensor)
                    features = representation.tensor.cpu()
                    if stage not in kept:
                        kept[stage] = allocate((len(problem.fit), *features.shape[1:]), features)
                    if (place := kept[stage]) is not None:
                        place[done : done + len(images)] = features
                done += len(images)
                problem.context.progress(done, len(problem.fit), "images")
        cost = FitCost(shared_seconds=watch.seconds)
        cost.image_passes = dict.fromkeys(problem.stages, len(problem.fit))
        places = {stage: rows for stage, rows in kept.items() if rows is not None}
        cost.parameters = {stage: places[stage].numel() if stage in places else 0 for stage in problem.stages}
        where = {s: "in memory" if isinstance(rows, torch.Tensor) else "on disk" for s, rows in places.items()}
        notes = {s: {"features": where.get(s, "computed again"), "images": len(problem.fit)} for s in sums}
        weight = {s: 1 / found.std for s, found in sums.items()}
        return Fitted(NearestInverter(model, problem.fit, places, weight), cost, dict(notes))
