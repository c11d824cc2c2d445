"""Mean and deviation of representations, streamed."""

from __future__ import annotations

import torch

from invsuite.models.base import Layout

DEAD = 1e-3  # a channel's deviation counts as at least this part of the greatest channel's


class Moments:
    """The mean of every value of a representation over images, and each channel's deviation from those means.

    Sums are in float64 around the first batch's mean, which keeps them exact where a mean is large.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.count = 0
        self.centre = self.total = self.square = torch.zeros(())

    def add(self, tensor: torch.Tensor) -> None:
        """One batch (B, ...) of the layout."""
        if not self.count:
            self.centre = tensor.mean(0)
        values = tensor - self.centre
        self.count += len(values)
        self.total = self.total + values.sum(0, dtype=torch.float64)
        axes = (0, 2, 3) if self.layout.kind == "map" else (0, 1)
        self.square = self.square + values.square().sum(axes, dtype=torch.float64)

    @property
    def mean(self) -> torch.Tensor:
        """Of every value, the shape of the layout."""
        return self.centre + (self.total / self.count).float()

    @property
    def std(self) -> torch.Tensor:
        """Of every channel around the means, over images and places, as it broadcasts against the layout.

        It has a floor (`DEAD`), so that dividing by it gives a dead channel no weight of its own.
        """
        axes = (1, 2) if self.layout.kind == "map" else 0
        places = self.layout.values // self.layout.channels
        offset = (self.total / self.count).square().mean(axes)
        std = (self.square / (self.count * places) - offset).clamp(min=0).sqrt()
        std = std.clamp(min=DEAD * float(std.max()) + 1e-12)
        return std.float().view(self.layout.channel_shape)
