"""The one engine of optimisation inversion: a batch of images descends until the model's representation matches.

The objective of an image x is (Mahendran & Vedaldi 2015, eq. 1)

    loss(model(view(x)), target) + tv * TV(x) + alpha * ||x||_6^6

Losses of a batch are summed, no parameter is shared and random draws are the same for every image, so that a
reconstruction does not depend on the images beside it (up to rounding, which may differ with the batch's size).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F

from invsuite._system.validation import Natural, NonNegativeFloat, Positive, PositiveFloat, Range
from invsuite.errors import ConvergenceError
from invsuite.methods.base import Inverter, Snapshot, Watch
from invsuite.methods.optimisation.pixels import (
    ClampedPixels,
    FourierPixels,
    ImagePrior,
    Pixels,
    SigmoidPixels,
    noise_like,
)
from invsuite.methods.optimisation.priors import Views, alpha_norm, total_variation
from invsuite.methods.problem import ProgressHook, derived_seed, silent
from invsuite.models.base import Model, Representation

SNAPSHOTS = (0, 1, 2, 5)  # and these times 10, 100 ...: at how many iterations the curve has a point

Loss = Literal["l2", "cosine"]
Parametrisation = Literal["sigmoid", "clamp", "fourier", "network"]
StartImage = Literal["mean", "noise"]
Optimiser = Literal["adam", "momentum"]
Schedule = Literal["constant", "linear", "step"]


@dataclass(frozen=True)
class DescentSettings:
    """How images descend.

    Attributes:
        iterations: updates of each restart.
        learning_rate: of Adam; with ``momentum``, the root mean square of a step in units of the parameters.
        loss: ``l2``, relative to the target's squared norm, or ``cosine``.
        tv: weight of the total variation (beta = 2, mean per pixel).
        tv_at: other weights of it by stage.
        alpha: weight of the alpha-norm (alpha = 6) around the mean colour.
        pixels: what is moved: ``sigmoid`` (logits of pixels), ``clamp`` (pixels), ``fourier`` (coefficients), or
            ``network`` (deep image prior).
        start: the ``mean`` colour of the fit images, or the same with ``noise``.
        optimiser: ``adam``, or ``momentum`` (`NormalisedMomentum`).
        momentum: of that optimiser.
        schedule: of the learning rate: ``constant``, ``linear`` decay over the last half, or ``step``.
        drops: how often the ``step`` schedule divides the rate, at equal parts of the iterations.
        drop_by: by which factor.
        restarts: descents from different draws; the one with the least objective is kept for each image.
        jitter: largest cyclic shift of a random view in pixels.
        zoom: largest relative enlargement of a random view.
        colour_shift: deviation of a random view's gain and offset per channel.
        ensemble: random views per iteration whose losses are averaged.
        width: channels of a deep image prior's network.
        depth: how often it halves the resolution.
        batch: images that descend side by side.
    """

    iterations: Positive = 200
    learning_rate: PositiveFloat = 0.1
    loss: Loss = "l2"
    tv: NonNegativeFloat = 30.0
    tv_at: dict[str, NonNegativeFloat] = field(default_factory=dict)
    alpha: NonNegativeFloat = 0.0
    pixels: Parametrisation = "sigmoid"
    start: StartImage = "mean"
    optimiser: Optimiser = "adam"
    momentum: Annotated[float, Range(minimum=0, below=1)] = 0.9
    schedule: Schedule = "linear"
    drops: Positive = 3
    drop_by: Annotated[float, Range(minimum=1)] = 3.0
    restarts: Positive = 1
    jitter: Natural = 0
    zoom: NonNegativeFloat = 0.0
    colour_shift: NonNegativeFloat = 0.0
    ensemble: Positive = 1
    width: Positive = 32
    depth: Positive = 4
    batch: Positive = 16

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0)."""
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, 2 * (1 - step / self.iterations))
        if self.schedule == "step":
            fallen = step * (self.drops + 1) // self.iterations
            return self.learning_rate / float(self.drop_by) ** fallen
        return self.learning_rate


def feature_loss(representations: torch.Tensor, targets: torch.Tensor, kind: Loss) -> torch.Tensor:
    """Return the distance of each representation from its target (B,).

    ``l2`` is ||representation - target||^2 / ||target||^2 (Mahendran & Vedaldi 2015, eq. 2), ``cosine`` is one minus
    the cosine of the two.

    Args:
        representations: (B, values).
        targets: (B, values).
        kind: of distance.
    """
    if kind == "cosine":
        return 1 - F.cosine_similarity(representations, targets, dim=1)
    return (representations - targets).square().sum(1) / targets.square().sum(1).clamp(min=1e-12)


def snapshot_marks(iterations: int) -> set[int]:
    """Return the iterations of the curve: 0, 1, 2, 5, 10, 20, 50 ... below ``iterations``."""
    return {m * 10**e for m in SNAPSHOTS for e in range(7) if m * 10**e < iterations}


class NormalisedMomentum:
    """Gradient descent with momentum on steps whose root mean square is the learning rate.

    Mahendran & Vedaldi set the rate by hand for every network and layer; dividing each image's gradient by its root
    mean square lets one rate, in units of pixel values, serve every stage.
    """

    def __init__(self, parameters: list[torch.Tensor], momentum: float) -> None:
        self.parameters, self.momentum = parameters, momentum
        self.velocity = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every image's parameters; axis 0 is the image."""
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            assert parameter.grad is not None
            size = parameter.grad.flatten(1).square().mean(1).sqrt().clamp(min=1e-20)
            velocity.mul_(self.momentum).sub_(rate * parameter.grad / size.view(-1, *[1] * (parameter.dim() - 1)))
            parameter.add_(velocity)
            parameter.grad = None


