"""Segments of a scene: are the objects' borders in the reconstruction, and is each object still one thing?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from invsuite._system.spill import TensorLike, collect
from invsuite.data.base import Sample
from invsuite.data.split import sample_batches
from invsuite.metrics.base import MAP_BATCH, Metric, Scoring, Values, shuffle, with_levels
from invsuite.metrics.patches import patch_side
from invsuite.registry import register

NO_BORDER = "the image has no object mask that covers a part of it"
LEVELS = 32  # thresholds of edge strength that the best F-measure is sought over
NO_EDGE = 1e-5  # change per pixel, in pixel values, up to which an edge is rounding
FLAT = 1e-9  # variance of pixel values below which an image shows nothing

#: Sobel's horizontal derivative, scaled to the change per pixel
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8


def segment_maps(samples: Sequence[Sample]) -> torch.Tensor:
    """Return the segment of each pixel (N, H, W), int16: 0 the background, then one number per object.

    Small objects lie over large ones.
    """
    maps = np.zeros((len(samples), *samples[0].image.shape[-2:]), dtype=np.int16)
    for segments, sample in zip(maps, samples, strict=True):
        by_size = sorted(sample.instances, key=lambda instance: -int(instance.mask.sum()))
        for number, instance in enumerate(by_size, start=1):
            segments[instance.mask] = number
    return torch.from_numpy(maps)


def segments_of(scoring: Scoring) -> TensorLike:
    """Return segment maps of the scored images."""

    def drawn() -> TensorLike:
        return collect(map(segment_maps, sample_batches(scoring.samples, MAP_BATCH)), len(scoring.samples))

    return scoring.cached_per_model("segments", drawn)


def borders(segments: torch.Tensor) -> torch.Tensor:
    """Return the pixels (N, H, W), bool, whose right or lower neighbour is of another segment.

    Examples:
        >>> borders(torch.tensor([[[0, 0, 1]]]))
        tensor([[[False,  True, False]]])
    """
    border = torch.zeros_like(segments, dtype=torch.bool)
    border[:, :, :-1] |= segments[:, :, 1:] != segments[:, :, :-1]
    border[:, :-1] |= segments[:, 1:] != segments[:, :-1]
    return border


def edges(images: torch.Tensor) -> torch.Tensor:
    """Return the edge strength (N, H, W) of images (N, 3, H, W): the largest Sobel gradient of the channels, thinned.

    A pixel keeps its strength if neither neighbour along the gradient (to the nearest of four directions) is
    stronger (non-maximum suppression), else it is 0; of two equal ones the upper or left stays, where `borders` has
    the border. The frame is repeated outwards.

    Examples:
        >>> images = torch.zeros(1, 3, 1, 6)
        >>> images[..., 3:] = 0.8
        >>> edges(images)
        tensor([[[0.0000, 0.0000, 0.4000, 0.0000, 0.0000, 0.0000]]])
    """
    kernel = SOBEL.to(images)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).unflatten(0, images.shape[:2])
    channel = gradient.square().sum(2).argmax(1, keepdim=True)
    x, y = gradient.gather(1, channel[:, :, None].expand(-1, -1, 2, -1, -1))[:, 0].unbind(1)
    strength = F.threshold(torch.hypot(x, y), NO_EDGE, 0.0)
    direction = (torch.atan2(y, x) / (math.pi / 4)).round().long() % 4
    kept = torch.zeros_like(strength)
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):  # 0, 45, 90, 135 degrees, y downwards
        ahead, behind = _moved(strength, dy, dx), _moved(strength, -dy, -dx)
        kept = torch.where((direction == number) & (strength >= ahead) & (strength > behind), strength, kept)
    return kept


def _moved(maps: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """Return maps (N, H, W) whose pixel (y, x) is the old (y + dy, x + dx); 0 beyond the frame."""
    high, wide = maps.shape[1:]
    by, bx = abs(dy), abs(dx)
    return F.pad(maps, (bx, bx, by, by))[:, by + dy : by + dy + high, bx + dx : bx + dx + wide]


def dilated(maps: torch.Tensor, distance: float) -> torch.Tensor:
    """Return the largest value of maps (N, H, W) within ``distance`` pixels of each pixel."""
    reach = math.floor(distance)
    largest = maps
    for dy, dx in product(range(-reach, reach + 1), repeat=2):
        if math.hypot(dy, dx) <= distance:
            largest = torch.maximum(largest, _moved(maps, dy, dx))
    return largest


def boundary_f(strength: torch.Tensor, truth: torch.Tensor, distance: float) -> torch.Tensor:
    """Return the best F-measure (N,), 0 to 1, over thresholds of edge ``strength`` (N, H, W) against true borders.

    Precision is the share of edge pixels within ``distance`` pixels of a border, recall the share of border pixels
    within it of an edge. Thresholds are quantiles of each image's own edges, so that contrast does not count. NaN
    without borders, 0 without edges. ``truth`` is (N, H, W), bool, as `borders` gives it.

    Examples:
        >>> truth = torch.tensor([[[False, True, False, False]]])
        >>> boundary_f(torch.tensor([[[0.0, 0.0, 0.4, 0.0]]]), truth, 1.0)
        tensor([1.], dtype=torch.float64)
    """
    near_border = (dilated(truth.to(strength), distance) > 0).flatten(1)
    ordered, order = strength.flatten(1).sort(1)
    edge_count = (ordered > 0).sum(1, keepdim=True)
    levels = torch.arange(1, LEVELS + 1, device=strength.device) / LEVELS
    kept = (edge_count * levels).ceil().long().clamp(min=1)  # the strongest 1 / LEVELS of the edges, 2 / LEVELS ...
    threshold = ordered.gather(1, ordered.shape[1] - kept)

    first = torch.searchsorted(ordered, threshold)
    right = F.pad(near_border.gather(1, order).cumsum(1), (1, 0))
    precision = (right[:, -1:] - right.gather(1, first)).double() / (ordered.shape[1] - first)

    border_count = truth.sum((1, 2))[:, None]
    most = max(1, int(border_count.max()))
    nearest = torch.where(truth, dilated(strength, distance), -1.0).flatten(1).topk(most).values.flip(1)
    recall = (most - torch.searchsorted(nearest, threshold)).double() / border_count

    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    best = torch.where(threshold > 0, f, 0.0).amax(1)
    return torch.where(border_count[:, 0] > 0, best, torch.nan)


@register.metric
@dataclass(frozen=True)
class BoundaryF(Metric):
    r"""F-measure of the reconstruction's edges against the borders of the object masks (Martin, Fowlkes & Malik 2004).

    Sobel edges, thinned, at their best threshold. Edges of texture count against it: a perfect copy stays below 1.

    Formula:
        $$ F = \max_{t} \; \frac{2 P_t R_t}{P_t + R_t} $$

        $P_t$ is the share of the reconstruction's edge pixels (stronger than $t$) that lie near a border of an object
        mask, $R_t$ the share of border pixels near such an edge. Thresholds are quantiles of the image's own edges, so
        contrast does not count. Near is within ``max_distance`` of the image diagonal (Martin et al.: 0.0075; at least
        one pixel). They match edge and border pixels one to one; here each needs any partner, as Perazzi et al. count.
    Range:
        0 to 1.
    Ceiling:
        That of the image itself, measured: near 1 on flat shapes, far below on photos, whose textures have edges too.
    Floor:
        That of the reconstruction's edges with their squares in random order, measured.
    Undefined:
        For an image without an object mask that covers a part of it.
    Pitfalls:
        A reconstruction that loses texture but keeps outlines can score above the ceiling. Objects that nobody
        labelled count as mistakes.
    Source:
        Martin, Fowlkes & Malik 2004, doi 10.1109/TPAMI.2004.1273918; Perazzi et al. 2016, doi 10.1109/CVPR.2016.85.

    Args:
        max_distance: how far from a border an edge is right, as a share of the image diagonal.
    """

    max_distance: float = 0.0075

    group = "Spatial correspondence"
    name = "boundary_f"
    label = "Boundary F"
    direction = "higher"
    tolerance = 0.03

    def compute(self, scoring: Scoring) -> Values:
        high, wide = scoring.images.shape[2:]
        distance, side = max(1.0, self.max_distance * math.hypot(high, wide)), patch_side((high, wide))

        def levels(images: torch.Tensor, reconstructions: torch.Tensor, segments: torch.Tensor) -> list[torch.Tensor]:
            strength, truth = edges(reconstructions), borders(segments.to(reconstructions.device))
            strengths = (strength, edges(images), shuffle(strength[:, None], side)[:, 0])
            return [boundary_f(one, truth, distance) for one in strengths]

        return with_levels(levels, scoring.images, scoring.reconstructions, segments_of(scoring), reason=NO_BORDER)


def variance_between(images: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Return the share (N,), 0 to 1, of the variance of colours of images (N, 3, H, W) that lies between segments.

    Eta squared, between / (between + within), sums of squares over the three channels. ``segments`` (N, H, W) are whole
    numbers from 0. NaN for a single segment or a flat image.

    Examples:
        >>> images = torch.tensor([0.2, 0.2, 0.9]).expand(1, 3, 1, 3)
        >>> variance_between(images, torch.tensor([[[0, 0, 1]]])).round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """
    most = int(segments.max()) + 1
    pixels = images.double().flatten(2)
    pixels = pixels - pixels.mean(2, keepdim=True)
    belongs = segments.flatten(1).long()
    counts = pixels.new_zeros(len(pixels), most).scatter_add_(1, belongs, torch.ones_like(pixels[:, 0]))
    sums = pixels.new_zeros(len(pixels), 3, most).scatter_add_(2, belongs[:, None].expand(-1, 3, -1), pixels)
    between = (sums.square().sum(1) / counts.clamp(min=1)).sum(1)
    total = pixels.square().sum((1, 2))
    defined = ((counts > 0).sum(1) > 1) & (total / pixels[0].numel() >= FLAT)
    return torch.where(defined, between / total, torch.nan)


