"""Transformer cores: tokens to tokens or a map on the same grid, and object queries to tokens or a map."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from invsuite.errors import UsageError
from invsuite.inverses.closed_form import ClosedFormPath, QueryPath, readable_grid, start_at_zero
from invsuite.models.base import Layout


def heads_for(width: int) -> int:
    """Return the number of attention heads of about 32 channels that divides ``width``."""
    return next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)


def transformer_block(width: int, heads: int, mlp_ratio: float) -> Any:
    """Return a pre-norm transformer block of timm, which is imported here: a list of methods needs none."""
    from timm.models.vision_transformer import Block

    return Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True)


class TokenMixer(nn.Module):
    """Tokens to tokens or to a map on the same grid: learned positions, pre-norm blocks, identity at the start.

    With ``solved`` a `ClosedFormPath` of each token and its neighbours stands beside the blocks, which then add nothing
    at the start: ridge regression sets the path, and training finds what attention to the other tokens adds.
    """

    def __init__(
        self, source: Layout, target: Layout, width: int, depth: int, mlp_ratio: float = 2.0, solved: bool = False
    ) -> None:
        super().__init__()
        self.target = target
        self.drop = source.prefix - target.prefix if target.kind == "tokens" else source.prefix
        if self.drop < 0:
            raise UsageError(f"cannot make {target.prefix} prefix tokens from {source.prefix}")
        same = source.channels == width
        self.enter: nn.Module = nn.Identity() if same else nn.Linear(source.channels, width)
        self.position = nn.Parameter(torch.zeros(1, source.count, width))
        blocks = [transformer_block(width, heads_for(width), mlp_ratio) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.path: ClosedFormPath | None = None
        self.leave: nn.Module = nn.Identity()
        if solved:
            grid = readable_grid(source)
            self.path = ClosedFormPath(source.channels, target.channels, 2 * source.channels, source.count, grid)
            self.leave = nn.Linear(width, target.channels)
            start_at_zero(self.leave)
            return
        for block in blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
        if target.channels != width:
            self.leave = nn.Linear(width, target.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout from the source's tokens (B, count, channels)."""
        hidden = self.leave(self.blocks(self.enter(x) + self.position))
        if self.path is not None:
            hidden = hidden + self.path(x)
        hidden = hidden[:, self.drop :]
        if self.target.kind == "tokens":
            return hidden
        assert self.target.grid is not None
        return hidden.transpose(1, 2).unflatten(2, self.target.grid)


class CrossBlock(nn.Module):
    """Pre-norm cross-attention to a memory, then self-attention, then an MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own = transformer_block(width, heads, mlp_ratio)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, count, width) that have looked at the ``memory`` (B, slots, width) and at each other."""
        query = self.norm(x)
        x = x + self.cross(query, memory, memory, need_weights=False)[0]
        mixed: torch.Tensor = self.own(x)
        return mixed


class QueriesToSpatial(nn.Module):
    """Object queries to tokens or a map: each place of the image asks the queries what they hold about it.

    With ``solved`` a `QueryPath` of all queries stands beside the attention, which then adds nothing at the start.
    """

    def __init__(
        self, source: Layout, target: Layout, width: int, depth: int, mlp_ratio: float = 2.0, solved: bool = False
    ) -> None:
        super().__init__()
        from timm.layers import Mlp

        assert target.grid is not None
        self.target = target
        places = target.grid[0] * target.grid[1] + (target.prefix if target.kind == "tokens" else 0)
        self.positions = nn.Parameter(torch.randn(1, places, width) * 0.5)
        self.slots = nn.Parameter(torch.randn(1, source.count, width) * 0.5)
        self.enter = Mlp(source.channels, 2 * width, width)
        self.blocks = nn.ModuleList(CrossBlock(width, heads_for(width), mlp_ratio) for _ in range(depth))
        last = nn.Linear(width, target.channels)
        start_at_zero(last)
        self.leave = nn.Sequential(nn.LayerNorm(width), last)  # starts at the mean of its target
        self.path = QueryPath(source, target) if solved else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout from queries (B, count, channels)."""
        memory = self.enter(x) + self.slots
        hidden = self.positions.expand(len(x), -1, -1)
        for block in self.blocks:
            hidden = block(hidden, memory)
        out: torch.Tensor = self.leave(hidden)
        if self.target.kind == "map":
            assert self.target.grid is not None
            out = out.transpose(1, 2).unflatten(2, self.target.grid)
        return out if self.path is None else out + self.path(x)