class Adam:
    """`torch.optim.Adam` behind the same two calls."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self.inner = torch.optim.Adam(parameters)

    def step(self, rate: float) -> None:
        """Make one update at ``rate``."""
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Descent(Inverter):
    """Inverter that descends for each representation.

    Attributes:
        model: frozen.
        mean_colour: (1, 3, 1, 1), of the fit images: where the descent begins, and the alpha-norm's centre.
        settings: how.
        name: of the method; draws depend on it, the seed, the stage and the restart, and on nothing else.
        seed: of the run.
        progress: called after every iteration.
    """

    model: Model
    mean_colour: torch.Tensor
    settings: DescentSettings
    name: str
    seed: int
    progress: ProgressHook

    @property
    def iterations(self) -> int:
        """Return how many updates each restart makes."""
        return self.settings.iterations

    def shortened(self, iterations: int) -> Descent:
        """Return the same descent with so many iterations, and silent."""
        return replace(self, settings=replace(self.settings, iterations=iterations), progress=silent)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the mean colour: all that a fit gives."""
        return {"mean_colour": self.mean_colour}

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1].

        Raises:
            ConvergenceError: if an image becomes NaN or infinite.
        """
        return self.invert_watched(representation, None)

    def invert_watched(self, representation: Representation, watch: Watch | None) -> torch.Tensor:
        """Return what `invert` returns; ``watch`` is shown each batch at iterations 0, 1, 2, 5, 10 ... and at the end.

        Iterations go on counting over restarts; in the last snapshot are the images that are kept.
        """
        size = self.settings.batch
        parts = [
            self._best(representation.stage, representation[slice(i, i + size)].tensor.detach().flatten(1), watch)
            for i in range(0, len(representation), size)
        ]
        return torch.cat(parts)

    def _best(self, stage: str, targets: torch.Tensor, watch: Watch | None) -> torch.Tensor:
        """Return the restart with the least objective, for each image."""
        best, least = None, None
        begun = time.perf_counter()
        for restart in range(self.settings.restarts):
            images = self._descend(stage, targets, restart, begun, watch)
            with torch.no_grad():
                distances = self._distances(images, stage, targets)
                objectives = distances + self._priors(images, stage)
            if not torch.isfinite(objectives).all():
                raise ConvergenceError(f"'{self.name}' diverged at stage '{stage}'; lower its learning_rate")
            if best is None or least is None:
                best, least, kept = images, objectives, distances
            else:
                better = objectives < least
                best = torch.where(better[:, None, None, None], images, best)
                least, kept = torch.where(better, objectives, least), torch.where(better, distances, kept)
        assert best is not None
        if watch is not None:
            watch(Snapshot(self.settings.iterations * self.settings.restarts, time.perf_counter() - begun, kept, best))
        return best

    @torch.enable_grad()
    def _descend(
        self, stage: str, targets: torch.Tensor, restart: int, begun: float, watch: Watch | None
    ) -> torch.Tensor:
        settings = self.settings
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.name, stage, restart))
        pixels = self._pixels(len(targets), generator)
        views = Views(settings.jitter, settings.zoom, settings.colour_shift, generator)
        optimiser = (
            Adam(pixels.parameters)
            if settings.optimiser == "adam"
            else NormalisedMomentum(pixels.parameters, settings.momentum)
        )
        marks, before = snapshot_marks(settings.iterations), restart * settings.iterations
        for step in range(settings.iterations):
            images = pixels.images()
            distances = torch.zeros(len(targets), device=targets.device)
            for _ in range(settings.ensemble):
                distances = distances + self._distances(views(images), stage, targets) / settings.ensemble
            if watch is not None and step in marks:
                current = images.detach().clamp(0, 1).clone()
                watch(Snapshot(before + step, time.perf_counter() - begun, distances.detach(), current))
            (distances + self._priors(images, stage)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step(settings.rate(step))
            pixels.project()
            done, total = before + step + 1, settings.iterations * settings.restarts
            self.progress(done, total, f"iterations at {stage}")
        with torch.no_grad():
            return pixels.images().clone()

    def _distances(self, images: torch.Tensor, stage: str, targets: torch.Tensor) -> torch.Tensor:
        return feature_loss(self.model.run(images, None, stage).flatten(1), targets, self.settings.loss)

    def _priors(self, images: torch.Tensor, stage: str) -> torch.Tensor:
        total = torch.zeros(len(images), device=images.device)
        tv = self.settings.tv_at.get(stage, self.settings.tv)
        if tv:
            total = total + tv * total_variation(images)
        if self.settings.alpha:
            total = total + self.settings.alpha * alpha_norm(images, self.mean_colour)
        return total

    def _pixels(self, count: int, generator: torch.Generator) -> Pixels:
        settings, size, device = self.settings, self.model.image_size, self.mean_colour.device
        if settings.pixels == "network":
            return ImagePrior(count, size, settings.width, settings.depth, generator, device)
        start = self.mean_colour.expand(count, -1, *size)
        shape = FourierPixels.noise_shape(size) if settings.pixels == "fourier" else (3, *size)
        noise = noise_like(shape, count, generator, device) if settings.start == "noise" else None
        if settings.pixels == "fourier":
            return FourierPixels(start, noise)
        return ClampedPixels(start, noise) if settings.pixels == "clamp" else SigmoidPixels(start, noise)
