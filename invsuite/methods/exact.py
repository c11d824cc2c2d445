"""Inversion by algebra: the pseudo-inverse of a linear patch embedding, and fixed-point inversion of residual blocks.

Both read the model through its chain alone. Whether a stage is an affine map of each patch is not assumed from an
architecture's name but found by probing: basis images are pushed through the components, the matrix is read off, and
a random image must come out as the matrix says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from invsuite._system.timing import Stopwatch
from invsuite.errors import NotApplicable, UsageError, unknown_name
from invsuite.methods.base import FitCost, Fitted, Inverter, Method
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
        layout: of the representation; prefix tokens are left out.
        size: (H, W) of the images.
        matrix: (patch values, channels) in float64, the same at every place.
        offset: (places, channels), what a black image gives, position embeddings included.
    """

    layout: Layout
    size: tuple[int, int]
    matrix: torch.Tensor
    offset: torch.Tensor


def tokens_of(layout: Layout, tensor: torch.Tensor) -> torch.Tensor:
    """The spatial part of a representation as (B, places, channels) in float64."""
    return layout.to_map(tensor).flatten(2).transpose(1, 2).double()


@torch.no_grad()
def probe_patch_map(model: Model, stage: str) -> PatchMap:
    """The map from images to ``stage`` as a matrix, read off basis images.

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
    said = patches_of(probe[:1].double(), layout.grid)[0] @ matrix + offset[0]
    if not float((said - first[0]).norm()) <= AFFINE_TOLERANCE * size:
        raise NotApplicable(f"{where} is affine, but not patch by patch: it mixes places")
    return PatchMap(layout, model.image_size, matrix, offset[0])


def _read_matrix(model: Model, stage: str, offset: torch.Tensor) -> torch.Tensor:
    """Rows of the matrix: what each value of the patch, set to one in every patch at once, adds to the first token."""
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
    """

    map: PatchMap
    mean: torch.Tensor
    inverse: torch.Tensor
    rank: int
    condition: float | None

    @classmethod
    def of(cls, found: PatchMap, mean: torch.Tensor, covariance: torch.Tensor | None) -> PatchInverse:
        """Invert ``found`` around ``mean`` (patch values,).

        With a ``covariance`` (patch values, patch values) of patches, nearest means least Mahalanobis distance: the
        likeliest of the patches that fit, were patches normal. Without, it is the Euclidean (minimum-norm) solution.
        """
        values = torch.linalg.svdvals(found.matrix)
        tolerance = max(found.matrix.shape) * torch.finfo(torch.float32).eps  # the matrix was read in float32
        rank = int((values > tolerance * values[0]).sum())
        condition = float(values[0] / values[rank - 1]) if rank else None
        if covariance is None or rank == len(found.matrix):
            inverse = torch.linalg.pinv(found.matrix, rtol=tolerance)
        else:
            powers, axes = torch.linalg.eigh(covariance)
            root = axes * powers.clamp(min=1e-8 * float(powers.max())).sqrt()
            inverse = torch.linalg.pinv(root.T @ found.matrix, rtol=tolerance) @ root.T
        return cls(found, mean, inverse, rank, condition)

    def images(self, tensor: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] from a representation, computed in float64 and clamped at the end."""
        layout = self.map.layout
        assert layout.grid is not None
        expected = self.mean @ self.map.matrix + self.map.offset
        patches = self.mean + (tokens_of(layout, tensor) - expected) @ self.inverse
        return images_from(patches, layout.grid, self.map.size).clamp(0, 1).float()

    def notes(self) -> dict[str, Any]:
        """Rank, condition number and shape for the record."""
        values, channels = self.map.matrix.shape
        return {
            "rank": self.rank,
            "condition_number": self.condition,
            "patch_values": values,
            "channels": channels,
            "unique": self.rank == values,
        }


def patch_statistics(problem: Problem, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (v,) and covariance (v, v) of the fit images' patches, float64, from one pass over the images alone."""
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

    Args:
        metric: which patch is given where several fit: nearest to the mean fit patch (``euclidean``, the minimum-norm
            solution), or likeliest under the fit patches' covariance (``mahalanobis``, the best linear one).

    Raises:
        UsageError: for another ``metric``.
    """

    metric: str = "mahalanobis"

    def __post_init__(self) -> None:
        if self.metric not in ("euclidean", "mahalanobis"):
            raise unknown_name(f"metric of method '{self.name}'", self.metric, ("euclidean", "mahalanobis"))

    def invert_patches(self, problem: Problem, stage: str) -> PatchInverse:
        """The pseudo-inverse of the map from images to ``stage``.

        Raises:
            NotApplicable: if the map has none.
        """
        found = probe_patch_map(problem.model, stage)
        assert found.layout.grid is not None
        mean, covariance = patch_statistics(problem, found.layout.grid)
        return PatchInverse.of(found, mean, covariance if self.metric == "mahalanobis" else None)


@dataclass(frozen=True)
class ExactInverter(Inverter):
    """One pseudo-inverse a stage."""

    inverses: dict[str, PatchInverse]

    def invert(self, representation: Representation) -> torch.Tensor:
        return self.inverses[representation.stage].images(representation.tensor)


@register.method
@dataclass(frozen=True)
class Exact(PatchMethod):
    """Pseudo-inverse of an affine patch embedding: exact where it has full rank, else the best that rank allows.

    Stages that are no affine map of each patch are refused (`NotApplicable`).
    """

    name = "exact"
    family = "closed form"
    source = "Moore-Penrose pseudo-inverse (Penrose 1955, doi 10.1017/S0305004100030401)"

    def fit(self, problem: Problem) -> Fitted:
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
            parameters={s: inverses[s].inverse.numel() if s in inverses else 0 for s in problem.stages},
        )
        return Fitted(ExactInverter(inverses), cost, {s: i.notes() for s, i in inverses.items()}, refused)


@dataclass
class BlockFindings:
    """How the fixed-point iteration of one block went, over images."""

    converged: list[bool] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)

    def notes(self, stage: str) -> dict[str, Any]:
        """For the record: shares and means over images."""
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
    for made in range(iterations + 1):
        departure = block(x) - output
        residual = departure.flatten(1).norm(dim=1) / size
        better = residual < least  # false for NaN: a diverged iterate is never kept
        best = torch.where(better.view(axes), x, best)
        least = torch.where(better, residual, least)
        if made == iterations or bool((least <= tolerance).all()) or not bool(torch.isfinite(residual).any()):
            break
        x = x - departure
    return best, least, made


@dataclass
class FixedPointInverter(Inverter):
    """Walks the residual blocks back one by one, then the embedding by its pseudo-inverse."""

    model: Model
    first: PatchInverse
    paths: dict[str, tuple[int, ...]]
    settings: FixedPoint
    found: dict[str, dict[str, BlockFindings]] = field(default_factory=dict)

    def invert(self, representation: Representation) -> torch.Tensor:
        stage, tensor = representation.stage, representation.tensor
        for index in reversed(self.paths[stage]):
            component = self.model.components[index]
            tensor, residual, made = fixed_point(
                component.module, tensor, self.settings.iterations, self.settings.tolerance
            )
            kept = self.found.setdefault(stage, {}).setdefault(component.stage, BlockFindings())
            kept.residuals += residual.tolist()
            kept.converged += (residual <= self.settings.tolerance).tolist()
            kept.iterations.append(made)
        return self.first.images(tensor)

    def findings(self, stage: str) -> dict[str, Any]:
        """Per block, in the order inverted: converged or not, residual, iterations. Forgets what it tells."""
        blocks = [block.notes(name) for name, block in self.found.pop(stage, {}).items()]
        return {"blocks": blocks, "converged": all(block["converged"] for block in blocks)}


@register.method
@dataclass(frozen=True)
class FixedPoint(PatchMethod):
    """Fixed-point inversion of residual blocks, composed with the exact inverse of the embedding.

    Needs a chain whose first component is an affine map of each patch and whose others, up to the stage, keep their
    layout, as pre-norm transformer blocks do; other stages are refused (`NotApplicable`). Each block's record says
    whether it converged: a trained block is often no contraction, and then the picture shows where the iteration was
    left. An error of a late block is passed on to all before it.

    Args:
        iterations: most iterations a block.
        tolerance: relative residual at which a block counts as inverted.

    Raises:
        UsageError: for fewer than one iteration or a tolerance that is not positive.
    """

    iterations: int = 50
    tolerance: float = 1e-5

    name = "fixedpoint"
    family = "closed form"
    source = "Behrmann et al. 2019, arXiv 1811.00995, algorithm 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.tolerance <= 0:
            raise UsageError(
                f"method 'fixedpoint' needs iterations >= 1 and tolerance > 0, got {self.iterations}, {self.tolerance}"
            )

    def fit(self, problem: Problem) -> Fitted:
        model = problem.model
        if model.uncut:
            raise NotApplicable(f"model '{model.name}' has no blocks that run alone: {model.uncut}")
        watch = Stopwatch(problem.device)
        with watch:
            first = self.invert_patches(problem, model.components[0].stage)
        paths: dict[str, tuple[int, ...]] = {}
        refused: dict[str, NotApplicable] = {}
        for stage in problem.stages:
            path = tuple(range(1, model.position(stage) + 1))
            broken = next(self._not_residual(model, path), None)
            if broken is None:
                paths[stage] = path
            else:
                refused[stage] = NotApplicable(
                    f"component '{broken}' of model '{model.name}' is no residual block: it "
                    "changes the layout, or reads another stage than the one before"
                )
        cost = FitCost(
            shared_seconds=watch.seconds,
            image_passes={s: len(problem.fit) if s in paths else 0 for s in problem.stages},
            parameters={s: first.inverse.numel() if s in paths else 0 for s in problem.stages},
        )
        notes = {s: {"embedding": first.notes()} for s in paths}
        return Fitted(FixedPointInverter(model, first, paths, self), cost, notes, refused)

    @staticmethod
    def _not_residual(model: Model, path: tuple[int, ...]) -> Iterator[str]:
        for index in path:
            component, before = model.components[index], model.components[index - 1]
            if component.layout != before.layout or component.reads not in (None, before.stage):
                yield component.stage
