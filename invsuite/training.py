"""The one training loop that every trained method shares, so that they differ in their objective and in nothing else.

Each step: one batch of fit images, one forward pass of the frozen model, then for every inverse network its own
loss, backward, clip and update. The networks are independent: training one or ten together gives the same
weights, because each has its own seed and all see the images in the same order.

A budget (`invsuite.methods.base.Budget`) limits image passes, own seconds or operations of each network. Operations
a step are counted once, before the loop, on a copy of the network, so that a budget of them becomes a number of
steps; with seconds the rate schedule follows the share of the time that is spent.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from invsuite.data.split import Split
from invsuite.errors import ConvergenceError
from invsuite.flops import count_flops
from invsuite.methods.base import Budget, Problem
from invsuite.timing import Stopwatch

RECIPE_VERSION = 1  # raise when the loop changes what it computes: it is part of every cell's identity
CLOCK_STEPS = 16  # steps between readings of a GPU's clock, which wait for it, where seconds are the budget

Tensors = dict[str, torch.Tensor]
#: images (B, 3, H, W) and every stage's tensor of one batch -> scalar loss of ``module``
Objective = Callable[[nn.Module, torch.Tensor, Tensors], torch.Tensor]
#: every stage's tensor of one batch -> images (B, 3, H, W), or several times B where stages follow each other; they
#: are not clamped
Reconstruct = Callable[[Tensors], torch.Tensor]


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
    """One inverse network to train.

    Attributes:
        name: of the job, unique among those trained together.
        module: what is trained.
        needs: the stages whose tensors its objective (and ``reconstruct``) read.
        objective: its loss.
        reconstruct: images as the networks stand now, for the quality in the curve; all are in eval mode then.
        weight: how many inverses' budgets of seconds or operations the job may spend: a job that trains one chain
            for several stages at once has theirs together.
        keep_start: the weights it starts from are a candidate, kept if training never improves on them.
    """

    name: str
    module: nn.Module
    needs: tuple[str, ...]
    objective: Objective
    reconstruct: Reconstruct | None = None
    weight: int = 1
    keep_start: bool = False


@dataclass
class Outcome:
    """What training one job took and reached.

    ``curve`` holds (image passes, own seconds, selection loss, mean selection PSNR in dB or None). ``fit_flops`` and
    ``frozen_flops`` are as in `invsuite.methods.base.FitCost`.
    """

    seconds: float = 0.0
    image_passes: int = 0
    best_selection_loss: float = math.inf
    best_at_pass: int = 0
    parameters: int = 0
    fit_flops: float = 0.0
    frozen_flops: float = 0.0
    curve: list[tuple[int, float, float, float | None]] = field(default_factory=list)

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


@dataclass
class Pace:
    """How far one job is through its budget.

    ``steps`` is how many it will take: known for image passes and operations, expected and corrected after every
    step for ``seconds``. ``evaluated`` counts its evaluations so far.
    """

    steps: float
    seconds: float | None
    evaluations: int
    evaluated: int = 0

    def spent(self, step: int, watch: Stopwatch) -> float:
        """Share of the budget that is spent after ``step`` steps, 1 or more at the end."""
        if self.seconds is None:
            return step / self.steps
        if watch.cuda and step % CLOCK_STEPS:
            return min(step / self.steps, 1 - 1e-9)
        share = watch.seconds / self.seconds if self.seconds else 1.0
        self.steps = max(step / share, step + (share < 1)) if share else self.steps
        return share

    def due(self, step: int, share: float) -> bool:
        """Whether to evaluate after ``step``: at equal parts of the budget, and at its end."""
        if self.seconds is None:
            return step >= math.ceil(self.steps * (self.evaluated + 1) / self.evaluations)
        return share >= (self.evaluated + 1) / self.evaluations


@dataclass(frozen=True)
class StepCost:
    """Operations of one step of a job and of the frozen forward it needs, and the seconds of one step."""

    flops: int
    frozen_flops: int
    seconds: float


class Training:
    """The state of one job while it trains."""

    def __init__(self, job: Job, budget: Budget, recipe: Recipe, cost: StepCost, device: torch.device) -> None:
        self.job, self.recipe, self.cost, self.batch = job, recipe, cost, budget.batch
        self.watch = Stopwatch(device)
        self.outcome = Outcome(parameters=sum(p.numel() for p in job.module.parameters()))
        self.best: dict[str, torch.Tensor] = {}
        self.pace = make_pace(budget, job.weight, cost, recipe.evaluations)
        self.steps, self.share = 0, 0.0
        job.module.train()
        self.optimiser = torch.optim.AdamW(
            job.module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    @property
    def done(self) -> bool:
        return self.share >= 1

    def step(self, images: torch.Tensor, found: Tensors) -> None:
        """One update."""
        with self.watch:
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * _rate(self.steps, self.pace.steps, self.recipe.warmup)
            self.optimiser.zero_grad(set_to_none=True)
            loss = self.job.objective(self.job.module, images, found)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.job.module.parameters(), self.recipe.clip, foreach=True)
            self.optimiser.step()
        self.steps += 1
        self.share = self.pace.spent(self.steps, self.watch)

    def record(self, loss: float, psnr: float | None) -> None:
        """Take an evaluation into the curve, and the weights if they are the best so far.

        Raises:
            ConvergenceError: if the loss is NaN or infinite.
        """
        outcome = self.outcome
        if not math.isfinite(loss):
            raise ConvergenceError(
                f"training of '{self.job.name}' gave a selection loss of {loss} after {self.steps} steps; "
                "lower the learning rate"
            )
        outcome.image_passes = self.steps * self.batch
        outcome.seconds = self.watch.seconds
        outcome.fit_flops = float(self.steps * self.cost.flops)
        outcome.frozen_flops = float(self.steps * self.cost.frozen_flops)
        outcome.curve.append((outcome.image_passes, round(outcome.seconds, 3), loss, psnr))
        if loss < outcome.best_selection_loss:
            outcome.best_selection_loss, outcome.best_at_pass = loss, outcome.image_passes
            self.best = {k: v.detach().clone() for k, v in self.job.module.state_dict().items()}

    def finish(self) -> None:
        """The best weights, in eval mode, frozen."""
        self.job.module.load_state_dict(self.best)
        self.job.module.eval().requires_grad_(False)


def make_pace(budget: Budget, weight: int, cost: StepCost, evaluations: int) -> Pace:
    """The steps a budget allows a job; at least one, and with operations never more than the budget holds beyond it."""
    if budget.kind == "passes":
        return Pace(max(1, math.ceil(budget.limit / budget.batch)), None, evaluations)
    limit = budget.limit * weight
    if budget.kind == "flops":
        return Pace(max(1, math.floor(limit / max(1, cost.flops))), None, evaluations)
    return Pace(max(1.0, limit / max(cost.seconds, 1e-9)), limit, evaluations)


def train(problem: Problem, jobs: Sequence[Job], recipe: Recipe) -> TrainingReport:
    """Train every job on the problem's budget; each module ends in eval mode with its best selection weights.

    Raises:
        ConvergenceError: if a loss becomes NaN or infinite, naming the job and the step.
    """
    model, budget = problem.model, problem.budget
    stages = model.order([stage for job in jobs for stage in job.needs])
    for job in jobs:
        job.module.to(problem.device).train()
    costs = _step_costs(problem, jobs, stages)
    trainings = [Training(job, budget, recipe, costs[job.name], problem.device) for job in jobs]
    starting = [training for training in trainings if training.job.keep_start]
    if starting:
        _evaluate(problem, starting, trainings, stages)
    shared = Stopwatch(problem.device)
    active = trainings
    for step, images in enumerate(_batches(problem.fit, budget.batch, problem.seed, recipe.flip), 1):
        images = images.to(problem.device)
        with shared:
            found = {s: r.tensor for s, r in model.represent(images, stages).items()}
        for training in active:
            training.step(images, found)
        due = [training for training in active if training.pace.due(training.steps, training.share) or training.done]
        if due:
            _evaluate(problem, due, trainings, stages)
            for training in due:
                training.pace.evaluated += 1
        for training in active:
            if training.done:
                training.finish()
        active = [training for training in active if not training.done]
        problem.progress(step, max([step, *(round(t.pace.steps) for t in active)]), "training steps")
        if not active:
            break
    return TrainingReport({t.job.name: t.outcome for t in trainings}, shared.seconds)


def _rate(step: int, steps: float, warmup: float) -> float:
    rising = min(1.0, (step + 1) / max(1, round(warmup * steps)))
    return rising * (0.5 * (1 + math.cos(math.pi * min(step, steps) / steps)) + 0.005)


def _batches(fit: Split, size: int, seed: int, flip: bool) -> Iterator[torch.Tensor]:
    """Batches without end: reshuffled passes over the fit images, a random half of each batch mirrored."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(fit), generator=generator).tolist()
        rows, order = order[:size], order[size:]
        images = fit.images(rows)
        if flip:
            mirrored = torch.rand(size, generator=generator) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        yield images


