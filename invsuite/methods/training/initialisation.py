"""Where trained inverse networks start: measured scales, and the closed-form path at ridge regression.

The first fit images that training will see, as it will see them, give every module of a chain the means and deviations
of what it reads and writes and, where it has a closed-form path (`invsuite.inverses.closed_form`), the best readout of
its own component that this path can be, by `invsuite.methods.ridge`. Training then finds what that cannot, and finds
the representations of these images kept (`invsuite.methods.training.features`). The cost is part of every stage's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F

from invsuite._system.flops import count_flops
from invsuite._system.linear import NormalEquations, solve
from invsuite._system.timing import Stopwatch
from invsuite.inverses.closed_form import ClosedFormPath
from invsuite.inverses.convolution import resized, upsampling_factor
from invsuite.inverses.networks import InverseNetwork
from invsuite.methods.problem import Problem
from invsuite.methods.training.engine import Spent, draws
from invsuite.methods.training.features import FeatureCache, FeatureStream
from invsuite.methods.training.moments import Moments
from invsuite.models.base import Layout, image_layout

START_IMAGES = 512  # 100,000 rows on a 14 x 14 grid
SUMMED = 32  # images whose products are summed at once
START_BYTES = 2 * 2**30  # of their representations, held together: no budget, for fewer images are another start


@dataclass
class StartCost:
    """What the start took: each module's own seconds and operations, and those of the frozen forward all shared."""

    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    shared_seconds: float = 0.0
    frozen_flops: float = 0.0


@dataclass(frozen=True)
class Start:
    """Measured scales by stage ("" is the image), and solved closed-form paths by the stage they read."""

    moments: Mapping[str, Moments]
    paths: Mapping[str, dict[str, torch.Tensor]]
    cost: StartCost

    def spent(self, stages: Sequence[str]) -> Spent:
        """What a network made of the modules of ``stages`` has cost before training."""
        seconds, flops = self.cost.seconds, self.cost.flops
        own = sum(seconds[s] for s in stages), sum(flops.get(s, 0.0) for s in stages)
        return Spent(*own, self.cost.frozen_flops)

    def apply(self, links: Mapping[str, InverseNetwork]) -> None:
        """Set scales and closed-form paths of modules keyed by the stage they read, in chain order."""
        set_scales(links, self.moments)
        for stage, link in links.items():
            if stage in self.paths and link.path is not None:
                link.path.start_like(self.paths[stage])


def set_scales(links: Mapping[str, InverseNetwork], moments: Mapping[str, Moments]) -> None:
    """Standardise what modules, keyed by the stage they read and in chain order, take and give."""
    before = ""
    for stage, link in links.items():
        for scale, name in ((link.source_scale, stage), (link.target_scale, before)):
            scale.measured(moments[name].mean, moments[name].std)
        before = stage


def place_rows(
    source: Layout, target: Layout, given: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A representation (B, ...) and the one before it as rows (B, places, d) and targets (B, places, t).

    Places are the source's; a finer target's values under a place are its channels times factor^2, as
    ``torch.nn.PixelShuffle`` reads them.
    """
    rows = source.to_map(given).flatten(2).transpose(1, 2)
    factor = upsampling_factor(source, target)
    assert source.grid is not None
    finer = resized(target.to_map(wanted), [side * factor for side in source.grid])
    finer = F.pixel_unshuffle(finer, factor)
    return rows, finer.flatten(2).transpose(1, 2)


@torch.no_grad()
def measure_start(problem: Problem, links: Mapping[str, InverseNetwork], solved: bool, flip: bool) -> Start:
    """Measure a start for the modules of one chain, keyed by the stage they read, in chain order from the image.

    Without ``solved`` it has scales alone, and closed-form paths keep their initial values. ``flip`` says whether
    training mirrors half of the images. The modules' scales are set on the way.
    """
    model, chain = problem.model, tuple(links)
    layouts = {"": image_layout(model.image_size)} | {stage: model.layout(stage) for stage in chain}
    shared, own = Stopwatch(problem.device), {stage: Stopwatch(problem.device) for stage in chain}
    cost, size = StartCost(), problem.budget.batch
    held = START_BYTES // (4 * sum(layout.values for layout in layouts.values()))
    count = max(1, min(START_IMAGES, len(problem.fit), held) // size)
    cache = problem.context.features or FeatureCache("off")
    later = problem.budget.image_passes or 0
    stream = FeatureStream(
        model, problem.fit, chain, size, cache, count * size + later, problem.context.charged, min(count * size, later)
    )
    moments = {name: Moments(layout) for name, layout in layouts.items()}
    batches: list[dict[str, torch.Tensor]] = []
    with shared:
        for images, found in stream.batches(islice(draws(problem.fit, size, problem.seed, flip), count)):
            batches.append({"": images} | found)
            for name, part in moments.items():
                part.add(batches[-1][name])
            problem.context.progress(len(batches), count, "batches for the start")
    set_scales(links, moments)
    paths, before = {}, dict(zip(chain, ("", *chain), strict=False))
    for stage, link in links.items():
        if solved and link.path is not None:
            with own[stage]:
                target = before[stage]
                pairs = [(link.source_scale(b[stage]), link.target_scale(b[target])) for b in batches]
                cost.flops[stage] = solve_path(link.path, layouts[stage], layouts[target], pairs)
            paths[stage] = {name: value.clone() for name, value in link.path.state_dict().items()}
    cost.frozen_flops = float(count_flops(lambda: model.represent(batches[0][""][:1], chain))) * count * size
    cost.shared_seconds = shared.seconds + stream.borrowed_seconds
    cost.seconds = {stage: own[stage].seconds for stage in chain}
    return Start(moments, paths, cost)


def solve_path(
    path: ClosedFormPath, source: Layout, target: Layout, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Set ``path`` by ridge regression on batches of standardised representations and those before them.

    Returns:
        The operations it took.
    """
    equations = NormalEquations()
    together = max(1, SUMMED // len(pairs[0][0]))
    for first in range(0, len(pairs), together):
        given, wanted = (torch.cat(parts) for parts in zip(*pairs[first : first + together], strict=True))
        rows, targets = place_rows(source, target, given, wanted)
        equations.add(path.features(rows), targets)
    weight = solve(equations, None).weight
    features, outputs = weight.shape
    mean = torch.zeros(len(path.offset), features, device=weight.device)
    if len(path.offset) > 1:  # elsewhere the features are standardised channels, whose mean is zero
        for given, _ in pairs:
            mean += path.features(given).sum(0) / equations.images
    path.start_from(weight, mean)
    drawn = 0 if path.first is None else path.first.weight.numel()
    return 2.0 * equations.rows * (features * (features + outputs) + drawn)
