"""The recipe by which every inverse network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import nn

from invsuite._system.identity import CAME_LATER
from invsuite._system.validation import Natural, NonNegativeFloat, Positive, PositiveFloat, Range, check
from invsuite.inverses.attention import QueriesToSpatial, TokenMixer
from invsuite.inverses.convolution import SpatialToSpatial

RECIPE_VERSION = 5  # raise when training changes what it computes: it is part of every cell's identity


@dataclass(frozen=True)
class Recipe:
    """Settings of the optimiser, the same for every trained method: AdamW, linear warm-up, cosine decay, clipping.

    Attributes:
        learning_rate: at the top of the schedule.
        weight_decay: of AdamW.
        clip: largest norm of each inverse network's gradient.
        warmup: share of the budget over which the rate rises.
        evaluations: on the selection images, at equal parts of the budget; the best weights are kept. There are fewer
            where they would look at more than an eighth as many images as training does, but always one.
        flip: whether a random half of each batch is mirrored.
        crop: share of a photo's area that a random resized crop of it keeps at least, drawn anew for every pass
            (`invsuite.data.geometry.Geometry.random_box`); 1 crops nothing. Photos are decoded again for each pass, and
            no representation is kept: it is for budgets that look at each photo many times.
        sweep: learning rates to try instead of ``learning_rate``: each trains every network from its initial values on
            an equal part of ``sweep_share`` of the budget, and the one with the least selection loss gets the rest.
        sweep_share: share of the budget, between 0 and 1, that ``sweep`` takes.
        linear_rate: share of the learning rate for what ridge regression solved of a network: full steps would only
            shake it.
        output_rate: share of the learning rate for the last layer beside a solved path: it begins at zero, and short
            trainings gain from small steps there.
        patience: evaluations without a better selection loss after which, past the middle of the budget, training
            stops; 0 never stops early.

    Raises:
        UsageError: for a value out of range.
    """

    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    clip: PositiveFloat = 1.0
    warmup: Annotated[float, Range(minimum=0, maximum=1)] = 0.05
    evaluations: Positive = 8
    flip: bool = True
    crop: Annotated[float, Range(above=0, maximum=1)] = field(default=1.0, metadata=CAME_LATER)
    sweep: list[PositiveFloat] = field(default_factory=list)
    sweep_share: Annotated[float, Range(above=0, below=1)] = 0.2
    linear_rate: NonNegativeFloat = 0.02
    output_rate: NonNegativeFloat = 1.0
    patience: Natural = 3

    def __post_init__(self) -> None:
        check(self, "recipe")

    def rate(self, step: int, steps: float) -> float:
        """Return the share of the learning rate, 0 to about 1, at ``step`` (from 0) of ``steps``."""
        rising = min(1.0, (step + 1) / max(1, round(self.warmup * steps)))
        return rising * (0.5 * (1 + math.cos(math.pi * min(step, steps) / steps)) + 0.005)

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters for the optimiser, each group with its ``share`` of the learning rate.

        There are up to three: what ridge regression solved, the last layers beside it, and all others.
        """
        cores = [
            part for part in module.modules() if isinstance(part, TokenMixer | SpatialToSpatial | QueriesToSpatial)
        ]
        solved: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        for core in cores:
            if core.path is not None and core.path.solved:
                solved += core.path.solution
                outputs += core.leave.parameters()
        known = {id(parameter) for parameter in solved + outputs}
        others = [parameter for parameter in module.parameters() if id(parameter) not in known]
        shares = ((others, 1.0), (solved, self.linear_rate), (outputs, self.output_rate))
        return [{"params": parameters, "share": share} for parameters, share in shares if parameters]