def _step_costs(problem: Problem, jobs: Sequence[Job], stages: Sequence[str]) -> dict[str, StepCost]:
    """One step of every job without its update, counted and timed on a copy of its module: nothing is changed."""
    model, batch = problem.model, problem.budget.batch
    images = problem.fit.images([i % len(problem.fit) for i in range(batch)]).to(problem.device)
    found: Tensors = {}
    frozen, total, previous, tensor = dict[str, int](), 0, None, images
    for stage in stages:

        def forward(start: str | None = previous, stop: str = stage, given: torch.Tensor = tensor) -> None:
            with torch.no_grad():
                found[stop] = model.run(given, start, stop)

        total += count_flops(forward)
        frozen[stage], previous, tensor = total, stage, found[stage]
    costs = {}
    for job in jobs:
        module = copy.deepcopy(job.module)

        def step(job: Job = job, module: nn.Module = module) -> None:
            job.objective(module, images, found).backward()  # type: ignore[no-untyped-call]

        devices = [problem.device] if problem.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            flops, seconds = count_flops(step), 0.0
            if problem.budget.kind == "seconds":
                start = time.perf_counter()
                step()
                if devices:
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
        costs[job.name] = StepCost(flops, max((frozen[s] for s in job.needs), default=0), seconds)
    return costs


