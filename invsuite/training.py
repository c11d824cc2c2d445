"""The one training loop that every trained method shares, so that they differ in their objective and in nothing else.

Each step: one batch of fit images, one forward pass of the frozen model, then for every inverse network its own
loss, backward, clip and update. The networks are independent: training one or ten together gives the same
weights, because each has its own seed and all see the images in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from invsuite.data.split import Split
from invsuite.errors import ConvergenceError
from invsuite.methods.base import Problem
from invsuite.timing import Stopwatch

RECIPE_VERSION = 1  # raise when the loop changes what it computes: it is part of every cell's identity

Tensors = dict[str, torch.Tensor]
#: images (B, 3, H, W) and every stage's tensor of one batch -> scalar loss of ``module``
Objective = Callable[[nn.Module, torch.Tensor, Tensors], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Optimisation settings, the same for every trained method: AdamW, linear warm-up, cosine decay, clipping.

    ``flip`` mirrors every second pass over the fit images horizontally.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: float = 0.05
    evaluations: int = 8
    flip: bool = True


@dataclass
class Job:
    """One inverse network to train: ``needs`` are the stages whose tensors its objective reads."""

    name: str
    module: nn.Module
    needs: tuple[str, ...]
    objective: Objective


@dataclass
class Outcome:
    """What training one job took and reached. ``curve`` holds (image passes, own seconds, selection loss)."""

    seconds: float = 0.0
    image_passes: int = 0
    best_selection_loss: float = math.inf
    best_at_pass: int = 0
    parameters: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """For the record."""
        return {
            "selection_loss": self.best_selection_loss,
            "selected_at_pass": self.best_at_pass,
            "curve": [list(point) for point in self.curve],
        }


@dataclass
class TrainingReport:
    """Outcome per job, and the seconds of the frozen forward passes all jobs shared."""

    outcomes: dict[str, Outcome]
    shared_seconds: float


def train(problem: Problem, jobs: Sequence[Job], recipe: Recipe) -> TrainingReport:
    """Train every job on the problem's budget; each module ends in eval mode with its best selection weights.

    Raises:
        ConvergenceError: if a loss becomes NaN or infinite, naming the job and the step.
    """
    model, budget = problem.model, problem.budget
    stages = model.order([stage for job in jobs for stage in job.needs])
    steps = max(1, math.ceil(budget.image_passes / budget.batch))
    shared = Stopwatch(problem.device)
    watches = {job.name: Stopwatch(problem.device) for job in jobs}
    outcomes = {job.name: Outcome(parameters=sum(p.numel() for p in job.module.parameters())) for job in jobs}
    optimisers, schedulers, best = {}, {}, dict[str, dict[str, torch.Tensor]]()
    for job in jobs:
        job.module.to(problem.device).train()
        optimisers[job.name] = torch.optim.AdamW(
            job.module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedulers[job.name] = torch.optim.lr_scheduler.LambdaLR(
            optimisers[job.name], lambda step: _rate(step, steps, recipe.warmup)
        )
    marks = {math.ceil(steps * (i + 1) / recipe.evaluations) for i in range(recipe.evaluations)}
    for step, images in enumerate(_batches(problem.fit, budget.batch, steps, problem.seed, recipe.flip), 1):
        images = images.to(problem.device)
        with shared:
            found = {s: r.tensor for s, r in model.represent(images, stages).items()}
        for job in jobs:
            with watches[job.name]:
                optimisers[job.name].zero_grad(set_to_none=True)
                loss = job.objective(job.module, images, found)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(job.module.parameters(), recipe.clip, foreach=True)
                optimisers[job.name].step()
                schedulers[job.name].step()
        if step in marks:
            losses = _selection_losses(problem, jobs, stages)
            for job in jobs:
                outcome, loss_now = outcomes[job.name], losses[job.name]
                if not math.isfinite(loss_now):
                    raise ConvergenceError(
                        f"training of '{job.name}' gave a selection loss of {loss_now} after {step} steps; "
                        "lower the learning rate"
                    )
                outcome.image_passes = step * budget.batch
                outcome.seconds = watches[job.name].seconds
                outcome.curve.append((outcome.image_passes, round(outcome.seconds, 3), loss_now))
                if loss_now < outcome.best_selection_loss:
                    outcome.best_selection_loss, outcome.best_at_pass = loss_now, outcome.image_passes
                    best[job.name] = {k: v.detach().clone() for k, v in job.module.state_dict().items()}
        problem.progress(step, steps, "training steps")
    for job in jobs:
        job.module.load_state_dict(best[job.name])
        job.module.eval().requires_grad_(False)
    return TrainingReport(outcomes, shared.seconds)


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = min(1.0, (step + 1) / max(1, round(warmup * steps)))
    return rising * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.005)


def _batches(fit: Split, size: int, steps: int, seed: int, flip: bool):  # type: ignore[no-untyped-def]
    """Yield ``steps`` batches: reshuffled passes over the fit images, a random half of each batch mirrored."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += torch.randperm(len(fit), generator=generator).tolist()
        rows, order = order[:size], order[size:]
        images = fit.images(rows)
        if flip:
            mirrored = torch.rand(size, generator=generator) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        yield images


@torch.no_grad()
def _selection_losses(problem: Problem, jobs: Sequence[Job], stages: Sequence[str]) -> dict[str, float]:
    """Mean loss of every job over the selection images, modules in eval mode for the while."""
    totals = dict.fromkeys((job.name for job in jobs), 0.0)
    for job in jobs:
        job.module.eval()
    for images in problem.select.batches(problem.budget.batch):
        images = images.to(problem.device)
        found = {s: r.tensor for s, r in problem.model.represent(images, stages).items()}
        for job in jobs:
            totals[job.name] += float(job.objective(job.module, images, found)) * len(images)
    for job in jobs:
        job.module.train()
    return {name: total / len(problem.select) for name, total in totals.items()}
