"""Inversion by algebra: the pseudo-inverse of a linear patch embedding, and fixed-point inversion of residual blocks.

Both read the model through its chain alone. Whether a stage is an affine map of each patch is not assumed from an
architecture's name but probed: basis images are pushed through the components, the matrix is read off, and a random
image must come out as the matrix says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from invsuite._system.timing import Stopwatch
from invsuite._system.validation import Positive, PositiveFloat
from invsuite.errors import NotApplicable
from invsuite.methods.base import (
    FitCost,
    Fitted,
    Inverter,
    Method,
    NamedTensors,
    Notes,
    Work,
    WorkFacts,
    flattened,
    unflattened,
)
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.ridge import images_from, patches_of
from invsuite.models.base import Layout, Model, Representation
from invsuite.registry import register

PROBE_BATCH = 32
AFFINE_TOLERANCE = 1e-3  # relative departure from the matrix that float32 may cause; other maps depart by far more


@dataclass(frozen=True)
class PatchMap:
    """An affine map of patches: ``tokens = patches @ matrix + offset``.

    Attributes:
        matrix: (patch values, channels) in float64, the same at every place.
        offset: (places, channels), what a black image gives, position embeddings included.
    """

    matrix: torch.Tensor
    offset: torch.Tensor


def tokens_of(layout: Layout, tensor: torch.Tensor) -> torch.Tensor:
    """Return the spatial part of a representation as (B, places, channels) in float64; prefix tokens are left out."""
    return layout.to_map(tensor).flatten(2).transpose(1, 2).double()


@torch.no_grad()
def probe_patch_map(model: Model, stage: str) -> PatchMap:
    """Return the map from images to ``stage`` as a matrix, read off basis images.

    Raises:
        NotApplicable: if the map is not one affine map of each patch alone, the same at every place.
    """
    layout = model.layout(stage)
    height, width = model.image_size
    where = f"stage '{stage}' of model '{model.name}'"
    if layout.grid is None or height % layout.grid[0] or width % layout.grid[1]:
        raise NotApplicable(f"{where} has no grid of whole patches, so no patch has an exact inverse")
    generator = torch.Generator().manual_seed(derived_seed("probe", stage))
    probe = torch.rand(2, 3, height, width, generator=generator).to(model.device)
    black = torch.zeros(1, 3, height, width, device=model.device)
    first, second, offset = (tokens_of(layout, model.run(x, None, stage)) for x in (probe[:1], probe[1:], black))
    both = tokens_of(layout, model.run(probe[:1] + probe[1:], None, stage))
    size = float((first - offset).norm() + (second - offset).norm())
    if not float((both - first - second + offset).norm()) <= AFFINE_TOLERANCE * size:
        raise NotApplicable(f"{where} is not an affine map of the image: exact inversion stops before it")
    matrix = _read_matrix(model, stage, offset)
    predicted = patches_of(probe[:1].double(), layout.grid)[0] @ matrix + offset[0]
    if not float((predicted - first[0]).norm()) <= AFFINE_TOLERANCE * size:
        raise NotApplicable(f"{where} is affine, but not patch by patch: it mixes places")
    return PatchMap(matrix, offset[0])


def _read_matrix(model: Model, stage: str, offset: torch.Tensor) -> torch.Tensor:
    """Return the matrix: row by row, what each value of the patch, set to one everywhere, adds to the first token."""
    layout = model.layout(stage)
    assert layout.grid is not None
    places = layout.grid[0] * layout.grid[1]
    values = 3 * (model.image_size[0] // layout.grid[0]) * (model.image_size[1] // layout.grid[1])
    rows = []
    for start in range(0, values, PROBE_BATCH):
        basis = torch.eye(values, device=model.device)[start : start + PROBE_BATCH]
        images = images_from(basis[:, None].expand(-1, places, -1), layout.grid, model.image_size)
        rows.append(tokens_of(layout, model.run(images, None, stage))[:, 0] - offset[:, 0])
    return torch.cat(rows)


@dataclass(frozen=True)
class PatchInverse:
    """The pseudo-inverse of a `PatchMap` around the mean fit patch.

    Of all patches that the map sends to the token it gives the one nearest to the mean, in the chosen metric. With
    full row rank (as many independent channels as patch values) there is one such patch: the true one.

    Attributes:
        layout: of the representation.
        size: (H, W) of the images.
        tensors: ``matrix`` and ``offset`` of the map, the ``mean`` (patch values,) and the ``inverse`` (channels, patch
            values), in float64.
        notes: rank, condition number and shape, for the record.
    """

    layout: Layout
    size: tuple[int, int]
    tensors: Mapping[str, torch.Tensor]
    notes: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: Model, stage: str, patch_map: PatchMap, mean: torch.Tensor, covariance: torch.Tensor | None
    ) -> PatchInverse:
        """Invert ``patch_map``, the map from images to ``stage``, around ``mean`` (patch values,).

        With a ``covariance`` (patch values, patch values) of patches, nearest means least Mahalanobis distance: the
        likeliest of the patches that fit, were patches normal. Without, it is the Euclidean (minimum-norm) solution.
        """
        matrix = patch_map.matrix
        values = torch.linalg.svdvals(matrix)
        tolerance = max(matrix.shape) * torch.finfo(torch.float32).eps  # the matrix was read in float32
        rank = int((values > tolerance * values[0]).sum())
        if covariance is None or rank == len(matrix):
            inverse = torch.linalg.pinv(matrix, rtol=tolerance)
        else:
            powers, axes = torch.linalg.eigh(covariance)
            root = axes * powers.clamp(min=1e-8 * float(powers.max())).sqrt()
            inverse = torch.linalg.pinv(root.T @ matrix, rtol=tolerance) @ root.T
        notes = {
            "rank": rank,
            "condition_number": float(values[0] / values[rank - 1]) if rank else None,
            "patch_values": matrix.shape[0],
            "channels": matrix.shape[1],
            "unique": rank == len(matrix),
        }
        tensors = {"matrix": matrix, "offset": patch_map.offset, "mean": mean, "inverse": inverse}
        return cls(model.layout(stage), model.image_size, tensors, notes)

    def images(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) in [0, 1] from a representation, computed in float64 and clamped at the end."""
        assert self.layout.grid is not None
        matrix, offset, mean, inverse = (self.tensors[name] for name in ("matrix", "offset", "mean", "inverse"))
        patches = mean + (tokens_of(self.layout, tensor) - (mean @ matrix + offset)) @ inverse
        return images_from(patches, self.layout.grid, self.size).clamp(0, 1).float()


