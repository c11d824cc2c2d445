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
    """Return the side in pixels of square patches, ``per_side`` of which fit the shorter side of ``size`` (H, W)."""
    return max(1, min(size) // per_side)


def cut_patches(images: torch.Tensor, per_side: int = PER_SIDE) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return patches (N, rows * columns, 3, side * side) that do not overlap, in row-major order, and (rows, columns).

    Pixels left over at the bottom and right are left out.

    Examples:
        >>> patches, grid = cut_patches(torch.rand(2, 3, 24, 36))
        >>> patches.shape, grid
        (torch.Size([2, 216, 3, 4]), (12, 18))
    """
    side = patch_side((images.shape[2], images.shape[3]), per_side)
    grid = (images.shape[2] // side, images.shape[3] // side)
    return F.unfold(images, side, stride=side).transpose(1, 2).unflatten(2, (3, side * side)), grid


def neighbourhood(grid: tuple[int, int], radius: int) -> torch.Tensor:
    """Tell, for any two patches of a ``grid`` (rows, columns), if they are at most ``radius`` apart in both: (P, P)."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    return (place[:, None] - place[None]).abs().amax(2) <= radius


def matched_share(
    originals: torch.Tensor, patches: torch.Tensor, grid: tuple[int, int], radius: int = 0, reach: int = 4
) -> torch.Tensor:
    """Return the share (N,) of ``patches`` whose best match among the ``originals`` is at most ``radius`` away.

    Candidates are the original's patches up to ``reach`` rows and columns away, compared by zero-mean normalised
    cross-correlation, each channel's mean removed. Places where the original has no texture are left out (NaN if all
    are); a flat patch of the reconstruction matches nothing.

    Args:
        originals: patches of the images (N, P, 3, K), as `cut_patches` gives them.
        patches: those of the reconstructions, of the same shape.
        grid: (rows, columns) of the patches.
        radius: how many rows and columns away a match still counts.
        reach: how many rows and columns away candidates are.

    Examples:
        >>> patches, grid = cut_patches(torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
        >>> matched_share(patches, patches, grid)
        tensor([1.])
    """
    truth, textured = _standardised(originals, NO_TEXTURE)
    candidates, not_flat = _standardised(patches, FLAT)
    similarity = candidates @ truth.transpose(1, 2)
    best = similarity.masked_fill(~neighbourhood(grid, reach).to(patches.device), -torch.inf).argmax(2)
    near = neighbourhood(grid, radius).to(patches.device)
    hit = near[torch.arange(near.shape[0], device=patches.device), best]
    return (hit & not_flat & textured).sum(1) / textured.sum(1)


def _standardised(patches: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patches as unit vectors (N, P, 3 * K), each channel's mean removed, and which have ``least`` contrast."""
    centred = (patches - patches.mean(3, keepdim=True)).flatten(2)
    contrast = centred.square().mean(2).sqrt()
    return F.normalize(centred, dim=2), contrast >= least


def affinity(patches: torch.Tensor) -> torch.Tensor:
    """Return mean squared differences (N, P * (P - 1) / 2), in float64, between any two patches of (N, P, 3, K).

    Examples:
        >>> affinity(torch.tensor([0.0, 0.5, 0.5])[None, :, None, None].expand(1, 3, 3, 4))
        tensor([[0.2500, 0.2500, 0.0000]], dtype=torch.float64)
    """
    pixels = patches.flatten(2).double()
    pixels = pixels - pixels.mean(1, keepdim=True)  # near zero, so that the difference of products stays exact
    products = pixels @ pixels.transpose(1, 2) / pixels.shape[2]
    first, second = torch.triu_indices(pixels.shape[1], pixels.shape[1], 1)
    own = products.diagonal(dim1=1, dim2=2)
    distance = own[:, first] + own[:, second] - 2 * products[:, first, second]
    return torch.where(distance < FLAT**2, 0.0, distance)  # rounding must not rank patches that are the same


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return Spearman's rank correlation (N,) of rows (N, K), ties at their mean rank; NaN where a row is constant.

    Examples:
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 4.0, 9.0]])).round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """
    a, b = (r - r.mean(1, keepdim=True) for r in (ranks(first), ranks(second)))
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


@register.metric
@dataclass(frozen=True)
class PatchMatch(Metric):
    r"""Share of the reconstruction's patches that look most like the original's patch at their own place.

    12 patches along the shorter side, among those up to 4 patches away, by normalised cross-correlation; places where
    the original has no texture are left out.

    Formula:
        $$ q^*(p) = \underset{q \,:\, |q - p|_\infty \le 4}{\mathrm{argmax}} \;
        \frac{\langle \hat{x}_p - \bar{\hat{x}}_p, \; x_q - \bar{x}_q \rangle}
        {\lVert \hat{x}_p - \bar{\hat{x}}_p \rVert \, \lVert x_q - \bar{x}_q \rVert} $$

        with each channel's mean removed; the value is the share of places with $q^*(p) = p$, or with
        $|q^*(p) - p|_\infty$ at most the ``radius``.
    Range:
        0 to 1.
    Ceiling:
        1, or a little less where patches of an image repeat; measured.
    Floor:
        That of the reconstruction's patches in random order, measured: about 1/81, the number of candidates.
    Undefined:
        Where no patch of the image has texture.
    Pitfalls:
        It looks at texture alone: the mean colour of a patch does not count, and flat patches of a reconstruction match
        nothing. Blur costs little until texture is gone.
    Source:
        This suite.

    Args:
        radius: how many rows and columns away a match still counts.
        reach: how many rows and columns away candidates are.
        per_side: patches along the shorter side.
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
        def levels(images: torch.Tensor, reconstructions: torch.Tensor) -> list[torch.Tensor]:
            truth, grid = cut_patches(images, self.per_side)
            patches, _ = cut_patches(reconstructions, self.per_side)
            shuffled = patches[:, random_order(patches.shape[1], patches.device)]
            return [matched_share(truth, p, grid, self.radius, self.reach) for p in (patches, truth, shuffled)]

        return with_levels(levels, scoring.images, scoring.reconstructions, reason="the original has no texture")


