"""The one engine of optimisation inversion: a batch of images descends until the model's representation matches.

The objective of an image x is (Mahendran & Vedaldi 2015, eq. 1)

    loss(model(view(x)), target) + tv * TV(x) + alpha * ||x||_6^6

Losses of a batch are summed, no parameter, rate or step length is shared and random draws are the same for every image,
so that a reconstruction does not depend on the images beside it (up to rounding, which may differ with the batch's
size). An image whose objective has stopped falling leaves the batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F

from invsuite._system.identity import CAME_LATER
from invsuite._system.replay import Replay
from invsuite._system.validation import Natural, NonNegativeFloat, Positive, PositiveFloat, Range
from invsuite.errors import ConvergenceError, UsageError
from invsuite.methods.base import Inverter, Snapshot, Watch
from invsuite.methods.optimisation.optimisers import LBFGS, Adam, NormalisedMomentum, Optimiser
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
STAYING = 0.7  # share of its images, or less, at which a captured batch goes on without those that have converged
MEMORY = 0.3  # part of a GPU's free memory that images side by side may fill
CONVERGED = 0.95  # share of the images that must have converged for a record to say that the method has

Loss = Literal["l2", "cosine", "standardised"]
Parametrisation = Literal["sigmoid", "clamp", "fourier", "network"]
StartImage = Literal["mean", "noise"]
OptimiserName = Literal["lbfgs", "adam", "momentum"]
Schedule = Literal["constant", "linear", "step", "plateau"]


@dataclass(frozen=True)
class DescentSettings:
    """How images descend.

    Attributes:
        iterations: the most evaluations of the objective and its gradient per image and restart.
        until: ``converged`` stops each image by the rule of ``window`` and ``tolerance``; ``iterations`` makes all of
            them, and the rule only tells whether the image has converged by then.
        window: an image has converged when over so many iterations
        tolerance: its objective has fallen by less than this part of it.
        learning_rate: of Adam; with ``momentum``, the root mean square of a step in units of the parameters; with
            ``lbfgs``, that of the first step.
        loss: ``l2``, relative to the target's squared norm; ``cosine``; or ``standardised``, the mean squared error in
            units of each channel's deviation over fit images.
        tv: weight of the total variation (beta = 2, mean per pixel); ``search`` chooses it for each stage on selection
            images, at a cost that is counted.
        tv_at: weights of it by stage, which are then not searched.
        anneal: how many times the weight is reached from above: the total variation begins at the weight times
            ``anneal_by`` to this power, and is divided by ``anneal_by`` whenever the objective stops falling.
        anneal_by: the factor.
        search_images: selection images on which ``search`` tries weights, the first ones.
        search_iterations: the most iterations per image and weight of the search.
        alpha: weight of the alpha-norm (alpha = 6) around the mean colour.
        pixels: what is moved: ``sigmoid`` (logits of pixels), ``clamp`` (pixels), ``fourier`` (coefficients), or
            ``network`` (deep image prior).
        decay: power of the frequency by which ``fourier`` divides coefficients.
        start: the ``mean`` colour of the fit images, or the same with ``noise``.
        optimiser: ``lbfgs`` (`invsuite.methods.optimisation.optimisers.LBFGS`), ``adam``, or ``momentum``
            (`NormalisedMomentum`).
        memory: curvature pairs that ``lbfgs`` keeps.
        momentum: of that optimiser.
        schedule: of the learning rate, which ``lbfgs`` does not need: ``constant``, ``linear`` decay over the last
            half, ``step``, or ``plateau``, which drops it whenever the objective stops falling.
        drops: how often ``step``, at equal parts of the iterations, and ``plateau`` divide the rate.
        drop_by: by which factor.
        smoothing: deviation of the Gaussian noise, in pixel values of [0, 1], with which a descent begins: so many
            iterations by Adam, each under fresh noise that falls geometrically; 0 leaves them out.
        smoothing_end: deviation at the end of it.
        smoothing_iterations: how many; at most half of ``iterations``, which they are part of.
        restarts: descents from different draws; the one with the least objective is kept for each image.
        jitter: largest cyclic shift of a random view in pixels.
        zoom: largest relative enlargement of a random view.
        colour_shift: deviation of a random view's gain and offset per channel.
        ensemble: random views per iteration whose losses are averaged.
        width: channels of a deep image prior's network.
        depth: how often it halves the resolution.
        batch: images that descend side by side; a GPU takes more where its memory allows.
    """

    iterations: Positive = 2000
    until: Literal["converged", "iterations"] = "converged"
    window: Positive = 20
    tolerance: NonNegativeFloat = 0.01
    learning_rate: PositiveFloat = 0.1
    loss: Loss = "l2"
    tv: NonNegativeFloat | Literal["search"] = "search"
    tv_at: dict[str, NonNegativeFloat] = field(default_factory=dict)
    anneal: Natural = 3
    anneal_by: Annotated[float, Range(above=1)] = 10.0
    search_images: Positive = 8
    search_iterations: Positive = 500
    alpha: NonNegativeFloat = 0.0
    pixels: Parametrisation = "fourier"
    decay: NonNegativeFloat = 0.5
    start: StartImage = "mean"
    optimiser: OptimiserName = "lbfgs"
    memory: Positive = 10
    momentum: Annotated[float, Range(minimum=0, below=1)] = 0.9
    schedule: Schedule = "constant"
    drops: Positive = 3
    drop_by: Annotated[float, Range(minimum=1)] = 3.0
    smoothing: NonNegativeFloat = field(default=0.0, metadata=CAME_LATER)
    smoothing_end: PositiveFloat = field(default=0.01, metadata=CAME_LATER)
    smoothing_iterations: Natural = field(default=250, metadata=CAME_LATER)
    restarts: Positive = 1
    jitter: Natural = 0
    zoom: NonNegativeFloat = 0.0
    colour_shift: NonNegativeFloat = 0.0
    ensemble: Positive = 1
    width: Positive = 32
    depth: Positive = 4
    batch: Positive = 16

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0), before any plateau."""
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, 2 * (1 - step / self.iterations))
        if self.schedule == "step":
            fallen = step * (self.drops + 1) // self.iterations
            return self.learning_rate / float(self.drop_by) ** fallen
        return self.learning_rate

    def noise(self, step: int) -> float:
        """Return the deviation of the noise of ``step`` (from 0) of the smoothing."""
        share = step / max(1, self.smoothed - 1)
        return float(self.smoothing ** (1 - share) * self.smoothing_end**share)

    @property
    def smoothed(self) -> int:
        """Return how many iterations a descent begins with under noise."""
        return min(self.smoothing_iterations, self.iterations // 2) if self.smoothing else 0

    def phases(self, tv: float) -> list[tuple[float, float]]:
        """Return, per phase of the descent, what multiplies the total variation's weight ``tv`` and the rate."""
        phases = [(self.anneal_by**notch, 1.0) for notch in range(self.anneal if tv else 0, -1, -1)]
        if self.schedule == "plateau":
            phases += [(1.0, float(self.drop_by) ** -drop) for drop in range(1, self.drops + 1)]
        return phases


def feature_loss(
    representations: torch.Tensor, targets: torch.Tensor, kind: Loss, deviations: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the distance of each representation from its target (B,).

    ``l2`` is ||representation - target||^2 / ||target||^2 (Mahendran & Vedaldi 2015, eq. 2), ``cosine`` is one minus
    the cosine of the two, ``standardised`` the mean squared difference in units of ``deviations``.

    Args:
        representations: (B, values).
        targets: (B, values).
        kind: of distance.
        deviations: of the values (1, values), for ``standardised``.
    """
    if kind == "cosine":
        return 1 - F.cosine_similarity(representations, targets, dim=1)
    if kind == "standardised":
        assert deviations is not None
        return ((representations - targets) / deviations).square().mean(1)
    return (representations - targets).square().sum(1) / targets.square().sum(1).clamp(min=1e-12)


def snapshot_marks(iterations: int) -> set[int]:
    """Return the iterations of the curve: 0, 1, 2, 5, 10, 20, 50 ... below ``iterations``."""
    return {m * 10**e for m in SNAPSHOTS for e in range(7) if m * 10**e < iterations}


class Progress:
    """How far each image of a batch has come: its least objective lately, its phase, whether it has converged.

    Args:
        settings: of the descent.
        tv: weight of the total variation.
        count: images.
        device: where the objectives are.
    """

    def __init__(self, settings: DescentSettings, tv: float, count: int, device: torch.device) -> None:
        self.settings = settings
        self.factors = torch.tensor(settings.phases(tv), device=device)
        self.phase = torch.zeros(count, dtype=torch.long, device=device)
        self.least = torch.full((count,), float("inf"), device=device)
        self.lately: deque[torch.Tensor] = deque(maxlen=settings.window + 1)
        self.converged = torch.zeros(count, dtype=torch.bool, device=device)

    @property
    def tv_factor(self) -> torch.Tensor:
        """Return what multiplies each image's weight of the total variation (B,)."""
        return self.factors[self.phase, 0]

    @property
    def rate_factor(self) -> torch.Tensor:
        """Return what multiplies each image's learning rate (B,)."""
        return self.factors[self.phase, 1]

    def add(self, objectives: torch.Tensor, step: int) -> torch.Tensor:
        """Add the objectives (B,) of iteration ``step`` and return which images (a mask) enter their next phase."""
        self.least = torch.minimum(self.least, objectives)
        self.lately.append(self.least)
        last = len(self.factors) - 1
        stalled = torch.zeros_like(self.converged)
        if len(self.lately) == self.lately.maxlen:
            stalled = self.lately[0] - self.least <= self.settings.tolerance * self.least.abs()  # false for inf - inf
        self.converged = stalled & (self.phase == last)
        due = (step + 1) * (last + 1) >= (self.phase + 1) * self.settings.iterations
        onwards = (self.phase < last) & (due | stalled if self.settings.until == "converged" else due)
        if last and bool(onwards.any()):
            self.phase = self.phase + onwards.long()
            self.least = torch.where(onwards, float("inf"), self.least)
            for place, least in enumerate(self.lately):
                self.lately[place] = torch.where(onwards, float("inf"), least)
        return onwards

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the images ``rows`` alone."""
        self.phase, self.least, self.converged = self.phase[rows], self.least[rows], self.converged[rows]
        for place, least in enumerate(self.lately):
            self.lately[place] = least[rows]


@dataclass
class Descended:
    """Where the images of a batch stand.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        losses: feature losses (B,).
        objectives: (B,).
        iterations: made per image (B,).
        converged: whether each image has (B,).
    """

    images: torch.Tensor
    losses: torch.Tensor
    objectives: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor

    def better(self, other: Descended) -> Descended:
        """Return the one of two descents with the less objective, for each image; iterations add up."""
        rows = other.objectives < self.objectives
        return Descended(
            torch.where(rows[:, None, None, None], other.images, self.images),
            torch.where(rows, other.losses, self.losses),
            torch.where(rows, other.objectives, self.objectives),
            self.iterations + other.iterations,
            torch.where(rows, other.converged, self.converged),
        )


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
        weights: of the total variation by stage.
        deviations: of each channel by stage, as they broadcast on the layout, where the loss is ``standardised``.
        parametrise: makes the parameters of images from their starts (B, 3, H, W), in place of ``pixels`` in the
            settings.
        outcomes: iterations, and whether it converged, of every image since the last `findings`, by stage.
    """

    model: Model
    mean_colour: torch.Tensor
    settings: DescentSettings
    name: str
    seed: int
    progress: ProgressHook = silent
    weights: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, torch.Tensor] = field(default_factory=dict)
    parametrise: Callable[[torch.Tensor], Pixels] | None = None
    outcomes: dict[str, list[tuple[int, bool]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def iterations(self) -> int:
        """Return how many iterations each restart makes at most."""
        return self.settings.iterations

    def shortened(self, iterations: int) -> Descent:
        """Return the same descent with exactly so many iterations, and silent."""
        settings = replace(self.settings, iterations=iterations, until="iterations")
        return replace(self, settings=settings, progress=silent, outcomes={})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a fit gives: the mean colour, weights and deviations."""
        weights = {f"tv/{stage}": torch.tensor(weight, dtype=torch.float64) for stage, weight in self.weights.items()}
        deviations = {f"deviations/{stage}": tensor for stage, tensor in self.deviations.items()}
        return {"mean_colour": self.mean_colour} | weights | deviations

    def findings(self, stage: str) -> dict[str, Any]:
        """Return whether the descents have converged, for what share of the images, and their mean iterations."""
        outcomes = self.outcomes.pop(stage, [])
        if not outcomes:
            return {}
        share = sum(converged for _, converged in outcomes) / len(outcomes)
        return {
            "converged": share >= CONVERGED,
            "converged_share": share,
            "iterations": sum(iterations for iterations, _ in outcomes) / len(outcomes),
            "ceiling": self.settings.iterations * self.settings.restarts,
        }

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
        return self.descend(representation, watch=watch).images

    def descend(
        self, representation: Representation, starts: torch.Tensor | None = None, watch: Watch | None = None
    ) -> Descended:
        """Return the images whose representations match, and how their descents went.

        Args:
            representation: to invert.
            starts: images (B, 3, H, W) in [0, 1] to begin at in place of the mean colour.
            watch: is shown each batch now and then.

        Raises:
            ConvergenceError: if an image becomes NaN or infinite.
            UsageError: if a deep image prior is to begin at an image.
        """
        if starts is not None and self.settings.pixels == "network" and self.parametrise is None:
            raise UsageError(f"'{self.name}' moves the weights of a network, which begins at no image")
        size, parts = self._side_by_side(representation), []
        for begin in range(0, len(representation), size):
            rows = slice(begin, begin + size)
            targets = representation[rows].tensor.detach().flatten(1)
            images = self.mean_colour.expand(len(targets), -1, *self.model.image_size)
            parts.append(
                self._best(representation.stage, targets, images if starts is None else starts[rows].detach(), watch)
            )
        whole = Descended(*(torch.cat([getattr(part, spec.name) for part in parts]) for spec in fields(Descended)))
        pairs = zip(whole.iterations.tolist(), whole.converged.tolist(), strict=True)
        self.outcomes.setdefault(representation.stage, []).extend(pairs)
        return whole

    @torch.enable_grad()
    def _side_by_side(self, representation: Representation) -> int:
        """Return how many images descend at once: on a GPU as many as its memory holds, reckoned from one of them."""
        size, stage, device = self.settings.batch, representation.stage, self.mean_colour.device
        if device.type != "cuda" or len(representation) <= size:
            return size
        before = torch.cuda.memory_allocated(device)
        pixels = self._pixels(self.mean_colour.expand(1, -1, *self.model.image_size), torch.Generator())
        moved = sum(parameter.numel() * parameter.element_size() for parameter in pixels.parameters)
        loss = self._losses(pixels.images(), stage, representation[:1].tensor.detach().flatten(1))
        # gradients of what is between take as much again
        needed = 2 * (torch.cuda.memory_allocated(device) - before) + (2 * self.settings.memory + 8) * moved
        del loss
        return max(size, int(MEMORY * torch.cuda.mem_get_info(device)[0] / max(1, needed)))

    def _best(self, stage: str, targets: torch.Tensor, starts: torch.Tensor, watch: Watch | None) -> Descended:
        """Return the restart with the least objective, for each image."""
        best, made, begun = None, 0, time.perf_counter()
        for restart in range(self.settings.restarts):
            descended = self._descend(stage, targets, starts, restart, _shifted(watch, made, begun))
            if not torch.isfinite(descended.objectives).all():
                raise ConvergenceError(f"'{self.name}' diverged at stage '{stage}'; lower its learning_rate")
            made += int(descended.iterations.max())
            best = descended if best is None else best.better(descended)
        assert best is not None
        if watch is not None:
            watch(Snapshot(made, time.perf_counter() - begun, best.losses, best.images))
        return best

    @torch.enable_grad()
    def _descend(
        self,
        stage: str,
        targets: torch.Tensor,
        starts: torch.Tensor,
        restart: int,
        watch: Callable[[int, Descended], None],
    ) -> Descended:
        settings, count, device = self.settings, len(targets), targets.device
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.name, stage, restart))
        if settings.smoothed:
            starts = self._smooth(stage, targets, starts, restart, watch)
        pixels = self._pixels(starts, generator)
        views = Views(settings.jitter, settings.zoom, settings.colour_shift, generator)
        optimiser = self._optimiser(pixels)
        progress, marks = Progress(settings, self.weights[stage], count, device), snapshot_marks(settings.iterations)
        active = torch.arange(count, device=device)
        blank = torch.full((count,), float("nan"), device=device)
        now = Descended(
            starts.clone(),
            blank,
            blank.clone(),
            torch.full_like(active, settings.smoothed),
            torch.zeros_like(active, dtype=torch.bool),
        )
        evaluate = self._evaluation(pixels, views, stage, targets)
        live = torch.ones_like(now.converged)  # of the images at hand
        for step in range(settings.smoothed, settings.iterations):
            images, losses, objectives, *gradients = evaluate(progress.tv_factor)
            optimiser.give(gradients)
            # what a captured evaluation returns is overwritten by the next one
            rows = optimiser.step(objectives.clone(), settings.rate(step) * progress.rate_factor) & live
            pixels.project()
            reached = active[rows]
            now.images[reached] = images[rows]
            now.losses[reached], now.objectives[reached] = losses[rows], objectives[rows]
            onwards = progress.add(now.objectives[active], step)
            descending = active[live]
            now.iterations[descending] += 1
            now.converged[descending] = progress.converged[live]
            if bool(onwards.any()):
                optimiser.restart(onwards)
            if step in marks:
                watch(step, now)
            self.progress(restart * settings.iterations + step + 1, settings.iterations * settings.restarts, stage)
            if settings.until == "converged" and bool((progress.converged & live).any()):
                live &= ~progress.converged
                if not bool(live.any()):
                    break
                if evaluate.captures and int(live.sum()) > STAYING * len(live):
                    continue
                kept = live.nonzero().flatten()
                active, targets, starts, live = active[kept], targets[kept], starts[kept], live[kept]
                pixels.keep(kept)
                optimiser.keep(kept, pixels.parameters)
                progress.keep(kept)
                evaluate = self._evaluation(pixels, views, stage, targets)
        return now

    def _smooth(
        self,
        stage: str,
        targets: torch.Tensor,
        starts: torch.Tensor,
        restart: int,
        watch: Callable[[int, Descended], None],
    ) -> torch.Tensor:
        """Return images (B, 3, H, W) that match under noise, ever less of it: where the descent without it begins."""
        settings, count, device = self.settings, len(targets), targets.device
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.name, stage, restart, "smoothing"))
        views = Views(0, 0.0, 0.0, generator, settings.noise(0))
        pixels, marks = self._pixels(starts, generator), snapshot_marks(settings.smoothed)
        evaluate, optimiser = self._evaluation(pixels, views, stage, targets), Adam(pixels.parameters)
        factors, rates = torch.ones(2, count, device=device)
        images = starts
        for step in range(settings.smoothed):
            views.noise = settings.noise(step)
            images, losses, objectives, *gradients = evaluate(factors)
            optimiser.give(gradients)
            optimiser.step(objectives, settings.learning_rate * rates)
            pixels.project()
            if step in marks:
                made = torch.full((count,), step + 1, device=device)
                watch(step, Descended(images, losses, objectives, made, torch.zeros_like(made, dtype=torch.bool)))
            self.progress(restart * settings.iterations + step + 1, settings.iterations * settings.restarts, stage)
        return images

    def _evaluation(self, pixels: Pixels, views: Views, stage: str, targets: torch.Tensor) -> Replay:
        """Return what evaluates images where they stand, from the factors (B,) of their total variation.

        It gives the images, their feature losses (B,), their objectives (B,) and the gradients of the parameters.
        """
        settings = self.settings

        def evaluate(factors: torch.Tensor) -> list[torch.Tensor]:
            images = pixels.images()
            losses = torch.zeros(len(targets), device=targets.device)
            for _ in range(settings.ensemble):
                losses = losses + self._losses(views(images), stage, targets) / settings.ensemble
            objectives = losses + self._priors(images, stage, factors) + pixels.penalty()
            gradients = torch.autograd.grad(objectives.sum(), pixels.parameters)
            # clamping copies: pixels that are moved themselves would be those of the next step
            return [images.detach().clamp(0, 1), losses.detach(), objectives.detach(), *gradients]

        # random views are drawn by the processor, and networks as pixels run under vmap
        return Replay(evaluate, targets.device, views.still and settings.pixels != "network")

    def _losses(self, images: torch.Tensor, stage: str, targets: torch.Tensor) -> torch.Tensor:
        deviations = self.deviations.get(stage)
        if deviations is not None:
            deviations = deviations.expand(self.model.layout(stage).shape).reshape(1, -1)
        return feature_loss(self.model.run(images, None, stage).flatten(1), targets, self.settings.loss, deviations)

    def _priors(self, images: torch.Tensor, stage: str, factor: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(images), device=images.device)
        tv = self.weights[stage]
        if tv:
            total = total + tv * factor * total_variation(images)
        if self.settings.alpha:
            total = total + self.settings.alpha * alpha_norm(images, self.mean_colour)
        return total

    def _optimiser(self, pixels: Pixels) -> Optimiser:
        if self.settings.optimiser == "lbfgs":
            return LBFGS(pixels.parameters, self.settings.memory)
        if self.settings.optimiser == "adam":
            return Adam(pixels.parameters)
        return NormalisedMomentum(pixels.parameters, self.settings.momentum)

    def _pixels(self, starts: torch.Tensor, generator: torch.Generator) -> Pixels:
        if self.parametrise is not None:
            return self.parametrise(starts)
        settings, size, device = self.settings, self.model.image_size, self.mean_colour.device
        if settings.pixels == "network":
            return ImagePrior(len(starts), size, settings.width, settings.depth, generator, device)
        shape = FourierPixels.noise_shape(size) if settings.pixels == "fourier" else (3, *size)
        noise = noise_like(shape, len(starts), generator, device) if settings.start == "noise" else None
        if settings.pixels == "fourier":
            return FourierPixels(starts, noise, settings.decay)
        return ClampedPixels(starts, noise) if settings.pixels == "clamp" else SigmoidPixels(starts, noise)


def _shifted(watch: Watch | None, made: int, begun: float) -> Callable[[int, Descended], None]:
    """Return what shows ``watch`` a batch that has ``made`` iterations before this descent."""

    def show(step: int, now: Descended) -> None:
        if watch is not None:
            watch(Snapshot(made + step, time.perf_counter() - begun, now.losses.clone(), now.images.clone()))

    return show
