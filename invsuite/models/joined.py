"""Several stages read together.

A decoder that sees one layer sees what that layer kept in a form that it can use; one that sees several, or their sum,
sees more of it (RAEv2, arXiv 2605.18324). Such a stage is no place in the chain: nothing is run on from it. It is
computed with its parts in one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from invsuite.errors import UsageError
from invsuite.models.base import Layout
from invsuite.models.pyramid import Pyramid
from invsuite.models.stage_words import Words


@dataclass(frozen=True)
class Joined:
    """Several stages read together.

    Attributes:
        name: of the stage that they are together.
        parts: the stages, in the order in which they are read.
        summed: whether they are added up.
        layout: of what is read.
        pyramid: of maps on several grids, which stand on the grid of the finest.
    """

    name: str
    parts: tuple[str, ...]
    summed: bool
    layout: Layout
    pyramid: Pyramid | None = None

    @classmethod
    def of(cls, words: Words, layouts: Mapping[str, Layout]) -> Joined:
        """Return the stage of parts with these ``layouts``, in chain order.

        Raises:
            UsageError: for one part, or layouts that do not go together.
        """
        name, parts = words.name, tuple(layouts)
        if len(parts) < 2:
            raise UsageError(f"'{name}' is the one stage '{parts[0]}': name that")
        first = layouts[parts[0]]
        for part, layout in layouts.items():
            alike = _places(layout) == _places(first) and (layout.channels == first.channels or not words.summed)
            maps = layout.kind == first.kind == "map" and not words.summed
            if layout.kind == "predictions" or not (alike or maps):
                raise UsageError(
                    f"stages '{parts[0]}' ({_said(first)}) and '{part}' ({_said(layout)}) cannot be "
                    f"{'added up' if words.summed else 'read together'}"
                )
        if words.summed:
            return cls(name, parts, True, first)
        if len({layout.grid for layout in layouts.values()}) == 1:
            channels, repeats = (sum(getattr(one, key) for one in layouts.values()) for key in ("channels", "repeats"))
            whole = Layout(first.kind, channels, first.grid, first.count, first.prefix, repeats=repeats)
            return cls(name, parts, False, whole)
        finest_first = sorted(parts, key=lambda part: -layouts[part].values // layouts[part].channels)
        grids = [layouts[part].grid for part in finest_first]
        pyramid = Pyramid(
            tuple(layouts[part].channels for part in finest_first), tuple(grid for grid in grids if grid is not None)
        )
        return cls(name, tuple(finest_first), False, pyramid.layout, pyramid)

    def read(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what is read of the parts' tensors (B, ...)."""
        if self.pyramid is not None:
            return self.pyramid.pack(tensors)
        if self.summed:
            return torch.stack(list(tensors)).sum(0)
        return torch.cat(list(tensors), 1 if self.layout.kind == "map" else -1)


def _places(layout: Layout) -> tuple[object, ...]:
    return layout.kind, layout.grid, layout.count, layout.prefix


def _said(layout: Layout) -> str:
    return f"{layout.kind} {'x'.join(map(str, layout.shape))}"
