"""Spatial correspondence: change one object only; where does the reconstruction change?

All measures here share one edit. A change map (N, H, W) is the squared change of the reconstruction, summed over
channels; the floor of each measure is that of the same map with its pixels in random order, the ceiling that of the
change that was shown.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch

from invsuite.data.edits import relight
from invsuite.metrics.base import NO_OBJECT, Edits, Metric, Scoring, Values, mean_defined, per_image, shuffle
from invsuite.registry import register

NO_CHANGE = 1e-12  # squared change below which a reconstruction has not changed at all


def change_map(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Squared change (N, H, W) in float64 of images (N, C, H, W), NaN throughout an image that does not change."""
    energy = (after - before).double().square().sum(1)
    return torch.where(energy.sum((1, 2), keepdim=True) < NO_CHANGE, torch.nan, energy)


def share_inside(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share (N,) of each change map (N, H, W) that lies inside its mask."""
    return (energy * masks).sum((1, 2)) / energy.sum((1, 2))


def lift(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of the change inside the mask over the mask's share of the area (N,): 1 is a change spread evenly,
    1 / area share one wholly inside."""
    return share_inside(energy, masks) / masks.double().mean((1, 2))


def centroid_shift(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Distance (N,) in pixels between the centroids of change maps and of masks, both (N, H, W)."""
    return (_centroid(energy) - _centroid(masks.double())).norm(dim=1)


def _centroid(weights: torch.Tensor) -> torch.Tensor:
    rows, columns = (torch.arange(n, dtype=torch.float64, device=weights.device) for n in weights.shape[1:])
    y, x = (weights.sum(2) * rows).sum(1), (weights.sum(1) * columns).sum(1)
    return torch.stack([y, x], 1) / weights.sum((1, 2))[:, None]


def ranks(rows: torch.Tensor) -> torch.Tensor:
    """Return the rank of every value within its row (N, K), from 1, ties at their mean rank, in float64 on the CPU."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(rows.cpu().numpy(), axis=1))


def auc(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve (N,) of change maps that tell masked pixels from the others, both (N, H, W).

    By the Mann-Whitney statistic: the chance that a pixel inside changed more than one outside, ties one half.
    """
    inside = masks.flatten(1).cpu()
    within, without = inside.sum(1), (~inside).sum(1)
    return ((ranks(energy.flatten(1)) * inside).sum(1) - within * (within + 1) / 2) / (within * without)


@dataclass(frozen=True)
class RelitObject(Metric):
    """A measure of where the reconstruction changes when one object is relit by ``amount`` in [0, 1] pixel values."""

    group = "Spatial correspondence"
    uses_edits = True

    amount: float = 0.3

    @abstractmethod
    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Values (n,) of change maps and the masks of the edited objects, both (n, H, W)."""

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(f"relight {self.amount}", partial(relight, amount=self.amount))
        if not edits.rows:
            return Values([None] * len(scoring.images), NO_OBJECT)
        return self.values(edits, len(scoring.images))

    def values(self, edits: Edits, count: int) -> Values:
        """The measure of the reconstructions' change, with that of the change shown and of a shuffled one."""
        energy = change_map(edits.before, edits.after)
        shown = change_map(edits.images, edits.edited)
        found = self.measure(energy, edits.masks)
        return Values(
            per_image(found, edits.rows, count),
            "the reconstruction does not change" if bool(found.isnan().any()) else "",
            ceiling=mean_defined(self.measure(shown, edits.masks)),
            floor=mean_defined(self.measure(shuffle(energy[:, None], 1)[:, 0], edits.masks)),
        )


@register.metric
@dataclass(frozen=True)
class Correspondence(RelitObject):
    """One object is relit: share of the reconstruction's squared change that lies inside it, over the object's share
    of the area. 1 is a change spread evenly.
    """

    name = "correspondence"
    label = "Correspondence"
    unit = "x"
    direction = "higher"
    digits = 2
    tolerance = 0.5
    headline = True

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return lift(energy, masks)


@register.metric
@dataclass(frozen=True)
class CentroidShift(RelitObject):
    """One object is relit: distance between the centre of mass of the reconstruction's squared change and the
    object's."""

    name = "centroid_shift"
    label = "Centroid shift"
    unit = "px"
    direction = "lower"
    digits = 1
    tolerance = 1.5

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return centroid_shift(energy, masks)


@register.metric
@dataclass(frozen=True)
class ChangeAuc(RelitObject):
    """One object is relit: area under the ROC curve of the reconstruction's squared change as a detector of the
    object's pixels. 0.5 is chance."""

    name = "change_auc"
    label = "Change AUC"
    direction = "higher"
    tolerance = 0.03

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return auc(energy, masks)


@register.metric
@dataclass(frozen=True)
class Leak(RelitObject):
    """One object is relit: share of the reconstruction's squared change that lies outside of it."""

    name = "leak"
    label = "Leak"
    direction = "lower"
    tolerance = 0.04

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return 1 - share_inside(energy, masks)
