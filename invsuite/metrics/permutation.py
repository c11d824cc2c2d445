"""Random permutations, for floors: what a measure gives when everything is there but nothing is in its place."""

from __future__ import annotations

import torch

SEED = 0  # of every permutation: a floor is the same number in every run


def random_order(count: int, device: torch.device) -> torch.Tensor:
    """A fixed random permutation of ``count`` things (count,), the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).to(device)


def shuffle(maps: torch.Tensor, side: int) -> torch.Tensor:
    """``maps`` (N, C, H, W) with their squares of ``side`` pixels in random order, the same for every map.

    Rows and columns that do not fill a square at the bottom and right stay.
    """
    high, wide = maps.shape[2] // side, maps.shape[3] // side
    kept = maps[:, :, : high * side, : wide * side]
    squares = kept.unflatten(2, (high, side)).unflatten(4, (wide, side)).transpose(3, 4).flatten(2, 3)
    squares = squares[:, :, random_order(high * wide, maps.device)]
    shuffled = maps.clone()
    shuffled[:, :, : high * side, : wide * side] = (
        squares.unflatten(2, (high, wide)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    )
    return shuffled
