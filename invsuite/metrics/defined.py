"""Values of measures that are not defined everywhere: NaN in tensors, None in records."""

from __future__ import annotations

from collections.abc import Sequence

import torch

NO_OBJECT = "no scored image has an object mask of a fitting size"


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
