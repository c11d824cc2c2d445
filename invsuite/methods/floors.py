"""Floors: what a method must beat to have learned anything from the representation."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from invsuite.methods.base import FitCost, Fitted, Method, Problem
from invsuite.models.base import Representation


@dataclass(frozen=True)
class MeanImage:
    """Inverter that ignores the representation."""

    image: torch.Tensor

    def invert(self, stage: str, representation: Representation) -> torch.Tensor:
        return self.image.expand(len(representation), -1, -1, -1)


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
