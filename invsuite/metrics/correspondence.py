"""Spatial correspondence: change one object only; where does the reconstruction change?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from invsuite.data.edits import relight
from invsuite.metrics.base import Edits, Metric, Scoring, Values

NO_CHANGE = 1e-12  # squared change below which a reconstruction has not changed at all


def change_lift(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> float | None:
    """Share of the squared change that lies inside the mask, over the mask's share of the area.

    1 is a change spread evenly, 1 / area share is a change wholly inside; None if nothing changed.

    Args:
        before, after: (3, H, W).
        mask: (H, W) boolean.
    """
    energy = (after - before).double().square().sum(0)
    total = float(energy.sum())
    if total < NO_CHANGE:
        return None
    return float(energy[mask].sum()) / total / float(mask.double().mean())


def _lifts(before: torch.Tensor, after: torch.Tensor, edits: Edits) -> list[float | None]:
    masks = [torch.from_numpy(item.mask).to(before.device) for item in edits.objects]
    return [change_lift(b, a, m) for b, a, m in zip(before, after, masks, strict=True)]


@dataclass(frozen=True)
class Correspondence(Metric):
    """Lift of the reconstruction's change inside the object that was relit; the ceiling is the edit itself.

    ``amount`` is the change of brightness in [0, 1] pixel values.
    """

    amount: float = 0.3

    name = "correspondence"
    label = "Correspondence"
    unit = "x"
    direction = "higher"
    digits = 2

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(f"relight {self.amount}", partial(relight, amount=self.amount))
        if not edits.rows:
            return Values([None] * len(scoring.images), "no scored image has an object mask of a fitting size")
        lifts = _lifts(edits.before, edits.after, edits)
        ceilings = [c for c in _lifts(edits.shown_before, edits.shown_after, edits) if c is not None]
        per_image: list[float | None] = [None] * len(scoring.images)
        for row, lift in zip(edits.rows, lifts, strict=True):
            per_image[row] = lift
        reason = "the reconstruction does not change" if None in lifts else ""
        return Values(per_image, reason, sum(ceilings) / len(ceilings) if ceilings else None)
