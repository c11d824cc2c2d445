"""Colour sensitivity: change the colour of one object or of everything; how much of it reaches the reconstruction?

A gain is 1 where the reconstruction changes as the image did and 0 where it ignores the change. Pixels without chroma
have a hue of pure noise: every gain weights pixels so that they do not count.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite.data.base import Mask
from invsuite.data.edits import scale_chroma, set_hue, swap_channels, turn_hue, turn_hue_lch
from invsuite.errors import NotApplicable
from invsuite.metrics.base import NO_OBJECT, Edits, Metric, Scoring, Target, Values, mean_defined, per_image, shuffle
from invsuite.metrics.correspondence import change_map, share_inside
from invsuite.metrics.regions import Array, Regions, lab_images
from invsuite.registry import register

NO_CHROMA = 0.02  # mean HSV chroma (max - min of RGB) below which an object has no hue to speak of
NO_CHROMA_LAB = 2.0  # the same for CIELab chroma, about the smallest difference that is seen

SHOWN_FLAT = "the object shown has no chroma"
MADE_FLAT = "the reconstructed object has no chroma"
NOTHING_SHOWN = "the edit does not change the colour shown"


@dataclass(frozen=True)
class ColourEdit(Metric):
    """A measure of what the reconstruction makes of one colour edit of the ``target``."""

    group = "Colour"
    uses_edits = True

    target: Target = field(default="object", kw_only=True)

    @abstractmethod
    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        """The edited image (3, H, W)."""

    @property
    @abstractmethod
    def edit_name(self) -> str:
        """What the edit is kept under: one name for one edit, its parameters included."""

    @abstractmethod
    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        """The measure on the edited images, of which there is at least one."""

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(self.edit_name, self.edit, self.target)
        if not edits.rows:
            return Values([None] * len(scoring.images), NO_OBJECT)
        found = self.measure(edits, scoring)
        values = per_image(found.values, edits.rows, len(scoring.images))
        return Values(values, "; ".join(found.reasons), found.ceiling, found.floor)


@dataclass(frozen=True)
class Measured:
    """Values (n,) of the edited images, NaN where undefined for one of the ``reasons``; levels as in `Values`."""

    values: torch.Tensor
    reasons: tuple[str, ...] = ()
    ceiling: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class TurnedHue(ColourEdit):
    """A measure on objects whose HSV hue is turned by ``turns``, as Rathjens et al. 2024 turn it."""

    turns: float = 1 / 3

    @property
    def edit_name(self) -> str:
        return f"hue {self.turns}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return turn_hue(image, mask, self.turns)


def reasons_that_hold(cases: dict[str, NDArray[np.bool_]]) -> tuple[str, ...]:
    """The reasons that hold for any of the images; each has a flag an image (n,)."""
    return tuple(reason for reason, where in cases.items() if where.any())


def turn_of_hue(
    before: tuple[Array, Array], after: tuple[Array, Array], weight: Array, regions: Regions, turns: float
) -> Array:
    """Share (n,) of a hue turn, averaged on the circle over each region: 1 keeps the turn, 0 ignores it.

    Args:
        before, after: hue in radians and chroma of every pixel (P,).
        weight: of every pixel (P,), for one; chroma of both is a further weight, the smaller of the two.
        turns: the edit's turn, 1 the full circle.
    """
    weight = np.minimum(weight, np.minimum(before[1], after[1]))
    turn = after[0] - before[0]
    angle = np.arctan2(regions.sum(weight * np.sin(turn)), regions.sum(weight * np.cos(turn)))
    return angle / (2 * np.pi * turns)


def _hue_gain(
    shown: Array,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    regions: Regions,
    turns: float,
    least: float,
) -> Measured:
    """Circular hue gain, pixels weighted by the chroma ``shown`` (P,) as well; objects of a mean chroma below
    ``least``, shown or reconstructed, have none."""
    gain = turn_of_hue(before, after, shown, regions, turns)
    shown_flat = regions.mean(shown) < least
    made_flat = regions.mean(np.minimum(shown, np.minimum(before[1], after[1]))) < least
    made_flat &= ~shown_flat
    reasons = reasons_that_hold({SHOWN_FLAT: shown_flat, MADE_FLAT: made_flat})
    return Measured(torch.from_numpy(np.where(shown_flat | made_flat, np.nan, gain)), reasons)


@register.metric
@dataclass(frozen=True)
class HueGain(TurnedHue):
    """One object's HSV hue is turned by a third of the circle, as Rathjens et al. 2024 do: share of the turn that
    reached the reconstruction. 1 keeps the turn, 0 ignores it.

    Averaged on the circle, each pixel weighted by its least chroma: shown, and reconstructed before and after.
    """

    name = "hue_gain"
    label = "Hue gain"
    direction = "one"
    digits = 2
    version = 2
    tolerance = 0.15
    headline = True

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        regions = Regions(edits.masks)
        _, shown = regions.hue_and_chroma(edits.images)  # a turn in HSV keeps this chroma
        before, after = regions.hue_and_chroma(edits.before), regions.hue_and_chroma(edits.after)
        return _hue_gain(shown, before, after, regions, self.turns, NO_CHROMA)


@register.metric
@dataclass(frozen=True)
class HueGainImage(HueGain):
    """The HSV hue of the whole image is turned by a third of the circle: share of the turn that reached the
    reconstruction. 1 keeps the turn, 0 ignores it."""

    target: Target = field(default="image", kw_only=True)

    name = "hue_gain_image"
    label = "Hue gain, whole image"
    headline = False


@register.metric
@dataclass(frozen=True)
class HueGainLch(ColourEdit):
    """One object's CIELCh hue is turned by a third of the circle at constant lightness: share of the turn that
    reached the reconstruction. 1 keeps the turn, 0 ignores it.

    Colours that sRGB lacks lose chroma, not lightness or hue. Averaged on the circle with weights as `HueGain`.
    """

    turns: float = 1 / 3

    name = "hue_gain_lch"
    label = "Hue gain, LCh"
    direction = "one"
    digits = 2
    tolerance = 0.15

    @property
    def edit_name(self) -> str:
        return f"LCh hue {self.turns}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return turn_hue_lch(image, mask, self.turns)

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        regions = Regions(edits.masks)
        shown = np.minimum(chroma(regions.lab(edits.images)), chroma(regions.lab(edits.edited)))
        labs = map(regions.lab, (edits.before, edits.after))
        before, after = ((np.arctan2(lab[:, 2], lab[:, 1]), chroma(lab)) for lab in labs)
        return _hue_gain(shown, before, after, regions, self.turns, NO_CHROMA_LAB)


def chroma(lab: Array) -> Array:
    """CIELab chroma (P,) of colours (P, 3)."""
    return np.hypot(lab[:, 1], lab[:, 2])


def slope(change: Array, shown: Array, regions: Regions) -> tuple[Array, Array]:
    """Least-squares slope (n,) through the origin of a change on the change shown, both (P, K), in each region, and
    the root mean square change shown (n,). Pixels whose colour the edit does not change have no weight."""
    size = regions.sum((shown**2).sum(1))
    found = regions.sum((change * shown).sum(1)) / np.maximum(size, 1e-12)
    return found, np.sqrt(size / regions.sizes)


def _gain(change: Array, shown: Array, regions: Regions) -> Measured:
    found, size = slope(change, shown, regions)
    unchanged = size < NO_CHROMA_LAB
    reasons = reasons_that_hold({NOTHING_SHOWN: unchanged})
    return Measured(torch.from_numpy(np.where(unchanged, np.nan, found)), reasons)


@register.metric
@dataclass(frozen=True)
class ChromaGain(ColourEdit):
    """One object's CIELCh chroma is halved at constant lightness and hue: slope of the reconstruction's change of
    chroma on the change shown, over the object's pixels. 1 keeps the change, 0 ignores it.
    """

    factor: float = 0.5

    name = "chroma_gain"
    label = "Chroma gain"
    direction = "one"
    digits = 2
    tolerance = 0.1

    @property
    def edit_name(self) -> str:
        return f"LCh chroma {self.factor}"

    def edit(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        return scale_chroma(image, mask, self.factor)

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        regions = Regions(edits.masks)
        stacks = (edits.images, edits.edited, edits.before, edits.after)
        a, b, c, d = (chroma(regions.lab(images))[:, None] for images in stacks)
        return _gain(d - c, b - a, regions)


@register.metric
@dataclass(frozen=True)
class ChromaGainGrey(ChromaGain):
    """One object is made grey at constant lightness: slope of the reconstruction's change of chroma on the change
    shown, over the object's pixels. 1 keeps the change, 0 ignores it."""

    factor: float = 0.0

    name = "chroma_gain_grey"
    label = "Chroma gain, grey"


