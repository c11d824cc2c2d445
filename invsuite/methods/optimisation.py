"""Optimisation inversion: per image, gradient descent on pixels until the model's representation matches.

Mahendran & Vedaldi 2015 (arXiv 1412.0035), eq. 1 and 5: minimise the squared distance of representations, divided
by the squared norm of the target, plus a total-variation prior. Here images of a batch descend side by side (their
losses are summed, so each has its own gradient) and pixels stay in [0, 1] through a sigmoid, never by rescaling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from invsuite.errors import ConvergenceError
from invsuite.methods.base import FitCost, Fitted, Method, Problem, ProgressHook
from invsuite.models.base import Model, Representation


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Isotropic total variation with exponent beta = 2, mean per pixel, of each image (B,)."""
    dx = (images[..., :, 1:] - images[..., :, :-1]).square()
    dy = (images[..., 1:, :] - images[..., :-1, :]).square()
    return dx.mean((1, 2, 3)) + dy.mean((1, 2, 3))


@dataclass(frozen=True)
class PixelDescent:
    """Inverter that descends from ``start`` (1, 3, H, W), the mean of the fit images, for each representation."""

    model: Model
    start: torch.Tensor
    settings: Optimisation
    progress: ProgressHook

    def invert(self, stage: str, representation: Representation) -> torch.Tensor:
        parts = [
            self._descend(stage, representation[slice(i, i + self.settings.batch)].tensor)
            for i in range(0, len(representation), self.settings.batch)
        ]
        return torch.cat(parts)

    @torch.enable_grad()
    def _descend(self, stage: str, target: torch.Tensor) -> torch.Tensor:
        target = target.detach().flatten(1)
        scale = target.square().sum(1)
        start = self.start.clamp(0.02, 0.98).expand(len(target), -1, -1, -1)
        pixels = torch.logit(start).clone().requires_grad_(True)
        optimiser = torch.optim.Adam([pixels], lr=self.settings.learning_rate)
        for step in range(self.settings.iterations):
            for group in optimiser.param_groups:  # linear decay over the last half
                left = 2 * (1 - step / self.settings.iterations)
                group["lr"] = self.settings.learning_rate * min(1.0, left)
            images = torch.sigmoid(pixels)
            found = self.model.run(images, None, stage).flatten(1)
            distance = (found - target).square().sum(1) / scale
            loss = (distance + self.settings.tv * total_variation(images)).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            self.progress(step + 1, self.settings.iterations, f"iterations at {stage}")
        if not torch.isfinite(pixels).all():
            raise ConvergenceError(f"optimisation at stage '{stage}' diverged; lower its learning_rate")
        return torch.sigmoid(pixels.detach())


@dataclass(frozen=True)
class Optimisation(Method):
    """Gradient descent on pixels with a total-variation prior.

    ``iterations`` of Adam at ``learning_rate`` on the logits of pixels, ``tv`` weight of the prior, ``batch`` images
    side by side.
    """

    iterations: int = 200
    learning_rate: float = 0.1
    tv: float = 30.0
    batch: int = 16

    name = "optimisation"
    family = "optimisation"
    source = "Mahendran & Vedaldi 2015, arXiv 1412.0035"

    def fit(self, problem: Problem) -> Fitted:
        total = sum(images.double().sum(0) for images in problem.fit.batches(256))
        assert isinstance(total, torch.Tensor)
        start = (total / len(problem.fit)).float().mean((1, 2), keepdim=True).to(problem.device)
        image = start.expand(3, *problem.model.image_size)[None]
        cost = FitCost(image_passes=dict.fromkeys(problem.stages, 0), parameters=dict.fromkeys(problem.stages, 0))
        return Fitted(PixelDescent(problem.model, image, self, problem.progress), cost)
