"""Patches of the reconstruction against patches of the original: is each at its place, and are they as alike?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite.metrics.base import Metric, Scoring, Values, random_order, with_levels
from invsuite.metrics.correspondence import ranks
from invsuite.registry import register

PER_SIDE = 12  # patches along an image's shorter side, whatever its size
NO_TEXTURE = 1 / 255  # root mean square contrast below which a patch of the original has nothing to match
FLAT = 1e-6  # root mean square in pixel values up to which a patch of a reconstruction is flat, or two are the same


def patch_side(size: tuple[int, int], per_side: int = PER_SIDE) -> int:
    """Side in pixels of square patches, ``per_side`` of which fit the shorter side of an image of ``size`` (H, W)."""
    return max(1, min(size) // per_side)


def cut_patches(images: torch.Tensor, per_side: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patches (N, rows * columns, 3, side * side) that do not overlap, in row-major order, and (rows, columns).

    Pixels left over at the bottom and right are left out.
    """
    side = patch_side((images.shape[2], images.shape[3]), per_side)
    grid = (images.shape[2] // side, images.shape[3] // side)
    return F.unfold(images, side, stride=side).transpose(1, 2).unflatten(2, (3, side * side)), grid


def neighbourhood(grid: tuple[int, int], radius: int) -> torch.Tensor:
    """For any two patches of a ``grid`` (rows, columns), (P, P): are they at most ``radius`` rows and columns apart?"""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    return (place[:, None] - place[None]).abs().amax(2) <= radius


def matched_share(
    originals: torch.Tensor, made: torch.Tensor, grid: tuple[int, int], radius: int, reach: int
) -> torch.Tensor:
    """Share (N,) of patches of ``made`` whose best match among the ``originals`` is at most ``radius`` away.

    Candidates are the original's patches up to ``reach`` rows and columns away, compared by zero-mean normalised
    cross-correlation, each channel's mean removed. Places where the original has no texture are left out (NaN if all
    are); a flat patch of the reconstruction matches nothing.

    Args:
        originals, made: patches (N, P, 3, K) of a ``grid`` (rows, columns).
    """
    truth, there = _standardised(originals, NO_TEXTURE)
    found, seen = _standardised(made, FLAT)
    similarity = found @ truth.transpose(1, 2)
    best = similarity.masked_fill(~neighbourhood(grid, reach).to(made.device), -torch.inf).argmax(2)
    near = neighbourhood(grid, radius).to(made.device)
    hit = near[torch.arange(near.shape[0], device=made.device), best]
    return (hit & seen & there).sum(1) / there.sum(1)


def _standardised(patches: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches as unit vectors (N, P, 3 * K), each channel's mean removed, and which have at least this contrast."""
    centred = (patches - patches.mean(3, keepdim=True)).flatten(2)
    contrast = centred.square().mean(2).sqrt()
    return F.normalize(centred, dim=2), contrast >= least


@register.metric
@dataclass(frozen=True)
class PatchMatch(Metric):
    """Share of the reconstruction's patches (12 along the shorter side) that look most like the original's patch at
    their own place, among those up to 4 patches away, by normalised cross-correlation; places where the original has
    no texture are left out.
    """

    radius: int = 0
    reach: int = 4
    per_side: int = PER_SIDE

    group = "Spatial correspondence"
    name = "patch_match"
    label = "Patch match"
    direction = "higher"
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        def levels(images: torch.Tensor, made: torch.Tensor) -> list[torch.Tensor]:
            truth, grid = cut_patches(images, self.per_side)
            found, _ = cut_patches(made, self.per_side)
            order = random_order(found.shape[1], found.device)
            return [matched_share(truth, p, grid, self.radius, self.reach) for p in (found, truth, found[:, order])]

        return with_levels(levels, scoring.images, scoring.reconstructions, reason="the original has no texture")


@register.metric
@dataclass(frozen=True)
class PatchMatch1(PatchMatch):
    """As patch match, but within one patch of their own place."""

    radius: int = 1

    name = "patch_match_1"
    label = "Patch match r=1"


@register.metric
@dataclass(frozen=True)
class PatchMatch2(PatchMatch):
    """As patch match, but within two patches of their own place."""

    radius: int = 2

    name = "patch_match_2"
    label = "Patch match r=2"


def affinity(patches: torch.Tensor) -> torch.Tensor:
    """Mean squared differences (N, P * (P - 1) / 2) in float64 between any two patches of an image (N, P, 3, K)."""
    pixels = patches.flatten(2).double()
    pixels = pixels - pixels.mean(1, keepdim=True)  # near zero, so that the difference of products stays exact
    products = pixels @ pixels.transpose(1, 2) / pixels.shape[2]
    first, second = torch.triu_indices(pixels.shape[1], pixels.shape[1], 1)
    own = products.diagonal(dim1=1, dim2=2)
    distance = own[:, first] + own[:, second] - 2 * products[:, first, second]
    return torch.where(distance < FLAT**2, 0.0, distance)  # rounding must not rank patches that are the same


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation (N,) of rows (N, K), ties at their mean rank; NaN where a row is constant."""
    a, b = (r - r.mean(1, keepdim=True) for r in (ranks(first), ranks(second)))
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


@register.metric
@dataclass(frozen=True)
class AffinityCorrelation(Metric):
    """Which patches look alike? Spearman's rank correlation between the distances of any two patches of the
    reconstruction (12 along the shorter side) and those of the same two of the original.
    """

    per_side: int = PER_SIDE

    group = "Spatial correspondence"
    name = "affinity_correlation"
    label = "Affinity rank correlation"
    direction = "higher"
    tolerance = 0.03

    def compute(self, scoring: Scoring) -> Values:
        def levels(images: torch.Tensor, made: torch.Tensor) -> list[torch.Tensor]:
            truth, found = (cut_patches(x, self.per_side)[0] for x in (images, made))
            own, order = affinity(truth), random_order(found.shape[1], found.device)
            return [rank_correlation(own, affinity(p)) for p in (found, truth, found[:, order])]

        return with_levels(levels, scoring.images, scoring.reconstructions, reason="original or reconstruction is flat")
