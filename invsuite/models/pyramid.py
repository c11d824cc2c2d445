"""Feature maps of several scales as one map: every level on the grid of the finest, channels side by side.

This is the hypercolumn of Hariharan et al. 2015 (arXiv 1411.5752) without interpolation: a place of the finest grid
holds its own values and those of the coarse places that cover it. Nothing is lost and nothing is added:
`Pyramid.unpack` returns exactly the levels that went into `Pyramid.pack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from invsuite.models.base import Layout


def _covering(coarse: int, fine: int) -> torch.Tensor:
    """Return, for each of ``fine`` places along an axis, the one of ``coarse`` places that covers it."""
    return torch.arange(fine) * coarse // fine


def _first(coarse: int, fine: int) -> torch.Tensor:
    """Return, for each of ``coarse`` places, the first of the ``fine`` places that it covers."""
    return -(-torch.arange(coarse) * fine // coarse)


@dataclass(frozen=True)
class Pyramid:
    """The levels of a pyramid, finest first: channels and grid (h, w) of each."""

    channels: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, maps: Sequence[torch.Tensor]) -> Pyramid:
        """Return the pyramid that maps (B, channels, h, w) form."""
        return cls(tuple(m.shape[1] for m in maps), tuple((m.shape[2], m.shape[3]) for m in maps))

    @property
    def layout(self) -> Layout:
        """Return the layout of the packed map."""
        height, width = self.grids[0]
        distinct = sum(c * h * w for c, (h, w) in zip(self.channels, self.grids, strict=True))
        total = sum(self.channels)
        return Layout("map", total, self.grids[0], repeats=total * height * width - distinct)

    def pack(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return levels (B, channels, h, w) as one map (B, sum of channels, h, w of the finest)."""
        height, width = self.grids[0]
        spread = [maps[0]]
        for level, (h, w) in zip(maps[1:], self.grids[1:], strict=True):
            rows, columns = _covering(h, height).to(level.device), _covering(w, width).to(level.device)
            spread.append(level[:, :, rows[:, None], columns])
        return torch.cat(spread, 1) if len(spread) > 1 else maps[0]

    def unpack(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Return the levels of a packed map; of the values that stand for one coarse place, the first is read."""
        height, width = self.grids[0]
        maps: list[torch.Tensor] = []
        for part, (h, w) in zip(packed.split(self.channels, 1), self.grids, strict=True):
            rows, columns = _first(h, height).to(packed.device), _first(w, width).to(packed.device)
            maps.append(part if (h, w) == (height, width) else part[:, :, rows[:, None], columns])
        return maps

    def maps_of(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Return the levels of tokens (B, places of all levels, channels), level after level in row-major order."""
        parts = tokens.split([h * w for h, w in self.grids], 1)
        return [part.transpose(1, 2).unflatten(2, grid) for part, grid in zip(parts, self.grids, strict=True)]
