"""Upsampling cores: a map or tokens with a place to a map or tokens on a finer grid.

`SpatialToSpatial` does its work on a coarse grid and shuffles pixels into the fine one (the ``light`` architecture);
`TransposedLadder` climbs grid by grid as the networks of Rathjens et al. 2024 do (``paper``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.inverses.closed_form import DIAGONALS_UP_TO, ClosedFormPath, readable_grid, start_at_zero
from invsuite.models.base import Layout

NARROWEST = 16  # channels of a convolution on a fine grid
WORKED = 28  # places per side of the grid that light convolutions work on, at most: four times the cost of the usual 14


def coarsening(grid: tuple[int, int]) -> int:
    """Return how many places per side are worked on as one, so that a ``grid`` has no more than `WORKED` per side.

    1 where the grid is small enough, or has no divisor of about the size that is needed.
    """
    needed = -(-max(grid) // WORKED)
    return next((s for s in range(needed, 2 * needed + 1) if all(side % s == 0 for side in grid)), 1)


def upsampling_factor(source: Layout, target: Layout) -> int:
    """Return how many times ``source``'s grid must be refined, alike in height and width, to be at least ``target``'s.

    Where the grids are no whole multiples (strides that rounded), what lies on the refined grid is `resized`.
    """
    assert source.grid is not None
    assert target.grid is not None
    return max(1, *(-(-t // s) for s, t in zip(source.grid, target.grid, strict=True)))


def resized(maps: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Return maps (B, channels, h, w) on another ``grid`` (height, width), bilinear, antialiased."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, tuple(grid), mode="bilinear", antialias=True, align_corners=False)


def from_map(target: Layout, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor of layout ``target`` from the map of its places, on any grid, and its prefix tokens if any."""
    assert target.grid is not None
    maps = resized(maps, target.grid)
    if target.kind == "map":
        return maps
    places = maps.flatten(2).transpose(1, 2)
    return places if prefix is None else torch.cat([prefix, places], 1)