@register.metric
@dataclass(frozen=True)
class PatchMatch1(PatchMatch):
    """As patch match, but within one patch of their own place.

    Floor:
        That of the reconstruction's patches in random order, measured: about 9/81, more than that towards the border.
    """

    radius: int = 1

    name = "patch_match_1"
    label = "Patch match r=1"


@register.metric
@dataclass(frozen=True)
class PatchMatch2(PatchMatch):
    """As patch match, but within two patches of their own place.

    Floor:
        That of the reconstruction's patches in random order, measured: about 25/81, more than that towards the border.
    """

    radius: int = 2

    name = "patch_match_2"
    label = "Patch match r=2"


@register.metric
@dataclass(frozen=True)
class AffinityCorrelation(Metric):
    r"""Which patches look alike? Rank correlation of the distances between patches with those of the original.

    Spearman's, over any two patches of the reconstruction (12 along the shorter side) and the same two of the original.

    Formula:
        $$ \rho_{\mathrm{Spearman}} \left( \left\{ \lVert x_p - x_q \rVert^2 \right\}_{p < q}, \;
        \left\{ \lVert \hat{x}_p - \hat{x}_q \rVert^2 \right\}_{p < q} \right) $$

        over all pairs of patches.
    Range:
        -1 to 1.
    Ceiling:
        1.
    Floor:
        That of the reconstruction's patches in random order, measured: about 0.
    Undefined:
        Where the image or the reconstruction is flat.
    Pitfalls:
        It forgives any change that keeps which patches are alike, such as another contrast or other colours throughout.
    Source:
        This suite, after the representational similarity of Kriegeskorte, Mur & Bandettini 2008,
        doi 10.3389/neuro.06.004.2008.

    Args:
        per_side: patches along the shorter side.
    """

    per_side: int = PER_SIDE

    group = "Spatial correspondence"
    name = "affinity_correlation"
    label = "Affinity rank correlation"
    direction = "higher"
    tolerance = 0.03

    def compute(self, scoring: Scoring) -> Values:
        def levels(images: torch.Tensor, reconstructions: torch.Tensor) -> list[torch.Tensor]:
            truth, patches = (cut_patches(x, self.per_side)[0] for x in (images, reconstructions))
            own, shuffled = affinity(truth), patches[:, random_order(patches.shape[1], patches.device)]
            return [rank_correlation(own, affinity(p)) for p in (patches, truth, shuffled)]

        return with_levels(levels, scoring.images, scoring.reconstructions, reason="original or reconstruction is flat")
