"""Closed-form ridge regression from a representation to pixels: the best linear readout of each stage.

For representations with a place (maps, tokens) one linear map, shared by all places, predicts the patch of pixels
under each token. For object queries, which have no place, one linear map of all queries together predicts the image
at a coarse resolution, enlarged bicubically. Everything comes from one pass over the fit images: the normal
equations of every stage are accumulated, never the features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from invsuite.methods.base import FitCost, Fitted, Method, Problem
from invsuite.models.base import Layout, Representation
from invsuite.timing import Stopwatch

COARSE = 12  # side of the coarse image predicted from queries
LAMBDAS = tuple(10.0**e for e in range(-8, 3))  # relative to the mean eigenvalue of the standardised features


def patches_of(images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Images (B, 3, H, W) as rows of patches (B * h * w, 3 * H/h * W/w), places in row-major order."""
    size = (images.shape[2] // grid[0], images.shape[3] // grid[1])
    return F.unfold(images, size, stride=size).transpose(1, 2).flatten(0, 1)


def images_from(patches: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The inverse of `patches_of`."""
    count = grid[0] * grid[1]
    patch = (size[0] // grid[0], size[1] // grid[1])
    return F.fold(patches.unflatten(0, (-1, count)).transpose(1, 2), size, patch, stride=patch)


@dataclass(frozen=True)
class Readout:
    """How features and targets are laid out for one stage."""

    layout: Layout
    size: tuple[int, int]

    def features(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows of features (N, d): one a place, or one an image for queries."""
        if self.layout.grid is None:
            return tensor.flatten(1)
        return self.layout.to_map(tensor).flatten(2).transpose(1, 2).flatten(0, 1)

    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """Rows of targets (N, t) that go with the features."""
        if self.layout.grid is None:
            return F.interpolate(images, (COARSE, COARSE), mode="area").flatten(1)
        return patches_of(images, self.layout.grid)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Predicted rows back to images (B, 3, H, W), not clamped."""
        if self.layout.grid is None:
            coarse = rows.unflatten(1, (3, COARSE, COARSE))
            return F.interpolate(coarse, self.size, mode="bicubic", align_corners=False)
        return images_from(rows, self.layout.grid, self.size)


@dataclass
class NormalEquations:
    """Sums over rows in float64: count, X'X, X'Y, and the means, all that ridge regression needs."""

    count: int = 0
    xx: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0
    x: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    y: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Accumulate rows; products are computed in float32 a batch, sums kept in float64."""
        self.count += len(features)
        self.xx = self.xx + (features.T @ features).double()
        self.xy = self.xy + (features.T @ targets).double()
        self.yy += float(targets.double().square().sum())
        self.x = self.x + features.double().sum(0)
        self.y = self.y + targets.double().sum(0)

    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Covariance X'X and X'Y around the means, divided by the count."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        return (
            self.xx / self.count - torch.outer(mean_x, mean_x),
            self.xy / self.count - torch.outer(mean_x, mean_y),
        )

    def error(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """Mean squared error per row of ``y = x W + b`` on these rows, from the sums alone."""
        # ||y||^2 - 2 y.(xW+b) + ||xW+b||^2, summed over rows
        cross = (self.xy * weight).sum() + self.y @ bias
        square = ((self.xx @ weight) * weight).sum() + 2 * (self.x @ weight) @ bias + self.count * bias @ bias
        return float((self.yy - 2 * cross + square) / self.count)


def solve(fit: NormalEquations, select: NormalEquations) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Ridge weights (d, t), bias (t,) and the relative lambda with the least error on the selection rows."""
    xx, xy = fit.centred()
    scale = xx.diagonal().clamp(min=1e-12 * float(xx.diagonal().max()) + 1e-300).sqrt()
    values, vectors = torch.linalg.eigh(xx / torch.outer(scale, scale))
    rotated = vectors.T @ (xy / scale[:, None])
    mean_x, mean_y = fit.x / fit.count, fit.y / fit.count
    best: tuple[float, float, torch.Tensor, torch.Tensor] | None = None
    for relative in LAMBDAS:
        shrunk = rotated / (values.clamp(min=0) + relative * values.mean())[:, None]
        weight = (vectors @ shrunk) / scale[:, None]
        bias = mean_y - mean_x @ weight
        error = select.error(weight, bias)
        if best is None or error < best[0]:
            best = (error, relative, weight, bias)
    assert best is not None
    return best[2].float(), best[3].float(), best[1]


@dataclass(frozen=True)
class LinearInverter:
    """One linear readout a stage."""

    readouts: dict[str, Readout]
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def invert(self, stage: str, representation: Representation) -> torch.Tensor:
        weight, bias = self.weights[stage]
        readout = self.readouts[stage]
        rows = readout.features(representation.tensor) @ weight + bias
        return readout.images(rows).clamp(0, 1)


@dataclass(frozen=True)
class Ridge(Method):
    """Ridge regression for every stage from one streamed pass; lambda chosen on the selection images."""

    name = "ridge"
    family = "closed form"
    source = "Hoerl & Kennard 1970, one linear readout per stage"

    def fit(self, problem: Problem) -> Fitted:
        model = problem.model
        readouts = {s: Readout(model.layout(s), model.image_size) for s in problem.stages}
        fits = {s: NormalEquations() for s in problem.stages}
        selects = {s: NormalEquations() for s in problem.stages}
        shared = Stopwatch(problem.device)
        own = {s: Stopwatch(problem.device) for s in problem.stages}
        centres: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        total, done = len(problem.fit) + len(problem.select), 0
        for split, sums in ((problem.fit, fits), (problem.select, selects)):
            for images in split.batches(64):
                images = images.to(problem.device)
                with shared:
                    found = model.represent(images, problem.stages)
                for stage, readout in readouts.items():
                    with own[stage]:
                        rows, targets = readout.features(found[stage].tensor), readout.targets(images)
                        # sums around a nearby point keep float32 products exact where channels have large means
                        centre = centres.setdefault(stage, (rows.mean(0), targets.mean(0)))
                        sums[stage].add(rows - centre[0], targets - centre[1])
                done += len(images)
                problem.progress(done, total, "images")
        weights, notes = {}, {}
        for stage in problem.stages:
            with own[stage]:
                weight, bias, relative = solve(fits[stage], selects[stage])
            around_x, around_y = centres[stage]
            weights[stage] = (weight, bias + around_y - around_x @ weight)
            notes[stage] = {"lambda_relative": relative, "features": len(weight), "targets": weight.shape[1]}
        cost = FitCost(
            stage_seconds={s: own[s].seconds for s in problem.stages},
            shared_seconds=shared.seconds,
            image_passes=dict.fromkeys(problem.stages, len(problem.fit)),
            parameters={s: w.numel() + b.numel() for s, (w, b) in weights.items()},
        )
        return Fitted(LinearInverter(readouts, weights), cost, notes)
