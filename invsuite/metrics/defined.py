"""Values of measures that are not defined everywhere: NaN in tensors, None in records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from invsuite._system.spill import Rows
from invsuite.metrics.base import Values, by_image

NO_OBJECT = "no scored image has an object mask of a fitting size"
BATCH = 16  # images whose maps and matrices are held at once


def per_image(found: torch.Tensor, rows: Sequence[int], count: int) -> list[float | None]:
    """``found`` (n,) as the values of the images ``rows`` among ``count``; NaN and all other images are None."""
    values: list[float | None] = [None] * count
    for row, value in zip(rows, found.tolist(), strict=True):
        values[row] = None if value != value else value
    return values


def mean_defined(found: torch.Tensor) -> float | None:
    """Mean of the values that are not NaN; None if all are."""
    kept = found[~found.isnan()]
    return float(kept.mean()) if len(kept) else None


def with_levels(measure: Callable[..., Sequence[torch.Tensor]], *stacks: Rows, reason: str) -> Values:
    """Values of all images, with the means of their ceilings and floors.

    Args:
        measure: takes a batch of every stack and gives three (B,): values, ceilings and floors, NaN where undefined.
        stacks: tensors, or rows of files, with one row an image.
        reason: why a value may be undefined.
    """

    def columns(*batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([level.double() for level in measure(*batch)], 1)

    found, ceiling, floor = by_image(columns, *stacks, size=BATCH).unbind(1)
    values = per_image(found, range(len(found)), len(found))
    return Values(values, reason if None in values else "", mean_defined(ceiling), mean_defined(floor))
