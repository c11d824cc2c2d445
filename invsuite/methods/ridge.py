"""Closed-form ridge regression from a representation to pixels: the best linear readout of each stage.

For representations with a place (maps, tokens) one linear map, shared by all places, with an intercept for each place
(which takes out position embeddings), predicts the patch of pixels under each token, from the token alone or from its
neighbourhood too. For object queries, which have no place, one linear map of all queries together predicts the image
at a coarse resolution, enlarged bicubically. Everything comes from one pass over the fit images: the normal equations
of every stage are accumulated, never the features - but for queries of more values than there are images, whose rows
are kept and solved in the dual form, which gives the same readout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F

from invsuite._system.linear import Equations, Examples, NormalEquations, Solution, TargetSums, solve, target_sums
from invsuite._system.timing import Stopwatch
from invsuite._system.validation import Positive
from invsuite.errors import NotApplicable, UsageError
from invsuite.inverses.convolution import resized
from invsuite.methods.base import FitCost, Fitted, Inverter, Method, NamedTensors, Notes, flattened, unflattened
from invsuite.methods.passes import BatchPass, State
from invsuite.methods.problem import Problem
from invsuite.models.base import Layout, Representation
from invsuite.registry import register

COARSE = 12  # side of the coarse image predicted from queries
BATCH = 32  # images per forward pass
MOST_FEATURES = 16_384  # per place, or images: their products fill 2 GiB, their eigenvectors as much again


def patches_of(images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return images (B, 3, H, W) as patches (B, h * w, 3 * H/h * W/w), places in row-major order."""
    size = (images.shape[2] // grid[0], images.shape[3] // grid[1])
    return F.unfold(images, size, stride=size).transpose(1, 2)


def images_from(patches: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Return images of ``size`` (H, W) from their patches: the inverse of `patches_of`."""
    patch = (size[0] // grid[0], size[1] // grid[1])
    return F.fold(patches.transpose(1, 2), size, patch, stride=patch)


@dataclass(frozen=True)
class Readout:
    """How features and targets are laid out for one stage.

    Attributes:
        layout: of the representation.
        size: (H, W) of the images.
        neighbourhood: side of the square of tokens that a patch is read from.
    """

    layout: Layout
    size: tuple[int, int]
    neighbourhood: int = 1

    @property
    def whole(self) -> tuple[int, int]:
        """Return the image's size, or the next larger one that has whole patches on the grid."""
        assert self.layout.grid is not None
        height, width = (-(-side // n) * n for side, n in zip(self.size, self.layout.grid, strict=True))
        return height, width

    @property
    def width(self) -> int:
        """Return the number of features per place, d."""
        return self.layout.values if self.layout.grid is None else self.layout.channels * self.neighbourhood**2

    def unknowns(self, images: int) -> int:
        """Return the side of the Gram matrix to decompose: the features or, in the dual form, the ``images``."""
        return self.width if self.layout.grid is not None else min(self.width, images)

    def equations(self, images: int) -> Equations:
        """Return what adds up the rows of so many images."""
        return NormalEquations() if self.unknowns(images) == self.width else Examples()

    def features(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return features (B, places, d): a token's, with its neighbours', zeros beyond the border.

        Queries have one place, the image.
        """
        if self.layout.grid is None:
            return tensor.flatten(1)[:, None]
        if self.neighbourhood == 1:
            if self.layout.kind == "tokens":
                return tensor[:, self.layout.prefix :]
            return tensor.flatten(2).transpose(1, 2)
        around = F.unfold(self.layout.to_map(tensor), self.neighbourhood, padding=self.neighbourhood // 2)
        return around.transpose(1, 2)

    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """Return the targets (B, places, t) that go with the features."""
        if self.layout.grid is None:
            return F.interpolate(images, (COARSE, COARSE), mode="area").flatten(1)[:, None]
        return patches_of(resized(images, self.whole), self.layout.grid)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W), not clamped, from predicted targets (B, places, t)."""
        if self.layout.grid is None:
            coarse = rows[:, 0].unflatten(1, (3, COARSE, COARSE))
            return F.interpolate(coarse, self.size, mode="bicubic", align_corners=False)
        return resized(images_from(rows, self.layout.grid, self.whole), self.size)


@dataclass(frozen=True)
class LinearInverter(Inverter):
    """One linear readout per stage.

    Attributes:
        readouts: by stage.
        weights: by stage: ``weight`` (d, t) and ``bias`` (places, t).
    """

    readouts: Mapping[str, Readout]
    weights: Mapping[str, Mapping[str, torch.Tensor]]

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        weights, readout = self.weights[representation.stage], self.readouts[representation.stage]
        rows = readout.features(representation.tensor) @ weights["weight"] + weights["bias"]
        return readout.images(rows).clamp(0, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights of every stage."""
        return flattened(self.weights)


@dataclass
class Accumulator:
    """The equations of every stage, fed one batch at a time; targets are made once for stages that share them.

    Sums are taken around the first batch's means: that keeps float32 products exact where channels have large means.

    Attributes:
        readouts: by stage.
        shared: clock of what stages share.
        own: clock of each stage's own.
        equations: of each split by its name, by stage.
        centre_x: what sums of features are around, by stage.
        centre_y: what sums of targets are around, by grid.
    """

    readouts: dict[str, Readout]
    shared: Stopwatch
    own: dict[str, Stopwatch]
    equations: dict[str, dict[str, Equations]]
    centre_x: dict[str, torch.Tensor] = field(default_factory=dict)
    centre_y: dict[object, torch.Tensor] = field(default_factory=dict)

    def add(self, images: torch.Tensor, representations: Mapping[str, Representation], split: str) -> None:
        """Add a batch of images (B, 3, H, W) of a ``split`` and their representations."""
        targets: dict[object, tuple[torch.Tensor, TargetSums]] = {}
        for stage, readout in self.readouts.items():
            if readout.layout.grid not in targets:
                with self.shared:
                    rows = readout.targets(images).contiguous()  # once: every stage flattens them
                    rows -= self.centre_y.setdefault(readout.layout.grid, rows.mean((0, 1)))
                    targets[readout.layout.grid] = rows, target_sums(rows)
            with self.own[stage]:
                features = readout.features(representations[stage].tensor)
                features = features - self.centre_x.setdefault(stage, features.mean((0, 1)))
                self.equations[split][stage].add(features, *targets[readout.layout.grid])

    def state(self) -> State:
        """Return the equations, and what they are around."""
        equations = {name: {s: e.state() for s, e in stages.items()} for name, stages in self.equations.items()}
        return {"equations": equations, "x": self.centre_x, "y": self.centre_y}

    def include(self, state: State) -> None:
        """Add equations of other images."""
        for stage, readout in self.readouts.items() if state["x"] else ():
            grid = readout.layout.grid
            away_x = state["x"][stage] - self.centre_x.setdefault(stage, state["x"][stage])
            away_y = state["y"][grid] - self.centre_y.setdefault(grid, state["y"][grid])
            for name, stages in state["equations"].items():
                self.equations[name][stage].include(stages[stage], away_x, away_y)

    def uncentred(self, stage: str, solution: Solution) -> dict[str, torch.Tensor]:
        """Return weight and bias for features and targets as they are."""
        around = self.centre_y[self.readouts[stage].layout.grid]
        bias = solution.bias + around - self.centre_x[stage] @ solution.weight
        return {"weight": solution.weight, "bias": bias}


@register.method
@dataclass(frozen=True)
class Ridge(Method):
    r"""The best linear readout of each stage, by ridge regression from representations to pixels.

    One pass over the fit images adds up the normal equations of every stage. For a stage with places (tokens, maps) one
    linear map, the same at every place, with an intercept per place, predicts the patch of pixels under a token from
    the token, or from its ``neighbourhood``. For queries one linear map of all of them predicts a 12 x 12 image,
    enlarged bicubically.

    Formula:
        $$ W = \arg\min_W \frac{1}{n} \| Y - X W \|^2 + \lambda \| W \|^2 $$

        for $n$ rows of standardised features $X$ and patches $Y$, around their means per place; of a fixed list, the
        $\lambda$ with the least generalised cross-validation error or error on the selection images.
    Cost:
        One forward pass per fit image for all stages together, and one eigenvalue decomposition per stage. Inverting an
        image is one matrix product.
    Use:
        As the first row to look at: a trained inverse of the same representation should not be worse.
    Pitfalls:
        It says what a stage holds linearly, patch by patch, and nothing of what needs a nonlinear decoder. A stage of
        more than 16,384 features per place, and as many fit images, is refused (not applicable).
    Source:
        Hoerl & Kennard 1970; generalised cross-validation of Golub, Heath & Wahba 1979, eq. 1.4, doi
        10.1080/00401706.1979.10489751.

    Attributes:
        choose: how lambda is chosen: by generalised cross-validation on the fit rows (``gcv``), or by the error on the
            selection images (``selection``), which takes another pass over those.
        neighbourhood: side of the square of tokens a patch is read from, odd; beyond the border are zeros. Object
            queries have no neighbours.
    """

    choose: Literal["gcv", "selection"] = "gcv"
    neighbourhood: Positive = 1

    name = "ridge"
    family = "closed form"
    source = "Hoerl & Kennard 1970; lambda by Golub, Heath & Wahba 1979, doi 10.1080/00401706.1979.10489751"
    version = 5
    reads_fit = True
    divides = True
    reads_joined = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbourhood % 2 == 0:
            raise UsageError(f"'{self.name}.neighbourhood' is {self.neighbourhood}, expected 1, 3, 5 ...")

    def readouts(self, problem: Problem) -> dict[str, Readout]:
        """Return how every stage is read."""
        model = problem.model
        return {s: Readout(model.layout(s), model.image_size, self.neighbourhood) for s in problem.stages}

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> LinearInverter | None:
        """Return the inverter with the weights that were kept."""
        weights = unflattened({name: tensor.to(problem.device) for name, tensor in tensors.items()})
        return LinearInverter(self.readouts(problem), weights) if weights.keys() >= set(problem.stages) else None

    def fit(self, problem: Problem) -> Fitted:
        """Pass the fit images through the model once and solve every stage."""
        readouts = self.readouts(problem)
        refused = {
            stage: NotApplicable(
                f"stage '{stage}' has {readout.width} values per place: the closed form takes at most {MOST_FEATURES}"
                + ("" if readout.layout.grid else f", or as many fit images (not {len(problem.fit)})")
            )
            for stage, readout in readouts.items()
            if readout.unknowns(len(problem.fit)) > MOST_FEATURES
        }
        if refused:
            kept = tuple(stage for stage in problem.stages if stage not in refused)
            fitted = self.fit(replace(problem, stages=kept)) if kept else Fitted(LinearInverter({}, {}), FitCost())
            return replace(fitted, refused=refused)
        shared = Stopwatch(problem.device)
        own = {s: Stopwatch(problem.device) for s in problem.stages}
        accumulator = self._added_up(problem, readouts, shared, own)
        fits, selects = accumulator.equations["fit"], accumulator.equations.get("select")
        weights: dict[str, dict[str, torch.Tensor]] = {}
        notes: Notes = {}
        for stage in problem.stages:
            with own[stage]:
                solution = solve(fits[stage], None if selects is None else selects[stage])
                weights[stage] = accumulator.uncentred(stage, solution)
            features, targets = solution.weight.shape
            notes[stage] = {
                "lambda_relative": solution.relative,
                "effective_degrees_of_freedom": round(solution.degrees, 2),
                "gcv_error": solution.gcv,
                "rows": fits[stage].rows,
                "features": features,
                "targets": targets,
            }
        cost = FitCost(
            stage_seconds={s: own[s].seconds for s in problem.stages},
            shared_seconds=shared.seconds,
            image_passes=dict.fromkeys(problem.stages, len(problem.fit)),
            parameters={s: sum(t.numel() for t in own_weights.values()) for s, own_weights in weights.items()},
        )
        return Fitted(LinearInverter(readouts, weights), cost, notes)

    def _added_up(
        self, problem: Problem, readouts: dict[str, Readout], shared: Stopwatch, own: dict[str, Stopwatch]
    ) -> Accumulator:
        """Return the equations of all fit images and, where lambda is chosen by them, of the selection images."""
        splits = {"fit": problem.fit} | ({"select": problem.select} if self.choose == "selection" else {})
        batches = [(name, start) for name, split in splits.items() for start in range(0, len(split), BATCH)]

        def make() -> Accumulator:
            return Accumulator(
                readouts,
                shared,
                own,
                {n: {s: r.equations(len(split)) for s, r in readouts.items()} for n, split in splits.items()},
            )

        watches = {"shared": shared} | {f"own/{stage}": watch for stage, watch in own.items()}
        whole = BatchPass(problem, [self.name, self.version, self.params()], len(batches), make, watches)
        for done, number in enumerate(whole, start=1):
            name, start = batches[number]
            images = splits[name].images(slice(start, start + BATCH)).to(problem.device)
            with shared:
                representations = problem.model.represent(images, problem.stages)
            whole.sums.add(images, representations, name)
            problem.context.progress(done, len(whole), f"batches of {BATCH} images")
        return whole.sums