@torch.no_grad()
def _evaluate(problem: Problem, due: Sequence[Training], trainings: Sequence[Training], stages: Sequence[str]) -> None:
    """Mean loss, and mean PSNR of the images it makes, of every due job over the selection images.

    All modules are in eval mode for the while: a job's images may come from several of them.
    """
    for training in trainings:
        training.job.module.eval()
    losses = dict.fromkeys((t.job.name for t in due), 0.0)
    psnrs = dict.fromkeys((t.job.name for t in due if t.job.reconstruct), 0.0)
    for images in problem.select.batches(problem.budget.batch):
        images = images.to(problem.device)
        found = {s: r.tensor for s, r in problem.model.represent(images, stages).items()}
        for job in (t.job for t in due):
            losses[job.name] += float(job.objective(job.module, images, found)) * len(images)
            if job.reconstruct:
                made = job.reconstruct(found).clamp(0, 1)
                error = (made - images.repeat(len(made) // len(images), 1, 1, 1)).square().mean((1, 2, 3))
                psnrs[job.name] += float(-10 * error.clamp(min=1e-10).log10().mean()) * len(images)
    count = len(problem.select)
    for training in due:
        psnr = psnrs[training.job.name] / count if training.job.reconstruct else None
        training.record(losses[training.job.name] / count, None if psnr is None else round(psnr, 4))
    for training in trainings:
        if not training.done:
            training.job.module.train()