def patch_statistics(problem: Problem, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean (v,) and covariance (v, v) of the fit images' patches in float64, from one pass over the images."""
    count, total, square, centre = 0, None, None, None
    for images in problem.fit.batches(32):
        rows = patches_of(images.to(problem.device), grid).flatten(0, 1)
        centre = rows.mean(0) if centre is None else centre
        rows = rows - centre
        count += len(rows)
        part, product = rows.sum(0, dtype=torch.float64), (rows.T @ rows).double()
        total, square = (part, product) if total is None or square is None else (total + part, square + product)
    assert total is not None
    assert square is not None
    assert centre is not None
    mean = total / count
    return mean + centre.double(), square / count - torch.outer(mean, mean)


@dataclass(frozen=True)
class PatchMethod(Method):
    """What both methods need: the stages whose map from the image has a pseudo-inverse.

    Attributes:
        metric: which patch is given where several fit: the nearest to the mean fit patch (``euclidean``, the
            minimum-norm solution), or the likeliest under the fit patches' covariance (``mahalanobis``, the best linear
            one).
    """

    metric: Literal["mahalanobis", "euclidean"] = "mahalanobis"

    def invert_patches(self, problem: Problem, stage: str) -> PatchInverse:
        """Return the pseudo-inverse of the map from images to ``stage``.

        Raises:
            NotApplicable: if the map has none.
        """
        model = problem.model
        patch_map = probe_patch_map(model, stage)
        grid = model.layout(stage).grid
        assert grid is not None
        mean, covariance = patch_statistics(problem, grid)
        return PatchInverse.of(model, stage, patch_map, mean, covariance if self.metric == "mahalanobis" else None)

    @staticmethod
    def restore_patches(problem: Problem, stage: str, tensors: Mapping[str, torch.Tensor]) -> PatchInverse:
        """Return the pseudo-inverse of ``stage`` from its kept tensors."""
        tensors = {name: tensor.to(problem.device) for name, tensor in tensors.items()}
        return PatchInverse(problem.model.layout(stage), problem.model.image_size, tensors, {})


@dataclass(frozen=True)
class ExactInverter(Inverter):
    """One pseudo-inverse per stage."""

    inverses: Mapping[str, PatchInverse]

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        return self.inverses[representation.stage].images(representation.tensor)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the pseudo-inverse of every stage."""
        return flattened({stage: inverse.tensors for stage, inverse in self.inverses.items()})


@register.method
@dataclass(frozen=True)
class Exact(PatchMethod):
    r"""The pseudo-inverse of an affine patch embedding: exact where it has full rank, else the best that rank allows.

    Whether a stage is one affine map of each patch is probed: basis images give the map, and a random image must come
    out as it says. The rest is computed in float64.

    Formula:
        $$ t = p W + b, \qquad \hat{p} = \bar{p} + (t - \bar{p} W - b) W^{+} $$

        for a patch $p$, its token $t$, the mean $\bar{p}$ of the fit patches, and the Moore-Penrose pseudo-inverse
        $W^{+}$ in the chosen ``metric``. With at least as many independent channels as patch values, $\hat{p} = p$ up
        to rounding.
    Cost:
        One pass over the fit images, not through the model, and one singular value decomposition per stage; next to
        nothing per image.
    Use:
        To learn what the embedding alone loses, and as a check that the chain is what it says.
    Pitfalls:
        Stages that are no affine map of each patch - all behind the embedding - are refused (not applicable). A large
        condition number, in the notes, means that rounding is amplified.
    Source:
        Penrose 1955, doi 10.1017/S0305004100030401.
    """

    name = "exact"
    family = "closed form"
    source = "Moore-Penrose pseudo-inverse (Penrose 1955, doi 10.1017/S0305004100030401)"

    def fit(self, problem: Problem) -> Fitted:
        """Probe and invert the map to every stage."""
        inverses: dict[str, PatchInverse] = {}
        refused: dict[str, NotApplicable] = {}
        watches = {s: Stopwatch(problem.device) for s in problem.stages}
        for done, stage in enumerate(problem.stages, 1):
            with watches[stage]:
                try:
                    inverses[stage] = self.invert_patches(problem, stage)
                except NotApplicable as reason:
                    refused[stage] = reason
            problem.context.progress(done, len(problem.stages), "stages")
        cost = FitCost(
            stage_seconds={s: w.seconds for s, w in watches.items()},
            image_passes={s: len(problem.fit) if s in inverses else 0 for s in problem.stages},
            parameters={s: inverses[s].tensors["inverse"].numel() if s in inverses else 0 for s in problem.stages},
        )
        return Fitted(ExactInverter(inverses), cost, {s: dict(i.notes) for s, i in inverses.items()}, refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> ExactInverter | None:
        """Return the inverter with the pseudo-inverses that were kept."""
        kept = unflattened(tensors)
        if not kept.keys() >= set(problem.stages):
            return None
        return ExactInverter({s: self.restore_patches(problem, s, kept[s]) for s in problem.stages})


@dataclass
class BlockFindings:
    """How the fixed-point iteration of one block went, over images."""

    converged: list[bool] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)

    def notes(self, stage: str) -> dict[str, Any]:
        """Return shares and means over images, for the record."""
        count = len(self.converged)
        return {
            "block": stage,
            "converged": all(self.converged),
            "converged_share": sum(self.converged) / count,
            "residual": sum(self.residuals) / count,
            "residual_max": max(self.residuals),
            "iterations": max(self.iterations),
            "images": count,
        }


@torch.no_grad()
def fixed_point(
    block: nn.Module, output: torch.Tensor, iterations: int, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Solve ``block(x) = output`` for a block ``x + f(x)`` by iterating ``x <- output - f(x)``.

    Behrmann et al. 2019 (arXiv 1811.00995), algorithm 1: it converges where f is a contraction. Where it is not, the
    iterate with the least residual is kept, which is the block's output itself at worst.

    Returns:
        The inputs (as ``output``), each image's relative residual ||block(x) - output|| / ||output|| (B,), and the
        number of iterations made.
    """
    axes = (-1, *[1] * (output.dim() - 1))
    size = output.flatten(1).norm(dim=1).clamp(min=1e-12)
    x = best = output
    least = torch.full_like(size, float("inf"))
    for iteration in range(iterations + 1):
        departure = block(x) - output
        residual = departure.flatten(1).norm(dim=1) / size
        better = residual < least  # false for NaN: a diverged iterate is never kept
        best = torch.where(better.view(axes), x, best)
        least = torch.where(better, residual, least)
        if iteration == iterations or bool((least <= tolerance).all()) or not bool(torch.isfinite(residual).any()):
            break
        x = x - departure
    return best, least, iteration


@dataclass
class FixedPointInverter(Inverter):
    """Walks the residual blocks back one by one, then the embedding by its pseudo-inverse.

    Attributes:
        model: frozen.
        first: the pseudo-inverse of the embedding.
        settings: the method with its parameters.
        blocks: how the iterations of each block went since the last `findings`, by stage.
    """

    model: Model
    first: PatchInverse
    settings: FixedPoint
    blocks: dict[str, dict[str, BlockFindings]] = field(default_factory=dict)

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        stage, tensor = representation.stage, representation.tensor
        for index in range(self.model.position(stage), 0, -1):
            component = self.model.components[index]
            tensor, residual, iterations = fixed_point(
                component.module, tensor, self.settings.iterations, self.settings.tolerance
            )
            block = self.blocks.setdefault(stage, {}).setdefault(component.stage, BlockFindings())
            block.residuals += residual.tolist()
            block.converged += (residual <= self.settings.tolerance).tolist()
            block.iterations.append(iterations)
        return self.first.images(tensor)

    def findings(self, stage: str) -> dict[str, Any]:
        """Return, per block in the order inverted, whether it converged, residual and iterations; then forget them."""
        blocks = [block.notes(name) for name, block in self.blocks.pop(stage, {}).items()]
        return {"blocks": blocks, "converged": all(block["converged"] for block in blocks)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the pseudo-inverse of the embedding."""
        return dict(self.first.tensors)


@register.method
@dataclass(frozen=True)
class FixedPoint(PatchMethod):
    r"""Fixed-point inversion of residual blocks, composed with the exact inverse of the embedding.

    From the stage back to the embedding, each block is solved for its input, until the relative residual is below
    ``tolerance`` for all images, or ``iterations`` times; the iterate with the least residual is kept. The embedding is
    then inverted as by `Exact`.

    Formula:
        $$ y = x + f(x), \qquad x_0 = y, \quad x_{k+1} = y - f(x_k) $$

        with the relative residual $\| x_k + f(x_k) - y \| / \| y \|$.
    Cost:
        Nothing to train; up to ``iterations`` forward passes through every block per image.
    Use:
        To learn which blocks are contractions, and what a trained inverse adds where they are not.
    Pitfalls:
        It converges where $f$ is a contraction, which a trained block often is not; each block's record says whether it
        converged, and the picture then shows where the iteration was left. An error of a late block is passed on to all
        before it. Stages behind a component that changes the layout, or reads another stage than the one before, are
        refused (not applicable).
    Source:
        Behrmann et al. 2019, arXiv 1811.00995, algorithm 1.

    Attributes:
        iterations: the most per block.
        tolerance: relative residual at which a block counts as inverted.
    """

    iterations: Positive = 50
    tolerance: PositiveFloat = 1e-5

    name = "fixedpoint"
    family = "closed form"
    source = "Behrmann et al. 2019, arXiv 1811.00995, algorithm 1"

    def fit(self, problem: Problem) -> Fitted:
        """Invert the embedding and find the stages that residual blocks alone lead to."""
        model = problem.model
        if model.uncut:
            raise NotApplicable(f"model '{model.name}' has no blocks that run alone: {model.uncut}")
        watch = Stopwatch(problem.device)
        with watch:
            first = self.invert_patches(problem, model.components[0].stage)
        refused: dict[str, NotApplicable] = {}
        for stage in problem.stages:
            broken = next(self._not_residual(model, stage), None)
            if broken is not None:
                refused[stage] = NotApplicable(
                    f"component '{broken}' of model '{model.name}' is no residual block: it "
                    "changes the layout, or reads another stage than the one before"
                )
        kept = [stage for stage in problem.stages if stage not in refused]
        cost = FitCost(
            shared_seconds=watch.seconds,
            image_passes={s: len(problem.fit) if s in kept else 0 for s in problem.stages},
            parameters={s: first.tensors["inverse"].numel() if s in kept else 0 for s in problem.stages},
        )
        notes = {stage: {"embedding": dict(first.notes)} for stage in kept}
        return Fitted(FixedPointInverter(model, first, self), cost, notes, refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> FixedPointInverter:
        """Return the inverter with the pseudo-inverse of the embedding that was kept."""
        first = self.restore_patches(problem, problem.model.components[0].stage, tensors)
        return FixedPointInverter(problem.model, first, self)

    def work(self, facts: WorkFacts) -> Work:
        """Return the iterations of an inversion; a forward pass is about a third of an update."""
        return Work(updates=-(-self.iterations // 3))

    @staticmethod
    def _not_residual(model: Model, stage: str) -> Iterator[str]:
        """Yield the components after the embedding, up to ``stage``, that are no residual blocks."""
        for index in range(1, model.position(stage) + 1):
            component, before = model.components[index], model.components[index - 1]
            if component.layout != before.layout or component.reads not in (None, before.stage):
                yield component.stage
