"""Edits of one object or of a whole image, with the rest untouched: they show where and what a model notices.

An edit takes an image (3, H, W) in [0, 1] and a mask (H, W), true where it is to act, and gives an image of the same
shape and range. HSV edits are those of Rathjens et al. 2024; CIELCh ones keep the lightness that HSV ones change.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite.data.base import Instance, Mask, Sample

Pixels = NDArray[np.float64]  # (P, 3)

MIN_SHARE = 0.01  # an object must cover this share of the image to be edited
MAX_SHARE = 0.6  # and leave enough background to tell inside from outside
SLACK = 1e-6  # linear RGB beyond [0, 1] by rounding of the conversions is no colour outside sRGB
STEPS = 20  # of the bisection: chroma to about 1e-4


def turn_hue(image: torch.Tensor, mask: Mask, turns: float) -> torch.Tensor:
    """Turn the HSV hue of masked pixels by ``turns`` (1 is the full circle), saturation and value kept."""
    from skimage.color import hsv2rgb, rgb2hsv

    def turned(rgb: Pixels) -> Pixels:
        hsv = rgb2hsv(rgb)
        hsv[:, 0] = (hsv[:, 0] + turns) % 1.0
        return hsv2rgb(hsv)

    return _repaint(image, mask, turned)


def turn_hue_lch(image: torch.Tensor, mask: Mask, turns: float) -> torch.Tensor:
    """Turn the CIELCh hue of masked pixels by ``turns`` at constant lightness.

    Chroma is kept as well, but where sRGB has no such colour it is reduced until it has (`lch_to_rgb`).
    """
    from skimage.color import lab2lch, rgb2lab

    def turned(rgb: Pixels) -> Pixels:
        lch = lab2lch(rgb2lab(rgb))
        lch[:, 2] += 2 * np.pi * turns
        return lch_to_rgb(lch)

    return _repaint(image, mask, turned)


def set_hue(image: torch.Tensor, mask: Mask, hue: float) -> torch.Tensor:
    """Give masked pixels the HSV ``hue`` in turns [0, 1), saturation and value kept."""
    from skimage.color import hsv2rgb, rgb2hsv

    def painted(rgb: Pixels) -> Pixels:
        hsv = rgb2hsv(rgb)
        hsv[:, 0] = hue
        return hsv2rgb(hsv)

    return _repaint(image, mask, painted)


def scale_chroma(image: torch.Tensor, mask: Mask, factor: float) -> torch.Tensor:
    """Scale the CIELCh chroma of masked pixels by ``factor`` at constant lightness and hue; 0 makes them grey.

    Chroma that sRGB has no colour for is reduced until it has (`lch_to_rgb`).
    """
    from skimage.color import lab2lch, rgb2lab

    def scaled(rgb: Pixels) -> Pixels:
        lch = lab2lch(rgb2lab(rgb))
        lch[:, 1] *= factor
        return lch_to_rgb(lch)

    return _repaint(image, mask, scaled)


def swap_channels(image: torch.Tensor, mask: Mask, order: Sequence[int]) -> torch.Tensor:
    """Put the RGB channels of masked pixels in another ``order``; (2, 1, 0) swaps red and blue."""
    return _repaint(image, mask, lambda rgb: rgb[:, list(order)])


def relight(image: torch.Tensor, mask: Mask, amount: float) -> torch.Tensor:
    """Lighten a dark object or darken a light one by ``amount``, towards the side with more room."""
    where = torch.from_numpy(mask).to(image.device)
    sign = 1.0 if float(image[:, where].mean()) < 0.5 else -1.0
    return torch.where(where, (image + sign * amount).clamp(0, 1), image)


def editable(sample: Sample) -> Instance | None:
    """Return the largest object of a fitting size, or None."""
    size = sample.image.shape[-1] * sample.image.shape[-2]
    fitting = [i for i in sample.instances if MIN_SHARE <= i.mask.sum() / size <= MAX_SHARE]
    return max(fitting, key=lambda i: int(i.mask.sum()), default=None)


def lch_to_rgb(lch: Pixels) -> Pixels:
    """Return sRGB (P, 3) in [0, 1] of CIELCh colours (P, 3): lightness 0-100, chroma, hue in radians; white D65.

    Where sRGB has no such colour, chroma is reduced to the largest it has at this lightness and hue (by bisection),
    so that an edit never changes the lightness or the hue that it did not ask for, as clipping channels would.
    """
    outside = ~_fits(lch)
    if outside.any():
        colours = lch[outside]
        low, high = np.zeros(len(colours)), np.ones(len(colours))
        for _ in range(STEPS):
            middle = (low + high) / 2
            fits = _fits(colours * np.stack([np.ones_like(middle), middle, np.ones_like(middle)], 1))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        lch = lch.copy()
        lch[outside, 1] *= low
    linear = _linear_rgb(lch).clip(0, 1)
    # the sRGB transfer function, IEC 61966-2-1
    encoded: Pixels = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return encoded


def _repaint(image: torch.Tensor, mask: Mask, paint: Callable[[Pixels], Pixels]) -> torch.Tensor:
    """Return ``image`` with its masked pixels, sRGB (P, 3) in [0, 1], replaced by what ``paint`` makes of them."""
    where = torch.from_numpy(mask).to(image.device)
    painted = paint(image[:, where].T.double().cpu().numpy()).clip(0, 1)
    edited = image.clone()
    edited[:, where] = torch.from_numpy(painted.T).to(image)
    return edited


def _fits(lch: Pixels) -> NDArray[np.bool_]:
    """Tell which CIELCh colours (P, 3) sRGB has."""
    linear = _linear_rgb(lch)
    return np.asarray(((linear >= -SLACK) & (linear <= 1 + SLACK)).all(1))


def _linear_rgb(lch: Pixels) -> Pixels:
    """Return linear RGB (P, 3), beyond [0, 1] where sRGB has no such colour."""
    from skimage.color import lab2xyz, lch2lab
    from skimage.color.colorconv import rgb_from_xyz

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-image warns of negative Z, which no gamut holds: it counts as outside
        linear: Pixels = lab2xyz(lch2lab(lch)) @ rgb_from_xyz.T
    return linear
