"""How the tensors that a library's module gives or takes hold a representation in its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from invsuite.models.base import Layout
from invsuite.models.pyramid import Pyramid


class Arrangement(Protocol):
    """A way to and fro between a module's tensors and a representation."""

    @property
    def layout(self) -> Layout:
        """Return the layout of the representation."""

    def read(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the representation, in its layout, of the module's tensors (B, ...)."""

    def write(self, representation: torch.Tensor) -> list[torch.Tensor]:
        """Return the module's tensors of a representation: undoes `read`."""


@dataclass(frozen=True)
class OneTensor:
    """A representation in one tensor.

    Attributes:
        layout: of the representation.
        shape: of the module's tensor without the batch axis.
        channels_last: whether its last axis is channels; then the others, flattened, are rows.
        order: row of the module's tensor that is row i of the representation; None where they are the same.
    """

    layout: Layout
    shape: tuple[int, ...]
    channels_last: bool
    order: tuple[int, ...] | None = None

    def read(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the representation of the module's one tensor (B, *shape)."""
        (tensor,) = tensors
        if not self.channels_last:
            return tensor
        rows = tensor.flatten(1, -2)
        if self.order is not None:
            rows = rows[:, torch.tensor(self.order, device=rows.device)]
        return rows.transpose(1, 2).reshape(len(rows), *self.layout.shape) if self.layout.kind == "map" else rows

    def write(self, representation: torch.Tensor) -> list[torch.Tensor]:
        """Return the module's tensor (B, *shape), as a list of one."""
        if not self.channels_last:
            return [representation]
        rows = representation.flatten(2).transpose(1, 2) if self.layout.kind == "map" else representation
        if self.order is not None:
            rows = rows[:, torch.tensor(self.order, device=rows.device).argsort()]
        return [rows.reshape(len(rows), *self.shape)]


@dataclass(frozen=True)
class Turned:
    """A representation in one tensor with its axes in any order, the batch too: sequence first, channels last.

    Attributes:
        layout: of the representation.
        order: the tensor's axes, the batch first and then as they follow in the layout.
        shape: (...) of one image, in that order; it has the layout's values in the layout's order.
        words: how a person states it.
    """

    layout: Layout
    order: tuple[int, ...]
    shape: tuple[int, ...]
    words: str = ""

    def read(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the representation of the module's one tensor."""
        (tensor,) = tensors
        turned = tensor.permute(self.order)
        return turned.reshape(len(turned), *self.layout.shape)

    def write(self, representation: torch.Tensor) -> list[torch.Tensor]:
        """Return the module's tensor, as a list of one."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return [representation.reshape(len(representation), *self.shape).permute(back).contiguous()]


@dataclass(frozen=True)
class Levels:
    """A representation of several scales, packed as one map (`Pyramid.pack`).

    Attributes:
        pyramid: the levels.
        flat: whether the module holds all of them in one tensor (B, places of all levels, channels), level after level
            in row-major order; else in one map (B, channels, h, w) per level.
    """

    pyramid: Pyramid
    flat: bool = False

    @property
    def layout(self) -> Layout:
        """Return the layout of the packed map."""
        return self.pyramid.layout

    def read(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the packed map of the module's tensors."""
        return self.pyramid.pack(self.pyramid.maps_of(tensors[0]) if self.flat else tensors)

    def write(self, representation: torch.Tensor) -> list[torch.Tensor]:
        """Return the module's tensors of a packed map."""
        maps = self.pyramid.unpack(representation)
        return [torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)] if self.flat else maps