@register.metric
@dataclass(frozen=True)
class ObjectUnity(Metric):
    r"""Is an object still one thing? Share of the variance of the reconstruction's colours between segments.

    Segments are the objects and the background; the rest of the variance lies within them (eta squared).

    Formula:
        $$ \eta^2 = \frac{\sum_{k} n_k \lVert \bar{c}_k - \bar{c} \rVert^2}{\sum_{p} \lVert c_p - \bar{c} \rVert^2} $$

        $c_p$ is the colour of pixel $p$, $\bar{c}_k$ the mean colour of segment $k$ (an object or the background) with
        $n_k$ pixels.
    Range:
        0 to 1.
    Ceiling:
        That of the image itself, measured.
    Floor:
        That of the reconstruction with its squares in random order, measured: near 0.
    Undefined:
        For a flat reconstruction, or an image without an object mask that covers a part of it.
    Pitfalls:
        A reconstruction that paints each object in one colour scores above the image. Read it as "still one thing", not
        as fidelity; above the ceiling is not better than at it.
    Source:
        This suite; eta squared is the correlation ratio of analysis of variance (Pearson 1905, Fisher 1925).
    """

    group = "Spatial correspondence"
    name = "object_unity"
    label = "Object unity"
    direction = "higher"
    tolerance = 0.04

    def compute(self, scoring: Scoring) -> Values:
        high, wide = scoring.images.shape[2:]
        side = patch_side((high, wide))

        def levels(images: torch.Tensor, reconstructions: torch.Tensor, segments: torch.Tensor) -> list[torch.Tensor]:
            segments = segments.to(reconstructions.device)
            shuffled = shuffle(reconstructions, side)
            return [variance_between(x, segments) for x in (reconstructions, images, shuffled)]

        reason = f"{NO_BORDER}, or the reconstruction is flat"
        return with_levels(levels, scoring.images, scoring.reconstructions, segments_of(scoring), reason=reason)
