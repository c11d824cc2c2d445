"""Initial values of inverse networks: measured scales, and closed-form paths at ridge regression.

The first fit images that training will see, as it will see them, give every module of a chain the means and deviations
of what it reads and writes and, where it has a closed-form path (`invsuite.inverses.closed_form`), the best readout of
its own component that this path can be, by ridge regression (`invsuite._system.linear`). Training then finds what that
cannot, and finds the representations of these images kept (`invsuite.methods.training.features`). The cost is part of
every stage's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F

from invsuite._system.linear import Equations, Examples, NormalEquations, solve
from invsuite._system.timing import Stopwatch
from invsuite.inverses.closed_form import ClosedFormPath, QueryPath
from invsuite.inverses.convolution import resized, upsampling_factor
from invsuite.inverses.networks import InverseNetwork
from invsuite.methods.problem import Problem
from invsuite.methods.training.draws import draws
from invsuite.methods.training.engine import TrainingCost
from invsuite.methods.training.features import FeatureCache, FeatureStream
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Layout, image_layout

DEAD = 1e-3  # a channel's deviation counts as at least this part of the greatest channel's
LONG = 4000  # image passes from which a decoder may do without a linear path to the image (`initialise`)
LINEAR = 0.95  # share of the image's variance that such a path must explain to be kept
MOST_IMAGES = 512  # that are measured: 100,000 rows on a 14 x 14 grid
SUMMED = 32  # images whose products are summed at once
ROWS_PER_VALUE = 4  # images that a readout of all object queries is solved from, per value of theirs, at most
MOST_ROWS = 16_384  # images of it: their products, or those of as many values, fill 2 GiB
PROGRESS = "batches for the initial values"
HELD_BYTES = 2 * 2**30  # of their representations, held together: no budget, for fewer images are another start

#: by stage, "" for the images themselves
Tensors = dict[str, torch.Tensor]


class Moments:
    """The mean of every value of a representation over images, and each channel's deviation from those means.

    Sums are in float64 around the first batch's mean, which keeps them exact where a mean is large.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.count = 0
        self.centre = self.total = self.square = torch.zeros(())

    def add(self, tensor: torch.Tensor) -> None:
        """Add a batch (B, ...) of the layout."""
        if not self.count:
            self.centre = tensor.mean(0)
        values = tensor - self.centre
        self.count += len(values)
        self.total = self.total + values.sum(0, dtype=torch.float64)
        self.square = self.square + values.square().sum(self.layout.pooled_axes, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """Return the sums, and what they are around."""
        return {"count": self.count, "centre": self.centre, "total": self.total, "square": self.square}

    def include(self, state: dict[str, Any]) -> None:
        """Add the sums over other images, taken around these sums' centre."""
        if not self.count:
            self.count, self.centre = state["count"], state["centre"]
            self.total, self.square = state["total"], state["square"]
        elif state["count"]:
            away = state["centre"].double() - self.centre.double()
            moved = 2 * away * state["total"] + state["count"] * away.square()
            self.count += state["count"]
            self.total = self.total + state["total"] + state["count"] * away
            self.square = self.square + state["square"] + moved[None].sum(self.layout.pooled_axes)

    @property
    def mean(self) -> torch.Tensor:
        """Return the mean of every value, in the shape of the layout."""
        return self.centre + (self.total / self.count).float()

    @property
    def std(self) -> torch.Tensor:
        """Return each channel's deviation around the means, over images and places, as it broadcasts on the layout.

        It has a floor (`DEAD`), so that dividing by it gives a dead channel no weight of its own.
        """
        places = self.layout.values // self.layout.channels
        offset = (self.total / self.count).square()[None].mean(self.layout.pooled_axes)
        std = (self.square / (self.count * places) - offset).clamp(min=0).sqrt()
        std = std.clamp(min=DEAD * float(std.max()) + 1e-12)
        return std.float().view(self.layout.channel_shape)


@dataclass(frozen=True)
class Initialisation:
    """Initial values for the modules of a chain, and what they took.

    Attributes:
        moments: measured scales by stage ("" is the image).
        paths: state of solved closed-form paths by the stage they read.
        left_out: stages whose networks have to do without their path.
        costs: each module's own.
        frozen_flops: operations of the frozen forward passes that all shared.
        shared_seconds: their time.
    """

    moments: Mapping[str, Moments]
    paths: Mapping[str, dict[str, torch.Tensor]]
    left_out: frozenset[str]
    costs: Mapping[str, TrainingCost]
    frozen_flops: float
    shared_seconds: float

    def cost_of(self, stages: Sequence[str]) -> TrainingCost:
        """Return what a network made of the modules of ``stages`` has cost before training."""
        return sum((self.costs[stage] for stage in stages), TrainingCost(frozen_flops=self.frozen_flops))

    def apply(self, modules: Mapping[str, InverseNetwork]) -> None:
        """Set scales and closed-form paths of modules keyed by the stage they read, in chain order."""
        set_scales(modules, self.moments)
        for stage, module in modules.items():
            if stage in self.paths and module.path is not None:
                module.path.start_like(self.paths[stage])
            elif stage in self.left_out and isinstance(module.path, ClosedFormPath):
                module.path.leave_out()


def set_scales(modules: Mapping[str, InverseNetwork], moments: Mapping[str, Moments]) -> None:
    """Standardise what modules, keyed by the stage they read and in chain order, take and give."""
    before = ""
    for stage, module in modules.items():
        for scale, name in ((module.source_scale, stage), (module.target_scale, before)):
            scale.set(moments[name].mean, moments[name].std)
        before = stage


def place_rows(
    source: Layout, target: Layout, representation: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a representation (B, ...) as rows (B, places, d) and the one before it as targets (B, places, t).

    Places are the source's; a finer target's values under a place are its channels times factor^2, as
    ``torch.nn.PixelShuffle`` reads them.
    """
    rows = source.to_map(representation).flatten(2).transpose(1, 2)
    factor = upsampling_factor(source, target)
    assert source.grid is not None
    finer = resized(target.to_map(before), [side * factor for side in source.grid])
    finer = F.pixel_unshuffle(finer, factor)
    return rows, finer.flatten(2).transpose(1, 2)


@torch.no_grad()
def initialise(problem: Problem, modules: Mapping[str, InverseNetwork], solved: bool, recipe: Recipe) -> Initialisation:
    """Measure and solve initial values for the modules of one chain; their scales are set on the way.

    A path to the image that explains little of it (a CNN's features: 0.8 of the variance, a patch embedding: 0.99)
    helps short trainings and hinders long ones: what is left to learn beside it looks less like an image than the
    image. It is left out where training has `LONG` image passes or more and it explains less than `LINEAR`.

    Args:
        problem: whose first fit images are looked at.
        modules: by the stage they read, in chain order from the image.
        solved: whether closed-form paths are solved; else they keep their initial values.
        recipe: by which they are trained.
    """
    model, chain = problem.model, tuple(modules)
    layouts = {"": image_layout(model.image_size)} | {stage: model.layout(stage) for stage in chain}
    size, later, shared = problem.budget.batch, problem.budget.image_passes or 0, Stopwatch(problem.device)
    own = {stage: module for stage, module in modules.items() if solved and module.path is not None}
    by_queries = [stage for stage, module in own.items() if isinstance(module.path, QueryPath)]
    held = HELD_BYTES // (4 * sum(layout.values for layout in layouts.values()))
    count = max(1, min(MOST_IMAGES, len(problem.fit), held) // size)
    further = max((further_batches(problem, layouts[stage], count) for stage in by_queries), default=0)
    images = FirstImages(problem, (count + further) * size, recipe)
    paths = Paths(problem.device, modules, layouts, images.count)

    moments = {name: Moments(layout) for name, layout in layouts.items()}
    batches: list[Tensors] = []
    with shared:
        for batch in images.batches(chain, count):
            batches.append(batch)
            for name, part in moments.items():
                part.add(batch[name])
            problem.context.progress(len(batches), count + further, PROGRESS)
    set_scales(modules, moments)
    explained = {stage: paths.solve(stage, batches) for stage in own}
    left_out = {chain[0]} if later >= LONG and explained.get(chain[0], 1.0) < LINEAR else set[str]()
    if further:
        needed = model.order([name for stage in by_queries for name in (paths.before[stage], stage) if name])
        stream = images.batches(needed, further)
        for number in range(further):
            with shared:
                batch = next(stream)
            paths.add(batch)
            problem.context.progress(count + number + 1, count + further, PROGRESS)
    paths.finish()

    states = {
        stage: {name: value.clone() for name, value in module.path.state_dict().items()}
        for stage, module in own.items()
        if module.path is not None and stage not in left_out
    }
    frozen = float(model.flops(chain)) * count * size
    of_readouts = dict.fromkeys(chain, 0.0)
    for stage in by_queries:
        of_readouts[stage] = float(model.flops([stage])) * further * size
    costs = {stage: paths.cost(stage, of_readouts[stage]) for stage in chain}
    seconds = shared.seconds + images.borrowed_seconds
    return Initialisation(moments, states, frozenset(left_out), costs, frozen, seconds)


class FirstImages:
    """The first fit images that training will see, as it will see them, and their representations.

    Args:
        problem: whose they are.
        count: how many are looked at.
        recipe: of the training.
    """

    def __init__(self, problem: Problem, count: int, recipe: Recipe) -> None:
        self.problem, self.count = problem, count
        self._order = draws(problem.fit, problem.budget.batch, problem.seed, recipe.flip, recipe.crop)
        self._cache = problem.context.features or FeatureCache("off")
        self._streams: list[FeatureStream] = []

    def batches(self, stages: Sequence[str], number: int) -> Iterator[Tensors]:
        """Yield the next batches: the images, under "", and their representations at ``stages``."""
        problem, later = self.problem, self.problem.budget.image_passes or 0
        expected, again = self.count + later, min(self.count, later)
        size, charged = problem.budget.batch, problem.context.charged
        stream = FeatureStream(problem.model, problem.fit, stages, size, self._cache, expected, charged, again)
        self._streams.append(stream)
        for images, tensors in stream.batches(islice(self._order, number)):
            yield {"": images} | tensors

    @property
    def borrowed_seconds(self) -> float:
        """Return what the images that an earlier fit computed would have cost this one."""
        return sum(stream.borrowed_seconds for stream in self._streams)


class Paths:
    """The closed-form paths of a chain: each is solved by itself, and what it took is its own.

    Args:
        device: of the modules.
        modules: by the stage they read, in chain order from the image.
        layouts: by stage, "" that of the image.
        images: that will be looked at.
    """

    def __init__(
        self, device: torch.device, modules: Mapping[str, InverseNetwork], layouts: Mapping[str, Layout], images: int
    ) -> None:
        self.modules, self.layouts, self.images = modules, layouts, images
        self.before = dict(zip(modules, ("", *modules), strict=False))
        self._watches = {stage: Stopwatch(device) for stage in modules}
        self._flops = dict.fromkeys(modules, 0.0)
        self._readouts: dict[str, QueryReadout] = {}

    def solve(self, stage: str, batches: Sequence[Tensors]) -> float:
        """Solve a path by batches, and return the share of the variance that it explains.

        A readout of object queries is only begun: it takes further images (`add`, `finish`), and counts as whole.
        """
        path = self.modules[stage].path
        with self._watches[stage]:
            pairs = [self._pair(stage, batch) for batch in batches]
            if isinstance(path, QueryPath):
                self._readouts[stage] = QueryReadout(path, pairs, self.images)
                return 1.0
            assert path is not None, "paths that there are are solved"
            layouts = self.layouts[stage], self.layouts[self.before[stage]]
            self._flops[stage], explained = solve_path(path, *layouts, pairs)
        return explained

    def add(self, batch: Tensors) -> None:
        """Add a further batch to the readouts that were begun."""
        for stage, readout in self._readouts.items():
            with self._watches[stage]:
                readout.add(*self._pair(stage, batch))

    def finish(self) -> None:
        """Solve the readouts that were begun."""
        for stage, readout in self._readouts.items():
            with self._watches[stage]:
                self._flops[stage] = readout.solve()

    def cost(self, stage: str, frozen: float) -> TrainingCost:
        """Return what a stage's path took, ``frozen`` operations of forward passes among it."""
        return TrainingCost(self._watches[stage].seconds, self._flops[stage], frozen)

    def _pair(self, stage: str, batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a module reads and what it is to give, standardised."""
        module = self.modules[stage]
        return module.source_scale(batch[stage]), module.target_scale(batch[self.before[stage]])


def further_batches(problem: Problem, queries: Layout, count: int) -> int:
    """Return how many batches beside the first ``count`` a readout of all of ``queries`` together is solved from.

    It has as many weights per output as they have values, for which the first images do not suffice. Images that
    training will not come to are not looked at.
    """
    size = problem.budget.batch
    reached = problem.budget.image_passes or len(problem.fit)
    # an image that came twice would make cross-validation believe what it has seen
    wanted = min(ROWS_PER_VALUE * queries.values, reached, len(problem.fit), MOST_ROWS)
    return max(0, wanted // size - count)


class QueryReadout:
    """Ridge regression from all object queries together to the principal components of what comes before them.

    The components are those of the first images; images are added a batch at a time. Where they are fewer than the
    values of the queries, the dual form is solved.

    Args:
        path: that becomes the readout.
        pairs: standardised queries and what comes before them, of the first images.
        images: that there will be.
    """

    def __init__(self, path: QueryPath, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], images: int) -> None:
        self.path = path
        targets = torch.cat([before.flatten(1) for _, before in pairs])
        values, vectors = torch.linalg.eigh((targets @ targets.T).double())
        rank = len(path.components)
        held = values > torch.finfo(torch.float32).eps * values[-1]  # the others are rounding
        scaled = (vectors * torch.where(held, values.clamp(min=0).rsqrt(), 0.0))[:, -rank:].flip(1)
        leading = scaled.float().T @ targets
        self.components = F.pad(leading, (0, 0, 0, rank - len(leading)))
        self.equations: Equations = Examples() if images < path.linear.in_features else NormalEquations()
        for queries, before in pairs:
            self.add(queries, before)

    def add(self, queries: torch.Tensor, before: torch.Tensor) -> None:
        """Add a batch of standardised queries (B, count, channels) and what comes before them (B, ...)."""
        self.equations.add(queries.flatten(1)[:, None], (before.flatten(1) @ self.components.T)[:, None])

    def solve(self) -> float:
        """Set the path to the readout, and return the operations that it took."""
        solution = solve(self.equations, None)
        self.path.start_from(self.components, solution.weight, solution.bias[0])
        features, outputs = solution.weight.shape
        return 2.0 * self.equations.rows * (features * (features + outputs) + self.components.numel())


def solve_path(
    path: ClosedFormPath, source: Layout, target: Layout, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[float, float]:
    """Set ``path`` by ridge regression on batches of standardised representations and those before them.

    Returns:
        The operations it took, and the share of the targets' variance that the readout explains, by generalised
        cross-validation.
    """
    equations = NormalEquations()
    together = max(1, SUMMED // len(pairs[0][0]))
    for first in range(0, len(pairs), together):
        representation, before = (torch.cat(parts) for parts in zip(*pairs[first : first + together], strict=True))
        rows, targets = place_rows(source, target, representation, before)
        equations.add(path.features(rows), targets)
    solution = solve(equations, None)
    weight = solution.weight
    features, outputs = weight.shape
    variance = equations.around(*equations.means())[2] / outputs
    explained = 0.0 if solution.gcv is None else 1 - solution.gcv / variance
    mean = torch.zeros(len(path.offset), features, device=weight.device)
    if len(path.offset) > 1:  # elsewhere the features are standardised channels, whose mean is zero
        for representation, _ in pairs:
            mean += path.features(representation).sum(0) / equations.images
    path.start_from(weight, mean)
    drawn = 0 if path.first is None else path.first.weight.numel()
    return 2.0 * equations.rows * (features * (features + outputs) + drawn), explained
