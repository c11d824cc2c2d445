"""The one engine of optimisation inversion: a batch of images descends until the model's representation matches.

The objective of an image is (Mahendran & Vedaldi 2015, eq. 1)

    loss(model(view(x)), target) + tv * TV(x) + alpha * ||x||_6^6

Losses of a batch are summed, no parameter is shared and random draws are the same for every image, so that a
reconstruction does not depend on the images beside it (up to rounding, which may differ with the batch's size).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

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

if TYPE_CHECKING:
    from invsuite.methods.optimisation.presets import Optimisation

SNAPSHOTS = (0, 1, 2, 5)  # and these times 10, 100 ...: at how many iterations the curve has a point


def feature_loss(found: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Distance of each representation from its target (B,).

    ``l2`` is ||found - target||^2 / ||target||^2 (Mahendran & Vedaldi 2015, eq. 2), ``cosine`` is one minus the
    cosine of the two.

    Args:
        found, target: (B, values).
    """
    if kind == "cosine":
        return 1 - F.cosine_similarity(found, target, dim=1)
    return (found - target).square().sum(1) / target.square().sum(1).clamp(min=1e-12)


def snapshot_marks(iterations: int) -> set[int]:
    """The iterations of the curve: 0, 1, 2, 5, 10, 20, 50 ... below ``iterations``."""
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
        """One update at ``rate``."""
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Descent(Inverter):
    """Inverter that descends for each representation.

    Args:
        start: (1, 3, 1, 1), the mean colour of the fit images: where the descent begins, and the alpha-norm's centre.
        settings: the method with its parameters.
        seed: of the run; draws also depend on the method, the stage and the restart, and on nothing else.
    """

    model: Model
    start: torch.Tensor
    settings: Optimisation
    seed: int
    progress: ProgressHook

    @property
    def iterations(self) -> int:
        """Of each restart."""
        return self.settings.iterations

    def shortened(self, iterations: int) -> Descent:
        """The same with so many iterations, and silent."""
        return replace(self, settings=replace(self.settings, iterations=iterations), progress=silent)

    def invert(self, representation: Representation) -> torch.Tensor:
        """Reconstructions (B, 3, H, W) in [0, 1].

        Raises:
            ConvergenceError: if an image becomes NaN or infinite.
        """
        return self.invert_watched(representation, None)

    def invert_watched(self, representation: Representation, watch: Watch | None) -> torch.Tensor:
        """Like `invert`; ``watch`` sees each batch at iterations 0, 1, 2, 5, 10 ... and at the end.

        Iterations go on counting over restarts; in the last snapshot are the images that are kept.
        """
        size = self.settings.batch
        parts = [
            self._best(representation.stage, representation[slice(i, i + size)].tensor.detach().flatten(1), watch)
            for i in range(0, len(representation), size)
        ]
        return torch.cat(parts)

    def _best(self, stage: str, target: torch.Tensor, watch: Watch | None) -> torch.Tensor:
        """The restart with the least objective, for each image."""
        best, least = None, None
        begun = time.perf_counter()
        for restart in range(self.settings.restarts):
            images = self._descend(stage, target, restart, begun, watch)
            with torch.no_grad():
                distance = self._distance(images, stage, target)
                objective = distance + self._prior(images, stage)
            if not torch.isfinite(objective).all():
                raise ConvergenceError(f"'{self.settings.name}' diverged at stage '{stage}'; lower its learning_rate")
            if best is None or least is None:
                best, least, kept = images, objective, distance
            else:
                better = objective < least
                best = torch.where(better[:, None, None, None], images, best)
                least, kept = torch.where(better, objective, least), torch.where(better, distance, kept)
        assert best is not None
        if watch is not None:
            watch(Snapshot(self.settings.iterations * self.settings.restarts, time.perf_counter() - begun, kept, best))
        return best

    @torch.enable_grad()
    def _descend(
        self, stage: str, target: torch.Tensor, restart: int, begun: float, watch: Watch | None
    ) -> torch.Tensor:
        settings = self.settings
        generator = torch.Generator().manual_seed(derived_seed(self.seed, settings.name, stage, restart))
        pixels = self._pixels(len(target), generator)
        views = Views(settings.jitter, settings.zoom, settings.colour_shift, generator)
        optimiser = (
            Adam(pixels.parameters)
            if settings.optimiser == "adam"
            else NormalisedMomentum(pixels.parameters, settings.momentum)
        )
        marks, before = snapshot_marks(settings.iterations), restart * settings.iterations
        for step in range(settings.iterations):
            images = pixels.images()
            distance = torch.zeros(len(target), device=target.device)
            for _ in range(settings.ensemble):
                distance = distance + self._distance(views(images), stage, target) / settings.ensemble
            if watch is not None and step in marks:
                shown = images.detach().clamp(0, 1).clone()
                watch(Snapshot(before + step, time.perf_counter() - begun, distance.detach(), shown))
            (distance + self._prior(images, stage)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step(settings.rate(step))
            pixels.project()
            done, total = before + step + 1, settings.iterations * settings.restarts
            self.progress(done, total, f"iterations at {stage}")
        with torch.no_grad():
            return pixels.images().clone()

    def _distance(self, images: torch.Tensor, stage: str, target: torch.Tensor) -> torch.Tensor:
        return feature_loss(self.model.run(images, None, stage).flatten(1), target, self.settings.loss)

    def _prior(self, images: torch.Tensor, stage: str) -> torch.Tensor:
        total = torch.zeros(len(images), device=images.device)
        tv = self.settings.tv_at.get(stage, self.settings.tv)
        if tv:
            total = total + tv * total_variation(images)
        if self.settings.alpha:
            total = total + self.settings.alpha * alpha_norm(images, self.start)
        return total

    def _pixels(self, count: int, generator: torch.Generator) -> Pixels:
        settings, size, device = self.settings, self.model.image_size, self.start.device
        if settings.pixels == "network":
            return ImagePrior(count, size, settings.width, settings.depth, generator, device)
        start = self.start.expand(count, -1, *size)
        shape = FourierPixels.noise_shape(size) if settings.pixels == "fourier" else (3, *size)
        noise = noise_like(shape, count, generator, device) if settings.start == "noise" else None
        if settings.pixels == "fourier":
            return FourierPixels(start, noise)
        return ClampedPixels(start, noise) if settings.pixels == "clamp" else SigmoidPixels(start, noise)
