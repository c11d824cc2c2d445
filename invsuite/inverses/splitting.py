"""A hierarchical transformer's stage run backwards: Swin blocks, then patch splitting to a finer grid."""

from __future__ import annotations

import torch
from torch import nn

from invsuite.inverses.attention import heads_for
from invsuite.inverses.convolution import PrefixTokens, from_map, prime_factors, upsampling_factor
from invsuite.models.base import Layout

WINDOW = 7  # places per side, Swin's own (Liu et al. 2021, arXiv 2103.14030); smaller grids use one window


class PatchSplitting(nn.Module):
    """The mirror of Swin's patch merging: every place becomes ``factor`` x ``factor`` places of ``outputs`` channels.

    It is one linear map and a pixel shuffle: (B, h, w, channels) to (B, h * factor, w * factor, outputs).
    """

    def __init__(self, channels: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, outputs * factor**2)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the finer places (B, h * factor, w * factor, outputs)."""
        expanded = self.expand(self.norm(x)).permute(0, 3, 1, 2)
        finer: torch.Tensor = self.shuffle(expanded).permute(0, 2, 3, 1)
        return finer


class MirroredStage(nn.Module):
    """Map or tokens to a map or tokens on the same or a finer grid: Swin blocks, then patch splitting.

    ``depth`` blocks (plain and shifted windows in turn) work on the coarse grid, which is then split once per prime
    factor of the upsampling; channels fall geometrically to the target's.

    Takes and gives tensors of the two layouts; prefix tokens of the source serve those of the target alone.
    """

    def __init__(self, source: Layout, target: Layout, depth: int) -> None:
        super().__init__()
        from timm.models.swin_transformer import SwinTransformerBlock

        assert source.grid is not None
        self.source, self.target = source, target
        window = min(WINDOW, *source.grid)
        blocks = []
        for number in range(depth):
            block = SwinTransformerBlock(
                source.channels,
                source.grid,
                num_heads=heads_for(source.channels),
                window_size=window,
                shift_size=window // 2 if number % 2 else 0,
            )
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        factors = prime_factors(upsampling_factor(source, target))
        ratio = target.channels / source.channels
        widths = [round(source.channels * ratio ** (i / max(1, len(factors)))) for i in range(len(factors) + 1)]
        self.splits = nn.Sequential(
            *(PatchSplitting(a, b, f) for a, b, f in zip(widths, widths[1:], factors, strict=False))
        )
        same = factors or target.channels == source.channels
        self.leave: nn.Module = nn.Identity() if same else nn.Linear(source.channels, target.channels)
        self.prefix = PrefixTokens.between(source, target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout from one of the source's."""
        places = self.source.to_map(x).permute(0, 2, 3, 1)
        finer = self.leave(self.splits(self.blocks(places))).permute(0, 3, 1, 2)
        return from_map(self.target, finer, None if self.prefix is None else self.prefix(x))