class PrefixTokens(nn.Module):
    """The prefix tokens of a target from the source's own, or from the mean of its places where it has none.

    (B, count, channels) or (B, channels, h, w) to (B, target.prefix, target.channels); starts at zero, the mean of
    standardised values.
    """

    def __init__(self, source: Layout, target: Layout) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.linear = nn.Linear(max(1, source.prefix) * source.channels, target.prefix * target.channels)
        start_at_zero(self.linear)

    @classmethod
    def between(cls, source: Layout, target: Layout) -> PrefixTokens | None:
        """Return one for this pair, if the target has prefix tokens."""
        return cls(source, target) if target.kind == "tokens" and target.prefix else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the prefix tokens (B, target.prefix, target.channels)."""
        summary = x[:, : self.source.prefix].flatten(1) if self.source.prefix else self.source.to_map(x).mean((2, 3))
        tokens: torch.Tensor = self.linear(summary)
        return tokens.unflatten(1, (self.target.prefix, self.target.channels))


class ConvBlock(nn.Module):
    """Residual 3x3 - GELU - 1x1 block with group normalisation (one group: no statistics between images)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 1)
        start_at_zero(last)
        self.body = nn.Sequential(nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps of the same shape (B, width, h, w)."""
        return x + self.body(x)


def climbing_widths(width: int, strides: Sequence[int]) -> list[int]:
    """Return the channels on each grid between the coarse one and the finest, e.g. 64, 32 and 16 of 256."""
    return [max(NARROWEST, width // 2 ** (number + 2)) for number in range(len(strides) - 1)]


class Climb(nn.Module):
    """What refines a coarse map grid by grid: a pixel shuffle and a residual block on each finer grid.

    The last stride is one convolution and a pixel shuffle; it starts at zero.

    Takes (B, width, h, w); gives (B, outputs, h * factor, w * factor).

    Args:
        width: channels of the coarse map.
        strides: of the grids, coarse to fine; their product is the factor.
        outputs: channels on the finest grid.
    """

    def __init__(self, width: int, strides: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [width, *climbing_widths(width, strides)]
        self.steps = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after * stride**2, 1), nn.PixelShuffle(stride), ConvBlock(after))
                for before, after, stride in zip(widths, widths[1:], strides, strict=False)
            )
        )
        self.leave = nn.Conv2d(widths[-1], outputs * strides[-1] ** 2, 3, padding=1)
        start_at_zero(self.leave)
        self.shuffle = nn.PixelShuffle(strides[-1])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return maps on the finest grid."""
        finest: torch.Tensor = self.shuffle(self.leave(self.steps(hidden)))
        return finest


class SpatialToSpatial(nn.Module):
    """Map or tokens (with a grid) to a map or tokens on the same or a finer grid, by pixel shuffle.

    A `ClosedFormPath` of each place and its neighbours, linear, stands beside the convolutions, which start at zero:
    before training the network is that readout alone. The convolutions work on the source's grid and answer in two
    ways that add up: at once, as many values per place as lie under it, and, where the factor has several steps, grid
    by grid (`Climb`), which knows no borders of places. On a fine source (`coarsening`) the convolutions take several
    places as one, and answer at once; the path still reads each.
    """

    def __init__(self, source: Layout, target: Layout, width: int, depth: int) -> None:
        super().__init__()
        self.source, self.target = source, target
        factor = upsampling_factor(source, target)
        outputs = target.channels * factor**2
        self.path = ClosedFormPath(
            source.channels, outputs, grid=readable_grid(source), diagonals=source.channels <= DIAGONALS_UP_TO
        )
        self.prefix = nn.Linear(source.prefix * source.channels, width) if source.prefix else None
        assert source.grid is not None
        step = coarsening(source.grid)
        self.enter = nn.Conv2d(source.channels, width, step, stride=step)
        self.body = nn.Sequential(*(ConvBlock(width) for _ in range(depth)))
        # one place that was several has no need to look at its neighbours once more
        self.leave = nn.Conv2d(width, outputs, 3, padding=1) if step == 1 else nn.Conv2d(width, outputs * step**2, 1)
        start_at_zero(self.leave)
        self.spread, self.shuffle = nn.PixelShuffle(step), nn.PixelShuffle(factor)
        strides = prime_factors(factor)[::-1]
        self.climb = Climb(width, strides, target.channels) if step == 1 and len(strides) > 1 else None
        self.target_prefix = PrefixTokens.between(source, target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout from one of the source's."""
        places = self.source.to_map(x)
        hidden = self.enter(places)
        if self.prefix is not None:
            hidden = hidden + self.prefix(x[:, : self.source.prefix].flatten(1))[..., None, None]
        hidden = self.body(hidden)
        read = self.path(places.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, places.shape[2:])
        finer = self.shuffle(read + self.spread(self.leave(hidden)))
        if self.climb is not None:
            finer = finer + self.climb(hidden)
        return from_map(self.target, finer, None if self.target_prefix is None else self.target_prefix(x))


def prime_factors(number: int) -> list[int]:
    """Return the prime factors of ``number`` >= 1, largest first: the strides of a ladder (16: 2 2 2 2, 14: 7 2)."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors[::-1]


def ladder_widths(channels: int, steps: int, outputs: int = 3) -> list[int]:
    """Return the channels before, between and after ``steps`` upsampling steps, e.g. 768-256-64-16-3 for ViT-B/16.

    Counted from the image, widths grow by 4 per step (as the places become 4 times fewer) from 16, and are capped by
    the source's: every model with 768 channels and patch 16 gets the paper's numbers, others the same ladder cut to
    their own width, e.g. 192-192-64-16-3 for ViT-Ti.
    """
    inner = [min(channels, 16 * 4**i) for i in range(steps - 1)]
    return [channels, *inner[::-1], outputs]


class TransposedLadder(nn.Module):
    """Map or tokens to an image by one transposed convolution per prime factor of the upsampling.

    Rathjens et al. 2024, arXiv 2412.06534: transposed convolutions for a ViT's embedding (``normalised=False``, GELU
    between them) and a batch-normalised upsampling decoder for a CNN backbone (``normalised=True``: batch
    normalisation and ReLU after every step, then a 3x3 convolution to the image). Kernels of 2 s (s even) or
    2 s - 1 (s odd) at stride s overlap, and give exactly s times the grid.

    Takes (B, channels, h, w) or (B, count, channels), prefix tokens unused; gives (B, target.channels, H, W).
    """

    def __init__(self, source: Layout, target: Layout, normalised: bool) -> None:
        super().__init__()
        self.source, self.target = source, target
        strides = prime_factors(upsampling_factor(source, target))
        last = 16 if normalised else target.channels
        widths = ladder_widths(source.channels, len(strides), last) if strides else [source.channels]
        parts: list[nn.Module] = []
        for number, (stride, before, after) in enumerate(zip(strides, widths, widths[1:], strict=False), 1):
            pad = stride // 2
            parts.append(nn.ConvTranspose2d(before, after, stride + 2 * pad, stride, padding=pad, bias=not normalised))
            if normalised:
                parts += [nn.BatchNorm2d(after), nn.ReLU()]
            elif number < len(strides):
                parts.append(nn.GELU())
        if normalised or not strides:
            parts.append(nn.Conv2d(widths[-1], target.channels, 3, padding=1))
        self.body = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images (B, target.channels, H, W)."""
        return from_map(self.target, self.body(self.source.to_map(x)), None)
