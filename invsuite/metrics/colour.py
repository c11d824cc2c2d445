"""Colour sensitivity: change the colour of one object or of everything; how much of it reaches the reconstruction?

A gain is 1 where the reconstruction changes as the image did and 0 where it ignores the change. Pixels without chroma
have a hue of pure noise: every gain weights pixels so that they do not count.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite.data.base import Mask
from invsuite.data.edits import scale_chroma, set_hue, swap_channels, turn_hue, turn_hue_lch
from invsuite.errors import NotApplicable
from invsuite.metrics.base import Edits, Metric, Scoring, Target, Values, mean_defined, per_image, shuffle
from invsuite.metrics.correspondence import change_map, share_inside
from invsuite.metrics.regions import Array, Regions, lab_images
from invsuite.registry import register

NO_CHROMA = 0.02  # mean HSV chroma (max - min of RGB) below which an object has no hue to speak of
NO_CHROMA_LAB = 2.0  # the same for CIELab chroma, about the smallest difference that is seen
TURN = 1 / 3  # of the circle: the turn of hue of Rathjens et al. 2024

FLAT_IMAGE = "the object shown has no chroma"
FLAT_RECONSTRUCTION = "the reconstructed object has no chroma"
UNCHANGED = "the edit does not change the colour shown"


@dataclass(frozen=True)
class Measured:
    """Values (n,) of the edited images, NaN where undefined for one of the ``reasons``; levels as in `Values`."""

    values: torch.Tensor
    reasons: tuple[str, ...] = ()
    ceiling: float | None = None
    floor: float | None = None


def hue_gain(
    images: torch.Tensor, before: torch.Tensor, after: torch.Tensor, masks: torch.Tensor, turns: float = TURN
) -> torch.Tensor:
    """Return the share (n,), in float64, of a turn of HSV hue that reached the reconstructions: 1 all, 0 nothing.

    NaN where the masked pixels have no chroma, shown or reconstructed.

    Args:
        images: the images before the turn (n, 3, H, W) in [0, 1].
        before: their reconstructions, of the same shape.
        after: the reconstructions of the images whose masked pixels were turned.
        masks: (n, H, W), bool: the turned pixels.
        turns: by how much the hue was turned; 1 is the full circle.

    Examples:
        >>> images = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)  # red, green after the turn
        >>> hue_gain(images, images, images.roll(1, 1), torch.ones(1, 4, 4, dtype=torch.bool)).round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """
    return _hsv_gain(images, before, after, masks, turns).values


def _hsv_gain(
    images: torch.Tensor, before: torch.Tensor, after: torch.Tensor, masks: torch.Tensor, turns: float
) -> Measured:
    regions = Regions(masks)
    _, weight = regions.hue_and_chroma(images)  # a turn in HSV keeps this chroma
    reconstructed = (regions.hue_and_chroma(before), regions.hue_and_chroma(after))
    return _circular_gain(weight, *reconstructed, regions, turns, NO_CHROMA)


def _circular_gain(
    weight: Array,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    regions: Regions,
    turns: float,
    least: float,
) -> Measured:
    """Return the hue gain, pixels weighted by the images' chroma ``weight`` (P,) as well.

    Objects of a mean chroma below ``least``, shown or reconstructed, have none.
    """
    gain = turn_of_hue(before, after, weight, regions, turns)
    flat_image = regions.mean(weight) < least
    flat_reconstruction = regions.mean(np.minimum(weight, np.minimum(before[1], after[1]))) < least
    flat_reconstruction &= ~flat_image
    reasons = reasons_that_hold({FLAT_IMAGE: flat_image, FLAT_RECONSTRUCTION: flat_reconstruction})
    return Measured(torch.from_numpy(np.where(flat_image | flat_reconstruction, np.nan, gain)), reasons)


def turn_of_hue(
    before: tuple[Array, Array], after: tuple[Array, Array], weight: Array, regions: Regions, turns: float
) -> Array:
    """Return the share (n,) of a hue turn, averaged on the circle over each region: 1 keeps the turn, 0 ignores it.

    Args:
        before: hue in radians and chroma of every reconstructed pixel (P,), before the turn.
        after: the same after it.
        weight: of every pixel (P,), for one; chroma of both is a further weight, the smaller of the two.
        regions: where the pixels lie.
        turns: the edit's turn, 1 the full circle.
    """
    weight = np.minimum(weight, np.minimum(before[1], after[1]))
    turn = after[0] - before[0]
    angle = np.arctan2(regions.sum(weight * np.sin(turn)), regions.sum(weight * np.cos(turn)))
    return angle / (2 * np.pi * turns)


def reasons_that_hold(cases: dict[str, NDArray[np.bool_]]) -> tuple[str, ...]:
    """Return the reasons that hold for any of the images; each has one flag per image (n,)."""
    return tuple(reason for reason, where in cases.items() if where.any())


def chroma_gain(
    images: torch.Tensor, edited: torch.Tensor, before: torch.Tensor, after: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return the slope (n,), in float64, of the reconstructions' change of CIELab chroma on the images' own.

    Arguments as for `colour_gain`.

    Examples:
        >>> images = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        >>> grey = torch.full_like(images, 0.5)
        >>> chroma_gain(images, grey, images, grey, torch.ones(1, 4, 4, dtype=torch.bool)).round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """
    return _slope_gain(_chroma_column, (images, edited, before, after), masks).values


