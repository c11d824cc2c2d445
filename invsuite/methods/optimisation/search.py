"""What a descent needs to know of a stage before it inverts: the weight of its prior, and deviations of channels.

The weight is chosen on selection images, by what the inversion itself does: one path of descents from a strong prior to
a weak one, each converged before the next begins where it ended, costs little more than a single descent. The weight
with the least error of pixels is kept, the strongest of those that differ little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from invsuite._system.flops import count_flops
from invsuite._system.timing import Stopwatch
from invsuite.methods.base import FitCost, Notes, no_fit
from invsuite.methods.optimisation.engine import Descent, DescentSettings
from invsuite.methods.problem import Problem, silent
from invsuite.methods.training.initialisation import Moments
from invsuite.models.base import Representation

#: of the total variation, from strong to weak
WEIGHTS = tuple(10.0**power for power in range(5, -4, -1))
#: of descents that begin under noise, each of which goes the whole way for every weight
SMOOTHED_WEIGHTS = (100.0, 10.0, 1.0, 0.1)
GAIN = 0.05  # dB by which a weaker prior must be better to be kept
WORSE = 2  # weights in a row without a gain that end a path which has gained: it may fall before it rises
MEASURED = 64  # fit images whose representations tell the deviations of channels


@dataclass(frozen=True)
class WeightSearch:
    """A chosen weight, and what it took to choose it.

    Attributes:
        weight: with the greatest mean PSNR, or so nearly (`GAIN`).
        tried: each weight with the mean PSNR of the selection images in dB, in the order of the path.
        passes: forward and backward passes through the model, summed over images.
        flops: operations of them.
    """

    weight: float
    tried: Sequence[tuple[float, float]]
    passes: int
    flops: float

    def notes(self) -> dict[str, Any]:
        """Return the choice for the record."""
        return {"tv": self.weight, "tv_search": [{"tv": weight, "psnr": psnr} for weight, psnr in self.tried]}


def search_weight(
    descent: Descent,
    representation: Representation,
    images: torch.Tensor,
    weights: Sequence[float] = (),
) -> WeightSearch:
    """Choose the weight of the total variation for the stage of ``representation``.

    Args:
        descent: whose settings say how many iterations each weight has at most (``search_iterations``).
        representation: of the selection images.
        images: the selection images (B, 3, H, W) themselves, which no descent is shown.
        weights: from strong to weak; none for those of `searched_weights`.
    """
    stage, settings = representation.stage, descent.settings
    weights = weights or searched_weights(settings)
    limit = min(settings.iterations, settings.search_iterations)
    short = replace(
        descent,
        settings=replace(settings, iterations=limit, until="converged", anneal=0, restarts=1),
        progress=silent,
        weights={stage: weights[0]},
        outcomes={},
    )
    per_pass = flops_per_pass(short, representation)
    starts: torch.Tensor | None = None
    tried: list[tuple[float, float]] = []
    passes, best = 0, 0
    for weight in weights:
        descended = replace(short, weights={stage: weight}).descend(representation, starts)
        # noise would make little of where a stronger prior has ended
        starts = None if settings.smoothed else descended.images
        passes += int(descended.iterations.sum())
        tried.append((weight, psnr_of(descended.images, images)))
        descent.progress(len(tried), len(weights), f"weights of the prior at {stage}")
        last = len(tried) - 1
        if tried[last][1] > tried[best][1] + GAIN:
            best = last
        elif best and last - best >= WORSE:
            break
    return WeightSearch(tried[best][0], tried, passes * settings.ensemble, float(passes * per_pass))


def searched_weights(settings: DescentSettings) -> tuple[float, ...]:
    """Return the weights that a search tries, from strong to weak."""
    return SMOOTHED_WEIGHTS if settings.smoothed else WEIGHTS


def flops_per_pass(descent: Descent, representation: Representation, starts: torch.Tensor | None = None) -> int:
    """Return the operations of one iteration of one image: those by which two differ from one."""
    first = None if starts is None else starts[:1]
    one, two = (count_flops(partial(descent.shortened(steps).descend, representation[:1], first)) for steps in (1, 2))
    return two - one


def psnr_of(reconstructions: torch.Tensor, images: torch.Tensor) -> float:
    """Return the mean PSNR in dB over images."""
    errors = (reconstructions - images).square().mean((1, 2, 3)).clamp(min=1e-12)
    return float(-10 * errors.log10().mean())


def fit_descent(descent: Descent, problem: Problem) -> tuple[Descent, FitCost, Notes]:
    """Return ``descent`` with what it needs to know of each stage, what that took, and notes for the record.

    Args:
        descent: without weights and deviations.
        problem: of which the selection images, and some fit images, are looked at.
    """
    settings, model = descent.settings, problem.model
    cost, notes = no_fit(problem.stages), {}
    weights, deviations = dict[str, float](), dict[str, torch.Tensor]()
    for stage in problem.stages:
        own = Stopwatch(problem.device)
        with own:
            cost.fit_flops[stage] = 0.0
            if settings.loss == "standardised":
                deviations[stage], looked_at = channel_deviations(problem, stage)
                cost.image_passes[stage] += len(looked_at)
                cost.frozen_flops[stage] = float(len(looked_at) * model.flops([stage]))
            weight = settings.tv_at.get(stage, settings.tv)
            if weight == "search":
                images = problem.select.images(slice(0, settings.search_images)).to(problem.device)
                representation = model.represent(images, [stage])[stage]
                search = search_weight(replace(descent, deviations=deviations), representation, images)
                weight, notes[stage] = search.weight, search.notes()
                cost.image_passes[stage] += search.passes
                cost.fit_flops[stage] = search.flops
            weights[stage] = float(weight)
        cost.stage_seconds[stage] = own.seconds
    return replace(descent, weights=weights, deviations=deviations), cost, notes


def channel_deviations(problem: Problem, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's deviation around the mean of its place, over images and places, and those fit images."""
    images = problem.fit.images(slice(0, MEASURED)).to(problem.device)
    representation = problem.model.represent(images, [stage])[stage]
    moments = Moments(representation.layout)
    moments.add(representation.tensor)
    return moments.std, images