@dataclass(frozen=True)
class ColourGain(ColourEdit):
    """A measure of how much of any colour edit reached the reconstruction, in the a*b* plane of CIELab."""

    direction = "one"
    digits = 2
    tolerance = 0.1

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        regions = Regions(edits.masks)
        stacks = (edits.images, edits.edited, edits.before, edits.after)
        a, b, c, d = (regions.lab(images)[:, 1:] for images in stacks)
        return _gain(d - c, b - a, regions)


@register.metric
@dataclass(frozen=True)
class ColourGainSet(ColourGain):
    """One object's HSV hue is set to ``hue`` (in turns; 0 is red): slope of the reconstruction's change in the a*b*
    plane of CIELab on the change shown, over the object's pixels. 1 keeps the change, 0 ignores it."""

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
class ColourGainSwap(ColourGain):
    """Red and blue of one object are swapped: slope of the reconstruction's change in the a*b* plane of CIELab on the
    change shown, over the object's pixels. 1 keeps the change, 0 ignores it."""

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
    """Red and blue of the whole image are swapped: slope of the reconstruction's change in the a*b* plane of CIELab
    on the change shown. 1 keeps the change, 0 ignores it."""

    target: Target = field(default="image", kw_only=True)

    name = "colour_gain_swap_image"
    label = "Colour gain, channel swap, whole image"