def colour_gain(
    images: torch.Tensor, edited: torch.Tensor, before: torch.Tensor, after: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return the slope (n,), in float64, of the reconstructions' change in a* and b* of CIELab on the images' own.

    1 keeps the change, 0 ignores it; NaN where the edit hardly changes the images.

    Args:
        images: before the edit (n, 3, H, W) in [0, 1].
        edited: after it.
        before: reconstructions of ``images``.
        after: reconstructions of ``edited``.
        masks: (n, H, W), bool: the edited pixels.

    Examples:
        >>> images = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        >>> colour_gain(images, images.flip(1), images, images, torch.ones(1, 4, 4, dtype=torch.bool))
        tensor([0.], dtype=torch.float64)
    """
    return _slope_gain(_a_and_b, (images, edited, before, after), masks).values


def _chroma_column(lab: Array) -> Array:
    return chroma(lab)[:, None]


def _a_and_b(lab: Array) -> Array:
    return lab[:, 1:]


def chroma(lab: Array) -> Array:
    """Return the CIELab chroma (P,) of colours (P, 3)."""
    return np.hypot(lab[:, 1], lab[:, 2])


def _slope_gain(quantity: Callable[[Array], Array], stacks: tuple[torch.Tensor, ...], masks: torch.Tensor) -> Measured:
    regions = Regions(masks)
    original, edited, before, after = (quantity(regions.lab(images)) for images in stacks)
    slopes, size = slope(after - before, edited - original, regions)
    unchanged = size < NO_CHROMA_LAB
    reasons = reasons_that_hold({UNCHANGED: unchanged})
    return Measured(torch.from_numpy(np.where(unchanged, np.nan, slopes)), reasons)


def slope(response: Array, change: Array, regions: Regions) -> tuple[Array, Array]:
    """Return the slope (n,) of a response on a change, both (P, K), and the root mean square change (n,).

    Least squares through the origin, in each region. Pixels whose colour the edit does not change have no weight.
    """
    size = regions.sum((change**2).sum(1))
    slopes = regions.sum((response * change).sum(1)) / np.maximum(size, 1e-12)
    return slopes, np.sqrt(size / regions.sizes)


@dataclass(frozen=True)
class ColourEdit(Metric):
    r"""A measure of what the reconstruction makes of one colour edit of the ``target``.

    $x'$ is the edited image and $\hat{x}'$ its reconstruction; $M$ is the set of the edited pixels.

    Undefined:
        For images without an object of a fitting size, if the edit is one of an object.
    Pitfalls:
        It is a mean over as many images as the suite has `edits`: look at n and the interval.
    Source:
        This suite, after the colour edits of Rathjens et al. 2024, arXiv 2412.06534.

    Args:
        target: ``object`` edits the largest object of a fitting size, ``image`` everything.
    """

    group = "Colour"
    uses_edits = True

    target: Target = field(default="object", kw_only=True)

    @abstractmethod
    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Return the edited image (3, H, W)."""

    @property
    @abstractmethod
    def edit_name(self) -> str:
        """Return what the edit is cached under: one name per edit, its parameters included."""

    @abstractmethod
    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        """Return the measure on the edited images, of which there is at least one."""

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(self.edit_name, self.edit, self.target)
        if not edits.rows:
            return scoring.undefined()
        measured = self.measure(edits, scoring)
        values = per_image(measured.values, edits.rows, len(scoring.images))
        return Values(values, "; ".join(measured.reasons), measured.ceiling, measured.floor)


@dataclass(frozen=True)
class TurnedHue(ColourEdit):
    """A measure on objects whose HSV hue is turned, as Rathjens et al. 2024 turn it.

    Args:
        turns: by how much the hue is turned; 1 is the full circle.
    """

    turns: float = TURN

    @property
    def edit_name(self) -> str:
        return f"hue {self.turns}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return turn_hue(image, mask, self.turns)


@register.metric
@dataclass(frozen=True)
class HueGain(TurnedHue):
    r"""One object's HSV hue is turned by a third of the circle: share of the turn that reached the reconstruction.

    1 keeps the turn, 0 ignores it. The edit is that of Rathjens et al. 2024.

    Formula:
        $$ \frac{1}{2\pi \cdot \frac{1}{3}} \; \mathrm{arg} \sum_{p} w_p \,
        e^{\mathrm{i} \left( h(\hat{x}'_p) - h(\hat{x}_p) \right)}, \qquad
        w_p = \min \left( s_p, \hat{s}_p, \hat{s}'_p \right) $$

        $h$ is the HSV hue as an angle; $s_p$, $\hat{s}_p$, $\hat{s}'_p$ are the chroma (largest minus smallest of RGB)
        shown, reconstructed before and reconstructed after the turn: a pixel without chroma has no weight.
    Range:
        -1.5 to 1.5, because an angle ends at half a turn.
    Ceiling:
        1.
    Floor:
        0: a reconstruction that does not react.
    Undefined:
        Where the object has no chroma, as shown or as reconstructed; the report says which of the two it was.
    Pitfalls:
        An image whose reconstruction is grey is undefined, not 0: a method that gives grey pictures is judged by the
        few that are not, so read n first. HSV changes lightness with hue, so some of the reaction may be to lightness.
        A blurred reconstruction can have a gain of 1.
    """

    name = "hue_gain"
    label = "Hue gain"
    direction = "one"
    digits = 2
    version = 2
    tolerance = 0.15
    headline = True

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        return _hsv_gain(edits.images, edits.before, edits.after, edits.masks, self.turns)


@register.metric
@dataclass(frozen=True)
class HueGainImage(HueGain):
    """The whole image's HSV hue is turned by a third of the circle: share of the turn that reached the reconstruction.

    1 keeps the turn, 0 ignores it.

    Pitfalls:
        A global tint is easier to keep than the colour of one object: the two do not compare.
    """

    target: Target = field(default="image", kw_only=True)

    name = "hue_gain_image"
    label = "Hue gain, whole image"
    headline = False


@register.metric
@dataclass(frozen=True)
class HueGainLch(HueGain):
    """One object's CIELCh hue is turned by a third of the circle at constant lightness: share of the turn that is kept.

    1 keeps the turn, 0 ignores it.

    Formula:
        That of hue gain, with the hue angle and chroma of CIELab; the chroma shown is the smaller of before and after.
    Pitfalls:
        sRGB lacks some of the turned colours; those lose chroma, not lightness or hue, which is part of the edit, for
        every method alike.
    """

    name = "hue_gain_lch"
    label = "Hue gain, LCh"
    version = 1
    headline = False

    @property
    def edit_name(self) -> str:
        return f"LCh hue {self.turns}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return turn_hue_lch(image, mask, self.turns)

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        regions = Regions(edits.masks)
        weight = np.minimum(chroma(regions.lab(edits.images)), chroma(regions.lab(edits.edited)))
        labs = map(regions.lab, (edits.before, edits.after))
        before, after = ((np.arctan2(lab[:, 2], lab[:, 1]), chroma(lab)) for lab in labs)
        return _circular_gain(weight, before, after, regions, self.turns, NO_CHROMA_LAB)


@dataclass(frozen=True)
class SlopeGain(ColourEdit):
    r"""A least-squares slope of the reconstruction's change of colour on the change shown.

    Formula:
        $$ \frac{\sum_p \langle \hat{d}_p, d_p \rangle}{\sum_p \lVert d_p \rVert^2}, \qquad
        d_p = q(x'_p) - q(x_p), \quad \hat{d}_p = q(\hat{x}'_p) - q(\hat{x}_p) $$

        over the edited pixels $p$; $q$ is the CIELab chroma for gains of chroma and the pair $(a^*, b^*)$ for gains of
        colour.
    Range:
        Any number; about 0 to 1 in practice. Above 1 the reconstruction overdoes the change, below 0 it moves the other
        way.
    Ceiling:
        1.
    Floor:
        0: a reconstruction that does not react.
    Undefined:
        Where the edit hardly changes the colour shown (a root mean square below 2 in CIELab).
    Pitfalls:
        It says nothing about fidelity: a blurred reconstruction can have a gain of 1.
    """

    direction = "one"
    digits = 2
    tolerance = 0.1

    def quantity(self, lab: Array) -> Array:
        """Return what the edit changes (P, K) of colours in CIELab (P, 3)."""
        return _a_and_b(lab)

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        return _slope_gain(self.quantity, (edits.images, edits.edited, edits.before, edits.after), edits.masks)


@register.metric
@dataclass(frozen=True)
class ChromaGain(SlopeGain):
    """One object's CIELCh chroma is halved at constant lightness and hue: how much of it the reconstruction follows.

    Slope of the reconstruction's change of chroma on the change shown, over the object's pixels. 1 keeps the change, 0
    ignores it.

    Args:
        factor: what chroma is multiplied by.
    """

    factor: float = 0.5

    name = "chroma_gain"
    label = "Chroma gain"

    @property
    def edit_name(self) -> str:
        return f"LCh chroma {self.factor}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return scale_chroma(image, mask, self.factor)

    def quantity(self, lab: Array) -> Array:
        return _chroma_column(lab)


@register.metric
@dataclass(frozen=True)
class ChromaGainGrey(ChromaGain):
    """One object is made grey at constant lightness: how much of it the reconstruction follows.

    Slope of the reconstruction's change of chroma on the change shown, over the object's pixels. 1 keeps the change, 0
    ignores it.
    """

    factor: float = 0.0

    name = "chroma_gain_grey"
    label = "Chroma gain, grey"


@register.metric
@dataclass(frozen=True)
class ColourGainSet(SlopeGain):
    """One object's HSV hue is set to red, saturation and value kept: how much of it the reconstruction follows.

    Slope of the reconstruction's change in a* and b* of CIELab on the change shown, over the object's pixels. 1
    keeps the change, 0 ignores it.

    Args:
        hue: in turns, 0 to 1; 0 is red.
    """

    hue: float = 0.0

    name = "colour_gain_set"
    label = "Colour gain, hue set"

    @property
    def edit_name(self) -> str:
        return f"set hue {self.hue}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return set_hue(image, mask, self.hue)


@register.metric
@dataclass(frozen=True)
class ColourGainSwap(SlopeGain):
    """Red and blue of one object are swapped: how much of it the reconstruction follows.

    Slope of the reconstruction's change in a* and b* of CIELab on the change shown, over the object's pixels. 1
    keeps the change, 0 ignores it.

    Args:
        order: of the channels after the swap.
    """

    order: tuple[int, int, int] = (2, 1, 0)

    name = "colour_gain_swap"
    label = "Colour gain, channel swap"

    @property
    def edit_name(self) -> str:
        return f"channels {self.order}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return swap_channels(image, mask, self.order)


@register.metric
@dataclass(frozen=True)
class ColourGainSwapImage(ColourGainSwap):
    """Red and blue of the whole image are swapped: how much of it the reconstruction follows.

    Slope of the reconstruction's change in a* and b* of CIELab on the change shown. 1 keeps the change, 0 ignores
    it.
    """

    target: Target = field(default="image", kw_only=True)

    name = "colour_gain_swap_image"
    label = "Colour gain, channel swap, whole image"


def delta_e(images: torch.Tensor, reconstructions: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the mean CIEDE2000 colour difference (n,), in float64, between the masked pixels of two stacks of images.

    Both are (n, 3, H, W) in [0, 1], ``masks`` (n, H, W), bool. About 1 is just noticeable.

    Examples:
        >>> images = torch.zeros(1, 3, 2, 2)
        >>> delta_e(images, images + 1, torch.ones(1, 2, 2, dtype=torch.bool)).round(decimals=2)
        tensor([100.], dtype=torch.float64)
    """
    from skimage.color import deltaE_ciede2000

    regions = Regions(masks)
    return torch.from_numpy(regions.mean(deltaE_ciede2000(regions.lab(images), regions.lab(reconstructions))))


@register.metric
@dataclass(frozen=True)
class DeltaE(TurnedHue):
    r"""One object's hue is turned: mean CIEDE2000 difference between its colours as shown then and as reconstructed.

    About 1 is just noticeable.

    Formula:
        $$ \frac{1}{|M|} \sum_{p \in M} \Delta E_{00} \left( \hat{x}'_p, x'_p \right) $$
    Range:
        0 to about 100.
    Ceiling:
        0.
    Floor:
        No constant one: the row `mean`.
    Pitfalls:
        It contains errors of lightness and blur too, not only of colour.
    Source:
        Sharma, Wu & Dalal 2005, doi 10.1002/col.20070; computed by scikit-image.
    """

    name = "delta_e"
    label = "Delta E 2000"
    direction = "lower"
    digits = 1
    tolerance = 1.0

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        return Measured(delta_e(edits.edited, edits.after, edits.masks))


@register.metric
@dataclass(frozen=True)
class ColourLeak(TurnedHue):
    r"""One object's hue is turned: share of the reconstruction's change of colour that lies outside of it.

    Squared changes in a* and b* of CIELab count.

    Formula:
        $$ 1 - \frac{\sum_{M} e}{\sum e}, \qquad e_{ij} = \lVert (a^*, b^*)(\hat{x}'_{ij}) - (a^*, b^*)(\hat{x}_{ij})
        \rVert^2 $$
    Range:
        0 to 1.
    Ceiling:
        0.
    Floor:
        That of the same change map with its pixels in random order, measured: the background's share of the area.
    Undefined:
        Where the reconstruction's colours do not change, and for images without an object of a fitting size.
    Pitfalls:
        Large objects leak less by their size alone; compare with the floor, not with 1. It says where the
        reconstruction reacts, not whether it reacts enough.
    """

    name = "colour_leak"
    label = "Colour leak"
    direction = "lower"
    tolerance = 0.05

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        if self.target == "image":
            raise NotApplicable("an edit of the whole image has no outside to leak to")
        stacks = (edits.images, edits.edited, edits.before, edits.after)
        original, edited, before, after = (lab_images(images)[:, 1:] for images in stacks)
        energy = change_map(before, after)
        values = 1 - share_inside(energy, edits.masks)
        return Measured(
            values,
            ("the reconstruction does not change",) if bool(values.isnan().any()) else (),
            ceiling=mean_defined(1 - share_inside(change_map(original, edited), edits.masks)),
            floor=mean_defined(1 - share_inside(shuffle(energy[:, None], 1)[:, 0], edits.masks)),
        )
