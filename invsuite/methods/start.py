"""Where trained inverse networks start: measured scales, and the linear path at ridge regression.

One streamed pass over some fit images gives every module of a chain the means and deviations of what it reads and
writes and, where it has a linear path (`invsuite.inverses.networks.InverseNetwork.start_from`), the linear readout of
its own component by `invsuite.methods.ridge`. Training then only has to find what a linear readout cannot. The cost is
part of every stage's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from invsuite.flops import count_flops
from invsuite.inverses.convolution import resized, upsampling_factor
from invsuite.inverses.networks import InverseNetwork
from invsuite.methods.base import Problem
from invsuite.methods.moments import Moments
from invsuite.methods.ridge import NormalEquations, solve
from invsuite.models.base import Layout, image_layout
from invsuite.timing import Stopwatch
from invsuite.training import Spent

START_IMAGES = 512  # of the fit images, evenly spaced: 100,000 rows on a 14 x 14 grid
BATCH = 32


@dataclass
class StartCost:
    """What the start took: each module's own seconds and operations, and those of the frozen forward all shared."""

    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    shared_seconds: float = 0.0
    frozen_flops: float = 0.0


@dataclass(frozen=True)
class Start:
    """Measured scales by stage ("" is the image), and linear readouts by the stage they read."""

    moments: Mapping[str, Moments]
    weights: Mapping[str, torch.Tensor]
    cost: StartCost

    def spent(self, stages: Sequence[str]) -> Spent:
        """What a network made of the modules of ``stages`` has cost before training."""
        seconds, flops = self.cost.seconds, self.cost.flops
        own = sum(seconds[s] for s in stages), sum(flops.get(s, 0.0) for s in stages)
        return Spent(*own, self.cost.frozen_flops)

    def apply(self, links: Mapping[str, InverseNetwork]) -> None:
        """Set the scales of modules keyed by the stage they read, in chain order, and the linear paths they have."""
        before = ""
        for stage, link in links.items():
            for scale, name in ((link.source_scale, stage), (link.target_scale, before)):
                scale.measured(self.moments[name].mean, self.moments[name].std)
            if stage in self.weights and link.linear_path is not None:
                link.start_from(self.weights[stage])
            before = stage


def linear_rows(
    source: Layout, target: Layout, given: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A representation (B, ...) and the one before it as features (B, places, d) and targets (B, places, t).

    Places are the source's; a finer target's values under a place are its channels times factor^2, as
    ``torch.nn.PixelShuffle`` reads them.
    """
    features = source.to_map(given).flatten(2).transpose(1, 2)
    factor = upsampling_factor(source, target)
    assert source.grid is not None
    finer = resized(target.to_map(wanted), [side * factor for side in source.grid])
    finer = F.pixel_unshuffle(finer, factor)
    return features, finer.flatten(2).transpose(1, 2)


@torch.no_grad()
def measure_start(problem: Problem, links: Mapping[str, InverseNetwork], linear: bool) -> Start:
    """Measure a start for the modules of one chain, keyed by the stage they read, in chain order from the image.

    Without ``linear`` it has scales alone, and linear paths keep their initial values.
    """
    model, chain = problem.model, tuple(links)
    layouts = {"": image_layout(model.image_size)} | {stage: model.layout(stage) for stage in chain}
    before = dict(zip(chain, ("", *chain), strict=False))
    moments = {name: Moments(layout) for name, layout in layouts.items()}
    sums = {stage: NormalEquations() for stage in chain if linear and links[stage].linear_path is not None}
    shared, own = Stopwatch(problem.device), {stage: Stopwatch(problem.device) for stage in chain}
    cost = StartCost()
    rows = _evenly(len(problem.fit), START_IMAGES)
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    for number, batch in enumerate(batches):
        images = problem.fit.images(batch).to(problem.device)
        found: dict[str, torch.Tensor] = {}

        def forward(images: torch.Tensor = images, found: dict[str, torch.Tensor] = found) -> None:
            found |= {"": images} | {s: r.tensor for s, r in model.represent(images, chain).items()}

        with shared:
            if number == 0:
                cost.frozen_flops = float(count_flops(forward)) * len(rows) / len(batch)
            else:
                forward()
            for name, part in moments.items():
                part.add(found[name])
        for stage, equations in sums.items():
            with own[stage]:
                features, targets = linear_rows(
                    layouts[stage], layouts[before[stage]], found[stage], found[before[stage]]
                )
                # around a nearby point, which keeps float32 products exact where channels have large means
                centre = moments[stage].centre_of_channels(), moments[before[stage]].centre_of_channels()
                repeat = targets.shape[2] // len(centre[1])
                equations.add(features - centre[0], targets - centre[1].repeat_interleave(repeat))
                cost.flops[stage] = 2.0 * equations.rows * features.shape[2] * (features.shape[2] + targets.shape[2])
        problem.progress(number + 1, len(batches), "batches for the start")
    weights = {}
    for stage, equations in sums.items():
        with own[stage]:
            weights[stage] = solve(equations, None).weight
    cost.shared_seconds = shared.seconds
    cost.seconds = {stage: own[stage].seconds for stage in chain}
    return Start(moments, weights, cost)


def _evenly(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of ``count`` rows, evenly spaced: folders come sorted."""
    return [i * count // min(count, most) for i in range(min(count, most))]
