"""Closed-form ridge regression from a representation to pixels: the best linear readout of each stage.

For representations with a place (maps, tokens) one linear map, shared by all places, with an intercept for each place
(which takes out position embeddings), predicts the patch of pixels under each token. For object queries, which have no
place, one linear map of all queries together predicts the image at a coarse resolution, enlarged bicubically.
Everything comes from one pass over the fit images: the normal equations of every stage are accumulated, never the
features.
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
    """Images (B, 3, H, W) as patches (B, h * w, 3 * H/h * W/w), places in row-major order."""
    size = (images.shape[2] // grid[0], images.shape[3] // grid[1])
    return F.unfold(images, size, stride=size).transpose(1, 2)


def images_from(patches: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The inverse of `patches_of`."""
    patch = (size[0] // grid[0], size[1] // grid[1])
    return F.fold(patches.transpose(1, 2), size, patch, stride=patch)


@dataclass(frozen=True)
class Readout:
    """How features and targets are laid out for one stage."""

    layout: Layout
    size: tuple[int, int]

    def features(self, tensor: torch.Tensor) -> torch.Tensor:
        """Features (B, places, d); queries have one place, the image."""
        if self.layout.grid is None:
            return tensor.flatten(1)[:, None]
        return self.layout.to_map(tensor).flatten(2).transpose(1, 2)

    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """Targets (B, places, t) that go with the features."""
        if self.layout.grid is None:
            return F.interpolate(images, (COARSE, COARSE), mode="area").flatten(1)[:, None]
        return patches_of(images, self.layout.grid)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Predicted targets (B, places, t) back to images (B, 3, H, W), not clamped."""
        if self.layout.grid is None:
            coarse = rows[:, 0].unflatten(1, (3, COARSE, COARSE))
            return F.interpolate(coarse, self.size, mode="bicubic", align_corners=False)
        return images_from(rows, self.layout.grid, self.size)


@dataclass
class NormalEquations:
    """Sums over images in float64 - X'X and X'Y over all places, sums of x and y per place - which are all that ridge
    regression with an intercept per place needs."""

    images: int = 0
    xx: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0
    x: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    y: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Accumulate features (B, places, d) and targets (B, places, t); products are computed in float32 a batch."""
        self.images += len(features)
        rows, wanted = features.flatten(0, 1), targets.flatten(0, 1)
        self.xx = self.xx + (rows.T @ rows).double()
        self.xy = self.xy + (rows.T @ wanted).double()
        self.yy += float(wanted.double().square().sum())
        self.x = self.x + features.double().sum(0)
        self.y = self.y + targets.double().sum(0)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean features (places, d) and mean targets (places, t)."""
        return self.x / self.images, self.y / self.images

    def around(self, mean_x: torch.Tensor, mean_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        """X'X, X'Y and ||Y||^2, a row, of these rows with the given means per place taken off."""
        rows = self.images * len(mean_x)
        xx = self.xx - self.x.T @ mean_x - mean_x.T @ self.x + self.images * mean_x.T @ mean_x
        xy = self.xy - self.x.T @ mean_y - mean_x.T @ self.y + self.images * mean_x.T @ mean_y
        yy = self.yy - 2 * float((self.y * mean_y).sum()) + self.images * float(mean_y.square().sum())
        return xx / rows, xy / rows, yy / rows


def solve(fit: NormalEquations, select: NormalEquations) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Ridge weights (d, t), intercept per place (places, t) and the relative lambda of least selection error."""
    mean_x, mean_y = fit.means()
    xx, xy, _ = fit.around(mean_x, mean_y)
    seen_xx, seen_xy, seen_yy = select.around(mean_x, mean_y)
    scale = xx.diagonal().clamp(min=1e-12 * float(xx.diagonal().max()) + 1e-300).sqrt()
    values, vectors = torch.linalg.eigh(xx / torch.outer(scale, scale))
    rotated = vectors.T @ (xy / scale[:, None])
    best: tuple[float, float, torch.Tensor] | None = None
    for relative in LAMBDAS:
        shrunk = rotated / (values.clamp(min=0) + relative * values.mean())[:, None]
        weight = (vectors @ shrunk) / scale[:, None]
        error = seen_yy - 2 * float((seen_xy * weight).sum()) + float(((seen_xx @ weight) * weight).sum())
        if best is None or error < best[0]:
            best = (error, relative, weight)
    assert best is not None
    _, relative, weight = best
    return weight.float(), (mean_y - mean_x @ weight).float(), relative


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
    version = 2

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
                        centre = centres.setdefault(stage, (rows.mean((0, 1)), targets.mean((0, 1))))
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
