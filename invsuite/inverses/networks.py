"""Inverse networks, chosen by the layouts of the two representations they join.

==================  ==================  ======================================================
from                to                  core
==================  ==================  ======================================================
map, tokens         map on a finer grid convolutions on the coarse grid, pixel shuffle, linear skip
map                 map, same grid      convolutions, linear skip
tokens              tokens or map,      pre-norm transformer blocks (inverse of attention
                    same grid           mixes places, so the inverse must too)
queries             tokens or map       image positions, learned, cross-attend to the object
                                        queries as memory (Rathjens et al. 2024, sec. 3)
==================  ==================  ======================================================

Every network reads and writes standardised values: means and deviations per channel are measured on fit images
(`InverseNetwork.calibrate`), so that one large channel neither swamps the loss nor the input.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import nn

from invsuite.errors import UsageError
from invsuite.models.base import Layout


class ChannelScale(nn.Module):
    """Standardisation per channel of a layout; the deviation has a floor so that dead channels stay finite."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        shape = (layout.channels, 1, 1) if layout.kind == "map" else (1, layout.channels)
        self.axes = (0, 2, 3) if layout.kind == "map" else (0, 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def calibrate(self, tensors: Iterable[torch.Tensor]) -> None:
        """Set mean and deviation from batches of tensors."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for tensor in tensors:
            values = tensor.double()
            count += values.numel() // self.mean.numel()
            total = total + values.sum(self.axes)
            square = square + values.square().sum(self.axes)
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        std = std.clamp(min=1e-3 * float(std.max()) + 1e-12)
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor - self.mean) / self.std

    def undo(self, tensor: torch.Tensor) -> torch.Tensor:
        """From standardised values back to the representation's own."""
        return tensor * self.std + self.mean


class ConvBlock(nn.Module):
    """Residual 3x3 - GELU - 1x1 block with group normalisation (one group: no statistics between images)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class SpatialToMap(nn.Module):
    """Map or tokens (with a grid) to a map on a grid ``factor`` times finer, by pixel shuffle.

    A linear map per place stands beside the convolutions, which start at zero: before training the network is a
    random linear readout, and what it can learn at once is what ridge regression finds.
    """

    def __init__(self, source: Layout, target: Layout, width: int, depth: int) -> None:
        super().__init__()
        assert source.grid is not None
        assert target.grid is not None
        self.source = source
        ratios = {t / s for s, t in zip(source.grid, target.grid, strict=True)}
        factor = ratios.pop()
        if ratios or factor != int(factor):
            raise UsageError(f"grid {target.grid} is not a whole multiple of {source.grid}")
        outputs = target.channels * int(factor) ** 2
        self.linear = nn.Conv2d(source.channels, outputs, 1)
        self.prefix = nn.Linear(source.prefix * source.channels, width) if source.prefix else None
        self.enter = nn.Conv2d(source.channels, width, 1)
        self.body = nn.Sequential(*(ConvBlock(width) for _ in range(depth)))
        self.leave = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        self.shuffle = nn.PixelShuffle(int(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.source.to_map(x)
        hidden = self.enter(places)
        if self.prefix is not None:
            hidden = hidden + self.prefix(x[:, : self.source.prefix].flatten(1))[..., None, None]
        out: torch.Tensor = self.shuffle(self.linear(places) + self.leave(self.body(hidden)))
        return out


def _heads(width: int) -> int:
    """Attention heads of about 32 channels that divide ``width``."""
    return next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)


class TokenMixer(nn.Module):
    """Tokens to tokens or to a map on the same grid: learned positions, pre-norm blocks, identity at the start."""

    def __init__(self, source: Layout, target: Layout, width: int, depth: int) -> None:
        super().__init__()
        self.target = target
        self.drop = source.prefix - target.prefix if target.kind == "tokens" else source.prefix
        if self.drop < 0:
            raise UsageError(f"cannot make {target.prefix} prefix tokens from {source.prefix}")
        same = source.channels == width
        self.enter: nn.Module = nn.Identity() if same else nn.Linear(source.channels, width)
        self.position = nn.Parameter(torch.zeros(1, source.count, width))
        blocks = [Block(width, _heads(width), mlp_ratio=2.0, qkv_bias=True) for _ in range(depth)]
        for block in blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
        self.blocks = nn.Sequential(*blocks)
        self.leave: nn.Module = nn.Identity() if target.channels == width else nn.Linear(width, target.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.leave(self.blocks(self.enter(x) + self.position))[:, self.drop :]
        if self.target.kind == "tokens":
            return hidden
        assert self.target.grid is not None
        return hidden.transpose(1, 2).unflatten(2, self.target.grid)


class _CrossBlock(nn.Module):
    """Pre-norm cross-attention to a memory, then self-attention, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own = Block(width, heads, mlp_ratio=2.0, qkv_bias=True)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        query = self.norm(x)
        x = x + self.cross(query, memory, memory, need_weights=False)[0]
        mixed: torch.Tensor = self.own(x)
        return mixed


class QueriesToSpatial(nn.Module):
    """Object queries to tokens or a map: each place of the image asks the queries what they hold about it."""

    def __init__(self, source: Layout, target: Layout, width: int, depth: int) -> None:
        super().__init__()
        assert target.grid is not None
        self.target = target
        places = target.grid[0] * target.grid[1] + (target.prefix if target.kind == "tokens" else 0)
        self.positions = nn.Parameter(torch.randn(1, places, width) * 0.5)
        self.slots = nn.Parameter(torch.randn(1, source.count, width) * 0.5)
        self.enter = Mlp(source.channels, 2 * width, width)
        self.blocks = nn.ModuleList(_CrossBlock(width, _heads(width)) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, target.channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = self.enter(x) + self.slots
        hidden = self.positions.expand(len(x), -1, -1)
        for block in self.blocks:
            hidden = block(hidden, memory)
        out: torch.Tensor = self.leave(hidden)
        if self.target.kind == "tokens":
            return out
        assert self.target.grid is not None
        return out.transpose(1, 2).unflatten(2, self.target.grid)


class InverseNetwork(nn.Module):
    """A core between two standardisations: takes and gives values in the representations' own units."""

    def __init__(self, source: Layout, target: Layout, core: nn.Module) -> None:
        super().__init__()
        self.source_scale = ChannelScale(source)
        self.core = core
        self.target_scale = ChannelScale(target)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.target_scale.undo(self.core(self.source_scale(tensor)))


def make_inverse(source: Layout, target: Layout, width: int, depth: int) -> InverseNetwork:
    """The inverse network from ``source`` back to ``target`` (an image is the map layout with 3 channels).

    Args:
        width: channels of the hidden layers; token inverses use the source's own width.
        depth: number of residual, transformer or cross-attention blocks.

    Raises:
        UsageError: for a pair of layouts no core joins.
    """
    core: nn.Module
    if source.kind == "queries" and target.spatial:
        core = QueriesToSpatial(source, target, target.channels if target.channels > 3 else width, depth + 1)
    elif source.kind == "tokens" and target.grid == source.grid:
        core = TokenMixer(source, target, source.channels, depth)
    elif source.spatial and target.kind == "map":
        core = SpatialToMap(source, target, width, depth)
    else:
        raise UsageError(f"no inverse network from a {source.kind} {source.shape} to a {target.kind} {target.shape}")
    return InverseNetwork(source, target, core)