@register.metric
@dataclass(frozen=True)
class DeltaE(TurnedHue):
    """One object's hue is turned: mean CIEDE2000 colour difference between the object as shown then and as
    reconstructed. About 1 is just noticeable."""

    name = "delta_e"
    label = "Delta E 2000"
    direction = "lower"
    digits = 1
    tolerance = 1.0

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        from skimage.color import deltaE_ciede2000

        regions = Regions(edits.masks)
        difference = deltaE_ciede2000(regions.lab(edits.edited), regions.lab(edits.after))
        return Measured(torch.from_numpy(regions.mean(difference)))


@register.metric
@dataclass(frozen=True)
class ColourLeak(TurnedHue):
    """One object's hue is turned: share of the reconstruction's squared change in the a*b* plane of CIELab that lies
    outside of it."""

    name = "colour_leak"
    label = "Colour leak"
    direction = "lower"
    tolerance = 0.05

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        if self.target == "image":
            raise NotApplicable("an edit of the whole image has no outside to leak to")
        stacks = (edits.images, edits.edited, edits.before, edits.after)
        a, b, c, d = (lab_images(images)[:, 1:] for images in stacks)
        energy = change_map(c, d)
        found = 1 - share_inside(energy, edits.masks)
        return Measured(
            found,
            ("the reconstruction does not change",) if bool(found.isnan().any()) else (),
            ceiling=mean_defined(1 - share_inside(change_map(a, b), edits.masks)),
            floor=mean_defined(1 - share_inside(shuffle(energy[:, None], 1)[:, 0], edits.masks)),
        )
