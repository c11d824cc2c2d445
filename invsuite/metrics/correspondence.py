"""Spatial correspondence: change one object only; where does the reconstruction change?

All measures here share one edit. A change map (N, H, W) is the squared change of the reconstruction, summed over
channels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch

from invsuite.data.edits import relight
from invsuite.metrics.base import Edits, Metric, Scoring, Values, mean_defined, per_image, shuffle
from invsuite.registry import register

NO_CHANGE = 1e-12  # squared change below which a reconstruction has not changed at all


def change_map(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the squared change (N, H, W), in float64, of images (N, C, H, W); NaN throughout an image without any.

    Examples:
        >>> change_map(torch.zeros(1, 3, 1, 2), torch.tensor([[[[0.0, 1.0]]]]).expand(1, 3, 1, 2))
        tensor([[[0., 3.]]], dtype=torch.float64)
    """
    energy = (after - before).double().square().sum(1)
    return torch.where(energy.sum((1, 2), keepdim=True) < NO_CHANGE, torch.nan, energy)


def share_inside(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the share (N,), 0 to 1, of each change map (N, H, W) that lies inside its mask (N, H, W).

    Examples:
        >>> share_inside(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
        tensor([0.7500])
    """
    return (energy * masks).sum((1, 2)) / energy.sum((1, 2))


def lift(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the share of the change inside the mask over the mask's share of the area (N,).

    1 is a change spread evenly, 1 / (area share) one wholly inside. Both arguments are (N, H, W).

    Examples:
        >>> lift(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
        tensor([1.5000], dtype=torch.float64)
    """
    return share_inside(energy, masks) / masks.double().mean((1, 2))


def centroid_shift(energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the distance (N,) in pixels between the centroids of change maps and of masks, both (N, H, W).

    Examples:
        >>> centroid_shift(torch.tensor([[[0.0, 0.0, 1.0]]]), torch.tensor([[[True, False, False]]]))
        tensor([2.], dtype=torch.float64)
    """
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
    """Return the area under the ROC curve (N,), 0 to 1, of change maps that tell masked pixels from the others.

    By the Mann-Whitney statistic: the chance that a pixel inside changed more than one outside, ties one half. Both
    arguments are (N, H, W).

    Examples:
        >>> auc(torch.tensor([[[3.0, 1.0, 2.0, 0.0]]]), torch.tensor([[[True, True, False, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    inside = masks.flatten(1).cpu()
    within, without = inside.sum(1), (~inside).sum(1)
    return ((ranks(energy.flatten(1)) * inside).sum(1) - within * (within + 1) / 2) / (within * without)


@dataclass(frozen=True)
class RelitObject(Metric):
    r"""A measure of where the reconstruction changes when one object is relit.

    The largest object of a fitting size is made lighter by ``amount`` if it is dark, darker if it is light. With $x'$
    the edited image and $\hat{x}'$ its reconstruction, the change map is
    $e_{ij} = \sum_c (\hat{x}'_{cij} - \hat{x}_{cij})^2$, and $M$ is the set of the object's pixels.

    Ceiling:
        That of the change shown, $x' - x$, measured.
    Floor:
        That of the same change map with its pixels in random order, measured.
    Undefined:
        For an image whose reconstruction does not change at all (the row `mean`, always; `nearest`, often), and for
        images without an object of a fitting size.
    Pitfalls:
        It says where the reconstruction reacts, not whether it reacts enough.
    Source:
        This suite, after the edits of single objects of Rathjens et al. 2024, arXiv 2412.06534.

    Args:
        amount: change of pixel values in [0, 1].
    """

    group = "Spatial correspondence"
    uses_edits = True

    amount: float = 0.3

    @abstractmethod
    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return values (n,) of change maps and the masks of the edited objects, both (n, H, W)."""

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(f"relight {self.amount}", partial(relight, amount=self.amount))
        if not edits.rows:
            return scoring.undefined()
        return self.values(edits, len(scoring.images))

    def values(self, edits: Edits, count: int) -> Values:
        """Return the measure of the reconstructions' change, with that of the change shown and of a shuffled one."""
        energy = change_map(edits.before, edits.after)
        values = self.measure(energy, edits.masks)
        return Values(
            per_image(values, edits.rows, count),
            "the reconstruction does not change" if bool(values.isnan().any()) else "",
            ceiling=mean_defined(self.measure(change_map(edits.images, edits.edited), edits.masks)),
            floor=mean_defined(self.measure(shuffle(energy[:, None], 1)[:, 0], edits.masks)),
        )


@register.metric
@dataclass(frozen=True)
class Correspondence(RelitObject):
    r"""One object is relit: share of the reconstruction's squared change inside it, over its share of the area.

    1 is a change spread evenly.

    Formula:
        $$ \frac{\sum_{M} e}{\sum e} \bigg/ \frac{|M|}{HW} $$
    Range:
        0 to $HW / |M|$, the inverse of the object's share of the area.
    Ceiling:
        About the mean of $HW / |M|$ over the edited images, measured.
    Floor:
        About 1, measured.
    Pitfalls:
        The ceiling depends on how large the objects are, so values of two data sets do not compare; the leak does. The
        mean is dominated by images with small objects.
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
    r"""One object is relit: distance between the centroid of the reconstruction's squared change and the object's.

    Formula:
        $$ \left\lVert \frac{\sum e_{ij} \, (i, j)}{\sum e_{ij}} - \frac{1}{|M|} \sum_{(i, j) \in M} (i, j)
        \right\rVert_2 $$
    Range:
        0 to the image's diagonal.
    Ceiling:
        Close to 0 px, measured; not 0, because clipping at black and white makes the change shown uneven.
    Floor:
        The object's distance from the middle of the image, measured.
    Pitfalls:
        In pixels of the model's input, so models of other sizes do not compare. A change that is spread evenly around
        an object in the middle has no shift.
    """

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
    r"""One object is relit: how well the reconstruction's squared change tells the object's pixels from the others.

    Area under the ROC curve; 0.5 is chance.

    Formula:
        $$ P\left( e_{p} > e_{q} \right) + \tfrac{1}{2} P\left( e_{p} = e_{q} \right), \qquad
        p \in M, \; q \notin M $$
    Range:
        0 to 1.
    Ceiling:
        About 1, measured.
    Floor:
        0.5, measured.
    Pitfalls:
        It looks at ranks alone. A faint halo does not cost anything as long as the object changes more.
    """

    name = "change_auc"
    label = "Change AUC"
    direction = "higher"
    tolerance = 0.03

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return auc(energy, masks)


@register.metric
@dataclass(frozen=True)
class Leak(RelitObject):
    r"""One object is relit: share of the reconstruction's squared change that lies outside of it.

    Formula:
        $$ 1 - \frac{\sum_{M} e}{\sum e} $$
    Range:
        0 to 1.
    Ceiling:
        0.
    Floor:
        The background's share of the area, measured.
    Pitfalls:
        Large objects leak less by their size alone; compare with the floor, not with 1.
    """

    name = "leak"
    label = "Leak"
    direction = "lower"
    tolerance = 0.04

    def measure(self, energy: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return 1 - share_inside(energy, masks)
